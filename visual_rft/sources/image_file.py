"""Image files, as RGB: turned the way a viewer shows them, transparency on white, 16 bits in 8. Whatever is wrong is said with the file's name."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from visual_rft.vocabulary import StoredImage

MOST_ELONGATED = 200  # Qwen2-VL's image processor takes nothing longer, as a ratio of the sides
WHOLE = "give a whole image file, such as a PNG or a JPEG"
ORIENTATION = 0x0112  # EXIF's tag
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")

Size = tuple[int, int]


@dataclass(frozen=True)
class Opened:
    """RGB pixels, and what was done to get them, by the names of `data check`: grey, palette, transparent, 16 bits, turned by EXIF, …"""

    pixels: Image.Image
    handled: tuple[str, ...]


def read_image(path: Path) -> Image.Image:
    """RGB. Raises ValueError when the file holds no whole image, or one too elongated for a model."""
    return open_image(str(path), path.read_bytes, None, WHOLE).pixels


def stored_file(id: int, path: Path, name: str, size: Size, remedy: str) -> StoredImage:
    """An image in a file, of the (width, height) that its labels say; opened, and checked, when it is looked at."""

    def opened() -> Image.Image:
        return open_image(str(path), path.read_bytes, size, remedy).pixels

    def digest() -> str:
        with _explained(str(path), remedy), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return StoredImage(id, name, size, opened, digest)


def stored_bytes(id: int, name: str, load: Callable[[], bytes], size: Size, remedy: str) -> StoredImage:
    """An image inside another file, such as a row of a parquet, whose bytes `load` gives."""
    return StoredImage(id, name, size, lambda: open_image(name, load, size, remedy).pixels, lambda: hashlib.sha256(load()).hexdigest())


def shown_size(name: str, load: Callable[[], bytes], remedy: str) -> Size:
    """(width, height) of an image as a viewer shows it, from its header alone. Raises ValueError where there is none, or it is too elongated."""
    with _explained(name, remedy), Image.open(io.BytesIO(load())) as image:
        size = _turned(image.size) if _quarter_turn(image) else image.size
    _check_ratio(name, size)
    return size


def open_image(name: str, load: Callable[[], bytes], size: Size | None, remedy: str) -> Opened:
    """The image whose bytes `load` gives, called `name` in messages.

    Labels say its `size`, and so whether they were drawn on it as it is stored, or as EXIF turns it; where both are of that size, or nothing is said,
    it is turned as any viewer does. Raises ValueError when it holds no whole image, one of another size, or one too elongated for a model.
    """
    with _explained(name, remedy), Image.open(io.BytesIO(load())) as image:
        image.load()
        turned = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
        as_stored = size is not None and turned.size != size and image.size == size
        pixels, handled = _rgb(image if as_stored else turned)
    if turned is not image:
        handled = (*handled, "EXIF rotation not applied: the labels are on the stored pixels" if as_stored else "turned by EXIF")
    if size is not None and pixels.size != size:
        stored, said = (f"{width}×{height}" for width, height in (pixels.size, size))
        raise ValueError(f"{name}: {stored} pixels, where its label says {said}; give the images the boxes were drawn on")
    _check_ratio(name, pixels.size)
    return Opened(pixels, handled)


def _rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Raises ValueError for numbers that are no brightness."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError(f"pixels of mode {image.mode}")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB"), ("16 bits",)
    if image.mode in TRANSPARENT or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB"), ("transparent",)
    kinds = {"L": "grey", "1": "grey", "P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "LAB", "HSV": "HSV"}
    return image.convert("RGB"), (kinds[image.mode],) if image.mode in kinds else ()


def _quarter_turn(image: Image.Image) -> bool:
    return image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def _turned(size: Size) -> Size:
    return size[1], size[0]


def _check_ratio(name: str, size: Size) -> None:
    width, height = size
    if max(size) >= MOST_ELONGATED * min(size):
        raise ValueError(f"{name}: {width}×{height} pixels, and the longer side must be less than {MOST_ELONGATED} times the other; cut the image")


@contextmanager
def _explained(name: str, remedy: str) -> Iterator[None]:
    """Whatever PIL and the file system raise inside, as a ValueError that names the image."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image, or a damaged one"
        raise ValueError(f"{name}: {reason}; {remedy}") from error
