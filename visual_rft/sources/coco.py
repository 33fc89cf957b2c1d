"""COCO instances: a JSON of images, boxes and categories beside a folder of image files (format: cocodataset.org/#format-data)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sys import float_info
from typing import Any, TypeVar

from PIL import Image

from visual_rft.sources.options import DataOptions
from visual_rft.vocabulary import AnnotatedImage, Annotation, Box

TABLES = ("images", "annotations", "categories")
DOWNLOAD = (
    "take train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download, unpack them into one folder "
    "and set data.root=FOLDER, or name a set of your own with data.{part}_annotations=FILE.json data.{part}_images=FOLDER"
)

Row = dict[str, Any]
Kind = TypeVar("Kind", int, str)


@dataclass
class CocoOptions(DataOptions):
    """The folder `root`, and in it the two JSON files and the folders of their images; an absolute path need not lie in it."""

    root: str
    train_annotations: str
    train_images: str
    test_annotations: str
    test_images: str


def train_images(options: CocoOptions, _: int) -> list[AnnotatedImage]:
    """Every image of the training file, in order of id. Raises ValueError when the file is missing or is not COCO's."""
    root = Path(options.root).expanduser()
    return _images(root / options.train_annotations, root / options.train_images, "train")


def test_images(options: CocoOptions) -> list[AnnotatedImage]:
    """Every image of the test file, in order of id. Raises ValueError when the file is missing or is not COCO's."""
    root = Path(options.root).expanduser()
    return _images(root / options.test_annotations, root / options.test_images, "test")


def _images(annotations: Path, folder: Path, part: str) -> list[AnnotatedImage]:
    """All images with their objects; crowds, and boxes without area inside the image, are none. Each is opened, and checked, when it is looked at."""
    tables = _tables(annotations, part)
    try:
        rows = _by_id("images", tables)
        sizes = {i: _size(row, _where("images", row)) for i, row in rows.items()}
        paths = {i: folder / _field(row, "file_name", str, _where("images", row)) for i, row in rows.items()}
        objects = _objects(tables, sizes)
    except ValueError as fault:
        raise ValueError(f"{annotations}: {fault}; correct the row, or take it out") from fault
    return [AnnotatedImage(i, partial(_open, paths[i], sizes[i], part), tuple(objects[i])) for i in sorted(rows)]


def _tables(path: Path, part: str) -> dict[str, list[Row]]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_without_outline)
    except OSError as error:
        raise ValueError(f"data.{part}_annotations: {path}: {error.strerror}; {DOWNLOAD.format(part=part)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"data.{part}_annotations: {path}: not JSON ({error}); copy it again, whole") from error
    for name in TABLES:
        table = content.get(name) if isinstance(content, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise ValueError(f"data.{part}_annotations: {path}: no list of objects '{name}'; give a file in the format of COCO's instances_*.json")
    return {name: content[name] for name in TABLES}


def _without_outline(row: Row) -> Row:
    """Polygons are most of the file and are not read: dropped while it is parsed, or COCO's own takes gigabytes."""
    row.pop("segmentation", None)
    return row


def _objects(tables: Mapping[str, list[Row]], sizes: Mapping[int, tuple[int, int]]) -> dict[int, list[Annotation]]:
    names = {i: _field(row, "name", str, _where("categories", row)) for i, row in _by_id("categories", tables).items()}
    objects: dict[int, list[Annotation]] = {i: [] for i in sizes}
    for row in tables["annotations"]:
        where = _where("annotations", row)
        image, category = (_field(row, key, int, where) for key in ("image_id", "category_id"))
        if image not in sizes:
            raise ValueError(f"{where}: no image has its image_id {image}")
        if category not in names:
            raise ValueError(f"{where}: no category has its category_id {category}")
        box = _clipped(row, sizes[image], where)
        if box and not row.get("iscrowd"):
            objects[image].append(Annotation(names[category], box))
    return objects


def _clipped(row: Row, size: tuple[int, int], where: str) -> Box | None:
    """The (x, y, width, height) of a row in pixels, without what lies outside the image; None where nothing is left."""
    bbox = row.get("bbox")
    # Python's JSON knows NaN, infinity, and whole numbers too large for a float.
    if not isinstance(bbox, list) or [type(v) in (int, float) and abs(v) <= float_info.max for v in bbox] != [True] * 4:
        raise ValueError(f"{where}: its bbox is {_short(bbox)}, not four finite numbers")
    x, y, width, height = map(float, bbox)
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def _by_id(table: str, tables: Mapping[str, list[Row]]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for row in tables[table]:
        key = _field(row, "id", int, _where(table, row))
        if key in rows:
            raise ValueError(f"{_where(table, row)}: another row has the same id")
        rows[key] = row
    return rows


def _size(row: Row, where: str) -> tuple[int, int]:
    """(width, height) in pixels."""
    size = _field(row, "width", int, where), _field(row, "height", int, where)
    if min(size) < 1:
        raise ValueError(f"{where}: its size of {size[0]}×{size[1]} pixels is no image's")
    return size


def _field(row: Row, key: str, kind: type[Kind], where: str) -> Kind:
    value = row.get(key)
    if type(value) is not kind:  # a bool is an int to isinstance
        raise ValueError(f"{where}: its {key} is {_short(value)}, not {'a whole number' if kind is int else 'text'}")
    return value


def _where(table: str, row: Row) -> str:
    return f"{table}, id {_short(row.get('id'))}"


def _short(value: object) -> str:
    return "missing" if value is None else f"{value!r:.60}"


def _open(path: Path, size: tuple[int, int], part: str) -> Image.Image:
    """RGB, in the pixels as they are stored: COCO's boxes know nothing of EXIF rotation. Raises ValueError when the file is not that image."""
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image, or a damaged one"
        raise ValueError(f"{path}: {reason}; copy it again, or set data.{part}_images=FOLDER to where the images are") from error
    if pixels.size != size:
        stored, said = (f"{width}×{height}" for width, height in (pixels.size, size))
        raise ValueError(f"{path}: {stored} pixels, where data.{part}_annotations says {said}; give the images the boxes were drawn on")
    return pixels
