"""The frame in which a model of the family speaks of an image: what its coordinates count."""

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from visual_rft.frames import NORM1000, Frame, Resized

LONGEST = 200  # times as long as wide: beyond it the image processor refuses


def thousandths(_size: tuple[int, int]) -> Frame:
    """Of Qwen2-VL and Qwen3-VL, whatever the image."""
    return NORM1000


def resized(size: tuple[int, int], *, factor: int, min_pixels: int, max_pixels: int) -> Frame:
    """Of Qwen2.5-VL: the image of (width, height) as it is resized, to whole cells of `factor` pixels and an area between the two.

    Raises ValueError for an image without pixels, and for one that is too long to be resized.
    """
    width, height = size
    if min(size) < 1:
        raise ValueError(f"an image of {width} x {height} pixels: width and height must be positive")
    if max(size) > LONGEST * min(size):
        raise ValueError(f"an image of {width} x {height} pixels: no side may be more than {LONGEST} times the other; crop it, or leave it out")
    to_height, to_width = smart_resize(height, width, factor, min_pixels, max_pixels)
    return Resized(to_width, to_height)
