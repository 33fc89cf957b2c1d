"""An exam in grounding whose answers are scored as masks, too: those that SAM makes of the answered boxes."""

from functools import partial

import torch

from visual_rft.models import segmenter
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.task import Exam, TaskOptions


def segmenter_of(options: TaskOptions) -> str | None:
    """The SAM that a task names."""
    return options.segmenter if isinstance(options, GroundingOptions) else None


def with_masks(options: TaskOptions, exam: Exam, device: torch.device) -> Exam:
    """The same exam; where `task.segmenter` names a SAM, it is loaded on a device whenever answers are measured, and gone after it.

    Raises ValueError when it is none, or the data have no outlines.
    """
    path = segmenter_of(options)
    if path is None:
        return exam
    if exam.masks is None:
        raise ValueError(f"task.segmenter={path}: these data have no outlines to score masks by (data=lisa has); leave it out")
    segmenter.check(path)
    return exam.segmented(partial(segmenter.opened, path, device))
