"""Image files, as RGB: turned the way a viewer shows them, transparency on white, 16 bits in 8. Whatever is wrong is said with the file's name."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.Image import Transpose
from PIL.PngImagePlugin import PngImageFile

from visual_rft.images import StoredImage

MOST_ELONGATED = 200  # Qwen2-VL's image processor takes nothing longer, as a ratio of the sides
WHOLE = "give a whole image file, such as a PNG or a JPEG"
HANDLED = "handled"  # where the `info` of pixels says the same as `Opened.handled`
TURNED = "turned by EXIF"
NOT_TURNED = "EXIF rotation not applied: the labels are on the stored pixels"

ORIENTATION = 0x0112  # EXIF's tag, and what a viewer does for each of its values but 1
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
INVERSE = {Transpose.ROTATE_90: Transpose.ROTATE_270, Transpose.ROTATE_270: Transpose.ROTATE_90}  # the others are their own
ACROSS = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)  # width becomes height

TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
KINDS = {"L": "grey", "1": "grey", "P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "LAB", "HSV": "HSV"}
# What PIL's readers of formats raise at bytes that are no image, or are one in parts (RuntimeError is AVIF's).
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

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

    return StoredImage(id, name, size, opened, lambda: _loaded(str(path), path.read_bytes, remedy))


def stored_bytes(id: int, name: str, load: Callable[[], bytes], size: Size, remedy: str) -> StoredImage:
    """An image inside another file, such as a row of a parquet, whose bytes `load` gives."""
    return StoredImage(id, name, size, lambda: open_image(name, load, size, remedy).pixels, lambda: _loaded(name, load, remedy))


def shown_size(name: str, source: Callable[[], BinaryIO], remedy: str) -> Size:
    """(width, height) of the image that `source` gives, as a viewer shows it; no more than its header is read.

    Raises ValueError where there is none, or it is too elongated."""
    with _explained(name, remedy), source() as file, Image.open(file) as image:
        turn = _turn(image)
        # PIL's size of a TIFF is that of the pixels it will load, and those it turns itself.
        size = image.size[::-1] if turn in ACROSS and image.format != "TIFF" else image.size
    _check_ratio(name, size)
    return size


def open_image(name: str, load: Callable[[], bytes], size: Size | None, remedy: str) -> Opened:
    """The image whose bytes `load` gives, called `name` in messages.

    Labels say its `size`, and so whether they were drawn on it as it is stored, or as EXIF turns it; where both are of that size, or nothing is said,
    it is turned as any viewer does. Raises ValueError when it holds no whole image, one of another size, or one too elongated for a model.
    """
    content = io.BytesIO(_loaded(name, load, remedy))
    with _explained(name, remedy), Image.open(content) as image:
        turn = _turn(image)
        image.load()
        brightness = _is_brightness(image)
        if brightness:
            pixels, handled = _rgb(image)
    if not brightness:
        raise ValueError(f"{name}: its pixels (mode {image.mode}) are no brightness of 8 or 16 bits; {remedy}")
    if turn is not None:
        stored, turned = (pixels.transpose(INVERSE.get(turn, turn)), pixels) if image.format == "TIFF" else (pixels, pixels.transpose(turn))
        as_stored = size is not None and turned.size != size and stored.size == size
        pixels, handled = (stored, (*handled, NOT_TURNED)) if as_stored else (turned, (*handled, TURNED))
    if size is not None and pixels.size != size:
        found, said = (f"{width}×{height}" for width, height in (pixels.size, size))
        raise ValueError(f"{name}: {found} pixels, where its label says {said}; give the images the boxes were drawn on")
    _check_ratio(name, pixels.size)
    pixels.info = {HANDLED: handled}
    return Opened(pixels, handled)


def _is_brightness(image: Image.Image) -> bool:
    low, high = image.getextrema() if image.mode in ("I", "F") else (0, 0)
    return image.mode != "F" and 0 <= low <= high <= 65535  # type: ignore[operator]  # of one band, two numbers


def _rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB"), ("16 bits",)
    if image.mode in TRANSPARENT or "transparency" in image.info:
        layered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB"), ("transparent",)
    return image.convert("RGB"), (KINDS[image.mode],) if image.mode in KINDS else ()


def _turn(image: Image.Image) -> Transpose | None:
    """What EXIF has a viewer do with an image that is not loaded yet; nothing where it is damaged. A PNG may have it behind its pixels."""
    behind = isinstance(image, PngImageFile) and "exif" not in image.info and _more_behind_pixels(image)
    try:
        exif = image.getexif() if behind else Image.Image.getexif(image)  # that of a PNG decodes all pixels to look behind them
        return TURNS.get(exif.get(ORIENTATION, 1))
    except DAMAGED:
        return None


def _more_behind_pixels(image: PngImageFile) -> bool:
    """Whether chunks that may hold EXIF or XMP stand behind the pixels; its file is left where it was."""
    png = image.fp
    assert png is not None
    start, behind, found = png.tell(), False, False
    png.seek(8)
    while len(head := png.read(8)) == 8 and not found:
        length, kind = struct.unpack(">I4s", head)
        behind |= kind == b"IDAT"
        found = behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        png.seek(length + 4, io.SEEK_CUR)
    png.seek(start)
    return found


def _check_ratio(name: str, size: Size) -> None:
    width, height = size
    if max(size) >= MOST_ELONGATED * min(size):
        raise ValueError(f"{name}: {width}×{height} pixels, and the longer side must be less than {MOST_ELONGATED} times the other; cut the image")


def _loaded(name: str, load: Callable[[], bytes], remedy: str) -> bytes:
    """A ValueError of `load` says what is wrong itself."""
    try:
        return load()
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or 'cannot be read'}; {remedy}") from error


@contextmanager
def _explained(name: str, remedy: str) -> Iterator[None]:
    """Whatever PIL and the file system raise inside, as a ValueError that names the image."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more pixels than are safe to open; give a smaller image") from error
    except DAMAGED as error:
        reason = getattr(error, "strerror", None) or "not an image, or a damaged one"
        raise ValueError(f"{name}: {reason}; {remedy}") from error
