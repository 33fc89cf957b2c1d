"""Tune a policy on the labels themselves: the supervised baseline of GRPO, on the same images, questions and steps, with the same evaluation.

    python -m visual_rft.sft                                       the tiny model on the digit scenes, with a short reasoning made from the label
    python -m visual_rft.sft task=cls_digits reasoning=none        the answer alone, asked so in training and evaluation
    python -m visual_rft.sft experiment=…                          an experiment of GRPO with labels in place of rewards

Evaluates, trains, evaluates again on the same unseen images. Everything is in the run folder; the table is on stdout.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from visual_rft import hardware, policies, running, workload
from visual_rft.algorithm import SupervisedOptions
from visual_rft.config import Job, start
from visual_rft.rewards.options import RewardOptions
from visual_rft.running import RunConfig, conclude
from visual_rft.supervised import Tutor
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.labels import Reasoning, label
from visual_rft.tasks.meant import GRPO, UNREAD
from visual_rft.tasks.task import Task
from visual_rft.tracking.loggers import SCHEMAS
from visual_rft.vocabulary import Example


@dataclass
class SftOptions(SupervisedOptions):
    """The mathematics, and beside it what an experiment of GRPO says of its own."""

    group_size: Any = field(default=None, metadata=UNREAD)
    temperature: Any = field(default=None, metadata=UNREAD)
    top_p: Any = field(default=None, metadata=UNREAD)
    updates_per_batch: Any = field(default=None, metadata=UNREAD)
    advantage: Any = field(default=None, metadata=UNREAD)
    clip_low: Any = field(default=None, metadata=UNREAD)
    clip_high: Any = field(default=None, metadata=UNREAD)
    kl: Any = field(default=None, metadata=UNREAD)


@dataclass
class SftConfig(RunConfig):
    """The whole configuration of a supervised run. `reasoning` says what stands in the labels before the answer, `confidence` what they say of each
    box of a detection."""

    unread_keys: ClassVar = GRPO
    algorithm: SftOptions = MISSING
    rewards: Any = field(default=None, metadata=UNREAD)
    reasoning: Reasoning = MISSING
    confidence: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence={self.confidence}: must lie in 0..1")
        if self.task.thinking is not (self.reasoning is not Reasoning.none):
            asked = str(self.task.thinking).lower()
            raise ValueError(f"task.thinking={asked}: reasoning={self.reasoning} says whether it is asked for; leave task.thinking out")


def run(job: Job[SftConfig]) -> Path:
    """One supervised run, from a checked configuration to a finished run folder, which it returns."""
    c = job.config
    if "confidence" in job.typed and not isinstance(c.task, DetectionOptions):
        raise ValueError(f"confidence: labels of {c.task.name} say nothing of it; leave it out")
    return running.run(job, partial(begin, job, workload.task(c.task, RewardOptions())))


def begin(job: Job[SftConfig], task: Task, examples: Sequence[Example]) -> Tutor:
    """The model, ready to learn the labels. Raises ValueError when an example has none."""
    c, world = job.config, job.world
    labels = {example.id: label(example, c.reasoning, c.confidence) for example in examples}
    models = policies.load(c.model, c.hardware, hardware.prepare(c.hardware, c.seed, world), world, with_reference=False)
    tutor = Tutor(models, task, c.algorithm, c.hardware, labels, world)
    most = c.algorithm.max_completion_tokens
    cut = sum(len(one.tokens_T) > most for one in tutor.labels.values())
    if cut and world.is_first:
        print(f"algorithm.max_completion_tokens={most}: {cut} of {len(labels)} labels are longer, and the test cuts such answers", file=sys.stderr)
    return tutor


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(SftConfig, "sft", run, argv, schemas=workload.SCHEMAS | SCHEMAS, conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
