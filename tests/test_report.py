"""The HTML report: `pytest tests/test_report.py`."""

import base64
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from visual_rft.tracking._svg import CURVE_HEIGHT, CURVE_WIDTH, MARGIN, PICTURE_SIDE, SIDE, curve_svg
from visual_rft.tracking.report import GalleryItem, Report, write_report
from visual_rft.vocabulary import Detection, DetectionAnswer, DetectionTruth, Reason, Refusal

VOID = {"meta", "br", "img"}
HOSTILE = '"><script src="http://evil/x.js">alert(1)</script></pre><img src=x onerror=alert(1)>&amp;\x00\ud800'


def rollout(step: int, reward: float | None, completion: str = "text") -> dict:
    return {
        "step": step, "example": "e", "completion": completion, "answer": None, "refused": "truncated", "rewards": {"iou": reward},
        "reward": reward, "advantage": 0.0, "finished": True, "tokens": 5,
    }  # fmt: skip


ITEM = GalleryItem(
    image=Image.new("RGB", (64, 32), "purple"),
    question="Where is the seven?",
    truth=DetectionTruth(((250.0, 500.0, 500.0, 1000.0),)),
    before_text="before text",
    before=Refusal(Reason.TRUNCATED, "<think>"),
    after_text="after text",
    after=DetectionAnswer((Detection((0.0, 0.0, 1000.0, 500.0), 0.9),)),
    after_ious=(0.25,),
)
REPORT = Report(
    summary={"task": "fsod_digits", "model": "miniature", "metric": "AP", "before": 5.6, "after": 21.0, "steps": 3, "seconds": 312.0, "seed": 7},
    config_yaml="seed: 7\n",
    rows=[("AP", 5.6, 21.0, 15.4), ("AP seven", None, 1.0, None)],
    metrics=[
        {"step": 1, "reward/mean": 0.0, "loss/kl": 0.0, "refused/truncated": 4.0},
        {"step": 2, "reward/mean": 0.5, "loss/kl": None},
        {"step": 3, "reward/mean": 1.0, "loss/kl": 0.1, "refused/truncated": 2.0, "refused/bad_box": 0.0},
    ],
    curves=["reward/mean", "loss/kl"],
    gallery=[ITEM],
    rollouts=[rollout(2, 9.0, "an earlier step"), *(rollout(3, reward, f"completion {reward}") for reward in (0.5, 3.0, 1.0, 2.0, None, 0.0, 2.5))],
)


