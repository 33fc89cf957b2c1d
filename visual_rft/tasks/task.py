"""What every task is: pure functions from a completion and its truth to a reward, and from all answers to scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visual_rft.vocabulary import Answer, Example, Reason, Refusal, Reward, Scores, Truth


@dataclass
class TaskOptions:
    """What every task says of itself: its name, the k of its k-shot split, and the seed that draws it."""

    name: str
    shots: int
    split_seed: int

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError(f"task.shots={self.shots}: must be at least 1")
        if not 0 <= self.split_seed < 2**31:
            raise ValueError(f"task.split_seed={self.split_seed}: must lie in 0..2147483647")


def check_names(categories: Sequence[str]) -> None:
    """Raises ValueError unless categories are names, each once."""
    if not categories or len(set(categories)) < len(categories) or not all(name.strip() for name in categories):
        raise ValueError("task.categories: must be names, each once")


@dataclass(frozen=True)
class Task:
    """One kind of question with its rewards. A new task is a new value of this, not a new loop.

    parse: completion -> answer or refusal; score: (completion, truth) -> every reward part; truth: what an answer would be the truth of;
    measure: (examples, an answer or refusal to each) -> scores; weights: what each part weighs.
    """

    parse: Callable[[str], Answer | Refusal]
    score: Callable[[str, Any], Reward]
    truth: Callable[[Any], Truth]
    measure: Callable[[Sequence[Example], Sequence[Any]], Scores]
    weights: Mapping[str, float]

    def reward(self, text: str, example: Example) -> Reward:
        """Every part a completion earned."""
        return self.score(text, example.truth)

    def total(self, reward: Reward) -> float:
        """The weighted sum of the parts: what GRPO sees."""
        return sum(self.weights[name] * value for name, value in reward.parts.items())

    def solution(self, text: str) -> Truth:
        """The truth that a solution says. It is written as a right answer is, tags or not. Raises ValueError when it cannot be read."""
        tagged = text if "<answer>" in text else f"<answer>{text}</answer>"
        answer = self.parse(tagged if "<think>" in text else f"<think></think>{tagged}")
        if isinstance(answer, Refusal):
            shown = "" if answer.reason is Reason.EMPTY_ANSWER else f" at {answer.detail!r}"
            raise ValueError(f"the solution is no answer to this task: {answer.reason}{shown}")
        return self.truth(answer)
