"""Grounding: the one box that an implicit instruction means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from numpy.random import Generator

from visual_rft.boxes import xywh_pixels_to_norm1000
from visual_rft.metrics.grounding import grounding_scores
from visual_rft.parsing import parse_grounding
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions, weigh
from visual_rft.tasks.task import Task, TaskOptions
from visual_rft.tasks.wording import ASKED
from visual_rft.vocabulary import AnnotatedImage, Example, GroundingAnswer, GroundingTruth, Instruction, Refusal, Scores

QUESTION = f"Point at {{instruction}}. {ASKED} its box (left,top),(right,bottom), in thousandths of the width and the height."


@dataclass
class GroundingOptions(TaskOptions):
    """Shots are images a sort of instruction."""


def task(_: GroundingOptions, rewards: RewardOptions) -> Task:
    """Grounding as a task."""
    score, box = {Family.strict: (strict.grounding, "iou"), Family.paper: (paper.grounding, "giou")}[rewards.family]
    return Task(
        parse=parse_grounding,
        score=score,
        truth=lambda answer: GroundingTruth(answer.box),
        measure=measure,
        weights=weigh((box, "format"), rewards.weights),
    )


def measure(examples: Sequence[Example], answers: Sequence[GroundingAnswer | Refusal]) -> Scores:
    """mIoU, and the share of boxes with an IoU of 0.5 or more."""
    return grounding_scores([cast(GroundingTruth, e.truth) for e in examples], answers)


def choose(image: AnnotatedImage, rng: Generator) -> Instruction:
    """One instruction of an image: every sort that it has is as likely. Raises ValueError when it has none."""
    if not image.instructions:
        raise ValueError(f"image {image.id} comes with no instruction: a grounding task needs data that have them (data=digits)")
    sort = rng.choice(sorted({i.sort for i in image.instructions}))
    alike = [i for i in image.instructions if i.sort == sort]
    return alike[int(rng.integers(len(alike)))]


def example(image: AnnotatedImage, instruction: Instruction) -> Example:
    """The question where the object is that `instruction` means, with its box in norm1000."""
    pixels = image.image
    (box,) = xywh_pixels_to_norm1000([instruction.bbox_xywh], width=pixels.width, height=pixels.height)
    return Example(
        id=f"{image.id}/{instruction.text}",
        image_id=image.id,
        image=pixels,
        subject=instruction.text,
        question=QUESTION.format(instruction=instruction.text),
        truth=GroundingTruth(box),
    )
