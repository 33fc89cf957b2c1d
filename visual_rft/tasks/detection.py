"""Detection: one category asked in one image, answered by a list of boxes or `No Objects`.

Axes: N boxes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from visual_rft.boxes import convert, whole, xywh_to_xyxy, xyxy_to_xywh
from visual_rft.frames import Box, Original
from visual_rft.images import AnnotatedImage, ImageSet
from visual_rft.metrics.average_precision import (
    AveragePrecision,
    Federation,
    FoundBox,
    TruthBox,
    coco_average_precision,
    lvis_average_precision,
)
from visual_rft.metrics.averages import refusals
from visual_rft.metrics.detection import Query, fit, mean_iou, rightly_empty, well_formed
from visual_rft.parsing import parse_detection
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.presence import Present, screening
from visual_rft.tasks.task import BoxExam, Exam, Task, TaskOptions, check_names, some
from visual_rft.tasks.wording import Style, detection_question
from visual_rft.vocabulary import Detection, DetectionAnswer, DetectionTruth, Example, Refusal, Scores

MOST_NEGATIVES = 100


@dataclass
class DetectionOptions(TaskOptions):
    """Shots are images a category. `categories` are tested (None: all that the data name), `trained` are trained on (None: the tested ones).
    `negatives` is the share of further training questions about a category that is not in the image. `present` says what a test image is asked about;
    `presence` is a file of answers to the questions that `predicted` asks first. A box counts as found, in the rewards, above `iou_threshold`."""

    categories: list[str] | None
    trained: list[str] | None
    negatives: float
    present: Present
    presence: str | None
    iou_threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.negatives <= MOST_NEGATIVES:
            raise ValueError(f"task.negatives={self.negatives}: must lie in 0..{MOST_NEGATIVES}, as a share of the other questions")
        if not 0 <= self.iou_threshold < 1:
            raise ValueError(f"task.iou_threshold={self.iou_threshold}: must be at least 0 and below 1")
        if self.presence is not None and self.present is not Present.predicted:
            raise ValueError(f"task.presence={self.presence}: read with task.present=predicted alone; leave one of the two out")
        for key in ("categories", "trained"):
            if getattr(self, key) is not None:
                check_names(f"task.{key}", getattr(self, key))

    def tested_of(self, data: ImageSet) -> list[str]:
        """The categories that are tested on these data. Raises ValueError for one that they do not name."""
        return _of(data, "task.categories", self.categories)

    def trained_of(self, data: ImageSet) -> list[str]:
        """The categories that are trained on these data. Raises ValueError for one that they do not name."""
        return _of(data, *(("task.categories", self.categories) if self.trained is None else ("task.trained", self.trained)))


def _of(data: ImageSet, key: str, names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in data.category_ids:
            raise ValueError(f"{key}: '{name}' is no category of {data.place}, which has {some(list(data.category_ids))}")
    return sorted(data.category_ids, key=lambda name: data.category_ids[name]) if names is None else list(names)


def task(options: DetectionOptions, rewards: RewardOptions) -> Task:
    """Detection as a task."""
    score = {Family.strict: strict.detection, Family.paper: paper.detection}[rewards.family]
    return Task(
        parse=parse_detection,
        score=partial(score, iou_threshold=options.iou_threshold),
        truth=lambda answer: DetectionTruth(answer.boxes),
        weights=dict.fromkeys(("iou", "confidence", "format"), 1.0),
    ).rewarded(rewards)


def example(image: AnnotatedImage, category: str, style: Style) -> Example:
    """The question whether and where `category` is in `image`, with its truth in the frame that the model speaks."""
    return _example(image, category, [one.bbox_xywh for one in image.objects if one.category == category], style)


def _example(image: AnnotatedImage, category: str, boxes_xywh: Sequence[Box], style: Style) -> Example:
    contract = style.contract(image.stored)
    truth = whole(xywh_to_xyxy(boxes_xywh), of=Original(*image.stored.size), to=contract.frame) if boxes_xywh else ()
    question = detection_question(category, style.wording, contract)
    return Example(f"{image.id}/{category}", (image.stored,), category, question, DetectionTruth(truth), contract)


def questions(images: Sequence[AnnotatedImage], categories: Sequence[str], present: Present, style: Style) -> list[Example]:
    """The questions of an evaluation, image by image, in the order of `categories`. Where the data do not say whether a category is in an image
    (LVIS), it is not asked about there."""
    asked: list[Example] = []
    for image in images:
        boxes: dict[str, list[Box]] = {}
        for one in image.objects:
            boxes.setdefault(one.category, []).append(one.bbox_xywh)
        shown = boxes.keys() if present is Present.ground_truth or image.absent is not None else set(categories)
        if present is not Present.ground_truth and image.absent is not None:
            shown = shown | image.absent
        asked += [_example(image, category, boxes.get(category, ()), style) for category in categories if category in shown]
    return asked


def lacking(image: AnnotatedImage, categories: Sequence[str]) -> set[str]:
    """Those of the categories that are known not to be in an image, not even as a crowd."""
    labelled = {annotation.category for annotation in image.annotations}
    return set(categories) - labelled if image.absent is None else set(categories) & image.absent - labelled


def exam(options: DetectionOptions, asked: Sequence[Example], data: ImageSet) -> Exam:
    """What is asked about these data, and what answers are worth: average precision over the tested categories, by size, by whether they were trained
    on, by the groups of the data; the mean IoU; where absent categories are asked about, how many of those are rightly answered `No Objects`."""
    categories = sorted(options.tested_of(data), key=lambda name: data.category_ids[name])  # in another order the last digit of AP is another
    known = [name for name in categories if options.trained is None or name in options.trained]
    groups = {"novel": [name for name in categories if name not in known], "base": known} | dict(data.groups)
    boxes = BoxExam(
        of=partial(found_boxes, asked),
        measure=partial(box_scores, data.images, categories, groups),
        images={image.id: image.stored.size for image in data.images},
        category_ids=data.category_ids,
        categories=categories,
    )
    return Exam(asked, partial(measure, asked, boxes), worth, screening(asked) if options.present is Present.predicted else None, boxes)


def worth(question: Example, answer: DetectionAnswer | Refusal) -> float:
    """Of one answer: how well its boxes fit, extra and missing ones counted."""
    return fit(_query(question, answer))


def _query(question: Example, answer: DetectionAnswer | Refusal) -> Query:
    return Query(question.asked_about.id, question.subject, question.truth.boxes, answer)


def measure(asked: Sequence[Example], boxes: BoxExam, answers: Sequence[DetectionAnswer | Refusal]) -> Scores:
    """What the answers to all questions of an exam are worth."""
    scores = boxes.measure(boxes.of(answers))
    queries = [_query(e, answer) for e, answer in zip(asked, answers, strict=True)]
    empty = rightly_empty(queries)
    values = dict(scores.values) | ({} if empty is None else {"rightly empty": empty}) | {"well-formed": well_formed(queries)}
    return Scores(values, scores.by_category, refusals(answers))


def found_boxes(asked: Sequence[Example], answers: Sequence[DetectionAnswer | Refusal]) -> list[FoundBox]:
    """What the answers found, in pixels of the original images."""
    found: list[FoundBox] = []
    for question, answer in zip(asked, answers, strict=True):
        if isinstance(answer, Refusal) or not answer.detections:
            continue
        image = question.asked_about
        rows = xyxy_to_xywh(convert(answer.boxes, of=question.contract.frame, to=Original(*image.size))).tolist()
        found += [
            FoundBox(image.id, question.subject, (x, y, w, h), one.confidence) for (x, y, w, h), one in zip(rows, answer.detections, strict=True)
        ]
    return found


def box_scores(images: Sequence[AnnotatedImage], categories: Sequence[str], groups: Mapping[str, Sequence[str]], found: Sequence[FoundBox]) -> Scores:
    """What boxes are worth, whoever found them. The first score is the task's own: of categories that were not trained on, where there are some."""
    ap = _average_precision(images, categories, found)
    by_group = {f"AP {name}": [ap.by_category[c] for c in group if c in ap.by_category] for name, group in groups.items()}
    split = {name: sum(values) / len(values) for name, values in by_group.items() if values and len(values) < len(ap.by_category)}
    first = {name: split.pop(name) for name in ("AP novel", "AP base") if name in split}
    sizes = {f"AP {size}": value for size, value in ap.by_size.items()} if len(ap.by_size) > 1 else {}
    iou = {"mean IoU": mean_iou(_pairs(images, categories, found))}
    return Scores(first | {"AP": ap.ap, "AP50": ap.ap50, "AP75": ap.ap75} | sizes | split | iou, ap.by_category, {})


