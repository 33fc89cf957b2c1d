"""What every task is: pure functions from a completion and its truth to a reward; and what an evaluation of it asks, and what answers are worth."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from visual_rft.frames import CONTRACT, Box, Contract, Speaks
from visual_rft.images import StoredImage
from visual_rft.rewards.options import GREATEST, Part, RewardOptions, further_parts, weigh
from visual_rft.tasks.wording import Style, Wording
from visual_rft.vocabulary import Answer, Attempt, Example, Reason, Refusal, Reward, Scores, Truth

# An image and a box in its pixels -> which of its pixels, (height, width), are of the thing in the box.
Segment = Callable[[StoredImage, Box], npt.NDArray[np.bool_]]


@dataclass
class TaskOptions:
    """What every task says of itself: its name; the k of its k-shot split (None: everything there is), whether a category may have fewer, and the
    seed that draws it, or the file that holds it; how its questions are put."""

    name: str
    shots: int | None
    at_most: bool
    split_seed: int
    split: str | None
    wording: Wording
    thinking: bool

    def __post_init__(self) -> None:
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"task.shots={self.shots}: must be at least 1, or null for everything there is")
        if not 0 <= self.split_seed < 2**31:
            raise ValueError(f"task.split_seed={self.split_seed}: must lie in 0..2147483647")

    def style(self, speaks: Speaks) -> Style:
        """How its questions are put to a model that speaks so."""
        return Style(self.wording, self.thinking, speaks)


def check_split(options: TaskOptions, typed: Sequence[str]) -> None:
    """Raises ValueError when a key is `typed` that a given split leaves unread. (The seed it does not: it draws the digit scenes, too.)"""
    for key in ("task.shots", "task.at_most", "task.negatives"):
        if options.split is not None and key in typed:
            raise ValueError(f"{key}: the split is given, task.split={options.split}, and says what is drawn; leave one of the two out")


def check_names(key: str, names: Sequence[str]) -> None:
    """Raises ValueError unless they are names, each once."""
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ValueError(f"{key}: must be names, each once")


def some(names: Sequence[str], most: int = 12) -> str:
    """The first of them, for messages."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class Task:
    """One kind of question with its rewards. A new task is a new value of this, not a new loop.

    parse: completion, by its contract -> answer or refusal; score: (completion, truth, contract) -> every part of the reward's family; truth: what an
    answer would be the truth of; weights: what each part weighs; parts: those beside the family.
    """

    parse: Callable[[str, Contract], Answer | Refusal]
    score: Callable[[str, Any, Contract], Reward]
    truth: Callable[[Any], Truth]
    weights: Mapping[str, float]
    parts: Mapping[str, Part] = field(default_factory=dict)

    def rewarded(self, rewards: RewardOptions) -> "Task":
        """The same task, with these parts beside its family's, and these weights. Raises ValueError for what cannot be."""
        parts = further_parts(rewards, self.weights)
        return replace(self, parts=parts, weights=weigh((*self.weights, *parts), rewards.weights))

    def reward(self, text: str, truth: Truth, contract: Contract, *, tokens: int | None = None, progress: float = 0.0) -> Reward:
        """Every part a completion earned (`tokens`, `progress`: see `Attempt`). Raises ValueError for a part beside the family that is no number, or
        that has nothing to score in this task."""
        earned = self.score(text, truth, contract)
        if not self.parts:
            return earned
        attempt = Attempt(text, self.parse(text, contract), truth, contract, tokens, progress)
        return replace(earned, parts={**earned.parts, **{name: _number(name, part, attempt) for name, part in self.parts.items()}})

    def total(self, reward: Reward) -> float:
        """The weighted sum of the parts: what GRPO sees."""
        return sum(self.weights[name] * value for name, value in reward.parts.items())

    def solution(self, text: str, contract: Contract = CONTRACT) -> Truth:
        """The truth that a solution says. It is written as a right answer is, tags or not. Raises ValueError when it cannot be read."""
        tagged = text if "<answer>" in text else f"<answer>{text}</answer>"
        answer = self.parse(tagged, replace(contract, thinking="<think>" in text))
        if isinstance(answer, Refusal):
            shown = "" if answer.reason is Reason.EMPTY_ANSWER else f" at {answer.detail!r}"
            raise ValueError(f"the solution is no answer to this task: {answer.reason}{shown}")
        return self.truth(answer)


def _number(name: str, part: Part, attempt: Attempt) -> float:
    try:
        value: Any = part(attempt)
    except ValueError as error:
        raise ValueError(f"rewards.parts.{name}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"rewards.parts.{name} cannot score {attempt.text[:60]!r}") from error
    if not (isinstance(value, int | float | np.floating) and bool(-GREATEST <= value <= GREATEST)):
        most = f"a finite number of at most {GREATEST:g}"
        raise ValueError(f"rewards.parts.{name}: must be {most} for every completion, and is {value!r:.60} for {attempt.text[:60]!r}")
    return float(value)


@dataclass(frozen=True)
class Screening:
    """What is asked before the questions of an exam, one for each: a question whose screening is `denied` is not asked, and `blank` is its answer.

    `known` are answers that were given before, by the id of the screening question.
    """

    questions: Sequence[Example]
    denied: Callable[[str], bool]
    blank: Callable[[Example], str]
    known: Mapping[str, str]


@dataclass(frozen=True)
class Exam:
    """The questions of an evaluation, and what an answer or a refusal to each is worth; with `boxes`, what a file of boxes is worth, and the same
    answers as such a file; with `masks`, further scores of answers whose boxes somebody turns into masks. `worth`: (question, answer) -> what that
    answer alone is worth, 0..1, by which two runs are compared question by question; from a half on it is a good one."""

    questions: Sequence[Example]
    measure: Callable[[Sequence[Any]], Scores]
    worth: Callable[[Example, Any], float]
    screening: Screening | None = None
    boxes: "BoxExam | None" = None
    masks: Callable[[Sequence[Any], Segment], dict[str, float]] | None = None

    @property
    def asked_at_most(self) -> int:
        """How many questions, what is asked first included."""
        return len(self.questions) + (len(self.screening.questions) if self.screening else 0)

    def knowing(self, screened: Mapping[str, str]) -> "Exam":
        """The same exam, whose screening need not be asked again."""
        return replace(self, screening=replace(self.screening, known=screened)) if self.screening else self

    def segmented(self, segmenter: Callable[[], AbstractContextManager[Segment]]) -> "Exam":
        """The same exam, whose answers are scored as masks, too: those of a segmenter that is opened when they are measured, and closed after it."""
        measure, masks = self.measure, self.masks
        assert masks is not None

        def measured(answers: Sequence[Any]) -> Scores:
            scores = measure(answers)
            with segmenter() as segment:
                return replace(scores, values=dict(scores.values) | masks(answers, segment))

        return replace(self, measure=measured)


@dataclass(frozen=True)
class BoxExam:
    """The boxes of a detection exam as COCO results: (image, category, box in pixels of the original image, score).

    `of`: answers -> boxes; `measure`: boxes -> scores; `images`: (width, height) by id; `category_ids`: of all categories that the data name;
    `categories`: those that count.
    """

    of: Callable[[Sequence[Any]], list[Any]]
    measure: Callable[[Sequence[Any]], Scores]
    images: Mapping[int, tuple[int, int]]
    category_ids: Mapping[str, int]
    categories: Sequence[str]
