"""The tasks: questions, answers, truths and rewards as configured. Run: .venv/bin/python -m pytest tests/test_tasks.py"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL import Image

from visual_rft import workload
from visual_rft.boxes import iou_matrix
from visual_rft.frames import Box, Contract, Frame, Norm1000, Original, Resized, Speaks
from visual_rft.images import AnnotatedImage, Annotation, ImageSet, Instruction, StoredImage
from visual_rft.parsing import parse_classification, parse_detection, parse_grounding
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.sources.digits import DigitOptions
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.classification import ClassificationOptions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.presence import Present, says_no
from visual_rft.tasks.task import Exam, TaskOptions
from visual_rft.tasks.wording import Style, Wording, completion, detection_answer, grounding_answer, thinking
from visual_rft.vocabulary import (
    ClassAnswer,
    ClassTruth,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    Example,
    GroundingAnswer,
    GroundingTruth,
    Reason,
    Refusal,
    Truth,
)

CAT, DOG = Annotation("cat", (20.0, 10.0, 60.0, 40.0)), Annotation("dog", (0.0, 0.0, 200.0, 100.0))
SMALLER = Instruction("the smaller animal", CAT.bbox_xywh, "size")
PIXELS = Image.new("RGB", (200, 100))


def pictured(id: int, *annotations: Annotation, **more: Any) -> AnnotatedImage:
    return AnnotatedImage(StoredImage.of(id, PIXELS), annotations, **more)


def data_of(*images: AnnotatedImage, **more: Any) -> ImageSet:
    return ImageSet(images, {"cat": 17, "dog": 18}, "the pets", **more)


def resized(size: tuple[int, int]) -> Frame:
    """As a model that sees images at half their size, in whole pixels, and speaks of those."""
    return Resized(size[0] // 2, size[1] // 2)


IMAGE = pictured(7, CAT, DOG, instructions=(SMALLER,))
ALONE = pictured(8, CAT)
STYLE = Style()
COMMON: dict[str, Any] = {"name": "pets", "shots": 1, "at_most": False, "split_seed": 0, "split": None, "wording": Wording.terse_1, "thinking": True}
DETECTION = DetectionOptions(**COMMON, categories=["cat", "dog"], trained=None, negatives=0.0, present=Present.all, presence=None, iou_threshold=0.5)
CLASSIFICATION = ClassificationOptions(**COMMON, categories=["cat", "dog"], kind="animal", aliases={"kitty": "cat"})
GROUNDING = GroundingOptions(**COMMON)
OPTIONS = [DETECTION, CLASSIFICATION, GROUNDING]
STYLES = [Style(wording, thinks, speaks) for wording in Wording for thinks in (True, False) for speaks in (STYLE.speaks, resized)]
RIGHT = completion("one cat", detection_answer([Detection((100, 100, 400, 500), 0.9)]))
WIDE = completion("one cat", detection_answer([Detection((100, 100, 400, 700), 0.9)]))  # IoU 2/3

corners = st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(1, 1000), st.integers(1, 1000))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(min(c[0] + c[2], 1000)), float(min(c[1] + c[3], 1000))))


@given(st.lists(st.tuples(boxes, st.integers(0, 100)), max_size=8), boxes, st.sampled_from(["whatever", "", None]))
def test_what_is_written_is_read_back(said: list[tuple[Box, int]], box: Box, thoughts: str | None) -> None:
    contract, detections = Contract(thinking=thoughts is not None), tuple(Detection(box, percent / 100) for box, percent in said)
    assert parse_detection(completion(thoughts, detection_answer(detections)), contract) == DetectionAnswer(detections)
    assert parse_grounding(completion(thoughts, grounding_answer(box)), contract) == GroundingAnswer(box)
    assert parse_classification(completion(thoughts, "cat"), contract) == ClassAnswer("cat")


def asked_of(style: Style) -> list[Example]:
    return [detection.example(IMAGE, "cat", style), grounding.example(IMAGE, SMALLER, style), classification.example(ALONE, "animal", style)]


def test_truth_is_in_the_frame_that_the_model_speaks() -> None:
    assert detection.example(IMAGE, "cat", STYLE).truth.boxes == ((100, 100, 400, 500),)
    assert detection.example(IMAGE, "dog", STYLE).truth.boxes == ((0, 0, 1000, 1000),)
    assert grounding.example(IMAGE, SMALLER, STYLE).truth == GroundingTruth((100, 100, 400, 500))
    assert classification.example(ALONE, "animal", STYLE).truth == ClassTruth("cat")
    half = Style(speaks=resized)
    assert [example.truth.boxes for example in asked_of(half)] == [((10, 5, 40, 25),), ((10, 5, 40, 25),), ()]
    assert {example.contract.frame for example in asked_of(half)} == {Resized(100, 50)}


def test_what_is_cut_off_a_crowd_or_without_area_is_not_asked_for() -> None:
    """And the thinnest sliver is still a box to draw."""
    over = Annotation("cat", (-20.0, 90.0, 40.0, 30.0), area=500.0)
    sliver = Annotation("cat", (50.0, 20.0, 0.01, 30.0))
    image = pictured(1, over, sliver, replace(DOG, crowd=True), Annotation("cat", (200.0, 0.0, 9.0, 9.0)), Annotation("cat", (5.0, 5.0, 0.0, 9.0)))
    assert image.objects == (Annotation("cat", (0.0, 90.0, 20.0, 10.0)), sliver) and image.shown == {"cat"} and len(image.annotations) == 5
    assert detection.example(image, "cat", STYLE).truth.boxes == ((0, 900, 100, 1000), (250, 200, 251, 500))
    assert detection.example(image, "dog", STYLE).truth.boxes == ()
    assert detection.lacking(image, ["cat", "dog", "cow"]) == {"cow"}, "a crowd is no example of what is not there"


@pytest.mark.parametrize("style", STYLES)
def test_a_question_names_what_it_asks_for_once_and_never_the_answer(style: Style) -> None:
    asked = asked_of(style)
    assert [q.question.count(word) for q, word in zip(asked, ("cat", "the smaller animal", "animal"), strict=True)] == [1, 1, 1]
    assert "cat" not in asked[1].question + asked[2].question
    assert all("<answer>" in q.question and "</answer>" in q.question for q in asked)
    assert all(("<think>" in q.question and "</think>" in q.question) == style.thinking == ("hink" in q.question) for q in asked)
    for question in asked[:2]:  # those that ask for boxes say in what
        thousandths = isinstance(question.contract.frame, Norm1000)
        assert ("thousandths" in question.question) == thousandths
        assert ("pixels of the image, which is 100 wide and 50 high" in question.question) == (not thousandths)


def test_questions_are_worded_as_they_ever_were() -> None:
    """Figures depend on them: a better wording gets a new name."""
    terse, full = (
        [example.question for example in asked_of(Style(wording, thinks, speaks))]
        for wording, thinks, speaks in ((Wording.terse_1, True, STYLE.speaks), (Wording.full_1, False, resized))
    )
    think = "Think first inside <think> </think>, then answer inside <answer> </answer> with"
    assert terse == [
        f"Find every cat in the image. {think} a list such as [{{'Position': [left, top, right, bottom], 'Confidence': 0.95}}], "
        "in thousandths of the width and the height, or with No Objects.",
        f"Point at the smaller animal. {think} its box (left,top),(right,bottom), in thousandths of the width and the height.",
        f"Which animal does the image show? {think} its name alone.",
    ]
    answer = "Write your answer between <answer> and </answer>, and nothing else."
    units = "in pixels of the image, which is 100 wide and 50 high"
    assert full == [
        f"Look for every cat in the image and draw a box around each one. {answer} The answer is a list with an entry for each box: "
        "[{'Position': [x1, y1, x2, y2], 'Confidence': c}, …]. x1 and x2 are the left and right edge of the box, y1 and y2 its top and bottom, as "
        f"whole numbers, {units}; c is a number from 0 to 1 with two decimals that says how sure you are of the box. "
        "If there is none, the answer is No Objects.",
        f"Find the one thing in the image that these words mean: the smaller animal. {answer} The answer is its box, (x1,y1),(x2,y2): the left, top, "
        f"right and bottom edge as whole numbers, {units}.",
        f"Which animal does the image show? {answer} The answer is one name and nothing else.",
    ]


def test_a_name_of_a_data_set_is_asked_for_in_words() -> None:
    for wording in Wording:
        question = detection.example(IMAGE, "horse_buggy", Style(wording))
        assert "every horse buggy in" in question.question and question.subject == "horse_buggy"


@pytest.mark.parametrize("wording", list(Wording))
@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("speaks", [STYLE.speaks, resized, lambda size: Original(*size)])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_template_is_equal_in_training_and_evaluation(
    options: TaskOptions, speaks: Speaks, thinks: bool, wording: Wording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the way to it, what is asked of one image about one subject is the same text under the same contract, with the same truth."""
    data = data_of(ALONE) if options is CLASSIFICATION else data_of(IMAGE)
    monkeypatch.setattr(workload, "training_data", lambda *_: data)
    monkeypatch.setattr(workload, "test_data", lambda *_: data)
    options = replace(options, wording=wording, thinking=thinks, shots=None)
    trained = {(e.asked_about.id, e.subject): e for e in workload.train_examples(options, None, speaks)}  # type: ignore[arg-type]
    tested = {(e.asked_about.id, e.subject): e for e in workload.test_exam(options, None, speaks).questions}  # type: ignore[arg-type]
    assert trained == tested and len(trained) == (2 if isinstance(options, DetectionOptions) else 1)
    for example in trained.values():
        assert example.contract == Contract(speaks((200, 100)), thinks) and ("<think>" in example.question) == thinks