def _average_precision(images: Sequence[AnnotatedImage], categories: Sequence[str], found: Sequence[FoundBox]) -> AveragePrecision:
    wanted = set(categories)
    truth = (
        TruthBox(image.id, one.category, one.bbox_xywh, one.bbox_xywh[2] * one.bbox_xywh[3] if one.area is None else one.area, one.crowd)
        for image in images
        for one in image.annotations
        if one.category in wanted
    )
    if all(image.absent is None for image in images):
        return coco_average_precision(truth, found, categories)
    known = {image.id: image.absent or frozenset() for image in images}
    return lvis_average_precision(truth, found, categories, Federation(known, {image.id: image.partly for image in images}))


def by_question(found: Sequence[FoundBox]) -> dict[tuple[int, str], list[Detection]]:
    """Boxes by image and category, as corners in pixels; without those that are too thin for a float to tell their ends apart."""
    drawn: dict[tuple[int, str], list[Detection]] = {}
    for one in found:
        x, y, w, h = one.bbox_xywh
        if x < x + w and y < y + h:
            drawn.setdefault((one.image_id, one.category), []).append(Detection((x, y, x + w, y + h), one.score))
    return drawn


def _pairs(images: Sequence[AnnotatedImage], categories: Sequence[str], found: Sequence[FoundBox]) -> Iterator[Query]:
    """Each image and category that has an object, with what was found of it, in pixels."""
    wanted, drawn = set(categories), by_question(found)
    for image in images:
        objects = sorted((one for one in image.objects if one.category in wanted), key=lambda one: one.category)
        for category, alike in groupby(objects, key=lambda one: one.category):
            truth = tuple((x, y, x + w, y + h) for x, y, w, h in (one.bbox_xywh for one in alike))
            yield Query(image.id, category, truth, DetectionAnswer(tuple(drawn.get((image.id, category), ()))))
