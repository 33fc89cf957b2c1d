"""An answer drawn on its image, as a PNG for people to look at."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visual_rft.frames import Box
from visual_rft.tracking.runfolder import write_atomically

LEAST_SIDE = 512  # pixels of the longer side: smaller images are enlarged, so that boxes and labels can be read
FONT_SIZE = 16
LINE = 22  # pixels of height of a line of text
GAP = 8  # pixels between pictures
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def draw_answer(image: Image.Image, boxes_pixels: Sequence[Box], labels: Sequence[str], caption: str) -> Image.Image:
    """`image`, enlarged by a whole number if it is small, with its xyxy boxes and a label on each; `caption` stands below. Takes any text."""
    scale = max(math.ceil(LEAST_SIDE / max(image.size)), 1)
    width, height = image.width * scale, image.height * scale
    drawn = Image.new("RGB", (max(width, LEAST_SIDE), height + (LINE if caption else 0)), "white")
    drawn.paste(image.resize((width, height), Image.Resampling.BICUBIC) if scale > 1 else image)
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(FONT_SIZE)
    for number, (box, label) in enumerate(zip(boxes_pixels, labels, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = (value * scale for value in box)
        pen.rectangle((left, top, right, bottom), outline=colour, width=3)
        if text := _printable(label):
            # Above its box, or inside where the image ends; never beyond the right edge.
            wide = pen.textlength(text, font)
            x, y = max(min(left, drawn.width - wide - 4), 0), top - LINE if top >= LINE else top
            pen.rectangle((x, y, x + wide + 4, y + LINE), fill=colour)
            pen.text((x + 2, y + 1), text, "white", font)
    if caption:
        pen.text((2, height + 1), _printable(caption), "black", font)
    return drawn


def side_by_side(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures beside each other, each under its heading, of whose text the end is shown where it is too long. Takes any text."""
    width = sum(picture.width for _, picture in panels) + GAP * (len(panels) - 1)
    drawn = Image.new("RGB", (width, LINE + max(picture.height for _, picture in panels)), "white")
    pen, font, left = ImageDraw.Draw(drawn), ImageFont.load_default(FONT_SIZE), 0
    for heading, picture in panels:
        text = whole = _printable(heading)
        while pen.textlength(text, font) > picture.width - 4:
            whole = whole[1:]
            text = f"…{whole}"
        pen.text((left + 2, 1), text, "black", font)
        drawn.paste(picture, (left, LINE))
        left += picture.width + GAP
    return drawn


def save_png(path: Path, image: Image.Image) -> None:
    """Write `path` so that it holds the old content or the whole image. Raises OSError."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()