@pytest.mark.parametrize("style", STYLES)
def test_what_the_question_asks_for_earns_everything(style: Style) -> None:
    """The words of the truth, in the frame and with the thinking that the contract asks for; the other way about it is refused."""
    found, pointed, named = asked_of(style)
    for options, example, said in (
        (DETECTION, found, detection_answer([Detection(box, 1.0) for box in found.truth.boxes])),
        (GROUNDING, pointed, grounding_answer(pointed.truth.boxes[0])),
        (CLASSIFICATION, named, "cat"),
    ):
        for family in Family:
            task = workload.task(options, RewardOptions(family))
            reward = task.reward(completion("I look." if style.thinking else None, said), example.truth, example.contract)
            assert task.total(reward) == pytest.approx(3 if options is DETECTION or (options is GROUNDING and family is Family.paper) else 2)
            other = task.reward(completion(None if style.thinking else "I look.", said), example.truth, example.contract)
            assert other.parts["format"] == 0 and other.answer is None
            if family is Family.strict:
                assert other.refusal and other.refusal.reason is (Reason.NO_THINK if style.thinking else Reason.TEXT_OUTSIDE)
                assert task.total(other) == 0


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
    example = detection.example(IMAGE, "cat", STYLE)
    return task.total(task.reward(text, example.truth, example.contract))


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


