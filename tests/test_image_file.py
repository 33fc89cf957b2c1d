"""Every kind of image file becomes RGB as a viewer shows it, or is refused in one line. Run: .venv/bin/python -m pytest tests/test_image_file.py"""

import hashlib
import io
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from visual_rft.sources.image_file import NOT_TURNED, ORIENTATION, Size, open_image, read_image, shown_size, stored_bytes, stored_file

WIDE, TALL = (40, 24), (24, 40)
SIDEWAYS = (5, 6, 7, 8)
REMEDY = "give another"
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF"]
PILLOW_WARNS = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of tags that are damaged


def scene(size: Size = WIDE) -> Image.Image:
    """No two corners alike, so that every turn shows, and smooth, so that JPEG keeps it."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", orientation: int | None = None, **options: Any) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
        options["exif"] = exif.tobytes()
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(content: bytes, size: Size | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """And what is opened is RGB of the size that its header said."""
    image = open_image("a.png", lambda: content, size, REMEDY)
    assert image.pixels.mode == "RGB"
    if size is None:
        assert shown_size("a.png", lambda: io.BytesIO(content), REMEDY) == image.pixels.size
    return image.pixels, image.handled


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def close(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max()) < 24  # what JPEG and WebP cost


def viewed(image: Image.Image, orientation: int) -> Image.Image:
    """As Pillow's own viewer turns it."""
    with Image.open(io.BytesIO(encoded(image, "PNG", orientation))) as stored:
        return ImageOps.exif_transpose(stored).convert("RGB")


# Turned by EXIF


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_a_viewer_turns_it(orientation: int, format: str) -> None:
    content = encoded(scene(), format, orientation, **({"lossless": True} if format == "WEBP" else {}))
    pixels, handled = opened(content)
    assert pixels.size == (TALL if orientation in SIDEWAYS else WIDE)
    assert close(pixels, viewed(scene(), orientation))
    assert handled == (() if orientation == 1 else ("turned by EXIF",))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_labels_say_by_their_size_whether_they_were_drawn_on_the_turned_image(orientation: int, format: str) -> None:
    content = encoded(scene(), format, orientation)
    assert close(opened(content, TALL)[0], viewed(scene(), orientation)) and opened(content, TALL)[1] == ("turned by EXIF",)
    assert close(opened(content, WIDE)[0], scene()) and opened(content, WIDE)[1] == (NOT_TURNED,)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_where_both_sizes_are_one_it_is_turned_as_a_viewer_does(orientation: int) -> None:
    square = scene((32, 32))
    assert close(opened(encoded(square, "PNG", orientation), (32, 32))[0], viewed(square, orientation))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    assert opened(encoded(scene(), "JPEG", orientation))[1] == ()


@PILLOW_WARNS
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_exif_turns_nothing_and_stops_nothing(format: str) -> None:
    whole = Image.Exif()
    whole[ORIENTATION] = 6
    generator = random.Random(0)
    for _ in range(60):
        exif = bytearray(whole.tobytes())
        for _ in range(generator.randint(1, 8)):
            exif[generator.randrange(6, len(exif))] = generator.randrange(256)
        content = encoded(scene(), format, exif=bytes(exif[: generator.randint(6, len(exif))]))
        assert opened(content)[0].size in (WIDE, TALL)


def behind_pixels(png: bytes, kind: bytes, data: bytes) -> bytes:
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]


def test_the_exif_of_a_png_may_stand_behind_its_pixels() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = behind_pixels(encoded(scene()), b"eXIf", exif.tobytes()[6:])
    assert opened(content)[0].size == TALL
    assert opened(behind_pixels(encoded(scene()), b"tEXt", b"Comment\0of no orientation"))[0].size == WIDE


def test_the_header_of_a_png_is_read_without_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, turned = encoded(scene()), encoded(scene(), orientation=6)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert [shown_size("a.png", lambda: io.BytesIO(content), REMEDY) for content in (plain, turned)] == [WIDE, TALL]  # noqa: B023  # called at once


# Kinds of pixels


def test_colours_stay_as_they_are() -> None:
    pixels, handled = opened(encoded(scene()))
    assert pixels.tobytes() == scene().tobytes() and handled == ()


