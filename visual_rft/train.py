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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.config import Job, start
from visual_rft.evaluation import Evaluation, evaluate, gallery, judge, outcome
from visual_rft.hardware import HardwareOptions, Machine
from visual_rft.inference import answer
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.resuming import STATE, Resume, find_run, hold, is_finished, newest_state
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources import predictions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import Task, TaskOptions
from visual_rft.tracking.console import Console, print_table, score_rows, sweep_row
from visual_rft.tracking.loggers import SCHEMAS, Logger, LoggerOptions, open_logger
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder, environment, rollout_records
from visual_rft.trainer import Step, Trainer
from visual_rft.vocabulary import Example


@dataclass
class CheckpointOptions:
    """Weights, and what a run needs to go on from them, are saved every `every` steps (0: never); the weights alone at the end."""

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
    resume: Resume = MISSING
    seed: int = MISSING
    steps: int = MISSING
    prompts_per_step: int = MISSING

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: must lie in 0..2147483647")


def run(job: Job[TrainConfig]) -> Path:
    """One training run, from a checked configuration to a finished run folder, which it returns."""
    c, started = job.config, time.perf_counter()
    interrupted = find_run(job.folder, job.yaml) if c.resume is Resume.auto else None
    if interrupted and is_finished(interrupted):
        print(f"{interrupted}: this run has finished; nothing is left to do", file=sys.stderr)
        return _instead(job.folder, interrupted)
    task = workload.task(c.task, c.rewards)
    examples, questions = workload.train_examples(c.task, c.data), workload.test_questions(c.task, c.data)
    machine = hardware.prepare(c.hardware, c.seed)
    trainer = make_trainer(task, c.model, c.algorithm, c.hardware, machine)
    trainer.check_rollout(examples[:2], c.seed)
    if interrupted:
        folder = RunFolder(_instead(job.folder, interrupted))
        started -= go_on(trainer, folder, c.model, machine)
    else:
        folder = begin(job, environment(str(trainer.policy.device), {"train": fingerprint(examples), "test": fingerprint(questions)}))
    logger = open_logger(c.logger, folder=folder.path, name=f"{c.task.name} seed {c.seed}", config=job.plain)

    with hold(folder.path), Console(c.steps) as console:
        log = Log(folder, logger, console)
        before = recall(task, questions, folder) if trainer.progress.steps else examine(trainer, questions, log, "before")
        if not trainer.progress.steps:
            log.metrics(0, before.metrics())
        console.final_seconds = before.seconds
        for step in trainer.run(examples, steps=c.steps, prompts_per_step=c.prompts_per_step, learning_rate=c.model.learning_rate, seed=c.seed):
            log.rollouts(step)
            if step.fatal:
                log.metrics(step.number, step.metrics)
                raise ValueError(step.fatal)
            checkpoint = folder.checkpoints / f"step_{step.number:06d}"
            if step.number == c.steps:
                loading.save(trainer.policy, trainer.processor, checkpoint)
                after = examine(trainer, questions, log, "after")
                log.metrics(step.number, step.metrics | after.metrics())
            else:
                log.metrics(step.number, step.metrics)
                if c.checkpoint.every and step.number % c.checkpoint.every == 0:
                    loading.save(trainer.policy, trainer.processor, checkpoint, trainer=trainer.state())

    cost = {"steps": c.steps, "seed": c.seed, "seconds": round(time.perf_counter() - started, 1)}
    summary = {"task": c.task.name, "model": c.model.name} | outcome(before, after) | {"questions": len(questions)} | cost
    pictures = gallery(questions, {"before": before, "after": after}, c.logger.report_images)
    folder.write_summary(summary)
    write_report(folder.path / "report.html", Report.of(folder.path, summary, pictures))
    logger.log_gallery(c.steps, pictures)
    logger.finish(summary)
    return folder.path


def begin(job: Job[TrainConfig], machine: Mapping[str, Any]) -> RunFolder:
    """A new run folder that says what the run is and where it is made."""
    folder = RunFolder.create(job.folder)
    folder.write_config(job.yaml)
    folder.write_environment(machine)
    return folder


def make_trainer(task: Task, model: ModelOptions, algorithm: AlgorithmOptions, options: HardwareOptions, machine: Machine) -> Trainer:
    """The policy, a frozen copy of it as reference unless β is 0, and what trains it."""
    policy, processor = loading.load(model, machine)
    reference = copy.deepcopy(policy).requires_grad_(False) if algorithm.kl.coefficient else None
    return Trainer(policy, reference, processor, task, algorithm, options)


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
            self.console.say(f"step {step.number}: the update is skipped, since {step.skipped}; its batch is in {saved}")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step's numbers; step 0 is the base model."""
        self.folder.log_metrics(step, metrics)
        self.logger.log_metrics(step, metrics)
        self.console.step(step, metrics)


def examine(trainer: Trainer, questions: Sequence[Example], log: Log, name: str) -> Evaluation:
    """Asks the policy, as it is now, every test question."""
    tokens, together, workers = trainer.algorithm.max_completion_tokens, trainer.hardware.decoded_together, trainer.hardware.workers
    with log.console.stage(f"evaluate {name}", len(questions)) as advance:
        answers = answer(trainer.policy, trainer.processor, questions, max_tokens=tokens, together=together, workers=workers)
        evaluation = evaluate(trainer.task, questions, answers, advance)
    log.folder.write_answers(name, questions, evaluation.texts)
    return evaluation


def recall(task: Task, questions: Sequence[Example], folder: RunFolder) -> Evaluation:
    """The evaluation of the base model that an interrupted run has made already."""
    started, file = time.perf_counter(), str(folder.path / "answers_before.jsonl")
    return judge(task, questions, predictions.completions(file, read_text(file), questions), started)


def go_on(trainer: Trainer, folder: RunFolder, model: ModelOptions, machine: Machine) -> float:
    """Puts policy, optimizer and logs back to where the newest checkpoint was saved; to the beginning where there is none. Returns the seconds that
    the steps before it took."""
    checkpoint = newest_state(folder.path)
    if checkpoint:
        try:
            saved, _ = loading.load(replace(model, path=str(checkpoint)), machine)
            trainer.policy.load_state_dict(saved.state_dict())
            trainer.load_state(torch.load(checkpoint / STATE, weights_only=True))
        except (OSError, EOFError, RuntimeError, UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{checkpoint}: damaged; delete it to go on from the one before it") from error
    folder.rewind(trainer.progress.steps if checkpoint else -1)
    print(f"{folder.path}: goes on after step {trainer.progress.steps}", file=sys.stderr)
    return folder.seconds()


def _instead(made: Path, folder: Path) -> Path:
    """`folder`, and without the empty one that Hydra made for this job."""
    if made not in (folder, Path.cwd()):
        with suppress(OSError):  # something is in it, so it is the user's
            made.rmdir()
    return folder


def conclude(folders: Sequence[Path], sweep: bool) -> None:
    """The table on stdout: before and after of one run, or a line for each job of a sweep that succeeded."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    if not sweep:
        (summary,) = summaries
        print(f"{summary['task']}, {summary['model']}, {summary['questions']} questions about unseen images")
        print_table(("", "before", "after", "change"), score_rows(summary))
    else:
        print_table(("job", "metric", "before", "after", "change", "seconds"), [sweep_row(*pair) for pair in zip(folders, summaries, strict=True)])
    print(f"run folder{'s' if sweep else ''}: {os.path.commonpath([folder.parent for folder in folders] if sweep else folders)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(TrainConfig, "train", run, argv, schemas=workload.SCHEMAS | SCHEMAS, conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