def scores(options: TaskOptions, exam: Exam, texts: Sequence[str]) -> dict[str, float]:
    task = workload.task(options, RewardOptions())
    return dict(exam.measure([task.parse(text, e.contract) for e, text in zip(exam.questions, texts, strict=True)]).values)


def test_an_evaluation_scores_every_question() -> None:
    exam = detection.exam(DETECTION, [detection.example(IMAGE, name, STYLE) for name in ("cat", "dog")], data_of(IMAGE))
    values = {"AP": 50, "AP50": 50, "AP75": 50, "AP medium": 100, "AP large": 0, "mean IoU": 50, "well-formed": 50}
    assert scores(DETECTION, exam, [RIGHT, "no idea"]) == pytest.approx(values)
    opened = replace(DETECTION, trained=["cat"])
    assert list(scores(opened, detection.exam(opened, exam.questions, data_of(IMAGE)), [RIGHT, "no idea"]).items())[:3] == [
        ("AP novel", 0),
        ("AP base", pytest.approx(100)),
        ("AP", pytest.approx(50)),
    ]
    empty = pictured(9)
    absent = detection.exam(DETECTION, [detection.example(empty, name, STYLE) for name in ("cat", "dog")], data_of(empty))
    assert scores(DETECTION, absent, [RIGHT, completion("", "No Objects")])["rightly empty"] == 50
    assert scores(DETECTION, absent, [completion("", "[]"), "no idea"])["rightly empty"] == 50
    named = classification.exam(CLASSIFICATION, [classification.example(ALONE, "animal", STYLE)] * 3, data_of(ALONE))
    said = scores(CLASSIFICATION, named, [completion("", "Kitty."), completion("", "cat or dog"), ""])
    assert next(iter(said.items())) == ("accuracy", pytest.approx(100 / 3))
    pointed = grounding.exam(GROUNDING, [grounding.example(IMAGE, SMALLER, STYLE)] * 2, data_of(IMAGE))
    said = scores(GROUNDING, pointed, [completion("", "(100,100),(400,700)"), "(100,100),(400,500)"])
    assert said == pytest.approx({"mIoU": 100 / 3, "accuracy@0.5": 50, "well-formed": 50})


