"""The rollouts of a run, for the page's script to show step by step: each question's image, and every completion of its group.

All of it is JSON in the page, which the script puts there as text. Axes: G completions of a group.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from visual_rft.boxes import convert
from visual_rft.frames import NORM1000, Box, Frame
from visual_rft.tracking._page import legend_of
from visual_rft.tracking._rollouts import Record, Rollouts
from visual_rft.tracking._svg import PICTURE_SIDE, frame, inlined
from visual_rft.vocabulary import Example

IMAGE_BYTES = 1_500_000  # of all images: the groups without one are drawn on an empty canvas
PLACES = 3  # of a number
ANSWERED, EVERYTHING = "answered", "every completion"
UNREAD = "no answer"  # of one that `paper` does not refuse, and cannot read

CONTROLS = (
    '<div class="controls" id="explorer"><button type="button" id="earlier" aria-label="earlier step">‹</button>'
    '<label>step <output id="at"></output><input type="range" id="step" min="0" value="0"></label>'
    '<button type="button" id="later" aria-label="later step">›</button>'
    '<label>show <select id="refusal"></select></label><label>search <input type="search" id="words" placeholder="in the completions"></label></div>'
    '<p><small id="matches"></small></p><div id="groups"></div>'
)


def explorer(rollouts: Rollouts, examples: Mapping[str, Example]) -> str:
    """A slider over the steps, a filter, and under them the groups of a step. `examples` are by id; an image that cannot be opened is left out."""
    if not rollouts.kept:
        return ""
    found = data(rollouts, examples)
    legend = legend_of({"truth": "truth", "better than its group": "up", "worse": "down"}) if _has_boxes(found) else ""
    note = f"<p><small>{escape(rollouts.told)} {legend}</small></p>"
    needed = "<noscript><p>Rollouts need scripts, which this viewer does not run; a browser does.</p></noscript>"
    return f'{note}{needed}{CONTROLS}<script type="application/json" id="rollouts">{island(found)}</script>'


def _has_boxes(found: Mapping[str, Any]) -> bool:
    completions = (one for _, groups in found["steps"] for _, group in groups for one in group)
    return any(one["boxes"] for one in (*found["questions"], *completions))


def island(value: Any) -> str:
    """JSON that can stand in a script element: without `<` nothing in it ends or opens one."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def data(rollouts: Rollouts, examples: Mapping[str, Example]) -> dict[str, Any]:
    """What the script reads. Boxes are (x, y, width, height, label) in units of the picture."""
    images = _images(rollouts, examples)
    numbers = {name: number for number, name in enumerate(images)}
    names = {group[0]["example"]: None for groups in rollouts.kept.values() for group in groups}
    told = {name: number for number, name in enumerate(names)}
    steps = [[step, [_group(group, told, examples) for group in groups]] for step, groups in rollouts.kept.items()]
    reasons = sorted({reason for groups in rollouts.kept.values() for group in groups for record in group if (reason := _refused(record))})
    questions = [_question(name, examples.get(name), numbers) for name in names]
    return {"filters": [EVERYTHING, ANSWERED, *reasons], "steps": steps, "questions": questions, "images": list(images.values())}


def _group(group: Sequence[Record], told: Mapping[str, int], examples: Mapping[str, Example]) -> list[Any]:
    """The number of its question, and its completions."""
    name = group[0]["example"]
    return [told[name], [_completion(record, examples.get(name)) for record in group]]


def _images(rollouts: Rollouts, examples: Mapping[str, Example]) -> dict[str, str]:
    """As data URIs by their names, the first group of each step first, until there is no more room."""
    found: dict[str, str] = {}
    room = IMAGE_BYTES
    for example in _in_turn(rollouts, examples):
        name = _image_name(example)
        if name in found:
            continue
        try:
            uri = inlined(example.image, PICTURE_SIDE)
        except ValueError:  # a file that is gone since
            continue
        room -= len(uri)
        if room < 0:
            break
        found[name] = uri
    return found


def _in_turn(rollouts: Rollouts, examples: Mapping[str, Example]) -> Iterator[Example]:
    for of_rank in zip_longest(*rollouts.kept.values()):
        yield from (examples[group[0]["example"]] for group in of_rank if group and group[0]["example"] in examples)


def _image_name(example: Example) -> str:
    return f"{example.asked_about.id} {example.asked_about.name}"


def _question(name: str, example: Example | None, images: Mapping[str, int]) -> dict[str, Any]:
    if example is None:
        return {"name": name, "asked": "", "truth": "", "boxes": [], "size": [PICTURE_SIDE, PICTURE_SIDE], "image": None, "sharp": False}
    size = frame(example.asked_about.size)
    boxes = [[*corners, ""] for corners in _drawn(example.truth.boxes, example.contract.frame, size)]
    told = {"name": name, "asked": example.question, "truth": str(example.truth), "boxes": boxes, "size": size}
    return told | {"image": images.get(_image_name(example)), "sharp": max(example.asked_about.size) < PICTURE_SIDE}


def _completion(record: Record, example: Example | None) -> dict[str, Any]:
    spoken, size = (example.contract.frame, frame(example.asked_about.size)) if example else (NORM1000, (PICTURE_SIDE, PICTURE_SIDE))
    boxes, labels = answered_boxes(record["answer"])
    return {
        "text": record["completion"],
        "reward": _short(record["reward"]),
        "advantage": _short(record["advantage"]),
        "refused": _refused(record),
        "parts": [[name, _short(value)] for name, value in record["rewards"].items()],
        "tokens": record["tokens"],
        "finished": record["finished"],
        "boxes": [[*corners, label] for corners, label in zip(_drawn(boxes, spoken, size), labels, strict=True)],
    }


def _refused(record: Record) -> str | None:
    """The reason, also of one that nobody gave."""
    return record["refused"] or (UNREAD if record["answer"] is None else None)


def answered_boxes(plain: Any) -> tuple[list[Box], list[str]]:
    """The boxes of an answer as `rollouts.jsonl` says it (`vocabulary.Answer.plain`), and a label for each; none of a name, or of no answer."""
    if not isinstance(plain, list) or not plain:
        return [], []
    if isinstance(plain[0], dict):
        return [_box(one["Position"]) for one in plain], [f"{one['Confidence']:.2f}" for one in plain]
    return [_box(plain)], [""]


def _box(corners: Sequence[float]) -> Box:
    x1, y1, x2, y2 = corners
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)  # `paper` accepts inverted ones, and no rectangle has a negative side


def _drawn(boxes: Sequence[Box], of: Frame, size: tuple[int, int]) -> list[list[float]]:
    if not boxes:
        return []
    return [[round(float(value), 1) for value in (x1, y1, x2 - x1, y2 - y1)] for x1, y1, x2, y2 in convert(boxes, of=of, to=Frame(*size))]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, PLACES)
