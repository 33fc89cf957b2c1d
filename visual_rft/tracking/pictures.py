"""A question about an image with its answers, as the report and the loggers draw it.

Axes: P prompts a step, G completions a prompt, N boxes of an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from visual_rft.boxes import iou_matrix
from visual_rft.frames import NORM1000, Box, Frame
from visual_rft.vocabulary import Answer, Group, Refusal, Reward, Truth


@dataclass(frozen=True)
class Picture:
    """One question about an image, its truth, and by name (before, after, …) the answers to it, the completions that hold them, and what else there
    is to say of each; all boxes are in `frame`."""

    image: Image
    question: str
    truth: Truth
    answers: Mapping[str, Answer | Refusal]
    texts: Mapping[str, str]
    frame: Frame = NORM1000
    notes: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """All that no box says, a line each: the question, the truth, each answer with its note."""
        lines = [self.question, f"truth: {self.truth}" if str(self.truth) else ""]
        for name in dict.fromkeys([*self.answers, *self.notes]):
            answer = self.answers.get(name, "")
            said = f"refused, {answer.reason}" if isinstance(answer, Refusal) else str(answer)
            if both := ", ".join(filter(None, [said, self.notes.get(name, "")])):
                lines.append(f"{name}: {both}")
        return list(filter(None, lines))


@dataclass(frozen=True)
class Look:
    """At the answers of two runs. picture: the id of a question, and the completion of each by the run's name -> both on its image, if that is to be
    had; is_same: whether a question of this id is in both runs about the same in the same image."""

    picture: Callable[[str, Mapping[str, str]], Picture | None] = lambda *_: None
    is_same: Callable[[str], bool] = lambda _: True


def group_pictures(
    groups: Sequence[Group],
    rewards_PG: Sequence[Sequence[Reward]],
    totals_PG: Sequence[Sequence[float]],
    advantages_PG: Sequence[Sequence[float]],
) -> list[Picture]:
    """Each group on its image: its answers are `completion 1` … `completion G`, with what each earned. One that was neither understood nor refused,
    which `paper` knows, has no boxes."""
    return [
        Picture(
            image=group.example.image,
            question=group.example.question,
            truth=group.example.truth,
            answers={name: answer for name, answer in zip(_names(group), map(_judged, rewards_G), strict=True) if answer is not None},
            texts={name: completion.text for name, completion in zip(_names(group), group.completions, strict=True)},
            frame=group.example.contract.frame,
            notes=dict(zip(_names(group), map(_earned, rewards_G, totals_G, advantages_G), strict=True)),
        )
        for group, rewards_G, totals_G, advantages_G in zip(groups, rewards_PG, totals_PG, advantages_PG, strict=True)
    ]


def _names(group: Group) -> list[str]:
    return [f"completion {number}" for number in range(1, len(group.completions) + 1)]


def _judged(reward: Reward) -> Answer | Refusal | None:
    return reward.answer or reward.refusal


def _earned(reward: Reward, total: float, advantage: float) -> str:
    parts = " ".join(f"{name} {value:.2f}" for name, value in reward.parts.items())
    return f"reward {total:.2f} ({parts}), advantage {advantage:+.2f}"


def ious(answer: Answer, truth: Sequence[Box]) -> list[float]:
    """Of each box of an answer: its IoU with the true box nearest to it, 0 where there is none."""
    return [float(value) for value in iou_matrix(answer.boxes, truth).max(axis=1, initial=0.0)]


def labels(answer: Answer, truth: Sequence[Box]) -> list[str]:
    """What is written beside each box of an answer: what the answer says of it, such as its confidence, and its IoU with the truth."""
    return [f"{label} IoU {iou:.2f}".lstrip() for label, iou in zip(answer.labels, ious(answer, truth), strict=True)]