@pytest.mark.parametrize("mode, kind", [("L", "grey"), ("1", "grey"), ("P", "palette")])
def test_grey_black_and_white_and_a_palette(mode: str, kind: str) -> None:
    image = scene().convert(mode)
    pixels, handled = opened(encoded(image))
    assert handled == (kind,) and pixels.tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white_and_the_half_is_mixed_with_it(mode: str) -> None:
    image = Image.new(mode, (3, 3))  # black
    for x, alpha in enumerate((0, 128, 255)):
        image.paste((0, 0, 0, alpha) if mode == "RGBA" else (0, alpha), (x, 0, x + 1, 3))
    pixels, handled = opened(encoded(image))
    assert handled == ("transparent",)
    assert [pixels.getpixel((x, 1)) for x in range(3)] == [(255,) * 3, (127,) * 3, (0,) * 3]


def test_the_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 1), 1)
    for format in ("PNG", "GIF"):
        pixels, handled = opened(encoded(image, format, transparency=0))
        assert handled == ("transparent",)
        assert pixels.getpixel((0, 0)) == (255, 255, 255) and pixels.getpixel((1, 1)) == (200, 0, 0)


def test_the_transparent_colour_of_an_image_without_alpha_is_white() -> None:
    pixels, _ = opened(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)))
    assert pixels.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(format: str) -> None:
    values = np.array([[0, 257, 128, 129], [65535, 65407, 257 * 77, 65406]], dtype=np.uint16)
    pixels, handled = opened(encoded(Image.fromarray(values), format))
    assert handled == ("16 bits",)
    assert np.asarray(pixels)[..., 0].tolist() == [[0, 1, 0, 1], [255, 255, 77, 254]]
    assert (np.asarray(pixels) == np.asarray(pixels)[..., :1]).all()


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32), np.full((4, 4), -1, np.int32)])
def test_numbers_that_are_no_brightness_are_refused(values: np.ndarray) -> None:
    content = encoded(Image.fromarray(values), "TIFF")
    mode = "F" if values.dtype == np.float32 else "I"
    said = f"a.tif: its pixels (mode {mode}) are no brightness of 8 or 16 bits; give another"
    assert refusal(lambda: open_image("a.tif", lambda: content, None, REMEDY)) == said


def test_a_cmyk_jpeg_shows_its_colours() -> None:
    pixels, handled = opened(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert handled == ("CMYK",)
    red, green, blue = pixels.getpixel((8, 8))  # type: ignore[misc]  # of three bands
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16"])
def test_kinds_and_turns_go_together(mode: str) -> None:
    image = Image.fromarray(np.full(WIDE[::-1], 257, np.uint16)) if mode == "I;16" else scene().convert(mode)
    pixels, handled = opened(encoded(image, orientation=8))
    assert pixels.size == TALL and len(handled) == 2 and handled[-1] == "turned by EXIF"


def test_the_first_image_of_several_is_the_one() -> None:
    several = encoded(scene(), "GIF", save_all=True, append_images=[Image.new("RGB", WIDE)])
    assert opened(several)[0].getpixel((39, 0)) != (0, 0, 0)


# What is refused


BIG_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
BOMB = BIG_HEADER + struct.pack(">I", zlib.crc32(BIG_HEADER[12:])) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
NO_IMAGE = {"text": b"not an image\n", "empty": b"", "a header only": encoded(scene())[:12]}


@pytest.mark.parametrize("content", NO_IMAGE.values(), ids=NO_IMAGE)
def test_what_holds_no_image_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    said = f"{tmp_path}/a.png: not an image, or a damaged one; give a whole image file, such as a PNG or a JPEG"
    assert refusal(lambda: read_image(tmp_path / "a.png")) == said
    assert refusal(lambda: shown_size("b.png", lambda: io.BytesIO(content), REMEDY)) == "b.png: not an image, or a damaged one; give another"


def test_an_image_of_more_pixels_than_memory_holds_is_not_opened() -> None:
    for look in (lambda: open_image("b.png", lambda: BOMB, None, REMEDY), lambda: shown_size("b.png", lambda: io.BytesIO(BOMB), REMEDY)):
        assert refusal(look) == "b.png: more pixels than are safe to open; give a smaller image"


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_has_a_header_and_no_pixels(format: str) -> None:
    """But for TIFF, whose header may stand at the end, and WebP, whose header says how long it is."""
    content = encoded(Image.effect_noise((200, 100), 90), format)[:-400]
    if format in ("PNG", "JPEG"):
        assert shown_size("a", lambda: io.BytesIO(content), REMEDY) == (200, 100)
    assert refusal(lambda: open_image("a", lambda: content, None, REMEDY)) == "a: not an image, or a damaged one; give another"


def test_what_is_no_file_is_refused_with_the_reason_of_the_system(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "absent.png", "No such file or directory"), (tmp_path, "Is a directory")):
        assert refusal(lambda: read_image(path)) == f"{path}: {reason}; give a whole image file, such as a PNG or a JPEG"  # noqa: B023
        image = stored_file(0, path, path.name, WIDE, REMEDY)
        for look in (image.open, image.digest):
            assert refusal(look) == f"{path}: {reason}; give another"


