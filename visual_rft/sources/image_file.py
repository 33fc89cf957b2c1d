"""One image file that a user names."""

from pathlib import Path

from PIL import Image, ImageOps

MOST_ELONGATED = 200  # Qwen2-VL's image processor takes nothing longer, as a ratio of the sides


def read_image(path: Path) -> Image.Image:
    """RGB, turned the way a viewer shows it (EXIF). Raises ValueError when the file holds no whole image, or one too elongated for a model."""
    try:
        with Image.open(path) as image:
            pixels = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image, or a damaged one"
        raise ValueError(f"{path}: {reason}; give a whole image file, such as a PNG or a JPEG") from error
    if max(pixels.size) >= MOST_ELONGATED * min(pixels.size):
        width, height = pixels.size
        raise ValueError(f"{path}: {width}×{height} pixels, and the longer side must be less than {MOST_ELONGATED} times the other; cut the image")
    return pixels
