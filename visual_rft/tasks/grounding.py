"""Grounding: the one box that an implicit instruction means."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from numpy.random import Generator

from visual_rft.boxes import whole, xywh_to_xyxy
from visual_rft.frames import Original
from visual_rft.images import AnnotatedImage, ImageSet, Instruction
from visual_rft.metrics.grounding import grounding_scores
from visual_rft.parsing import parse_grounding
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.task import Exam, Task, TaskOptions
from visual_rft.tasks.wording import Style, grounding_question
from visual_rft.vocabulary import Example, GroundingAnswer, GroundingTruth, Refusal, Scores


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
        weights=dict.fromkeys((box, "format"), 1.0),
    ).rewarded(rewards)


def exam(_: GroundingOptions, asked: Sequence[Example], __: ImageSet) -> Exam:
    """What is asked, and what answers are worth: mIoU, and the share of boxes with an IoU of 0.5 or more."""
    return Exam(asked, partial(measure, asked))


def questions(images: Sequence[AnnotatedImage], rng: Generator, style: Style) -> list[Example]:
    """A question about each image, by one of its instructions."""
    return [example(image, choose(image, rng), style) for image in images]


def measure(asked: Sequence[Example], answers: Sequence[GroundingAnswer | Refusal]) -> Scores:
    """mIoU, and the share of boxes with an IoU of 0.5 or more."""
    return grounding_scores([cast(GroundingTruth, e.truth) for e in asked], answers)


def choose(image: AnnotatedImage, rng: Generator) -> Instruction:
    """One instruction of an image: every sort that it has is as likely. Raises ValueError when it has none."""
    if not image.instructions:
        raise ValueError(f"image {image.id} comes with no instruction: a grounding task needs data that have them (data=digits)")
    sort = rng.choice(sorted({i.sort for i in image.instructions}))
    alike = [i for i in image.instructions if i.sort == sort]
    return alike[int(rng.integers(len(alike)))]


def example(image: AnnotatedImage, instruction: Instruction, style: Style) -> Example:
    """The question where the object is that `instruction` means, with its box in the frame that the model speaks."""
    contract = style.contract(image.stored)
    (box,) = whole(xywh_to_xyxy([instruction.bbox_xywh]), of=Original(*image.stored.size), to=contract.frame)
    question = grounding_question(instruction.text, style.wording, contract)
    return Example(f"{image.id}/{instruction.text}", (image.stored,), instruction.text, question, GroundingTruth(box), contract)
