"""Inline SVG for the reports: an image, and boxes over it. Axes: N boxes."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL.Image import Image

from visual_rft.boxes import convert
from visual_rft.frames import Box, Frame

PICTURE_SIDE = 320  # user units of a picture's longer side, so that strokes and labels look alike at every image size
INLINED_PIXELS = 640  # longer side of an inlined image: bounds the file, and is twice the size shown
QUALITY = 80  # of a photograph's JPEG


def frame(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height, in user units, of the picture of an image of (width, height)."""
    scale = PICTURE_SIDE / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def inlined(image: Image, side: int) -> str:
    """The image, at most `side` pixels long, as a data URI: pixel by pixel where it is small, a JPEG where it is a photograph."""
    shown = image.convert("RGB")
    shown.thumbnail((side, side))
    small, buffer = max(shown.size) < PICTURE_SIDE, io.BytesIO()
    shown.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": QUALITY}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def picture_svg(image: Image, picture_id: str, boxes: str) -> str:
    """The image, inlined under the id `picture_id`, below the SVG elements `boxes`. Small canvases are enlarged without smoothing."""
    width, height = frame(image.size)
    sharp = ' style="image-rendering:pixelated"' if max(image.size) < PICTURE_SIDE else ""
    size = f'width="{width}" height="{height}" preserveAspectRatio="none"{sharp}'
    pixels = f'<image id="{picture_id}" {size} href="{inlined(image, INLINED_PIXELS)}"/>'
    return f'<svg class="picture" viewBox="0 0 {width} {height}">{pixels}{boxes}</svg>'


def picture_again_svg(image: Image, picture_id: str, boxes: str) -> str:
    """The picture already inlined in this document under `picture_id`, below other `boxes`."""
    width, height = frame(image.size)
    return f'<svg class="picture" viewBox="0 0 {width} {height}"><use href="#{picture_id}"/>{boxes}</svg>'


def boxes_svg(boxes_N: Sequence[Box], labels_N: Sequence[str], *, kind: str, of: Frame, width: int, height: int) -> str:
    """A rectangle of CSS class `kind` for each box, in the frame `of`, on a picture of `width` × `height`, with its label at a top corner."""
    corners_N4 = convert(boxes_N, of=of, to=Frame(width, height))
    return "".join(
        f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'
        # The label runs towards the middle, where the frame has room for it.
        + (f'<text class="{kind}" {_beside(x1, x2, width)} y="{max(y1 - 4, 13):.1f}">{escape(label)}</text>' if label else "")
        for (x1, y1, x2, y2), label in zip(corners_N4, labels_N, strict=True)
    )


def _beside(x1: float, x2: float, width: int) -> str:
    return f'x="{x1 + 2:.1f}"' if x1 + x2 <= width else f'x="{x2 - 2:.1f}" text-anchor="end"'
