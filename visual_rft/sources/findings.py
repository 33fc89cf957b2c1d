"""What a reader meets in a data set: what it takes in its stride, counted by kind, and what it cannot take, said with file and row."""

import re
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """A reader that trains or tests stops at the first fault; one that checks (`patient`) collects them all, and goes on without those rows."""

    patient: bool = False
    handled: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def handle(self, kind: str, count: int = 1) -> None:
        """So many more of a kind that is taken as a matter of course: a crowd, an image turned by EXIF."""
        self.handled[kind] += count

    def refuse(self, fault: str, cause: Exception | None = None) -> None:
        """A row that cannot be taken: `fault` names file and row, and the remedy. Raises it as a ValueError unless patient."""
        if not self.patient:
            raise ValueError(fault) from cause
        self.faults.append(fault)


# What only a chat template may write: a model would take it for the end of the question, or for an image.
_TEMPLATE = re.compile(r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|vision_pad|image_pad|video_pad)\|>")


def unspeakable(text: str) -> str | None:
    """Why a text of the data cannot be put to a model; None where it can."""
    if not text.strip():
        return "is empty"
    if token := _TEMPLATE.search(text):
        return f"holds {token[0]}, which is the chat template's alone"
    return "holds half of a surrogate pair" if any("\ud800" <= character <= "\udfff" for character in text) else None
