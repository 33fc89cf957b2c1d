"""COCO instances: a JSON of images, boxes and categories beside folders of image files; LVIS v1 as well, which says more of its categories.

Formats: cocodataset.org/#format-data, lvisdataset.org/dataset.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from sys import float_info
from typing import Any, TypeVar

from visual_rft.images import AnnotatedImage, Annotation, ImageSet
from visual_rft.sources.findings import Findings, unspeakable
from visual_rft.sources.image_file import stored_file
from visual_rft.sources.options import DataOptions

TABLES = ("images", "annotations", "categories")
DOWNLOAD = (
    "take train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download (LVIS: lvis_v1_train.json.zip and "
    "lvis_v1_val.json.zip from https://www.lvisdataset.org/dataset as well), unpack them into one folder and set data.root=FOLDER, or name a set of "
    "your own with data.{part}_annotations=FILE.json data.{part}_images=FOLDER"
)
MOST_PIXELS = 1 << 31  # a side
PUBLISHED = ("instances_", "lvis_v1_")  # how those files are called
OWN = "name the file and the folder of its images, data.root=FOLDER data.{part}_annotations=FILE.json data.{part}_images=FOLDER"
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # LVIS

Row = dict[str, Any]
Kind = TypeVar("Kind", int, str)


@dataclass
class CocoOptions(DataOptions):
    """The folder `root`, and in it the two JSON files and the folders of their images; an absolute path need not lie in it. `train_rows` are rows of
    image, problem and solution to train on instead, as `sources.rows` reads them."""

    root: str
    train_annotations: str
    train_images: str
    train_rows: str | None
    test_annotations: str
    test_images: str


def train_images(options: CocoOptions, findings: Findings) -> ImageSet:
    """Every image of the training file, in order of id. Raises ValueError when the file is missing or is not COCO's."""
    root = Path(options.root).expanduser()
    return read_coco(root / options.train_annotations, root / options.train_images, "train", findings)


def test_images(options: CocoOptions, findings: Findings) -> ImageSet:
    """Every image of the test file, in order of id. Raises ValueError when the file is missing or is not COCO's."""
    root = Path(options.root).expanduser()
    return read_coco(root / options.test_annotations, root / options.test_images, "test", findings)


def read_coco(file: Path, folder: Path, part: str, findings: Findings) -> ImageSet:
    """All images with their labels. Each is opened, and checked, when it is looked at. What cannot be taken goes to `findings`."""
    tables = _tables(file, part)
    reader = _Reader(str(file), findings)
    categories = reader.by_id("categories", tables)
    names = reader.category_names(categories)
    rows = reader.by_id("images", tables)
    labels = reader.labels(tables["annotations"], {i: names.get(i) for i in categories}, rows)
    reader.federated = any("neg_category_ids" in row for row in rows.values())
    read = (reader.image(rows[i], folder, part, names, tuple(labels[i])) for i in sorted(rows))
    images = [image for image in read if image is not None]
    _count(images, names, findings)
    groups = {group: [names[i] for i in names if categories[i].get("frequency") == letter] for letter, group in FREQUENCIES.items()}
    return ImageSet(images, {name: i for i, name in names.items()}, str(file), {group: of for group, of in groups.items() if of})


def _tables(path: Path, part: str) -> dict[str, list[Row]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_without_outline)
    except OSError as error:
        remedy = (DOWNLOAD if path.name.startswith(PUBLISHED) else OWN).format(part=part)
        raise ValueError(f"data.{part}_annotations: {path}: {error.strerror}; {remedy}") from error
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


def _count(images: Sequence[AnnotatedImage], names: Mapping[int, str], findings: Findings) -> None:
    """What is taken as a matter of course."""
    shown: set[str] = set()
    for image in images:
        objects = image.objects
        shown |= {one.category for one in objects}
        single = [one for one in image.annotations if not one.crowd]
        whole = {id(one) for one in single}
        findings.handle("crowds: not asked for, not counted against an answer", len(image.annotations) - len(single))
        findings.handle("boxes without area in the image: not asked for", len(single) - len(objects))
        findings.handle("boxes that reach out of the image: cut at its edge to ask for", sum(id(one) not in whole for one in objects))
        findings.handle("images without an object", not objects)
        findings.handle("file names with folders", "/" in image.stored.name)
    findings.handle("categories without an image", len(set(names.values()) - shown))


