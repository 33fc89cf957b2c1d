"""What the coordinates of a box count, and what an answer must be: each model of the family speaks of images in a frame of its own."""

from collections.abc import Callable
from dataclasses import dataclass

# Four numbers that mean nothing without their format, which the name says (xyxy where it says none, else xywh), and their `Frame`.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the coordinates of a box count: `width` units from the left edge of the image to the right one, `height` from the top down."""

    width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"an image of {self.width} x {self.height} pixels: width and height must be positive")


@dataclass(frozen=True, slots=True)
class Original(Frame):
    """Pixels of the image as it is stored, in which data are labelled."""


@dataclass(frozen=True, slots=True)
class Resized(Frame):
    """Pixels of the image as the model is shown it: what Qwen2.5-VL speaks."""


@dataclass(frozen=True, slots=True)
class Norm1000(Frame):
    """Thousandths of each axis: what Qwen2-VL and Qwen3-VL speak."""

    width: float = 1000
    height: float = 1000


NORM1000 = Norm1000()
# The frame in which a model speaks of an image of (width, height) pixels.
Speaks = Callable[[tuple[int, int]], Frame]


@dataclass(frozen=True, slots=True)
class Contract:
    """What a completion must be: whether it thinks before it answers, and the frame of its boxes."""

    frame: Frame = NORM1000
    thinking: bool = True


CONTRACT = Contract()
