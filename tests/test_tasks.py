"""The tasks: questions, answers, truths and rewards as configured. Run: .venv/bin/python -m pytest tests/test_tasks.py"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL import Image

from visual_rft import workload
from visual_rft.parsing import parse_classification, parse_detection, parse_grounding
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.sources.digits import DigitOptions
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.classification import ClassificationOptions
from visual_rft.tasks.detection import DetectionOptions, Present
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.task import TaskOptions
from visual_rft.tasks.wording import completion, detection_answer, grounding_answer, thinking
from visual_rft.vocabulary import (
    AnnotatedImage,
    Annotation,
    Box,
    ClassAnswer,
    ClassTruth,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    Example,
    GroundingAnswer,
    GroundingTruth,
    Instruction,
    Truth,
)

CAT, DOG = Annotation("cat", (20.0, 10.0, 60.0, 40.0)), Annotation("dog", (0.0, 0.0, 200.0, 100.0))
SMALLER = Instruction("the smaller animal", CAT.bbox_xywh, "size")
PIXELS = Image.new("RGB", (200, 100))
IMAGE = AnnotatedImage(7, lambda: PIXELS, (CAT, DOG), (SMALLER,))
ALONE = AnnotatedImage(8, lambda: PIXELS, (CAT,))
DETECTION = DetectionOptions("pets", 1, 0, ["cat", "dog"], [], 0.0, Present.all, 0.5)
CLASSIFICATION = ClassificationOptions("pets", 1, 0, ["cat", "dog"], "animal", {"kitty": "cat"})
GROUNDING = GroundingOptions("pets", 1, 0)
OPTIONS = [DETECTION, CLASSIFICATION, GROUNDING]
RIGHT = completion("one cat", detection_answer([Detection((100, 100, 400, 500), 0.9)]))
WIDE = completion("one cat", detection_answer([Detection((100, 100, 400, 700), 0.9)]))  # IoU 2/3

corners = st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(1, 1000), st.integers(1, 1000))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(min(c[0] + c[2], 1000)), float(min(c[1] + c[3], 1000))))


@given(st.lists(st.tuples(boxes, st.integers(0, 100)), max_size=8), boxes)
def test_what_is_written_is_read_back(said: list[tuple[Box, int]], box: Box) -> None:
    detections = tuple(Detection(box, percent / 100) for box, percent in said)
    assert parse_detection(completion("whatever", detection_answer(detections))) == DetectionAnswer(detections)
    assert parse_grounding(completion("whatever", grounding_answer(box))) == GroundingAnswer(box)
    assert parse_classification(completion("whatever", "cat")) == ClassAnswer("cat")


def test_truth_is_in_thousandths_of_each_axis() -> None:
    assert detection.example(IMAGE, "cat").truth.boxes == ((100, 100, 400, 500),)
    assert detection.example(IMAGE, "dog").truth.boxes == ((0, 0, 1000, 1000),)
    assert grounding.example(IMAGE, SMALLER).truth == GroundingTruth((100, 100, 400, 500))
    assert classification.example(ALONE, "animal").truth == ClassTruth("cat")


def test_a_question_names_what_it_asks_for_once_and_never_the_answer() -> None:
    asked = detection.example(IMAGE, "cat"), grounding.example(IMAGE, SMALLER), classification.example(ALONE, "animal")
    assert [q.question.count(word) for q, word in zip(asked, ("cat", "the smaller animal", "animal"), strict=True)] == [1, 1, 1]
    assert "cat" not in asked[1].question + asked[2].question
    assert all("<think> </think>" in q.question and "<answer> </answer>" in q.question for q in asked)


@pytest.mark.parametrize(
    ("options", "solution", "truth"),
    [
        (DETECTION, "<answer>[{'Position': [64, 0, 950, 411], 'Confidence': 1}]</answer>", DetectionTruth(((64, 0, 950, 411),))),
        (DETECTION, "No Objects", DetectionTruth(())),
        (CLASSIFICATION, "<answer>pink primrose</answer>", ClassTruth("pink primrose")),
        (GROUNDING, "(64,0),(950,411)", GroundingTruth((64, 0, 950, 411))),
        (GROUNDING, "<think>It is there.</think><answer>(64,0),(950,411)</answer>", GroundingTruth((64, 0, 950, 411))),
    ],
)
def test_a_solution_is_written_as_a_right_answer_is_tags_or_not(options: TaskOptions, solution: str, truth: Truth) -> None:
    assert workload.task(options, RewardOptions()).solution(solution) == truth


@pytest.mark.parametrize("options", OPTIONS)
def test_a_solution_that_is_none_is_refused_with_the_reason(options: TaskOptions) -> None:
    with pytest.raises(ValueError, match="the solution is no answer to this task: empty_answer"):
        workload.task(options, RewardOptions()).solution(" ")


def paid(text: str, **options: object) -> float:
    changed = replace(DETECTION, iou_threshold=options.pop("iou_threshold", 0.5))  # type: ignore[arg-type]
    task = workload.task(changed, replace(RewardOptions(), **options))  # type: ignore[arg-type]
    return task.total(task.reward(text, detection.example(IMAGE, "cat")))


def test_rewards_are_paid_as_configured() -> None:
    """The peers' defect: a weight that is accepted and ignored."""
    assert paid(RIGHT) == pytest.approx(1 + 0.99 + 1)
    assert paid(RIGHT, weights={"confidence": 0.0, "format": 3.0}) == pytest.approx(1 + 3)
    assert paid(WIDE) == pytest.approx(2 / 3 + 0.99 + 1)
    assert paid(WIDE, iou_threshold=0.7) == pytest.approx(0 - 0.81 + 1)
    assert paid(RIGHT, family=Family.paper) == pytest.approx(1 + 1 + 1)  # y1 is the solution's: the maths shortcut
    with pytest.raises(ValueError, match=r"rewards\.weights\.iuo: this task has no such reward part; its parts are iou, confidence, format"):
        paid(RIGHT, weights={"iuo": 1.0})


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("options", OPTIONS)
def test_every_part_that_is_paid_has_a_weight(options: TaskOptions, family: Family) -> None:
    task = workload.task(options, RewardOptions(family))
    truth = [DetectionTruth(((1, 2, 3, 4),)), ClassTruth("cat"), GroundingTruth((1, 2, 3, 4))][OPTIONS.index(options)]
    for text in ("", RIGHT, completion("", "cat"), completion("", "(1,2),(3,4)")):
        assert set(task.score(text, truth).parts) == set(task.weights)


