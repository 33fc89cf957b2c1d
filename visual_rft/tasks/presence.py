"""Which categories a test image is asked about: three protocols, and the question that one of them asks first."""

import re
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from visual_rft.frames import Contract
from visual_rft.tasks.task import Screening
from visual_rft.tasks.wording import completion, detection_answer, presence_question
from visual_rft.vocabulary import Example

_FIRST_WORD = re.compile(r"[^\W\d_]+")


class Present(StrEnum):
    """Which categories a test image is asked about."""

    ground_truth = "ground_truth"  # those in it: what is measured is drawing
    all = "all"  # every one: saying `No Objects` rightly is measured as well
    predicted = "predicted"  # those of which the model says, asked first, that they are there: the reference evaluation's protocol


def screening(asked: Sequence[Example]) -> Screening:
    """The question whether each category is there at all."""
    return Screening(
        questions=[replace(one, id=f"{one.id}?", question=presence_question(one.subject), contract=Contract(thinking=False)) for one in asked],
        denied=says_no,
        blank=lambda question: completion("" if question.contract.thinking else None, detection_answer(())),
        known={},
    )


def says_no(text: str) -> bool:
    """Whether the first word of an answer is no; whatever is neither no nor yes spares the image no question."""
    first = _FIRST_WORD.search(text.rpartition("</think>")[2].replace("<answer>", " "))
    return first is not None and first[0].lower() == "no"
