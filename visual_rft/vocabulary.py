"""The words every room uses: small frozen values, passed from left to right.

    examples ─ sample ─▶ groups of completions ─ score ─▶ rewards ─ normalise ─▶ advantages ─ pack ─▶ batch ─ loss ─▶ step

Axes, everywhere in the package: P prompts a step, G completions a prompt, B = P·G rows, T completion tokens, V vocabulary, N boxes,
S prompt tokens, H hidden width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from PIL.Image import Image

from visual_rft.frames import CONTRACT, Box, Contract
from visual_rft.images import StoredImage


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
    OUT_OF_FRAME = "out_of_frame"  # a coordinate outside the frame
    INVERTED_BOX = "inverted_box"  # x2 < x1 or y2 < y1
    ZERO_AREA = "zero_area"  # x2 = x1 or y2 = y1
    BAD_CONFIDENCE = "bad_confidence"  # not a number in 0..1
    TOO_MANY_BOXES = "too_many_boxes"  # more boxes than any scene holds
    NOT_A_NAME = "not_a_name"  # a classification answer that is no short name: several lines, or longer than any name
    NOT_A_BOX = "not_a_box"  # a grounding answer that is not (x1,y1),(x2,y2)
    SEVERAL_BOXES = "several_boxes"  # a grounding answer with more than one box


@dataclass(frozen=True, slots=True)
class Detection:
    """One box the model drew, in its contract's frame, with a confidence in 0..1."""

    box: Box
    confidence: float


@dataclass(frozen=True, slots=True)
class DetectionAnswer:
    """A parsed detection answer; no detections means the model said `No Objects`."""

    detections: tuple[Detection, ...]

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(d.box for d in self.detections)

    @property
    def labels(self) -> tuple[str, ...]:
        """What is written beside each box."""
        return tuple(f"{d.confidence:.2f}" for d in self.detections)

    @property
    def plain(self) -> list[dict[str, Any]]:
        return [{"Position": list(d.box), "Confidence": d.confidence} for d in self.detections]

    def __str__(self) -> str:
        return "" if self.detections else "No Objects"


@dataclass(frozen=True)
class ClassAnswer:
    """A parsed classification answer: the name as it was said."""

    name: str

    boxes: ClassVar[tuple[Box, ...]] = ()
    labels: ClassVar[tuple[str, ...]] = ()

    @property
    def plain(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class GroundingAnswer:
    """A parsed grounding answer: one box in its contract's frame."""

    box: Box

    @property
    def boxes(self) -> tuple[Box, ...]:
        return (self.box,)

    @property
    def labels(self) -> tuple[str, ...]:
        return ("",)

    @property
    def plain(self) -> list[float]:
        return list(self.box)

    def __str__(self) -> str:
        return ""


# What every answer has: `boxes` in its contract's frame and a label for each; as str the words that no box says; `plain`, all of it for JSON.
Answer = DetectionAnswer | ClassAnswer | GroundingAnswer


@dataclass(frozen=True, slots=True)
class Refusal:
    """A completion that is not an answer: the reason, and the few characters that show it."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DetectionTruth:
    """The boxes of one category in one image, in the contract's frame; none means the category is absent."""

    boxes: tuple[Box, ...]

    def __str__(self) -> str:
        return "" if self.boxes else "No Objects"


@dataclass(frozen=True)
class ClassTruth:
    """The name of the class an image shows."""

    name: str

    boxes: ClassVar[tuple[Box, ...]] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class GroundingTruth:
    """The one box an instruction means, in the contract's frame."""

    box: Box

    @property
    def boxes(self) -> tuple[Box, ...]:
        return (self.box,)

    def __str__(self) -> str:
        return ""


Truth = DetectionTruth | ClassTruth | GroundingTruth


def thinking(text: str) -> str:
    """What stands between the think tags of a completion; empty where they are not a pair."""
    before, closed, _ = text.partition("</think>")
    return before.partition("<think>")[2].strip() if closed else ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a reward may look at: the text of a completion, the answer it was parsed to or the refusal, the truth, the contract, its length in
    `tokens`, the end token included (None for a text that was never tokens), and the share of the training that was done when it was sampled,
    `progress` in 0..1, which schedules follow."""

    text: str
    answer: Answer | Refusal
    truth: Truth
    contract: Contract = CONTRACT
    tokens: int | None = None
    progress: float = 0.0

    @property
    def thinking(self) -> str:
        """What stands between the think tags; empty where they are not a pair."""
        return thinking(self.text)


@dataclass(frozen=True)
class Reward:
    """What a completion earned: every part by name, unweighted, and either the parsed answer or the refusal (`paper` may have neither)."""

    parts: Mapping[str, float]
    answer: Answer | None
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Example:
    """One question about an image, with the truth that scores its answers. `id` is unique in its split.

    The last of `images` is asked about, and boxes are drawn on it; those before it are shown with it. `subject` is what the question is about: the
    category to find, the instruction to follow; empty where the image alone says it. `reasoning` is what stands before the answer in the data, if
    anything does.
    """

    id: str
    images: tuple[StoredImage, ...]
    subject: str
    question: str
    truth: Truth
    contract: Contract = CONTRACT
    reasoning: str = ""

    @property
    def asked_about(self) -> StoredImage:
        return self.images[-1]

    @property
    def image(self) -> Image:
        """The image asked about, opened."""
        return self.asked_about.open()


@dataclass(frozen=True)
class Scores:
    """What the answers to a task's test questions are worth, 0..100: `values` by name, the task's own metric first; that metric by category, where
    it has categories; how many answers were refused, by reason; where an answer is the name of a category, how often which was said for which."""

    values: Mapping[str, float]
    by_category: Mapping[str, float]
    refusals: Mapping[Reason, int]
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it: tokens_S (int64; a placeholder for each cell of an image), their mRoPE positions_3S, and the rows, among
    the images of its step, of those that its placeholders stand for, in order."""

    tokens_S: torch.Tensor
    positions_3S: torch.Tensor
    images: tuple[int, ...]

    @property
    def next_position(self) -> int:
        """Where its completions go on, on all three axes."""
        return int(self.positions_3S.max()) + 1


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
    """Groups that pass through the model together, their numbers in the step, and their prompts; B = all their completions in order.

    `old_logprobs_BT` is None with one update a batch (the ratio is 1), `reference_logprobs_BT` is None at β = 0; both are padded on the right.
    """

    numbers: tuple[int, ...]
    groups: tuple[Group, ...]
    prompts: tuple[Prompt, ...]
    old_logprobs_BT: torch.Tensor | None
    reference_logprobs_BT: torch.Tensor | None
