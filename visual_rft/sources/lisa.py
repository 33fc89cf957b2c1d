"""LISA's ReasonSeg: images, each with instructions that mean something in it and the polygons of that. Format: github.com/dvlab-research/LISA.

    ROOT/train/NAME.jpg and NAME.json; so in val and test
    {"text": ["…", …], "is_sentence": true, "shapes": [{"label": "target", "points": [[x, y], …]}, …]}

A shape whose label holds "ignore" is an area where nothing is scored, one called "flag" is nothing; every other is of what is meant, and the box to
draw is that of all of them together. Of a test image the first instruction is asked, as LISA does; in training one of those it has is chosen.
"""

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from visual_rft.frames import Box
from visual_rft.images import AnnotatedImage, Annotation, ImageSet, Instruction, Outline, Polygon
from visual_rft.sources.findings import Findings, unspeakable
from visual_rft.sources.image_file import shown_size, stored_file
from visual_rft.sources.options import DataOptions

DOWNLOAD = (
    "take train.zip, val.zip and test.zip of ReasonSeg from the link in https://github.com/dvlab-research/LISA, unpack them into one folder and set "
    "data.root=FOLDER"
)
TARGET = "target"  # what LISA calls the thing that is meant
WHOLE = "copy the image again, beside its JSON"
FARTHEST = 1 << 20  # from the corner of an image, in pixels


@dataclass
class LisaOptions(DataOptions):
    """The folder `root`, and in it those of the images to train on and to test on."""

    root: str
    train_split: str
    test_split: str


def train_images(options: LisaOptions, findings: Findings) -> ImageSet:
    """Every image of the training folder, in order of its name, with all its instructions. Raises ValueError when there is none."""
    return read_lisa(Path(options.root).expanduser() / options.train_split, findings, most=None)


def test_images(options: LisaOptions, findings: Findings) -> ImageSet:
    """Every image of the test folder, in order of its name, with its first instruction. Raises ValueError when there is none."""
    return read_lisa(Path(options.root).expanduser() / options.test_split, findings, most=1)


def read_lisa(folder: Path, findings: Findings, *, most: int | None) -> ImageSet:
    """All images of a folder, with at most so many instructions each. Each is opened, and checked, when it is looked at; what cannot be taken goes to
    `findings`."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder}: {'no JSON files in it' if folder.is_dir() else 'No such folder'}; {DOWNLOAD}")
    images = []
    for number, file in enumerate(files):
        try:
            images.append(_image(number, file, most, findings))
        except ValueError as fault:
            findings.refuse(f"{file}: {fault}; correct it, or take it out", fault)
    alone = {file.stem for file in folder.glob("*.jpg")} - {file.stem for file in files}
    findings.handle("images without a JSON: left out", len(alone))
    return ImageSet(images, {TARGET: 1}, str(folder))


def _image(number: int, file: Path, most: int | None, findings: Findings) -> AnnotatedImage:
    content = _content(file)
    path = file.with_suffix(".jpg")
    size = shown_size(path.name, lambda: path.open("rb"), WHOLE)
    outline = _outline(content.get("shapes"), findings)
    box = _around(outline.polygons, size, findings)
    texts, is_sentence = content.get("text"), content.get("is_sentence")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its `text` is {texts!r:.60}, not a list of instructions")
    if type(is_sentence) is not bool:
        raise ValueError(f"its `is_sentence` is {is_sentence!r:.60}, not true or false")
    for text in texts:
        if why := unspeakable(text):
            raise ValueError(f"its instruction {text!r:.60} {why}")
    sort = "sentence" if is_sentence else "phrase"
    instructions = tuple(Instruction(text.strip(), box, sort, outline) for text in texts[:most])
    findings.handle(f"instructions that are a {sort}", len(instructions))
    return AnnotatedImage(stored_file(number, path, path.name, size, WHOLE), (Annotation(TARGET, box),), instructions)


def _content(file: Path) -> dict[str, Any]:
    """UTF-8, or else Windows' own, as the published files are."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _outline(shapes: Any, findings: Findings) -> Outline:
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) and isinstance(shape.get("label"), str) for shape in shapes):
        raise ValueError(f"its `shapes` are {shapes!r:.60}, not a list of objects with a `label`")
    polygons: list[Polygon] = []
    ignored: list[Polygon] = []
    for number, shape in enumerate(shapes):
        label, polygon = shape["label"].lower(), _polygon(shape.get("points"), number)
        if label == "flag":
            findings.handle("shapes called flag: left out")
        elif len(polygon) < 3:
            findings.handle("shapes of fewer than three points: left out")
        elif "ignore" in label:
            findings.handle("shapes to ignore: not scored")
            ignored.append(polygon)
        else:
            polygons.append(polygon)
    findings.handle("images with several shapes of what is meant", len(polygons) > 1)
    return Outline(tuple(polygons), tuple(ignored))


def _polygon(points: Any, number: int) -> Polygon:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 and all(map(_is_near, point)) for point in points):
        raise ValueError(f"the `points` of shape {number} are {points!r:.60}, not a list of [x, y] in pixels")
    return tuple((float(x), float(y)) for x, y in points)


def _is_near(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= FARTHEST  # type: ignore[arg-type]


def _around(polygons: tuple[Polygon, ...], size: tuple[int, int], findings: Findings) -> Box:
    """The (x, y, width, height) of all polygons together, as far as it lies in the image."""
    corners = list(chain.from_iterable(polygons))
    if not corners:
        raise ValueError("no shape of what is meant")
    (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*corners, strict=True))
    x1, y1, x2, y2 = max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"its shapes have no area in the image of {size[0]}×{size[1]} pixels")
    findings.handle("boxes that reach out of the image: cut at its edge", (x1, y1, x2, y2) != (left, top, right, bottom))
    return x1, y1, x2 - x1, y2 - y1
