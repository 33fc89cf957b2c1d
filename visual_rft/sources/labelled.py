"""Images that show one thing each, with its name: what every reader of a classification set ends in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from visual_rft.class_names import sayable
from visual_rft.images import AnnotatedImage, Annotation, ImageSet, StoredImage
from visual_rft.sources.findings import Findings
from visual_rft.sources.image_file import HANDLED, shown_size, stored_file


@dataclass(frozen=True)
class Labelled:
    """One row of a list: where it stands, for messages; its image's file, what the data call that, and the class."""

    place: str
    file: Path
    name: str
    category: str


def image_set(rows: Iterable[Labelled], category_ids: Mapping[str, int], place: str, remedy: str, findings: Findings, *, banner: int = 0) -> ImageSet:
    """The images of these rows, numbered from 1 by their names in order, whatever the order of the rows; no more than their headers are read.

    The lowest `banner` rows of pixels are cut off. What cannot be taken goes to `findings`. Raises ValueError for a class that no answer can name.
    """
    for category in category_ids:
        if not sayable(category):
            raise ValueError(f"{place}: no answer can say the class {category!r:.90}; give it a name of one line and at most 80 characters")
    listed: dict[str, Labelled] = {}
    for row in rows:
        if row.name in listed:
            findings.refuse(f"{row.place}: image {row.name} is there twice ({listed[row.name].place}); take one out")
        elif not row.name.isprintable():
            findings.refuse(f"{row.place}: {row.name!r:.60} names no file; correct the row, or take it out")
        else:
            listed[row.name] = row
    images = []
    for number, name in enumerate(sorted(listed), start=1):
        try:
            images.append(_image(number, listed[name], remedy, banner))
        except ValueError as fault:
            findings.refuse(f"{listed[name].place}: {fault}", fault)
    shown = {one.annotations[0].category for one in images}
    findings.handle("classes without an image", len(category_ids.keys() - shown))
    return ImageSet(images, category_ids, place)


def _image(number: int, row: Labelled, remedy: str, banner: int) -> AnnotatedImage:
    width, height = shown_size(str(row.file), lambda: row.file.open("rb"), remedy)
    stored = stored_file(number, row.file, row.name, (width, height), remedy)
    if banner:
        if height <= banner:
            raise ValueError(f"{row.file}: {height} pixels high, of which {banner} are a banner; {remedy}")
        stored = without_banner(stored, banner)
    width, height = stored.size
    return AnnotatedImage(stored, (Annotation(row.category, (0.0, 0.0, float(width), float(height))),))


def without_banner(stored: StoredImage, banner: int) -> StoredImage:
    """The same image without its lowest `banner` rows of pixels; the bytes of its file are what they were."""
    width, height = stored.size[0], stored.size[1] - banner

    def opened() -> Image.Image:
        whole = stored.open()
        cut = whole.crop((0, 0, width, height))
        cut.info = {HANDLED: (*whole.info.get(HANDLED, ()), f"{banner} pixels of banner cut off")}
        return cut

    return replace(stored, size=(width, height), open=opened)


def number_of(value: Any, most: int) -> int | None:
    """A whole number in 1..`most`, whatever kind of number says it; None for anything else."""
    try:
        number = int(value)
        return number if number == value and 1 <= number <= most else None
    except (TypeError, ValueError, OverflowError):  # text, several numbers, NaN, infinity
        return None
