"""Train a policy by GRPO and say how much better it became.

    python -m visual_rft.train                                                 the tiny model on the digit scenes, on any CPU
    python -m visual_rft.train task=cls_digits seed=1 hydra.run.dir=/some/where
    python -m visual_rft.train -m task=fsod_digits,cls_digits seed=0,1,2       a sweep: a folder a job, one table at the end

Evaluates, trains, evaluates again on the same unseen images. Everything is in the run folder; the table is on stdout.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import MISSING

from visual_rft import hardware, policies, running, workload
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.config import Job, composed, start
from visual_rft.rewards.options import RewardOptions
from visual_rft.running import RunConfig, conclude
from visual_rft.tasks.task import Task
from visual_rft.tracking.loggers import SCHEMAS
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import Example


@dataclass
class TrainConfig(RunConfig):
    """The whole configuration of a run of GRPO."""

    algorithm: AlgorithmOptions = MISSING
    rewards: RewardOptions = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hardware.offload_reference and not self.algorithm.kl.coefficient:
            raise ValueError("hardware.offload_reference=true: at algorithm.kl.coefficient=0 there is no reference; leave one of the two out")


def run(job: Job[TrainConfig]) -> Path:
    """One run of GRPO, from a checked configuration to a finished run folder, which it returns."""
    return running.run(job, partial(begin, job, workload.task(job.config.task, job.config.rewards)))


def begin(job: Job[TrainConfig], task: Task, examples: Sequence[Example]) -> Trainer:
    """The models, ready to sample and to learn. Raises ValueError when rollout and trainer disagree."""
    c, world = job.config, job.world
    machine = hardware.prepare(c.hardware, c.seed, world)
    models = policies.load(c.model, c.hardware, machine, world, with_reference=c.algorithm.kl.coefficient > 0)
    trainer = Trainer(models, task, c.algorithm, c.hardware, world)
    trainer.check_rollout(examples[:2], c.seed)
    return trainer


def configured(*overrides: str) -> TrainConfig:
    """What `main` would run with these keys, for whoever wants the parts of a run one by one. Raises ValueError where `main` would refuse."""
    return composed(TrainConfig, "train", overrides, schemas=workload.SCHEMAS | SCHEMAS)


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(TrainConfig, "train", run, argv, schemas=workload.SCHEMAS | SCHEMAS, conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
