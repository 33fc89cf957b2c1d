"""Answers that were given elsewhere, read from a file: one to each question of an evaluation, in any order.

    completions    {"example": id, "completion": text} a line, as `answers_after.jsonl` of a run folder
    COCO results   [{"image_id": 3, "category": "seven", "bbox": [x, y, width, height], "score": 0.9}, …] in pixels of the image; or `category_id`,
                   which counts task.categories from 1. What nothing was predicted for is an empty answer

Axes: N boxes.
"""

from collections.abc import Container, Sequence
from sys import float_info
from typing import Any, TypeGuard

from visual_rft.boxes import xywh_to_xyxy
from visual_rft.sources.jsonl import read_lines, strict_json
from visual_rft.vocabulary import Detection, DetectionAnswer, Example

COCO_FORM = '[{"image_id": 3, "category": "name", "bbox": [x, y, width, height], "score": 0.9}, …]'

Row = dict[str, Any]


def are_coco_results(text: str) -> bool:
    """COCO results are a list; JSON lines are objects."""
    return text.lstrip().startswith("[")


def completions(file: str, text: str, questions: Sequence[Example]) -> list[str]:
    """The completion of each question. ValueError, naming file and line, unless each question is answered exactly once and nothing else is."""
    asked = {question.id for question in questions}
    given: dict[str, str] = {}
    for line in read_lines(file, text, ("example", "completion")):
        example = line.values["example"]
        if example not in asked:
            raise ValueError(f"{line.place}: example {example!r} is no question of this evaluation; give the options it was asked with")
        if example in given:
            raise ValueError(f"{line.place}: example {example!r} is answered a second time; keep one answer a question")
        given[example] = line.values["completion"]
    missing = [question.id for question in questions if question.id not in given]
    if missing:
        remedy = "answer every question, or give the options that these were asked with"
        raise ValueError(f"{file}: {len(missing)} of {len(questions)} questions have no answer, {missing[0]!r} first; {remedy}")
    return [given[question.id] for question in questions]


def coco_results(file: str, text: str, questions: Sequence[Example], categories: Sequence[str]) -> list[DetectionAnswer]:
    """The boxes given for each question, unrounded and unclipped, as COCO's own evaluation takes them.

    ValueError, naming file and row, for another form, a box without area, or an image or category that is not asked about.
    """
    rows = strict_json(text, file, f"write {COCO_FORM}")
    found: dict[tuple[int, str], list[Detection]] = {(question.image_id, question.subject): [] for question in questions}
    sizes = {question.image_id: question.image.size for question in questions}
    for number, row in enumerate(rows, start=1):
        try:
            image, category = _asked(row, categories, sizes.keys(), found.keys())
            found[image, category].append(_detection(row, sizes[image]))
        except ValueError as fault:
            raise ValueError(f"{file}, row {number}: {fault}") from fault
    return [DetectionAnswer(tuple(found[question.image_id, question.subject])) for question in questions]


def _asked(row: Row, categories: Sequence[str], images: Container[int], pairs: Container[tuple[int, str]]) -> tuple[int, str]:
    if not isinstance(row, dict):
        raise ValueError(f"not an object; write {COCO_FORM}")
    image, category = row.get("image_id"), _category(row, categories)
    if type(image) is not int or image not in images:
        raise ValueError(f"image_id {_short(image)} is no image of this evaluation; give the data the boxes were predicted on")
    if (image, category) not in pairs:
        raise ValueError(f"image {image} is not asked about {category!r}; leave the row out, or ask every image about all, task.present=all")
    return image, category


def _category(row: Row, categories: Sequence[str]) -> str:
    name, number = row.get("category"), row.get("category_id")
    if (name is None) == (number is None):
        raise ValueError(f"needs one of `category`, a name, and `category_id`, 1 to {len(categories)}; write {COCO_FORM}")
    if number is not None and (type(number) is not int or not 1 <= number <= len(categories)):
        raise ValueError(f"category_id {_short(number)}: must be 1 to {len(categories)}, which counts task.categories: {', '.join(categories)}")
    if name is not None and name not in categories:
        raise ValueError(f"category {_short(name)}: must be one of task.categories: {', '.join(categories)}")
    return str(name) if number is None else categories[number - 1]


def _detection(row: Row, size: tuple[int, int]) -> Detection:
    """In norm1000, unrounded."""
    bbox, score = row.get("bbox"), row.get("score")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"bbox {_short(bbox)}: must be four finite numbers, [x, y, width, height] in pixels")
    if not _is_number(score) or not 0 <= score <= 1:
        raise ValueError(f"score {_short(score)}: must be a number from 0 to 1")
    width, height = size
    x1, y1, x2, y2 = (xywh_to_xyxy([bbox])[0] / (width, height, width, height) * 1000).tolist()
    if not (x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) > 0):
        raise ValueError(f"bbox {_short(bbox)}: has no area; its width and height must be positive")
    return Detection((x1, y1, x2, y2), float(score))


def _is_number(value: Any) -> TypeGuard[float]:
    """Small enough for a finite area, too: Python's JSON knows whole numbers that no float can hold."""
    return type(value) in (int, float) and abs(value) <= float_info.max**0.25


def _short(value: object) -> str:
    return "missing" if value is None else f"{value!r:.60}"
