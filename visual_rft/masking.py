"""An exam in grounding whose answers are scored as masks, too: those that SAM makes of the answered boxes."""

from functools import partial

from visual_rft.distributed import World
from visual_rft.hardware import HardwareOptions, device_of
from visual_rft.models import segmenter
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.task import Exam, TaskOptions


def segmenter_of(options: TaskOptions) -> str | None:
    """The SAM that a task names."""
    return options.segmenter if isinstance(options, GroundingOptions) else None


def with_masks(options: TaskOptions, exam: Exam, machine: HardwareOptions, world: World) -> Exam:
    """The same exam; where `task.segmenter` names a SAM, it is loaded whenever answers are measured, on the device of the rank that does, and gone
    after it.

    Raises ValueError when it is none, the data have no outlines, or the device is not there.
    """
    path = segmenter_of(options)
    if path is None:
        return exam
    if exam.masks is None:
        raise ValueError(f"task.segmenter={path}: these data have no outlines to score masks by (data=lisa has); leave it out")
    segmenter.check(path)
    return exam.segmented(partial(segmenter.opened, path, device_of(machine, world)))
