"""The words every room uses: small frozen values, passed from left to right.

    examples ─ sample ─▶ groups of completions ─ score ─▶ rewards ─ normalise ─▶ advantages ─ pack ─▶ batch ─ loss ─▶ step

Axes, everywhere in the package: P prompts a step, G completions a prompt, B = P·G rows, T completion tokens, V vocabulary, N boxes,
S prompt tokens, H hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from PIL.Image import Image

# Corners (x1, y1, x2, y2). The frame is always named by the variable or function that holds a box: pixels, or norm1000 (0..1000 per axis).
Box = tuple[float, float, float, float]


class Reason(StrEnum):
    """Why a completion was refused. One code a cause, counted as `refused/<reason>`."""

    NO_THINK = "no_think"  # the text does not open with <think> … </think>
    NO_ANSWER = "no_answer"  # no <answer> tag after the thinking
    TRUNCATED = "truncated"  # <think> or <answer> is opened and never closed
    REPEATED_TAG = "repeated_tag"  # a think or answer tag occurs more than once
    TEXT_OUTSIDE = "text_outside"  # anything but white space outside the two tag pairs
    EMPTY_ANSWER = "empty_answer"  # nothing between the answer tags
    NOT_A_LIST = "not_a_list"  # neither `No Objects` nor a list of boxes
    BAD_KEYS = "bad_keys"  # a box without exactly one Position and one Confidence
    BAD_BOX = "bad_box"  # a Position that is not four numbers
    NOT_FINITE = "not_finite"  # NaN, infinity, or a number too large for a float
    OUT_OF_FRAME = "out_of_frame"  # a coordinate outside 0..1000
    INVERTED_BOX = "inverted_box"  # x2 < x1 or y2 < y1
    ZERO_AREA = "zero_area"  # x2 = x1 or y2 = y1
    BAD_CONFIDENCE = "bad_confidence"  # not a number in 0..1
    TOO_MANY_BOXES = "too_many_boxes"  # more boxes than any scene holds


@dataclass(frozen=True)
class Annotation:
    """One labelled object, in COCO's terms: category name and (x, y, width, height) in pixels of the original image."""

    category: str
    bbox_xywh: Box


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and all of its labelled objects; `id` is unique in its source."""

    id: int
    image: Image
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class Detection:
    """One box the model drew: corners in norm1000, confidence in 0..1."""

    box: Box
    confidence: float


@dataclass(frozen=True)
class DetectionAnswer:
    """A parsed detection answer; no detections means the model said `No Objects`."""

    detections: tuple[Detection, ...]


@dataclass(frozen=True)
class Refusal:
    """A completion that is not an answer: the reason, and the few characters that show it."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class DetectionTruth:
    """The boxes of one category in one image, in norm1000; none means the category is absent."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Reward:
    """What a completion earned: every part by name, unweighted, and either the parsed answer or the refusal (`paper` may have neither)."""

    parts: Mapping[str, float]
    answer: DetectionAnswer | None
    refusal: Refusal | None


@dataclass(frozen=True)
class Example:
    """One question about one image, with the truth that scores its answers. `id` is unique in its split."""

    id: str
    image_id: int
    image: Image
    category: str
    question: str
    truth: DetectionTruth


@dataclass(frozen=True)
class PromptInputs:
    """Prompts ready for the language model: embeds_PSH, mask_PS (1 = token), positions_3PS (mRoPE), next_position_P of the first completion token."""

    embeds_PSH: torch.Tensor
    mask_PS: torch.Tensor
    positions_3PS: torch.Tensor
    next_position_P: torch.Tensor


@dataclass(frozen=True)
class Completion:
    """One sampled answer: tokens_T (int64, the end token included when `finished`), their logprobs_T at the sampling temperature, the text."""

    tokens_T: torch.Tensor
    logprobs_T: torch.Tensor
    text: str
    finished: bool


@dataclass(frozen=True)
class Group:
    """G completions of one example: what GRPO normalises over."""

    example: Example
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Batch:
    """Groups that pass through the model together, B = all their completions in order: what the loss needs to know of them.

    `old_logprobs_BT` is None with one update a batch (the ratio is 1), `reference_logprobs_BT` is None at β = 0; both are padded on the right.
    """

    groups: tuple[Group, ...]
    advantages_B: torch.Tensor
    old_logprobs_BT: torch.Tensor | None
    reference_logprobs_BT: torch.Tensor | None