def test_what_is_found_is_scored_in_the_pixels_of_the_labels() -> None:
    """Whatever frame the model speaks, and however its questions rounded the truth."""
    fine = pictured(3, Annotation("cat", (20.3, 10.2, 60.9, 40.7)))
    for style in (STYLE, Style(speaks=resized), Style(speaks=lambda size: Original(*size))):
        exam = detection.exam(DETECTION, [detection.example(fine, "cat", style)], data_of(fine))
        (asked,) = exam.questions
        assert exam.boxes is not None
        (found,) = exam.boxes.of([DetectionAnswer((Detection(asked.truth.boxes[0], 0.9),))])
        assert (found.image_id, found.category, found.score) == (3, "cat", 0.9)
        step = 200 / asked.contract.frame.width
        assert found.bbox_xywh == pytest.approx((20.3, 10.2, 60.9, 40.7), abs=step) and found.bbox_xywh != (20.3, 10.2, 60.9, 40.7)
        assert exam.boxes.of([Refusal(Reason.NO_THINK)]) == exam.boxes.of([DetectionAnswer(())]) == []


def test_open_vocabulary_trains_on_base_categories_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(DETECTION, trained=["cat"], negatives=1.0)
    data = data_of(ALONE, pictured(9, DOG), pictured(10))
    monkeypatch.setattr(workload, "training_data", lambda *_: data)
    monkeypatch.setattr(workload, "test_data", lambda *_: data)
    asked = workload.train_examples(options, None, STYLE.speaks)  # type: ignore[arg-type]
    assert {e.subject for e in asked} == {"cat"} and sorted(len(e.truth.boxes) for e in asked) == [0, 1]
    assert {e.subject for e in workload.test_exam(options, None, STYLE.speaks).questions} == {"cat", "dog"}  # type: ignore[arg-type]


def test_no_names_are_all_that_the_data_know_and_another_is_refused() -> None:
    every = replace(DETECTION, categories=None)
    assert every.tested_of(data_of(IMAGE)) == every.trained_of(data_of(IMAGE)) == ["cat", "dog"]
    assert replace(every, trained=["dog"]).trained_of(data_of(IMAGE)) == ["dog"]
    assert replace(every, categories=["dog"]).trained_of(data_of(IMAGE)) == ["dog"], (
        "what is tested is what is trained on, where nothing else is said"
    )
    with pytest.raises(ValueError, match=r"task\.categories: 'cow' is no category of the pets, which has cat, dog"):
        replace(every, categories=["cow"]).tested_of(data_of(IMAGE))
    with pytest.raises(ValueError, match=r"task\.trained: 'cow' is no category of the pets, which has cat, dog"):
        replace(DETECTION, trained=["cow"]).trained_of(data_of(IMAGE))


@pytest.mark.parametrize(
    ("present", "asked"),
    [
        (Present.ground_truth, {(7, "cat"), (7, "dog"), (8, "cat")}),
        (Present.all, {(7, "cat"), (7, "dog"), (8, "cat"), (8, "dog")}),
        (Present.predicted, {(7, "cat"), (7, "dog"), (8, "cat"), (8, "dog")}),
    ],
)
def test_a_protocol_says_what_an_image_is_asked_about(present: Present, asked: set[tuple[int, str]]) -> None:
    found = detection.questions([IMAGE, ALONE], ["cat", "dog"], present, STYLE)
    assert {(e.asked_about.id, e.subject) for e in found} == asked and len(found) == len(asked)
    exam = detection.exam(replace(DETECTION, present=present), found, data_of(IMAGE, ALONE))
    assert (exam.screening is not None) == (present is Present.predicted)
    if exam.screening:
        assert [first.id for first in exam.screening.questions] == [f"{e.id}?" for e in found]
        assert all(first.subject in first.question and "Yes or No" in first.question for first in exam.screening.questions)
        assert [first.images for first in exam.screening.questions] == [e.images for e in found]


