"""Train a policy by GRPO and say how much better it became.

    python -m visual_rft.train                                                 the tiny model on the digit scenes, on any CPU
    python -m visual_rft.train task=cls_digits seed=1 hydra.run.dir=/some/where
    python -m visual_rft.train -m task=fsod_digits,cls_digits seed=0,1,2       a sweep: a folder a job, one table at the end

Evaluates, trains, evaluates again on the same unseen images. Everything is in the run folder; the table is on stdout.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.evaluation import Evaluation, evaluate, gallery
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import answer
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import TaskOptions
from visual_rft.tracking.console import Console, print_table, score_rows, sweep_row
from visual_rft.tracking.loggers import SCHEMAS, Logger, LoggerOptions, open_logger
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder, environment, rollout_records
from visual_rft.trainer import AlgorithmOptions, Step, Trainer


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
    data: DataOptions = MISSING
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
    task = workload.task(c.task, c.rewards)
    examples, questions = workload.train_examples(c.task, c.data), workload.test_questions(c.task, c.data)
    device = hardware.prepare(c.hardware, c.seed)
    policy, processor = loading.load(c.model, device)
    reference = copy.deepcopy(policy).requires_grad_(False) if c.algorithm.kl.coefficient else None
    trainer = Trainer(policy, reference, processor, task, c.algorithm, c.hardware)
    trainer.check_rollout(examples[:2], c.seed)
    folder = RunFolder.create(job.folder)
    folder.write_config(job.yaml)
    folder.write_environment(environment(str(device), {"train": fingerprint(examples), "test": fingerprint(questions)}))
    logger = open_logger(c.logger, folder=folder.path, name=f"{c.task.name} seed {c.seed}", config=job.plain)

    with Console(c.steps) as console:

        def test(name: str) -> Evaluation:
            with console.stage(f"evaluate {name}", len(questions)) as advance:
                tokens, batch = c.algorithm.max_completion_tokens, c.hardware.evaluation_batch
                evaluation = evaluate(task, questions, answer(policy, processor, questions, max_tokens=tokens, batch=batch), advance)
            folder.write_answers(name, questions, evaluation.texts)
            return evaluation

        log = Log(folder, logger, console)
        before = test("before")
        log.metrics(0, before.metrics())
        console.final_seconds = before.seconds
        steps = trainer.run(examples, steps=c.steps, prompts_per_step=c.prompts_per_step, learning_rate=c.model.learning_rate, seed=c.seed)
        for step in steps:
            log.rollouts(step)
            if step.number == c.steps or (c.checkpoint.every and step.number % c.checkpoint.every == 0):
                loading.save(policy, processor, folder.checkpoints / f"step_{step.number:06d}")
            if step.number < c.steps:
                log.metrics(step.number, step.metrics)
        after = test("after")
        log.metrics(c.steps, step.metrics | after.metrics())

    summary = {"task": c.task.name, "model": c.model.name, "metric": before.metric, "before": before.value, "after": after.value}
    summary |= {"evaluation_before": before.plain(), "evaluation_after": after.plain(), "questions": len(questions)}
    summary |= {"steps": c.steps, "seed": c.seed, "seconds": round(time.perf_counter() - started, 1)}
    pictures = gallery(questions, {"before": before, "after": after}, c.logger.report_images)
    folder.write_summary(summary)
    write_report(folder.path / "report.html", Report.of(folder.path, summary, pictures))
    logger.log_gallery(c.steps, pictures)
    logger.finish(summary)


@dataclass(frozen=True)
class Log:
    """Where a run is written down: its folder, its logger and the console, all told the same."""

    folder: RunFolder
    logger: Logger
    console: Console

    def rollouts(self, step: Step) -> None:
        """What a step sampled; and why its update was skipped, if it was."""
        records = rollout_records(step.number, step.groups, step.rewards_PG, step.totals_PG, step.advantages_PG)
        self.folder.log_rollouts(step.number, records)
        self.logger.log_rollouts(step.number, records)
        if step.skipped:
            saved = self.folder.save_skipped(step.number, step.groups, step.advantages_PG)
            self.console.say(f"step {step.number} skipped, the weights stay as they were: {step.skipped}; its batch is in {saved}")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step's numbers; step 0 is the base model."""
        self.folder.log_metrics(step, metrics)
        self.logger.log_metrics(step, metrics)
        self.console.step(step, metrics)


def conclude(folders: Sequence[Path]) -> None:
    """The table on stdout: before and after of one run, or a line a job of a sweep."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    if len(folders) == 1:
        (summary,) = summaries
        print(f"{summary['task']}, {summary['model']}, {summary['questions']} questions about unseen images")
        print_table(("", "before", "after", "change"), score_rows(summary))
    else:
        print_table(("job", "metric", "before", "after", "change", "seconds"), [sweep_row(*pair) for pair in zip(folders, summaries, strict=True)])
    print(f"run folder{'s' if len(folders) > 1 else ''}: {os.path.commonpath(folders)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(TrainConfig, "train", run, argv, schemas=workload.SCHEMAS | SCHEMAS, conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
