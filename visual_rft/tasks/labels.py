"""What supervised tuning teaches: the right answer to a question as a completion, with a reasoning before it or without."""

from dataclasses import replace
from enum import StrEnum

from visual_rft.boxes import whole
from visual_rft.frames import NORM1000
from visual_rft.tasks.wording import completion, detection_answer, solution, thinking
from visual_rft.vocabulary import ClassTruth, Detection, DetectionTruth, Example


class Reasoning(StrEnum):
    """What stands in a label before the answer."""

    none = "none"  # nothing: the answer alone
    label = "label"  # a short text made from the answer
    data = "data"  # what the row's own solution holds in <think> </think>


def label(example: Example, reasoning: Reasoning, confidence: float) -> str:
    """The completion to learn: boxes from left to right, each as sure as the others. Raises ValueError when the data hold no reasoning."""
    truth = example.truth
    if not isinstance(truth, DetectionTruth):
        return completion(_thought(example, reasoning), solution(truth, tagged=False))
    boxes = tuple(sorted(truth.boxes))
    thought = _thought(replace(example, truth=DetectionTruth(boxes)), reasoning)
    return completion(thought, detection_answer([Detection(box, confidence) for box in boxes]))


def _thought(example: Example, reasoning: Reasoning) -> str | None:
    match reasoning:
        case Reasoning.none:
            return None
        case Reasoning.data:
            if not example.reasoning:
                remedy = "give rows whose solutions are <think>…</think><answer>…</answer> (data=rows), or reasoning=label"
                raise ValueError(f"reasoning=data: training example {example.id} has none (rows count from 0); {remedy}")
            return example.reasoning
        case Reasoning.label:
            return _made(example)


def _made(example: Example) -> str:
    """What is seen, and roughly where, as the embedded base model is taught to say it."""
    if isinstance(example.truth, ClassTruth):
        return f"{example.truth.name}."
    boxes = example.truth.boxes
    return thinking(example.subject.replace("_", " "), whole(boxes, of=example.contract.frame, to=NORM1000) if boxes else ())
