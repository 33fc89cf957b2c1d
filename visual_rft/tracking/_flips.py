"""Two arms question by question: what the one answers well and the other does not.

Axes: R runs of one arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from zlib import crc32

from visual_rft.tracking._format import number
from visual_rft.tracking._gallery import card
from visual_rft.tracking._page import details
from visual_rft.tracking.pictures import Look
from visual_rft.tracking.runs import Judged, Run

GOOD = 0.5  # an answer from here on is a good one
SHOWN = 10  # of those that were fixed, and as many of those that broke


@dataclass(frozen=True)
class Flip:
    """A question, what its answers are worth in two arms, 0..1, the mean over the runs of each; the completion of the first run of each."""

    question: str
    worth: tuple[float, float]
    texts: tuple[str, str]

    @property
    def gain(self) -> float:
        return self.worth[1] - self.worth[0]


def in_common(runs_R: Sequence[Run], others_R: Sequence[Run]) -> list[str]:
    """The questions that all runs were asked, in order."""
    return sorted(set.intersection(*(set(run.answers) for run in (*runs_R, *others_R))))


def flips(asked: Sequence[str], runs_R: Sequence[Run], others_R: Sequence[Run]) -> tuple[list[Flip], list[Flip]]:
    """Of these questions what the other runs fixed, and what they broke, the greatest change first."""
    both = [_flip(question, [run.answers for run in runs_R], [run.answers for run in others_R]) for question in asked]
    fixed = sorted((one for one in both if one.worth[0] < GOOD <= one.worth[1]), key=lambda one: -one.gain)
    broke = sorted((one for one in both if one.worth[1] < GOOD <= one.worth[0]), key=lambda one: one.gain)
    return fixed, broke


def _flip(question: str, answers_R: Sequence[Mapping[str, Judged]], others_R: Sequence[Mapping[str, Judged]]) -> Flip:
    worth, other = (fmean(answers[question].worth for answers in of_arm) for of_arm in (answers_R, others_R))
    return Flip(question, (worth, other), (answers_R[0][question].text, others_R[0][question].text))


def flips_html(labels: tuple[str, str], runs_R: Sequence[Run], others_R: Sequence[Run], look_at: Callable[[Run, Run], Look]) -> str:
    """Both lists side by side; empty where no question was asked of all runs."""
    asked = in_common(runs_R, others_R)
    if not asked:
        return ""
    look = look_at(runs_R[0], others_R[0])
    asked = [question for question in asked if look.is_same(question)]
    fixed, broke = flips(asked, runs_R, others_R)
    if labels[0] == labels[1]:
        labels = ("first", "second")
    lists = "".join(
        f"<div><h3>{len(some)} {word} of {len(asked)}</h3>{_cards(some, labels, look)}</div>" for some, word in ((fixed, "fixed"), (broke, "broken"))
    )
    return f'<p>{escape(labels[0])} → <b>{escape(labels[1])}</b></p><div class="grid wide">{lists}</div>'


def _cards(some: Sequence[Flip], labels: tuple[str, str], look: Look) -> str:
    shown = "".join(_card(one, labels, look) for one in some[:SHOWN])
    return shown + (f"<p><small>and {len(some) - SHOWN} more</small></p>" if len(some) > SHOWN else "")


def _card(one: Flip, labels: tuple[str, str], look: Look) -> str:
    """On its image, where there is one to look at; else the completions alone."""
    before, after = (number(worth) for worth in one.worth)
    head = f"<p><b>{escape(one.question)}</b> {before} → <b>{after}</b></p>"
    texts = dict(zip(labels, one.texts, strict=True))
    if picture := look.picture(one.question, texts):
        return card(picture, f"flip{crc32(repr((labels, one.question)).encode()):08x}", head)
    return f"<article>{head}{''.join(details(escape(label), text) for label, text in texts.items())}</article>"
