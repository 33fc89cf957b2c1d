"""A page of labelled samples: each image with its true boxes, the very prompt that a model reads, the right answer, and what they cost in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from visual_rft.tracking._page import details, page, table
from visual_rft.tracking._svg import boxes_svg, frame, picture_svg
from visual_rft.tracking.runfolder import write_atomically
from visual_rft.vocabulary import Example


@dataclass(frozen=True)
class Sample:
    """One question as a model reads it; `prompt` has one placeholder for all cells of an image. Tokens of its images, of all, of the answer."""

    example: Example
    prompt: str
    answer: str
    image_tokens: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def frame(self) -> str:
        """What its coordinates count, in words."""
        spoken = self.example.contract.frame
        return f"{type(spoken).__name__.lower()} {spoken.width:.0f}×{spoken.height:.0f}"


COLUMNS = ("sample", "image", "frame", "image tokens", "prompt tokens", "answer tokens")


def rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """A line each, under `COLUMNS`."""
    sizes = [f"{width}×{height}" for width, height in (sample.example.asked_about.size for sample in samples)]
    return [
        (s.example.id, size, s.frame, str(s.image_tokens), str(s.prompt_tokens), str(s.answer_tokens)) for s, size in zip(samples, sizes, strict=True)
    ]


def write_samples(path: Path, title: str, samples: Sequence[Sample]) -> None:
    """One self-contained HTML file."""
    cards = "".join(_card(sample, f"sample{number}") for number, sample in enumerate(samples))
    write_atomically(
        path, page(escape(title), f'<h1>{escape(title)}</h1>{table(COLUMNS, rows(samples))}<div class="grid gallery">{cards}</div>', moves=False)
    )


def _card(sample: Sample, name: str) -> str:
    example = sample.example
    image = example.image
    width, height = frame(image.size)
    labels = [example.subject] * len(example.truth.boxes)
    boxes = boxes_svg(example.truth.boxes, labels, kind="truth", of=example.contract.frame, width=width, height=height)
    more = f", with {len(example.images) - 1} before it" if len(example.images) > 1 else ""
    head = f"<p><b>{escape(example.id)}</b> <small>{escape(example.asked_about.name)}{more}</small></p>"
    tokens = f"{sample.prompt_tokens} tokens, {sample.image_tokens} of them of images"
    texts = details(f"Prompt: {tokens}", sample.prompt) + details(f"Right answer: {sample.answer_tokens} tokens", sample.answer)
    return f"<article>{head}{picture_svg(image, name, boxes)}{texts}</article>"
