"""Answers that were given elsewhere, read from a file: one to each question of an evaluation, in any order.

    completions    {"example": id, "completion": text} a line, as `answers_after.jsonl` of a run folder
    COCO results   [{"image_id": 3, "category_id": 17, "bbox": [x, y, width, height], "score": 0.9}, …] in pixels of the image, with the data's own
                   numbers of categories; or `category`, a name

Axes: N boxes.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from sys import float_info
from typing import Any, TypeGuard

from visual_rft.metrics.average_precision import FoundBox
from visual_rft.sources.jsonl import read_lines, strict_json
from visual_rft.vocabulary import Example

COCO_FORM = '[{"image_id": 3, "category_id": 17, "bbox": [x, y, width, height], "score": 0.9}, …]'

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


def coco_results(
    file: str, text: str, images: Container[int], category_ids: Mapping[str, int], categories: Sequence[str]
) -> tuple[list[FoundBox], Counter[str]]:
    """All boxes, unrounded and unclipped, as COCO's own evaluation takes them; and how many there are of each category that the data name and that is
    not among the tested `categories`.

    ValueError, naming file and row, for another form, a box without area, or an image or category that the data do not know.
    """
    rows = strict_json(text, file, f"write {COCO_FORM}")
    names = {number: name for name, number in category_ids.items()}
    wanted, others = set(categories), Counter[str]()
    found: list[FoundBox] = []
    for number, row in enumerate(rows, start=1):
        try:
            one = _found(row, images, category_ids, names)
        except ValueError as fault:
            raise ValueError(f"{file}, row {number}: {fault}") from fault
        found.append(one)
        if one.category not in wanted:
            others[one.category] += 1
    return found, others


def as_coco(one: FoundBox, category_ids: Mapping[str, int]) -> Row:
    """A box as a row of COCO results."""
    return {"image_id": one.image_id, "category_id": category_ids[one.category], "bbox": list(one.bbox_xywh), "score": one.score}


def _found(row: Row, images: Container[int], category_ids: Mapping[str, int], names: Mapping[int, str]) -> FoundBox:
    if not isinstance(row, dict):
        raise ValueError(f"not an object; write {COCO_FORM}")
    image, bbox, score = row.get("image_id"), row.get("bbox"), row.get("score")
    if type(image) is not int or image not in images:
        raise ValueError(f"image_id {_short(image)} is no image of this evaluation; give the data the boxes were predicted on")
    category = _category(row, category_ids, names)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"bbox {_short(bbox)}: must be four finite numbers, [x, y, width, height] in pixels")
    if not _is_number(score) or not 0 <= score <= 1:
        raise ValueError(f"score {_short(score)}: must be a number from 0 to 1")
    x, y, width, height = map(float, bbox)
    if not (width > 0 and height > 0 and width * height > 0):
        raise ValueError(f"bbox {_short(bbox)}: has no area; its width and height must be positive")
    return FoundBox(image, category, (x, y, width, height), float(score))


def _category(row: Row, category_ids: Mapping[str, int], names: Mapping[int, str]) -> str:
    name, number = row.get("category"), row.get("category_id")
    if (name is None) == (number is None):
        raise ValueError(f"needs one of `category_id`, a number of the data, and `category`, a name; write {COCO_FORM}")
    if number is not None and (type(number) is not int or number not in names):
        raise ValueError(f"category_id {_short(number)}: the data number their categories {_some(sorted(names))}")
    if name is not None and (not isinstance(name, str) or name not in category_ids):
        raise ValueError(f"category {_short(name)}: the data name {_some(list(category_ids))}")
    return str(name) if number is None else names[number]


def _some(values: Sequence[object], most: int = 12) -> str:
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


def _is_number(value: Any) -> TypeGuard[float]:
    """Small enough for a finite area, too: Python's JSON knows whole numbers that no float can hold."""
    return type(value) in (int, float) and abs(value) <= float_info.max**0.25


def _short(value: object) -> str:
    return "missing" if value is None else f"{value!r:.60}"