class _Reader:
    """Rows to values. A row that cannot be taken is named with its table and id, and left out."""

    def __init__(self, file: str, findings: Findings) -> None:
        self.file, self.findings = file, findings
        self.federated = False  # whether images say which categories they are known to lack

    def fault(self, table: str, row: Row, what: str) -> None:
        self.findings.refuse(f"{self.file}: {table}, id {_short(row.get('id'))}: {what}; correct the row, or take it out")

    def field(self, table: str, row: Row, key: str, kind: type[Kind]) -> Kind | None:
        value = row.get(key)
        if type(value) is kind:  # a bool is an int to isinstance
            return value
        self.fault(table, row, f"its {key} is {_short(value)}, not {'a whole number' if kind is int else 'text'}")
        return None

    def by_id(self, table: str, tables: Mapping[str, list[Row]]) -> dict[int, Row]:
        rows: dict[int, Row] = {}
        for row in tables[table]:
            key = self.field(table, row, "id", int)
            if key in rows:
                self.fault(table, row, "another row has the same id")
            elif key is not None:
                rows[key] = row
        return rows

    def category_names(self, categories: Mapping[int, Row]) -> dict[int, str]:
        names: dict[int, str] = {}
        for i, row in categories.items():
            name = self.field("categories", row, "name", str)
            if name in names.values():
                self.fault("categories", row, f"another row has its name, {_short(name)}")
            elif name is not None and (why := unspeakable(name)):
                self.fault("categories", row, f"its name {_short(name)} {why}")
            elif name is not None:
                names[i] = name
        return names

    def labels(self, rows: Sequence[Row], names: Mapping[int, str | None], images: Collection[int]) -> dict[int, list[Annotation]]:
        """Those of each image, in the order of the file; none of a category without a name, which was refused."""
        labels: dict[int, list[Annotation]] = {image: [] for image in images}
        seen: set[Any] = set()
        for row in rows:
            image, category = self.field("annotations", row, "image_id", int), self.field("annotations", row, "category_id", int)
            if image is None or category is None:
                continue
            key, bbox, area = row.get("id"), row.get("bbox"), row.get("area")
            if image not in labels:
                self.fault("annotations", row, f"no image has its image_id {image}")
            elif category not in names:
                self.fault("annotations", row, f"no category has its category_id {category}")
            elif isinstance(key, (list, dict)):
                self.fault("annotations", row, "its id is no number")
            elif key is not None and key in seen:
                self.fault("annotations", row, "another row has the same id")
            elif not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
                self.fault("annotations", row, f"its bbox is {_short(bbox)}, not four finite numbers")
            elif area is not None and not (_is_number(area) and area >= 0):
                self.fault("annotations", row, f"its area is {_short(area)}, not a number of pixels")
            elif (row.get("iscrowd") or 0) not in (0, 1):
                self.fault("annotations", row, f"its iscrowd is {_short(row.get('iscrowd'))}, not 0 or 1")
            elif (name := names[category]) is not None:
                x, y, w, h = map(float, bbox)
                labels[image].append(Annotation(name, (x, y, w, h), None if area is None else float(area), bool(row.get("iscrowd"))))
            if not isinstance(key, (list, dict)):
                seen.add(key)
        return labels

    def image(self, row: Row, folder: Path, part: str, names: Mapping[int, str], labels: tuple[Annotation, ...]) -> AnnotatedImage | None:
        """One image with its labels."""
        width, height = self.field("images", row, "width", int), self.field("images", row, "height", int)
        name = self.name(row)
        if width is None or height is None or name is None:
            return None
        if not 1 <= min(width, height) <= max(width, height) < MOST_PIXELS:
            self.fault("images", row, f"its size of {width}×{height} pixels is no image's")
            return None
        if not name.isprintable():
            self.fault("images", row, f"its file_name is {_short(name)}, which names no file")
            return None
        if self.federated and "neg_category_ids" not in row:
            self.fault("images", row, "its neg_category_ids is missing, which other images have")
            return None
        known = [self.names(row, key, names) for key in ("neg_category_ids", "not_exhaustive_category_ids")]
        if None in known:
            return None
        remedy = f"copy it again, or set data.{part}_images=FOLDER to where the images are"
        stored = stored_file(row["id"], folder / name, name, (width, height), remedy)
        absent, partly = known
        return AnnotatedImage(stored, labels, (), absent if "neg_category_ids" in row else None, partly or frozenset())

    def name(self, row: Row) -> str | None:
        """Of its file, from the folder. LVIS v1 names none, but where COCO has it: its images lie in COCO's train2017 and val2017."""
        if "file_name" in row or "coco_url" not in row:
            return self.field("images", row, "file_name", str)
        url = self.field("images", row, "coco_url", str)
        return None if url is None else "/".join(url.split("/")[-2:])

    def names(self, row: Row, key: str, names: Mapping[int, str]) -> frozenset[str] | None:
        """The categories that a row of LVIS lists under `key`; None if it lists something else."""
        ids = row.get(key, [])
        if isinstance(ids, list) and all(type(one) is int and one in names for one in ids):
            return _shared(frozenset(names[one] for one in ids))
        self.fault("images", row, f"its {key} is {_short(ids)}, not a list of ids of categories")
        return None


@cache
def _shared(names: frozenset[str]) -> frozenset[str]:
    """Many images of LVIS list the same."""
    return names


def _is_number(value: object) -> bool:
    """Python's JSON knows NaN, infinity, and whole numbers too large for a float."""
    return type(value) in (int, float) and abs(value) <= float_info.max  # type: ignore[arg-type]


def _short(value: object) -> str:
    return "missing" if value is None else f"{value!r:.60}"
