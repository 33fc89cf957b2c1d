"""What a notebook shows of a run, and the configuration it takes apart. Run: .venv/bin/python -m pytest tests/test_notebook_pages.py"""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from visual_rft.tracking import notebook
from visual_rft.train import configured, main
from visual_rft.vocabulary import Example

METRICS = [{"step": 0, "eval/AP": 1.0}, *({"step": step, "reward/mean": 0.1 * step, "refused/bad_box": None} for step in (1, 2, 3))]


def record(reward: float, advantage: float, text: str = "<think>a</think>", **more: Any) -> dict[str, Any]:
    box = [{"Position": [100.0, 200.0, 300.0, 400.0], "Confidence": 0.75}]
    told = {"completion": text, "answer": box, "refused": None, "rewards": {"iou": reward, "format": 1.0}}
    return told | {"reward": reward, "advantage": advantage} | more


def test_a_page_stays_within_its_cell_whatever_is_in_it() -> None:
    html = '<p title="a">&lt;/iframe&gt; "</p>\'><script>'
    for scrolls in (False, True):
        shown = notebook.Shown(html, scrolls)._repr_html_()
        (inside,) = re.findall(r'<iframe srcdoc="([^"]*)"', shown)
        assert unescape(inside) == html and shown.count("<") == 2
        assert ("onload" in shown) is not scrolls


def test_curves_are_those_that_are_asked_for_in_their_order() -> None:
    drawn = re.findall(r"<figcaption>(\S+)", notebook.curves(METRICS, "eval/AP", "reward/mean").html)
    assert drawn == ["eval/AP", "reward/mean"]
    assert re.findall(r"<figcaption>(\S+)", notebook.curves(METRICS).html)[0] == "reward/mean"
    with pytest.raises(ValueError, match=r"^reward/men: not in these metrics, which have eval/AP, refused/bad_box, reward/mean$"):
        notebook.curves(METRICS, "reward/men")


def test_a_group_is_shown_best_first_with_all_that_was_earned(ragged: list[Example]) -> None:
    refused = record(0.0, -1.0, "<script>alert(1)</script>", answer=None, refused="bad_box")
    html = notebook.group([refused, record(0.2, 0.1), record(0.9, 1.5)], ragged[0]).html
    cards = html.split("<article>")[1:]
    assert [re.findall(r"<b>(\S+)</b> advantage (\S+?)[<& ]", card)[0] for card in (card.replace("</p>", " </p>") for card in cards)] == [
        ("0.90", "+1.50"),
        ("0.20", "+0.10"),
        ("0.00", "-1.00"),
    ]
    assert [card.count('rect class="truth"') for card in cards] == [1, 1, 1] and "refused: bad_box" in cards[2]
    assert [card.count('rect class="after"') for card in cards] == [1, 1, 0] and "iou 0.90 · format 1.00" in cards[0]
    assert html.count("data:image") == 1 + html.count("img-src data:image"), "the pixels once"
    assert "<script" not in html and ragged[0].question in html


def test_the_box_of_a_group_stands_where_the_answer_says(ragged: list[Example]) -> None:
    html = notebook.group([record(0.5, -0.5)], ragged[0]).html  # an image of 64×64, drawn in 320 units
    assert '<rect class="before" x="32.0" y="64.0" width="64.0" height="64.0"/>' in html and ">0.75</text>" in html


def test_a_report_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>“a”</p>", encoding="utf-8")
    assert notebook.report(tmp_path) == notebook.Shown("<p>“a”</p>", scrolls=True)


def test_a_configuration_is_had_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    config = configured("experiment=gamed", "steps=3", "task.shots=2")
    assert (config.steps, config.task.shots, str(config.rewards.family)) == (3, 2, "paper")
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keys", [["stesp=3"], ["steps=many"], ["steps=0"], ["task=none"], ["rewards.weights.iou=1"]])
def test_what_main_refuses_is_refused_with_the_same_line(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(keys) == 2
    with pytest.raises(ValueError) as refused:
        configured(*keys)
    assert capfd.readouterr().err.strip() == str(refused.value)
