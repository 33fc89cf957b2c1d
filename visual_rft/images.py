"""Images of a data source, with their labels: small values that hold no pixels; an image is opened when it is looked at."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL.Image import Image

from visual_rft.frames import Box


@dataclass(frozen=True, slots=True)
class Annotation:
    """One label, in COCO's terms and as the data say it: category name, (x, y, width, height) in pixels of the original image, its `area` there
    (None: that of the box), and whether it stands for a crowd."""

    category: str
    bbox_xywh: Box
    area: float | None = None
    crowd: bool = False


Polygon = tuple[tuple[float, float], ...]  # corners (x, y) in pixels


@dataclass(frozen=True)
class Outline:
    """What of an image a thing covers: its polygons, and those of areas that may be of it or not, where nothing is scored."""

    polygons: tuple[Polygon, ...]
    ignored: tuple[Polygon, ...] = ()


@dataclass(frozen=True)
class Instruction:
    """Words that point at one object of an image without naming it, the object's (x, y, width, height) in pixels, the sort of words they are, and its
    outline, where the data have one."""

    text: str
    bbox_xywh: Box
    sort: str
    outline: Outline | None = None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a source, where `id` is unique: what its data call it, its (width, height), how it is opened, and the bytes of its file."""

    id: int
    name: str
    size: tuple[int, int]
    open: Callable[[], Image] = field(repr=False, compare=False)
    content: Callable[[], bytes] = field(repr=False, compare=False)

    @classmethod
    def of(cls, id: int, pixels: Image) -> "StoredImage":
        """One that is in memory; other processes can be handed it."""
        return cls(id, str(id), pixels.size, partial(_itself, pixels), partial(_ppm, pixels))

    def digest(self) -> str:
        """SHA-256 of its file."""
        return hashlib.sha256(self.content()).hexdigest()


def _itself(pixels: Image) -> Image:
    return pixels


def _ppm(pixels: Image) -> bytes:
    """A file whose bytes depend on no library's version."""
    return f"P6 {pixels.width} {pixels.height} 255\n".encode() + pixels.convert("RGB").tobytes()


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its labels, and the instructions one can give about them.

    Every other category is `absent` from it (None), or only those are of which the data say so; of those in `partly` not every object is labelled
    (LVIS's negative and not exhaustively labelled categories).
    """

    stored: StoredImage
    annotations: tuple[Annotation, ...]
    instructions: tuple[Instruction, ...] = ()
    absent: frozenset[str] | None = None
    partly: frozenset[str] = frozenset()

    @property
    def id(self) -> int:
        return self.stored.id

    @property
    def image(self) -> Image:
        return self.stored.open()

    @property
    def objects(self) -> tuple[Annotation, ...]:
        """What one can ask for: the labels of single objects, each as far as it lies in the image; one that has no area there is none."""
        return tuple(inside for one in self.annotations if not one.crowd and (inside := _inside(one, self.stored.size)))

    @property
    def shown(self) -> set[str]:
        """The categories of its objects."""
        return {annotation.category for annotation in self.objects}


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of a source; `category_ids` are all categories that its labels name, by its own numbers; `groups` are categories that are
    scored together, too (LVIS: rare, common, frequent); `place` is what messages call it."""

    images: Sequence[AnnotatedImage]
    category_ids: Mapping[str, int]
    place: str
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _inside(annotation: Annotation, size: tuple[int, int]) -> Annotation | None:
    x, y, width, height = annotation.bbox_xywh
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
    if not (left < right and top < bottom):  # of the sums: a side may be too thin for a float to tell its ends apart
        return None
    if (left, top, right, bottom) == (x, y, x + width, y + height):
        return annotation
    return Annotation(annotation.category, (left, top, right - left, bottom - top))
