"""Grounding: the one box that an implicit instruction means."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from visual_rft.boxes import convert, whole, xywh_to_xyxy
from visual_rft.frames import Box, Original
from visual_rft.images import AnnotatedImage, ImageSet, Instruction, Outline
from visual_rft.metrics.grounding import grounding_scores, iou
from visual_rft.metrics.masks import Masks, mask_scores, paint
from visual_rft.parsing import parse_grounding
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.task import Exam, Segment, Task, TaskOptions
from visual_rft.tasks.wording import Style, grounding_question
from visual_rft.vocabulary import Example, GroundingAnswer, GroundingTruth, Refusal, Scores


@dataclass
class GroundingOptions(TaskOptions):
    """Shots are images a sort of instruction. `segmenter` is a SAM, a folder or a name on the hub, whose masks of the boxes are scored, too."""

    segmenter: str | None = None


def task(_: GroundingOptions, rewards: RewardOptions) -> Task:
    """Grounding as a task."""
    score, box = {Family.strict: (strict.grounding, "iou"), Family.paper: (paper.grounding, "giou")}[rewards.family]
    return Task(
        parse=parse_grounding,
        score=score,
        truth=lambda answer: GroundingTruth(answer.box),
        weights=dict.fromkeys((box, "format"), 1.0),
    ).rewarded(rewards)


def exam(_: GroundingOptions, asked: Sequence[Example], data: ImageSet) -> Exam:
    """What is asked, and what answers are worth: mIoU, and the share of boxes with an IoU of 0.5 or more; of masks, where the data have an outline of
    all that is asked about, their gIoU and cIoU."""
    boxes = {(image.id, one.text): one.bbox_xywh for image in data.images for one in image.instructions}
    boxes |= {(image.id, one.category): one.bbox_xywh for image in data.images if not image.instructions for one in image.annotations}
    exact = [boxes[question.asked_about.id, question.subject] for question in asked]
    outlines = {(image.id, one.text): one.outline for image in data.images for one in image.instructions}
    truths = [outlines.get((question.asked_about.id, question.subject)) for question in asked]
    outlined = [truth for truth in truths if truth is not None]
    masks = partial(mask_measure, asked, outlined) if len(outlined) == len(truths) else None
    return Exam(asked, partial(measure, asked, exact), partial(worth, boxes), masks=masks)


def questions(images: Sequence[AnnotatedImage], rng: Generator, style: Style) -> list[Example]:
    """A question about each image, by one of its instructions."""
    return [example(image, choose(image, rng), style) for image in images]


def measure(asked: Sequence[Example], exact_xywh: Sequence[Box], answers: Sequence[GroundingAnswer | Refusal]) -> Scores:
    """mIoU, and the share of boxes with an IoU of 0.5 or more, with the boxes as the data label them: the truths of the questions are in whole
    numbers of the frame that the model speaks."""
    found = [one if isinstance(one, Refusal) else GroundingAnswer(_in_pixels(question, one)) for question, one in zip(asked, answers, strict=True)]
    return grounding_scores([_true(box) for box in exact_xywh], found)


def worth(exact_xywh: Mapping[tuple[int, str], Box], question: Example, answer: GroundingAnswer | Refusal) -> float:
    """The IoU of one answer with the box as the data label it, by image and instruction."""
    found = answer if isinstance(answer, Refusal) else GroundingAnswer(_in_pixels(question, answer))
    return iou(_true(exact_xywh[question.asked_about.id, question.subject]), found)


def _true(box_xywh: Box) -> GroundingTruth:
    x, y, w, h = box_xywh
    return GroundingTruth((x, y, x + w, y + h))


def _in_pixels(question: Example, answer: GroundingAnswer) -> Box:
    ((x1, y1, x2, y2),) = convert([answer.box], of=question.contract.frame, to=Original(*question.asked_about.size)).tolist()
    return x1, y1, x2, y2


def mask_measure(
    asked: Sequence[Example], truths: Sequence[Outline], answers: Sequence[GroundingAnswer | Refusal], segment: Segment
) -> dict[str, float]:
    """gIoU and cIoU of the masks that `segment` makes of the answered boxes; a refused answer covers nothing. One mask is in memory at a time."""

    def pairs() -> Iterator[Masks]:
        for question, truth, answer in zip(asked, truths, answers, strict=True):
            image = question.asked_about
            wanted = paint(truth, image.size)
            if isinstance(answer, Refusal):
                yield wanted, np.zeros(wanted.shape, dtype=np.bool_)
                continue
            yield wanted, segment(image, _in_pixels(question, answer))

    return mask_scores(pairs())


def choose(image: AnnotatedImage, rng: Generator) -> Instruction:
    """One instruction of an image: every sort that it has is as likely. Raises ValueError when it has none."""
    if not image.instructions:
        raise ValueError(f"image {image.id} comes with no instruction: a grounding task needs data that have them (data=digits, data=lisa)")
    sort = rng.choice(sorted({i.sort for i in image.instructions}))
    alike = [i for i in image.instructions if i.sort == sort]
    return alike[int(rng.integers(len(alike)))]


def example(image: AnnotatedImage, instruction: Instruction, style: Style) -> Example:
    """The question where the object is that `instruction` means, with its box in the frame that the model speaks."""
    contract = style.contract(image.stored)
    (box,) = whole(xywh_to_xyxy([instruction.bbox_xywh]), of=Original(*image.stored.size), to=contract.frame)
    question = grounding_question(instruction.text, style.wording, contract)
    return Example(f"{image.id}/{instruction.text}", (image.stored,), instruction.text, question, GroundingTruth(box), contract)