@pytest.mark.parametrize("size, fits", [((398, 2), True), ((400, 2), False), ((1, 200), False), ((1, 199), True)])
def test_a_model_takes_no_image_whose_longer_side_is_200_times_the_other(size: Size, fits: bool) -> None:
    content = encoded(Image.new("RGB", size))
    for look in (lambda: opened(content, size)[0].size, lambda: shown_size("a.png", lambda: io.BytesIO(content), REMEDY)):
        if fits:
            assert look() == size
        else:
            said = f"a.png: {size[0]}×{size[1]} pixels, and the longer side must be less than 200 times the other; cut the image"
            assert refusal(look) == said


@pytest.mark.parametrize("orientation", [None, 6])
def test_an_image_of_another_size_than_its_labels_say_is_refused(orientation: int | None) -> None:
    content = encoded(scene(), orientation=orientation)
    found = "24×40" if orientation else "40×24"
    said = f"a.png: {found} pixels, where its label says 41×24; give the images the boxes were drawn on"
    assert refusal(lambda: opened(content, (41, 24))) == said


@PILLOW_WARNS
@pytest.mark.parametrize("format", [*FORMATS, "GIF", "BMP", "AVIF", "JPEG2000", "ICO"])
def test_damaged_bytes_are_an_image_or_a_refusal(format: str) -> None:
    """Header and pixels agree, and nothing but a line is raised, whatever the bytes."""
    try:
        whole = encoded(scene(), format, **({"orientation": 6} if format in FORMATS else {}))
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {format}")
    generator = random.Random(0)
    for _ in range(120):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 8))):
            content[min(int(generator.expovariate(1 / 60)), len(content) - 1)] = generator.choice((0, 1, 255, generator.randrange(256)))
        content = content[: generator.choice((len(content), generator.randrange(len(content))))]
        try:
            opened(bytes(content))
        except ValueError as line:
            assert re.fullmatch(r"a\.png: [^\n]*", str(line))


# Stored images


def test_nothing_is_opened_before_it_is_looked_at(tmp_path: Path) -> None:
    calls: list[int] = []

    def load() -> bytes:
        calls.append(1)
        return encoded(scene())

    absent = stored_file(1, tmp_path / "absent.png", "absent.png", WIDE, REMEDY)
    inside = stored_bytes(2, "row 2", load, WIDE, REMEDY)
    assert (absent.id, absent.name, absent.size, inside.id, inside.name, inside.size) == (1, "absent.png", WIDE, 2, "row 2", WIDE)
    assert not calls
    assert inside.open().tobytes() == scene().tobytes() and calls == [1]
    (tmp_path / "absent.png").write_bytes(encoded(scene()))
    assert absent.open().tobytes() == scene().tobytes()


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content := encoded(scene(), "JPEG"))
    expected = hashlib.sha256(content).hexdigest()
    assert stored_file(0, tmp_path / "a.jpg", "a.jpg", WIDE, REMEDY).digest() == expected
    assert stored_bytes(0, "row 0", lambda: content, WIDE, REMEDY).digest() == expected


def test_bytes_that_cannot_be_read_are_refused_by_the_name_of_their_row() -> None:
    def load() -> bytes:
        raise OSError("the parquet is cut")

    image = stored_bytes(0, "a.parquet, row 7", load, WIDE, REMEDY)
    for look in (image.open, image.digest):
        assert refusal(look) == "a.parquet, row 7: cannot be read; give another"
