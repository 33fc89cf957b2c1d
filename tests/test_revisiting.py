"""The answers of runs that are over, on the images that they are about. Run: .venv/bin/python -m pytest tests/test_revisiting.py"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visual_rft.report import main as report
from visual_rft.revisiting import questions_of
from visual_rft.tasks.wording import detection_answer
from visual_rft.train import main as train
from visual_rft.vocabulary import Detection

SMALL = [
    "steps=1",
    "prompts_per_step=1",
    "algorithm.group_size=2",
    "task.shots=1",
    "data.train_images=60",
    "data.test_images=4",
    "hardware.threads=1",
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert train([*SMALL, f"hydra.run.dir={folder}"]) == 0
    return folder


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = folder / name
    lines = file.read_text().splitlines() if name.endswith(".jsonl") else [file.read_text()]
    file.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in lines))


def other_run(one: Path, folder: Path) -> Path:
    """The same run with another learning rate, which says of every question that there is nothing."""
    shutil.copytree(one, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate:", "learning_rate: 1.0 #"))
    nothing = "<think> hm </think> <answer> No Objects </answer>"
    changed(folder, "answers_after.jsonl", lambda line: line | {"completion": nothing, "worth": 1.0 - round(line["worth"])})
    return folder


def test_the_questions_are_those_that_were_asked(one: Path) -> None:
    task, questions = questions_of(one)
    answers = [json.loads(line) for line in (one / "answers_after.jsonl").read_text().splitlines()]
    assert list(questions) == [line["example"] for line in answers]
    assert all(questions[line["example"]].image.size == (64, 64) for line in answers)
    assert [str(task.parse(line["completion"], questions[line["example"]].contract)) for line in answers]


def test_what_was_fixed_and_broken_is_seen_on_the_images(one: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = other_run(one, tmp_path / "other")
    assert report([f"runs=[{one},{other}]", f"out={tmp_path / 'page.html'}"]) == 0
    page = (tmp_path / "page.html").read_text()
    shown = page.partition("Question by question")[2].partition("<h2>")[0]
    asked = questions_of(one)[1].values()
    assert shown.count("data:image/png") == shown.count("<article>") == len(asked), "every question is answered otherwise"
    assert shown.count('<rect class="truth"') == 2 * sum(len(one.truth.boxes) for one in asked), "beside both answers"
    assert "No Objects" in shown and '<rect class="before"' in shown and '<rect class="after"' not in shown
    assert len({part.partition('"')[0] for part in shown.split(' id="')[1:]}) == len(asked), "each picture has a name of its own"
    assert "images" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("environment.json", lambda told: told | {"data": told["data"] | {"test": "0" * 64}}, "its test data are other ones now"),
        ("environment.json", lambda told: {key: told[key] for key in told if key != "kinds"}, "its folder does not say what it was asked"),
        (
            "environment.json",
            lambda told: told | {"kinds": {"task": "task/classification", "data": "data/coco"}},
            "its folder does not say what it was asked",
        ),
        ("environment.json", lambda told: told | {"kinds": 7}, "its folder does not say what it was asked"),
    ],
)
def test_where_that_cannot_be_the_page_has_words_alone(
    name: str, change: Callable[[dict[str, Any]], dict[str, Any]], told: str, one: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, other = tmp_path / "first", other_run(one, tmp_path / "other")
    shutil.copytree(one, first)
    changed(first, name, change)
    assert report([f"runs=[{first},{other}]", f"out={tmp_path / 'page.html'}"]) == 0
    assert f"{first}: {told}, so the page shows none of its images\n" in capfd.readouterr().err
    assert "fixed of" in (tmp_path / "page.html").read_text() and "data:image/png" not in (tmp_path / "page.html").read_text()


def test_each_answer_is_read_as_its_own_run_was_asked(one: Path, tmp_path: Path) -> None:
    """Of a run without thinking, too; and what is about other images is not compared."""
    bare = tmp_path / "bare"
    assert train([*SMALL, "task.thinking=false", f"hydra.run.dir={bare}"]) == 0
    right = {name: detection_answer([Detection(box, 0.95) for box in asked.truth.boxes]) for name, asked in questions_of(bare)[1].items()}
    changed(bare, "answers_after.jsonl", lambda line: line | {"completion": f"<answer> {right[line['example']]} </answer>", "worth": 1.0})
    poor = tmp_path / "poor"
    shutil.copytree(one, poor)
    changed(poor, "answers_after.jsonl", lambda line: line | {"worth": 0.0})
    assert report([f"runs=[{poor},{bare}]", f"out={tmp_path / 'page.html'}"]) == 0
    shown = (tmp_path / "page.html").read_text().partition("Question by question")[2].partition("<h2>")[0]
    asked = questions_of(bare)[1].values()
    assert f"{len(asked)} fixed of {len(asked)}" in shown and "refused" not in shown
    assert shown.count('<rect class="after"') == sum(len(one.truth.boxes) for one in asked) and "IoU 1.00" in shown

    others = tmp_path / "others"
    assert train([*SMALL, "data.fewest_digits=3", f"hydra.run.dir={others}"]) == 0
    assert report([f"runs=[{poor},{others}]", f"out={tmp_path / 'page.html'}"]) == 0
    assert "fixed of 0" in (tmp_path / "page.html").read_text()
