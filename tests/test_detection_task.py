"""The detection task: questions, answers, and rewards as configured. Run: .venv/bin/python -m pytest tests/test_detection_task.py"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visual_rft.parsing import parse_detection
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.detection import DetectionOptions, DetectionTask, Present, example, render, thinking
from visual_rft.vocabulary import AnnotatedImage, Annotation, Box, Detection, DetectionAnswer

NAMES = ("cat", "dog")
IMAGE = AnnotatedImage(7, Image.new("RGB", (200, 100)), (Annotation("cat", (20.0, 10.0, 60.0, 40.0)), Annotation("dog", (0.0, 0.0, 200.0, 100.0))))
RIGHT = render([Detection((100, 100, 400, 500), 0.9)], "one cat")
WIDE = render([Detection((100, 100, 400, 700), 0.9)], "one cat")  # IoU 2/3

corners = st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(1, 1000), st.integers(1, 1000))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(min(c[0] + c[2], 1000)), float(min(c[1] + c[3], 1000))))


@given(st.lists(st.tuples(boxes, st.integers(0, 100)), max_size=8))
def test_what_is_rendered_is_read_back(said: list[tuple[Box, int]]) -> None:
    detections = tuple(Detection(box, percent / 100) for box, percent in said)
    assert parse_detection(render(detections, "whatever")) == DetectionAnswer(detections)


def test_truth_is_in_thousandths_of_each_axis() -> None:
    assert example(IMAGE, "cat").truth.boxes == ((100, 100, 400, 500),)
    assert example(IMAGE, "dog").truth.boxes == ((0, 0, 1000, 1000),)
    assert example(IMAGE, "cat").question.count("cat") == 1


def test_rewards_are_paid_as_configured() -> None:
    """The peers' defect: a weight that is accepted and ignored."""
    asked = example(IMAGE, "cat")

    def paid(text: str, **options: object) -> float:
        task = DetectionTask(NAMES, replace(RewardOptions(), **options))  # type: ignore[arg-type]
        return task.total(task.reward(text, asked))

    assert paid(RIGHT) == pytest.approx(1 + 0.99 + 1)
    assert paid(RIGHT, weights={"confidence": 0.0, "format": 3.0}) == pytest.approx(1 + 3)
    assert paid(WIDE) == pytest.approx(2 / 3 + 0.99 + 1)
    assert paid(WIDE, iou_threshold=0.7) == pytest.approx(0 - 0.81 + 1)
    assert paid(RIGHT, family=Family.paper) == pytest.approx(1 + 1 + 1)  # y1 is the solution's: the maths shortcut
    with pytest.raises(ValueError, match=r"rewards\.weights\.iuo: this task has no such reward part; its parts are iou, confidence, format"):
        paid(RIGHT, weights={"iuo": 1.0})


def test_an_evaluation_scores_every_question() -> None:
    asked = [example(IMAGE, "cat"), example(IMAGE, "dog")]
    metrics = DetectionTask(NAMES, RewardOptions()).evaluate(asked, [RIGHT, "no idea"])
    assert metrics.ap_by_category == {"cat": pytest.approx(100), "dog": 0}
    assert metrics.well_formed == metrics.mean_iou == 50


def test_thinking_says_where_the_centres_lie_in_the_order_of_the_boxes() -> None:
    assert thinking("cat", []) == "cat: none."
    assert thinking("cat", [(0, 0, 100, 100), (600, 400, 1000, 600)]) == "cat: top left, middle right."


@pytest.mark.parametrize("change", [{"shots": 0}, {"negatives": -0.1}])
def test_impossible_options_are_refused_by_name(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"task.{next(iter(change))}="):
        replace(DetectionOptions("cats", 1, 0.0, Present.all), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"rewards\.iou_threshold="):
        RewardOptions(iou_threshold=threshold)
