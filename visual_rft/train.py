"""Train a policy by GRPO and say how much better it became.

    python -m visual_rft.train                                                 the tiny model on the digit scenes, on any CPU
    python -m visual_rft.train seed=1 steps=5 hydra.run.dir=/some/where
    python -m visual_rft.train -m seed=0,1 steps=2                             a sweep, one folder a job

Evaluates, trains, evaluates again on the same unseen images. Everything is in the run folder; the table is on stdout.
"""

import copy
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING

from visual_rft import hardware
from visual_rft.config import Job, start
from visual_rft.evaluation import Evaluation, evaluate, gallery, summary_scores, table
from visual_rft.hardware import HardwareOptions
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.rewards.options import RewardOptions
from visual_rft.tracking.console import Console, results_table
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder, environment, rollout_records
from visual_rft.trainer import AlgorithmOptions, Step, Trainer
from visual_rft.workload import TaskOptions, Workload, build

CURVES = (
    "reward/mean",
    "reward/iou",
    "reward/confidence",
    "reward/format",
    "loss/kl",
    "policy/entropy",
    "policy/grad_norm",
    "completion/length_mean",
)


@dataclass
class LoggerOptions:
    """`report_images` test questions are drawn in the report."""

    report_images: int

    def __post_init__(self) -> None:
        if self.report_images < 0:
            raise ValueError(f"logger.report_images={self.report_images}: must be 0 or a number of images")


@dataclass
class CheckpointOptions:
    """Weights are saved every `every` steps (0: never) and at the end."""

    every: int

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every={self.every}: must be 0 (only at the end) or a number of steps")


@dataclass
class TrainConfig:
    """The whole configuration of a training run. Each part goes to the room that declares it; nothing below sees it whole."""

    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    algorithm: AlgorithmOptions = MISSING
    rewards: RewardOptions = MISSING
    hardware: HardwareOptions = MISSING
    logger: LoggerOptions = MISSING
    checkpoint: CheckpointOptions = MISSING
    seed: int = MISSING
    steps: int = MISSING
    prompts_per_step: int = MISSING

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: must lie in 0..2147483647")


def run(job: Job[TrainConfig]) -> None:
    """One training run, from a checked configuration to a finished run folder."""
    c, started = job.config, time.perf_counter()
    device = hardware.prepare(c.hardware, c.seed)
    workload = build(c.task, c.rewards)
    policy, processor = loading.load(c.model, device)
    reference = copy.deepcopy(policy).requires_grad_(False) if c.algorithm.kl.coefficient else None
    trainer = Trainer(policy, reference, processor, workload.task, c.algorithm, c.hardware)
    trainer.check_rollout(workload.train[:2], c.seed)
    folder = RunFolder.create(job.folder)
    folder.write_config(job.yaml)
    folder.write_environment(environment(str(device), workload.fingerprints()))

    with Console(c.steps) as console:

        def test(name: str) -> Evaluation:
            with console.stage(name, len(workload.test)) as advance:
                tokens, batch = c.algorithm.max_completion_tokens, c.hardware.evaluation_batch
                return evaluate(policy, processor, workload, max_tokens=tokens, batch=batch, advance=advance)

        before = test("evaluate before")
        console.final_seconds = before.seconds
        steps = trainer.run(workload.train, steps=c.steps, prompts_per_step=c.prompts_per_step, learning_rate=c.model.learning_rate, seed=c.seed)
        for step in steps:
            record(folder, console, step)
            if step.number == c.steps or (c.checkpoint.every and step.number % c.checkpoint.every == 0):
                loading.save(policy, processor, folder.checkpoints / f"step_{step.number:06d}")
        after = test("evaluate after")

    conclude(folder, job, workload, before, after, time.perf_counter() - started)


def record(folder: RunFolder, console: Console, step: Step) -> None:
    """One step's line in every log."""
    folder.log_metrics(step.number, step.metrics)
    folder.log_rollouts(step.number, rollout_records(step.number, step.groups, step.rewards_PG, step.totals_PG, step.advantages_PG))
    console.step(step.number, step.metrics)


def conclude(folder: RunFolder, job: Job[TrainConfig], workload: Workload, before: Evaluation, after: Evaluation, seconds: float) -> None:
    """The summary, the report, and the table on stdout."""
    c = job.config
    summary = {"task": c.task.name, "model": c.model.name, **summary_scores(before, after), "present": str(c.task.present)}
    summary |= {"steps": c.steps, "seed": c.seed, "seconds": round(seconds, 1)}
    rows = table(before, after)
    shown = gallery(workload.test, before, after, c.logger.report_images)
    report = Report(summary, job.yaml, rows, _lines(folder, "metrics.jsonl"), CURVES, shown, _lines(folder, "rollouts.jsonl"))
    write_report(folder.path / "report.html", report)
    folder.write_summary(summary)
    print(f"{c.task.name}, {c.model.name}, {len(workload.test)} questions about unseen images (present={c.task.present})")
    results_table(rows)
    print(f"run folder: {folder.path}")


def _lines(folder: RunFolder, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(TrainConfig, "train", run, argv)


if __name__ == "__main__":
    sys.exit(main())