def scores(options: TaskOptions, questions: Sequence[Example], texts: Sequence[str]) -> dict[str, float]:
    task = workload.task(options, RewardOptions())
    return dict(task.measure(questions, [task.parse(text) for text in texts]).values)


def test_an_evaluation_scores_every_question() -> None:
    asked = [detection.example(IMAGE, "cat"), detection.example(IMAGE, "dog")]
    assert scores(DETECTION, asked, [RIGHT, "no idea"]) == pytest.approx({"AP": 50, "AP50": 50, "AP75": 50, "mean IoU": 50, "well-formed": 50})
    opened = replace(DETECTION, novel=["dog"])
    assert list(scores(opened, asked, [RIGHT, "no idea"]).items())[:3] == [
        ("AP novel", 0),
        ("AP base", pytest.approx(100)),
        ("AP", pytest.approx(50)),
    ]
    absent = [detection.example(AnnotatedImage(9, lambda: PIXELS, ()), name) for name in ("cat", "dog")]
    assert scores(DETECTION, absent, [RIGHT, completion("", "No Objects")])["rightly empty"] == 50
    assert scores(DETECTION, absent, [completion("", "[]"), "no idea"])["rightly empty"] == 50
    named = [classification.example(ALONE, "animal")] * 3
    said = scores(CLASSIFICATION, named, [completion("", "Kitty."), completion("", "cat or dog"), ""])
    assert next(iter(said.items())) == ("accuracy", pytest.approx(100 / 3))
    pointed = [grounding.example(IMAGE, SMALLER)] * 2
    said = scores(GROUNDING, pointed, [completion("", "(100,100),(400,700)"), "(100,100),(400,500)"])
    assert said == pytest.approx({"mIoU": 100 / 3, "accuracy@0.5": 50, "well-formed": 50})


def test_open_vocabulary_trains_on_base_categories_alone() -> None:
    options = replace(DETECTION, novel=["dog"], negatives=1.0)
    images = [ALONE, AnnotatedImage(9, lambda: PIXELS, (DOG,)), AnnotatedImage(10, lambda: PIXELS, ())]
    asked = workload._detection_train(options, images)
    assert {e.subject for e in asked} == {"cat"} and sorted(len(e.truth.boxes) for e in asked) == [0, 1]
    assert {e.subject for e in workload._detection_test(options, images)} == {"cat", "dog"}


def test_a_classification_asks_about_its_categories_alone() -> None:
    options = replace(CLASSIFICATION, categories=["dog"])
    dog = AnnotatedImage(9, lambda: PIXELS, (DOG,))
    assert [e.image_id for e in workload._classification_test(options, [ALONE, dog])] == [9]
    with pytest.raises(ValueError, match=r"task\.categories: must be names, each once"):
        replace(CLASSIFICATION, categories=[])


def test_test_questions_are_the_same_for_every_seed() -> None:
    data = DigitOptions(20, 8, 2, 3)
    asked = [[(q.id, q.question) for q in workload.test_questions(replace(GROUNDING, split_seed=seed), data)] for seed in (0, 1)]
    assert asked[0] == asked[1] and len(asked[0]) == 8


def test_an_instruction_is_chosen_by_its_sort_first() -> None:
    many = AnnotatedImage(1, lambda: PIXELS, (CAT,), (*(Instruction(str(i), CAT.bbox_xywh, "common") for i in range(50)), SMALLER))
    rng = default_rng(0)
    sorts = [grounding.choose(many, rng).sort for _ in range(400)]
    assert 150 < sorts.count("size") < 250
    with pytest.raises(ValueError, match="image 8 comes with no instruction"):
        grounding.choose(ALONE, rng)


def test_a_classification_image_shows_one_object() -> None:
    with pytest.raises(ValueError, match=r"image 7 shows 2 labelled objects.*data\.most_digits=1"):
        classification.example(IMAGE, "animal")


def test_thinking_says_where_the_centres_lie_in_the_order_of_the_boxes() -> None:
    assert thinking("cat", []) == "cat: none."
    assert thinking("cat", [(0, 0, 100, 100), (600, 400, 1000, 600)]) == "cat: top left, middle right."


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"shots": 0}, "task.shots=0"),
        ({"split_seed": -1}, "task.split_seed=-1"),
        ({"negatives": -0.1}, "task.negatives=-0.1"),
        ({"iou_threshold": 1.0}, "task.iou_threshold=1.0"),
        ({"iou_threshold": -0.1}, "task.iou_threshold=-0.1"),
        ({"categories": []}, "task.categories: must be names, each once"),
        ({"categories": ["cat", "cat"]}, "task.categories: must be names, each once"),
        ({"novel": ["cow"]}, "task.novel: 'cow' is not among task.categories, cat, dog"),
        ({"novel": ["cat", "dog"]}, "task.novel: leaves no category to train on"),
    ],
)
def test_impossible_options_are_refused_by_name(change: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        replace(DETECTION, **change)  # type: ignore[arg-type]
