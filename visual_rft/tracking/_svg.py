"""Inline SVG for the reports: curves of numbers, and boxes over an image. Axes: N boxes."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from PIL.Image import Image

from visual_rft.boxes import convert
from visual_rft.frames import Box, Frame
from visual_rft.tracking._format import number

Points = Sequence[tuple[int, float | None]]  # step, value

CURVE_WIDTH, CURVE_HEIGHT, SIDE, MARGIN = 320, 130, 4, 22
PICTURE_SIDE = 320  # user units of a picture's longer side, so that strokes and labels look alike at every image size
INLINED_PIXELS = 640  # longer side of an inlined image: bounds the file, and is twice the size shown


def curve_svg(name: str, points: Points) -> str:
    """One series over steps, with its least, greatest and last value and its first and last step. None and NaN break the line."""
    return curves_svg(name, [("", points)])


def curves_svg(name: str, series: Sequence[tuple[str, Points]]) -> str:
    """Several series over the same axes, the last on top, each a line of its CSS class."""
    spans = [(kind, list(span)) for kind, points in series for finite, span in groupby(points, _is_finite) if finite]
    steps, values = [step for _, span in spans for step, _ in span], [value for _, span in spans for _, value in span if value is not None]
    if not values:
        return f"<figure><figcaption>{escape(name)}</figcaption><p>no finite value</p></figure>"
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    left, right, top, bottom = SIDE, CURVE_WIDTH - SIDE, MARGIN, CURVE_HEIGHT - MARGIN
    x_unit, y_unit = (right - left) / ((last - first) or 1), (bottom - top) / ((high - low) or 1)
    places = iter(f"{left + (step - first) * x_unit:.1f},{bottom - (value - low) * y_unit:.1f}" for step, value in zip(steps, values, strict=True))
    drawn = [(kind, [next(places) for _ in span]) for kind, span in spans]
    # A line of length zero with round caps is a dot: a lone point stays visible.
    lines = "".join(f'<polyline class="{kind}" points="{" ".join(span if len(span) > 1 else span * 2)}"/>' for kind, span in drawn)
    latest = f" <b>{number(values[-1], '.4g')}</b>" if len(series) == 1 else ""
    return (
        f"<figure><figcaption>{escape(name)}{latest}</figcaption>"
        f'<svg class="curve" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" aria-label="{escape(name)}">'
        f'<path d="M{left} {top}H{right}M{left} {bottom}H{right}"/>{lines}'
        f'<text x="{left}" y="{top - 6}">{number(high, ".4g")}</text><text x="{left}" y="{bottom + 12}">{number(low, ".4g")}</text>'
        f'<text x="{right}" y="{bottom + 12}" text-anchor="end">step {first} to {last}</text></svg></figure>'
    )


def _is_finite(point: tuple[int, float | None]) -> bool:
    return point[1] is not None and math.isfinite(point[1])


def frame(image: Image) -> tuple[int, int]:
    """Width and height of the image's picture, in user units."""
    scale = PICTURE_SIDE / max(image.size)
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def picture_svg(image: Image, picture_id: str, boxes: str) -> str:
    """The image, inlined as a PNG under the id `picture_id`, below the SVG elements `boxes`. Small canvases are enlarged without smoothing."""
    width, height = frame(image)
    inlined = image.convert("RGB")
    inlined.thumbnail((INLINED_PIXELS, INLINED_PIXELS))
    buffer = io.BytesIO()
    inlined.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    sharp = ' style="image-rendering:pixelated"' if max(image.size) < PICTURE_SIDE else ""
    pixels = f'<image id="{picture_id}" width="{width}" height="{height}" preserveAspectRatio="none"{sharp} href="data:image/png;base64,{data}"/>'
    return f'<svg class="picture" viewBox="0 0 {width} {height}">{pixels}{boxes}</svg>'


def picture_again_svg(image: Image, picture_id: str, boxes: str) -> str:
    """The picture already inlined in this document under `picture_id`, below other `boxes`."""
    width, height = frame(image)
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