def test_where_the_data_do_not_say_nothing_is_asked() -> None:
    """LVIS: a category is checked in some images alone."""
    image = pictured(1, CAT, absent=frozenset({"cow"}))
    every = ["cat", "dog", "cow"]
    assert [e.subject for e in detection.questions([image], every, Present.all, STYLE)] == ["cat", "cow"]
    assert [e.subject for e in detection.questions([image], every, Present.ground_truth, STYLE)] == ["cat"]
    assert detection.lacking(image, every) == {"cow"}


@pytest.mark.parametrize("text", ["No", "no.", " NO!", "No, there is none.", "<think>yes</think> no", "<answer> No </answer>", "**No**", "No\n"])
def test_a_clear_no_is_a_no(text: str) -> None:
    assert says_no(text)


@pytest.mark.parametrize(
    "text", ["Yes", "yes, no doubt", "", "None", "Nothing", "not sure", "There is no cat", "maybe no", "<think>no</think> Yes", "42", "nope", "ño"]
)
def test_whatever_is_no_clear_no_is_asked_on(text: str) -> None:
    assert not says_no(text)


def test_a_classification_asks_about_its_categories_alone() -> None:
    dog = pictured(9, DOG)
    assert [e.asked_about.id for e in classification.questions([ALONE, dog], ["dog"], "animal", STYLE)] == [9]
    with pytest.raises(ValueError, match=r"task\.categories: must be names, each once"):
        replace(CLASSIFICATION, categories=[])


def test_test_questions_are_the_same_for_every_seed() -> None:
    data = DigitOptions(20, 8, 2, 3)
    asked = [[(q.id, q.question) for q in workload.test_exam(replace(GROUNDING, split_seed=seed), data, STYLE.speaks).questions] for seed in (0, 1)]
    assert asked[0] == asked[1] and len(asked[0]) == 8


def test_an_instruction_is_chosen_by_its_sort_first() -> None:
    many = pictured(1, CAT, instructions=(*(Instruction(str(i), CAT.bbox_xywh, "common") for i in range(50)), SMALLER))
    rng = default_rng(0)
    sorts = [grounding.choose(many, rng).sort for _ in range(400)]
    assert 150 < sorts.count("size") < 250
    with pytest.raises(ValueError, match="image 8 comes with no instruction"):
        grounding.choose(ALONE, rng)


def test_a_classification_image_shows_one_object() -> None:
    with pytest.raises(ValueError, match=r"image 7 shows 2 labelled objects.*data\.most_digits=1"):
        classification.example(IMAGE, "animal", STYLE)


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
        ({"trained": []}, "task.trained: must be names, each once"),
        ({"trained": ["cat", "cat"]}, "task.trained: must be names, each once"),
        ({"trained": [" "]}, "task.trained: must be names, each once"),
        ({"presence": "answers.jsonl"}, "task.presence=answers.jsonl: read with task.present=predicted alone; leave one of the two out"),
    ],
)
def test_impossible_options_are_refused_by_name(change: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        replace(DETECTION, **change)  # type: ignore[arg-type]


def test_a_box_is_scored_by_the_label_and_not_by_its_truth_in_whole_numbers() -> None:
    """A small object in a large image: thousandths of 4,000 pixels are four pixels wide."""
    large = AnnotatedImage(StoredImage.of(1, Image.new("RGB", (4000, 3000))), (), (Instruction("it", (1001, 1001, 6, 6), "phrase"),))
    asked = [grounding.example(large, large.instructions[0], STYLE)]
    exam = grounding.exam(GROUNDING, asked, data_of(large))
    (x1, y1, x2, y2) = asked[0].truth.boxes[0]
    said = completion("I look.", f"({x1:g},{y1:g}),({x2:g},{y2:g})")
    drawn, label = ((4 * x1, 3 * y1, 4 * x2, 3 * y2)), (1001, 1001, 1007, 1007)
    assert scores(GROUNDING, exam, [said])["mIoU"] == pytest.approx(100 * iou_matrix([drawn], [label])[0, 0])
    assert scores(GROUNDING, exam, [said])["mIoU"] < 60
