"""The rollouts that a report holds: `pytest tests/test_rollouts_shown.py`."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from PIL import Image

from visual_rft.frames import Contract, Resized
from visual_rft.images import StoredImage
from visual_rft.tracking import _explorer
from visual_rft.tracking._explorer import answered_boxes, data, explorer, island
from visual_rft.tracking._rollouts import BYTES, STEPS, Rollouts, fitting, read_rollouts, spread
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.vocabulary import ClassAnswer, Detection, DetectionAnswer, DetectionTruth, Example, GroundingAnswer

BOX, OTHER = (250.0, 500.0, 500.0, 1000.0), (0.0, 0.0, 1000.0, 1000.0)
EXAMPLE = Example("7/five", (StoredImage.of(7, Image.new("RGB", (64, 32), "purple")),), "five", "Where?", DetectionTruth((BOX,)))


def record(example: str = "7/five", completion: str = "text", answer: Any = None, **more: Any) -> dict[str, Any]:
    rewards = {"iou": 0.25, "format": 1.0}
    kept = {"example": example, "completion": completion, "answer": answer, "refused": None, "rewards": rewards, "reward": 1.25, "advantage": 0.5}
    return kept | {"finished": True, "tokens": 5} | more


def written(path: Path, steps: int, groups: int, size: int, text: str = "text") -> Path:
    folder = RunFolder(path)
    for step in range(1, steps + 1):
        folder.log_rollouts(step, [record(f"{group}/five", f"{step} {group} {text}") for group in range(groups) for _ in range(size)])
    return path / "rollouts.jsonl"


def test_what_is_small_is_shown_whole_in_its_order(tmp_path: Path) -> None:
    found = read_rollouts(written(tmp_path, 3, 4, 2))
    assert list(found.kept) == [1, 2, 3] and all(
        [group[0]["example"] for group in groups] == [f"{i}/five" for i in range(4)] for groups in found.kept.values()
    )
    assert all(len(group) == 2 for groups in found.kept.values() for group in groups)
    assert found.told == "3 steps, 12 groups, 24 completions"
    assert read_rollouts(tmp_path / "none.jsonl") == Rollouts() and explorer(Rollouts(), {}) == ""


@given(steps=st.lists(st.integers(1, 10**6), unique=True, max_size=200), most=st.integers(2, 40), wanted=st.sets(st.integers(1, 10**6), max_size=5))
def test_a_spread_is_of_the_steps_with_both_ends_and_as_many_as_may_be(steps: list[int], most: int, wanted: set[int]) -> None:
    steps, wanted = sorted(steps), wanted | set(steps[7:9])
    chosen = spread(steps, most, wanted)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(steps) and len(chosen) == min(most, len(steps))
    assert not steps or (chosen[0], chosen[-1]) == (steps[0], steps[-1])
    assert len(wanted & set(steps)) > min(most // 2, most - 2) or wanted & set(steps) <= set(chosen)


def test_no_two_neighbours_of_a_spread_are_far_apart() -> None:
    chosen = spread(range(1, 1001), STEPS, ())
    assert max(b - a for a, b in pairwise(chosen)) <= 2 * 1000 / STEPS


def test_the_first_groups_that_fit_are_kept_and_of_one_that_is_too_large_the_beginning_of_its_texts() -> None:
    groups = [[record(completion="x" * 1000)] * 4 for _ in range(5)]
    size = len(json.dumps(groups[0]))
    for room, kept in ((5 * size, 5), (2.5 * size, 2), (size, 1)):
        assert fitting(groups, int(room)) == groups[:kept]
    (cut,) = fitting(groups, size // 2)
    assert len(cut) == 4 and all(0 < one["completion"].count("x") < 501 and "characters more, in rollouts.jsonl" in one["completion"] for one in cut)


@pytest.mark.parametrize("steps, groups, size, text", [(60, 16, 8, "text" * 300), (2, 1, 8, "\u732b" * 300_000)])
def test_a_page_stays_small_whatever_the_run_wrote(tmp_path: Path, steps: int, groups: int, size: int, text: str) -> None:
    file = written(tmp_path, steps, groups, size, text)
    assert file.stat().st_size > 4 * BYTES
    report = Report.of(tmp_path, {}, [])
    assert len(report.rollouts.kept) == min(steps, STEPS) and f"{steps}" in report.rollouts.told
    write_report(tmp_path / "report.html", report)
    assert BYTES / 4 < (tmp_path / "report.html").stat().st_size < 1.5 * BYTES


def test_of_images_too_there_are_no_more_than_fit_the_first_group_of_each_step_first(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [StoredImage.of(number, Image.effect_noise((64, 64), 80)) for number in range(6)]
    examples = {f"{number}/five": replace(EXAMPLE, id=f"{number}/five", images=(image,)) for number, image in enumerate(images)}
    rollouts = Rollouts({step: [[record(f"{3 * step + group}/five")] for group in range(3)] for step in (0, 1)}, 2, 6, 6)
    assert [question["image"] for question in data(rollouts, examples)["questions"]] == [0, 2, 4, 1, 3, 5]
    one = max(map(len, data(rollouts, examples)["images"]))
    monkeypatch.setattr(_explorer, "IMAGE_BYTES", 2 * one)
    assert [question["image"] for question in data(rollouts, examples)["questions"]] == [0, None, None, 1, None, None]


def test_an_image_that_cannot_be_opened_is_left_out() -> None:
    def gone() -> Image.Image:
        raise ValueError("no such file")

    lost = replace(EXAMPLE, images=(StoredImage(7, "a.jpg", (640, 480), gone, bytes),))
    (question,) = data(Rollouts({1: [[record()]]}, 1, 1, 1), {"7/five": lost})["questions"]
    assert question["image"] is None and question["size"] == (320, 240), "its boxes stand on an empty canvas"
    (unknown,) = data(Rollouts({1: [[record()]]}, 1, 1, 1), {})["questions"]
    assert unknown["name"] == "7/five" and unknown["boxes"] == []


def test_boxes_are_in_the_pictures_units_whatever_their_frame() -> None:
    """320 × 160 units of an image of 64 × 32."""
    wide = replace(EXAMPLE, contract=Contract(Resized(56, 28)), truth=DetectionTruth(((14.0, 14.0, 28.0, 28.0),)))
    for example, box in ((EXAMPLE, BOX), (wide, (14.0, 14.0, 28.0, 28.0))):
        answer = DetectionAnswer((Detection(box, 0.9),)).plain
        shown = data(Rollouts({1: [[record(answer=answer)]]}, 1, 1, 1), {"7/five": example})
        assert shown["steps"][0][1][0][1][0]["boxes"] == [[80, 80, 80, 80, "0.90"]] and shown["questions"][0]["boxes"] == [[80, 80, 80, 80, ""]]


def test_every_kind_of_answer_says_its_boxes_itself() -> None:
    assert answered_boxes(DetectionAnswer((Detection(BOX, 0.5), Detection(OTHER, 1.0))).plain) == ([BOX, OTHER], ["0.50", "1.00"])
    assert answered_boxes(GroundingAnswer(BOX).plain) == ([BOX], [""])
    for nothing in (DetectionAnswer(()).plain, ClassAnswer("seven").plain, None):
        assert answered_boxes(nothing) == ([], [])
    x1, y1, x2, y2 = BOX
    assert answered_boxes(GroundingAnswer((x2, y2, x1, y1)).plain) == ([BOX], [""]), "a rectangle has no negative side"


@given(st.text() | st.sampled_from(["</script>", "<!--<script>", "\u2028", "\ud800", "]]>", "<think> a < b </think>"]))
def test_nothing_in_the_island_ends_its_element_and_all_of_it_comes_back(text: str) -> None:
    assert "<" not in island({"text": text}) and json.loads(island({"text": text})) == {"text": text}


def test_the_filters_are_the_reasons_that_occur() -> None:
    refused = [record(refused=reason) for reason in ("truncated", "bad_box", "truncated")]
    assert data(Rollouts({1: [[*refused, record(answer=[])]]}, 1, 1, 4), {})["filters"] == ["every completion", "answered", "bad_box", "truncated"]
    told = data(Rollouts({1: [[record(), record(answer="six")]]}, 1, 1, 2), {})
    assert told["filters"][2:] == ["no answer"], "of what `paper` does not refuse, and cannot read"
    assert [one["refused"] for one in told["steps"][0][1][0][1]] == ["no answer", None]
