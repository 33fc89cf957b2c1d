"""One question about images of one's own, and what a model says to it: `predict` and `demo` have this in common.

task, category or prompt ─ Question ─ put to an image ─▶ Put ─ a model's completion ─▶ Said: answer, boxes in pixels, a drawing
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from visual_rft import workload
from visual_rft.boxes import convert
from visual_rft.frames import Box, Contract, Frame, Original, Speaks
from visual_rft.images import StoredImage
from visual_rft.inference import answer
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_detection, parse_grounding
from visual_rft.rewards.options import RewardOptions
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.task import TaskOptions
from visual_rft.tasks.wording import classification_question, detection_question, grounding_question
from visual_rft.tracking.drawing import draw_answer
from visual_rft.vocabulary import Answer, DetectionTruth, Example, Refusal

Parser = Callable[[str, Contract], Answer | Refusal]


@dataclass(frozen=True)
class Said:
    """What a model said to a question about an image: the completion as it is, the answer or why it is none, each box in pixels of the image with
    what is written at it."""

    question: str
    completion: str
    answer: Answer | Refusal
    boxes: Sequence[tuple[Box, str]]

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        boxes = [{"xyxy_pixels": list(box), "label": label} for box, label in self.boxes]
        answer, refused = (None, str(self.answer.reason)) if isinstance(self.answer, Refusal) else (self.answer.plain, None)
        return {"question": self.question, "completion": self.completion, "answer": answer, "boxes": boxes, "refused": refused}

    @property
    def caption(self) -> str:
        """The words that no box says."""
        return f"refused: {self.answer.reason}" if isinstance(self.answer, Refusal) else str(self.answer)

    def drawn(self, image: Image) -> Image:
        """The boxes on their image, and the caption below."""
        return draw_answer(image, [box for box, _ in self.boxes], [label for _, label in self.boxes], self.caption)


@dataclass(frozen=True)
class Put:
    """A question as it is put to an image, how its answer may be read, the likeliest way last, and the `name` that a box of it bears."""

    example: Example
    parsers: Sequence[Parser]
    name: str

    def heard(self, completion: str) -> Said:
        """What a completion says."""
        contract = self.example.contract
        answer = read(completion, contract, self.parsers)
        pixels = Original(*self.example.asked_about.size)
        boxes = [] if isinstance(answer, Refusal) else _labelled(answer, contract.frame, pixels, self.name)
        return Said(self.example.question, completion, answer, boxes)


@dataclass(frozen=True)
class Question:
    """Detection asks for a `category`, grounding for what a `prompt` points at, classification needs neither; with any but grounding a `prompt` is a
    whole question, asked as it is."""

    task: TaskOptions
    category: str | None = None
    prompt: str | None = None

    def put(self, image: StoredImage, speaks: Speaks) -> Put:
        """The question about an image, to a model that speaks so. Raises ValueError as `ask` does."""
        contract = self.task.style(speaks).contract(image)
        subject, question, parsers = ask(self.task, contract, self.category, self.prompt)
        return Put(Example(str(image.id), (image,), subject, question, DetectionTruth(()), contract), parsers, self.category or "")


def answers(policy: Policy, processor: Processor, asked: Sequence[Put], *, max_tokens: int, together: int) -> Iterator[Said]:
    """What the model says to each, in order."""
    waiting: dict[int, str] = {}
    following = 0
    examples = [put.example for put in asked]
    for number, completion in answer(policy, processor, examples, max_tokens=max_tokens, together=together, workers=0):
        waiting[number] = completion.text
        while following in waiting:
            yield asked[following].heard(waiting.pop(following))
            following += 1


def ask(options: TaskOptions, contract: Contract, category: str | None, prompt: str | None) -> tuple[str, str, Sequence[Parser]]:
    """What the question is about, the question, and how its answer may be read, the likeliest way last.

    Raises ValueError when the task needs a key that is not there, or has no use for one that is.
    """
    own = workload.task(options, RewardOptions()).parse
    for key, text in (("category", category), ("prompt", prompt)):
        if text is not None and not text.strip():
            raise ValueError(f"{key}: empty; say what is asked, or leave it out")
    if category is not None and prompt is not None:
        raise ValueError("category and prompt: two questions; give one of them")
    if category is not None and not isinstance(options, detection.DetectionOptions):
        raise ValueError(f"category={category}: {options.name} asks for no category; {_wanted(options)}")
    if isinstance(options, grounding.GroundingOptions) and prompt is not None:
        return prompt, grounding_question(prompt, options.wording, contract), (own,)
    if prompt is not None:
        return "", prompt, (parse_detection, parse_grounding, own)
    if category is not None:
        return category, detection_question(category, options.wording, contract), (own,)
    if isinstance(options, classification.ClassificationOptions):
        return "", classification_question(options.kind, options.wording, contract), (own,)
    raise ValueError(f"nothing is asked: {_wanted(options)}")


def _wanted(options: TaskOptions) -> str:
    """What a task takes, as a remedy."""
    match options:
        case detection.DetectionOptions():
            return f"{options.name} wants category=… ({', '.join(options.categories or ['any'])}), or a whole question of your own, prompt='…'"
        case grounding.GroundingOptions():
            return f"{options.name} wants what to point at, prompt='the leftmost …'"
    return f"{options.name} needs the image alone, or takes a whole question of your own, prompt='…'"


def read(text: str, contract: Contract, parsers: Sequence[Parser]) -> Answer | Refusal:
    """The answer of the first parser that finds one, else the refusal of the last."""
    said = [parse(text, contract) for parse in parsers]
    return next((one for one in said if not isinstance(one, Refusal)), said[-1])


def _labelled(said: Answer, spoken: Frame, pixels: Frame, name: str) -> list[tuple[Box, str]]:
    """Each box in pixels of the image with what is written at it: what was asked for, and the confidence."""
    boxes_N4 = convert(said.boxes, of=spoken, to=pixels).tolist()
    return [((x1, y1, x2, y2), f"{name} {label}".strip()) for (x1, y1, x2, y2), label in zip(boxes_N4, said.labels, strict=True)]