class Page(HTMLParser):
    """The elements, with their attributes, and the visible text; asserts that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]


def page(path: Path, report: Report = REPORT) -> Page:
    write_report(path / "report.html", report)
    return Page((path / "report.html").read_text())


def test_the_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    elements = page(tmp_path).elements
    assert not re.search(r"https?://|//[a-z]|<script|@import|url\(", re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text()))
    sources = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert os.listdir(tmp_path) == ["report.html"]


def test_hostile_text_is_shown_and_never_becomes_an_element(tmp_path: Path) -> None:
    hostile = Report(
        summary=dict.fromkeys(("task", "model", "metric", "other"), HOSTILE) | {"before": 1.0, "after": 2.0, "steps": HOSTILE, "seconds": 1.0},
        config_yaml=HOSTILE,
        rows=[(HOSTILE, 1.0, 2.0, 1.0)],
        metrics=[{"step": 1, HOSTILE: 1.0, f"refused/{HOSTILE}": 1.0}],
        curves=[HOSTILE, HOSTILE + "never logged"],
        gallery=[replace(ITEM, question=HOSTILE, before_text=HOSTILE, after_text=HOSTILE, before=Refusal(Reason.NOT_A_LIST, HOSTILE))],
        rollouts=[rollout(1, 1.0, HOSTILE) | {"example": HOSTILE, "refused": HOSTILE, "rewards": {HOSTILE: 1.0}}],
    )
    found = page(tmp_path, hostile)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.text.count("<script src=") >= 15, "every one of them is there to read"


def test_every_key_asked_for_is_drawn_and_no_other(tmp_path: Path) -> None:
    assert [found["aria-label"] for found in page(tmp_path).all("svg", **{"class": "curve"})] == ["reward/mean", "loss/kl"]
    missing = page(tmp_path, replace(REPORT, curves=["reward/none"]))
    assert "reward/none" in missing.text and "no finite value" in missing.text


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in re.findall(r"(\S+),(\S+)", line)] for line in re.findall(r'points="([^"]*)"', svg)]


def test_a_curve_fills_its_frame_keeps_its_order_and_is_indifferent_to_scale() -> None:
    values = [3.0, 1.0, 2.0, 5.0]
    (drawn,) = points(curve_svg("a", list(enumerate(values, start=1))))
    xs, ys = zip(*drawn, strict=True)
    assert sorted(range(4), key=lambda i: -ys[i]) == sorted(range(4), key=lambda i: values[i]), "up is more"
    assert (min(xs), max(xs), min(ys), max(ys)) == (SIDE, CURVE_WIDTH - SIDE, MARGIN, CURVE_HEIGHT - MARGIN)
    assert points(curve_svg("a", [(10 * step, 4 * value - 7) for step, value in enumerate(values, start=1)])) == [list(drawn)]


@pytest.mark.parametrize("gap", [None, float("nan"), float("inf")])
def test_a_gap_breaks_a_curve_and_lone_or_constant_points_stay_visible(gap: float | None) -> None:
    assert [len(line) for line in points(curve_svg("a", [(1, 1.0), (2, 1.0), (3, gap), (4, 1.0)]))] == [2, 2]
    assert points(curve_svg("a", [(5, 0.3)])) == [[(SIDE, CURVE_HEIGHT - MARGIN)] * 2]


def test_boxes_sit_at_their_place_in_the_picture(tmp_path: Path) -> None:
    found = page(tmp_path)
    width, height = PICTURE_SIDE, PICTURE_SIDE // 2  # of an image of 64 × 32
    truth = {"x": width / 4, "y": height / 2, "width": width / 4, "height": height / 2}
    drawn = [{key: float(box[key]) for key in truth} for box in found.all("rect", **{"class": "truth"})]
    assert drawn == [truth, truth], "in the picture before and in the one after"
    (after,) = found.all("rect", **{"class": "after"})
    assert [float(after[key]) for key in ("x", "y", "width", "height")] == [0, 0, width, height / 2]
    assert all(picture["viewbox"] == f"0 0 {width} {height}" for picture in found.all("svg", **{"class": "picture"}))
    assert not found.all("rect", **{"class": "before"}), "a refusal has no boxes"


def test_an_image_is_inlined_once_unchanged_when_small_and_bounded_when_large(tmp_path: Path) -> None:
    large = replace(ITEM, image=Image.new("RGB", (3000, 1500)))
    found = page(tmp_path, replace(REPORT, gallery=[ITEM, large]))
    small, reduced = (Image.open(io.BytesIO(base64.b64decode(image["href"].split(",")[1]))) for image in found.all("image"))
    assert small.tobytes() == ITEM.image.tobytes() and reduced.size == (640, 320)
    assert ["style" in image for image in found.all("image")] == [True, False], "only a small canvas shows its pixels"
    assert large.image.size == (3000, 1500), "the caller's image is left alone"
    assert {use["href"] for use in found.all("use")} == {f"#{image['id']}" for image in found.all("image")}


def test_answers_are_labelled_and_refusals_named(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "after: 0.90 IoU 0.25" in text and "before: refused: truncated <think>" in text
    assert "before text" in text and "after text" in text
    silent = replace(ITEM, before=DetectionAnswer(()), after_ious=())
    text = page(tmp_path, replace(REPORT, gallery=[silent])).text
    assert "before: No Objects" in text and "after: 0.90" in text and "IoU" not in text


def test_the_summary_comes_first(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert text.strip().startswith("fsod_digits · miniature")
    assert [word in text for word in ("AP 5.60 → 21.00", "3 steps in 5:12", "seed 7", "seed: 7\n")] == [True] * 4
    assert text.index("5.60 → 21.00") < text.index("Before and after") < text.index("Curves")


def test_refusals_are_summed_up_by_reason_and_a_step_without_one_had_none(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "truncated422" in text.split("Refusals")[1], "first 4, last 2, mean of 4, 0 and 2"
    assert "bad_box" not in text


def test_best_and_worst_rollouts_of_the_last_step_are_shown_once(tmp_path: Path) -> None:
    text = page(tmp_path).text
    shown = re.findall(r"completion (None|\d\.\d)", text)
    assert shown == ["3.0", "2.5", "2.0", "None", "0.0", "0.5"]
    assert "an earlier step" not in text
    few = page(tmp_path, replace(REPORT, rollouts=[rollout(1, 1.0)])).text
    assert "Best" in few and "Worst" not in few


def test_a_report_of_nothing_has_no_empty_section(tmp_path: Path) -> None:
    found = page(tmp_path, Report({}, "", [], [], [], [], []))
    assert not found.all("h2")
