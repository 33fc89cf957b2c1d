"""Train a policy by GRPO and say how much better it became.

    python -m visual_rft.train                                                 the tiny model on the digit scenes, on any CPU
    python -m visual_rft.train task=cls_digits seed=1 hydra.run.dir=/some/where
    python -m visual_rft.train -m task=fsod_digits,cls_digits seed=0,1,2       a sweep: a folder a job, one table at the end

Evaluates, trains, evaluates again on the same unseen images. Everything is in the run folder; the table is on stdout.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from omegaconf import MISSING
from safetensors import SafetensorError
from torch import Tensor

from visual_rft import hardware, policies, storage, workload
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.checkpoint import CheckpointOptions, Checkpoints, check_room, newest, note
from visual_rft.config import Job, start
from visual_rft.distributed import Preempted, interruptible
from visual_rft.evaluation import Evaluation, evaluate, gallery, judge, outcome, until
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import answer
from visual_rft.journal import Journal, Written
from visual_rft.masking import with_masks
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.resuming import Resume, find_run, hold, instead, is_finished
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources import predictions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import Exam, TaskOptions, check_split
from visual_rft.tracking.console import Console, print_table, score_rows, sweep_row
from visual_rft.tracking.loggers import SCHEMAS, LoggerOptions, open_logger
from visual_rft.tracking.runfolder import KeptAnswers, RunFolder, environment
from visual_rft.trainer import Step, Trainer
from visual_rft.vocabulary import Example


@dataclass
class TrainConfig:
    """The whole configuration of a training run. Each part goes to the room that declares it; nothing below sees it whole."""

    in_ranks: ClassVar = True
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
        if self.hardware.offload_reference and not self.algorithm.kl.coefficient:
            raise ValueError("hardware.offload_reference=true: at algorithm.kl.coefficient=0 there is no reference; leave one of the two out")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: must lie in 0..2147483647")


def run(job: Job[TrainConfig]) -> Path:
    """One training run, from a checked configuration to a finished run folder, which it returns."""
    world = job.world
    interrupted = world.first(lambda: find_run(job.folder, job.yaml) if job.config.resume is Resume.auto else None)
    if interrupted and is_finished(interrupted):
        if world.is_first:
            print(f"{interrupted}: this run has finished; nothing is left to do", file=sys.stderr)
        return instead(job.folder, interrupted)
    with ExitStack() as held:  # the run's folder, on the first rank, until the run ends
        if interrupted:
            world.first(lambda: _hold(interrupted, held))
        return _train(job, interrupted, held)


def _hold(folder: Path, held: ExitStack) -> None:
    held.enter_context(hold(folder))


def _train(job: Job[TrainConfig], interrupted: Path | None, held: ExitStack) -> Path:
    c, world, started = job.config, job.world, time.perf_counter()
    check_split(c.task, job.typed)
    task = workload.task(c.task, c.rewards)
    found = world.each(lambda: (workload.training_data(c.data, c.task.split_seed), workload.test_data(c.data)))
    speaks = world.each(lambda: loading.speaks(c.model))  # not before: a model may have to be downloaded
    examples, exam = world.each(lambda: (workload.examples_of(c.task, found[0], speaks), workload.exam_of(c.task, found[1], speaks)))
    machine = hardware.prepare(c.hardware, c.seed, world)
    exam = world.each(lambda: with_masks(c.task, exam, c.hardware, world))
    models = policies.load(c.model, c.hardware, machine, world, with_reference=c.algorithm.kl.coefficient > 0)
    trainer = Trainer(models, task, c.algorithm, c.hardware, world)
    trainer.check_rollout(examples[:2], c.seed)
    facts = environment(str(models.speaker.device), {"train": fingerprint(examples), "test": fingerprint(exam.questions)})
    saved = trainer.tensors() if c.checkpoint.every else models.whole_weights()
    world.first(lambda: check_room((interrupted or job.folder) / "checkpoints", c.checkpoint, saved))
    folder = RunFolder(instead(job.folder, interrupted)) if interrupted else world.first(lambda: _create(job, facts, held))
    points = Points(trainer, folder, c.checkpoint, loading.beside_weights(c.model.path))
    if interrupted:
        started -= go_on(trainer, folder, facts)
    world.first(lambda: folder.write_json("split.json", workload.split(c.task, examples)))

    with told(job, folder) as journal, interruptible() as is_asked_to_stop:
        if trainer.progress.steps:
            before = recall(trainer, exam, folder)
        else:
            before = examine(trainer, exam, folder, journal, "before", is_asked_to_stop)
            journal.metrics(0, before.metrics())
        for step in trainer.run(examples, steps=c.steps, prompts_per_step=c.prompts_per_step, learning_rate=c.model.learning_rate, seed=c.seed):
            journal.rollouts(step)
            if step.number < c.steps or step.fatal:
                journal.metrics(step.number, step.metrics)
                points.after(step, journal, stop=world.any(is_asked_to_stop()))
        points.at_the_end(step)
        after = examine(trainer, exam.knowing(before.screened), folder, journal, "after")
        journal.metrics(c.steps, step.metrics | after.metrics())
        points.checkpoints.settle(wait=True)
        cost = {"steps": c.steps, "seed": c.seed, "seconds": round(time.perf_counter() - started, 1)}
        summary = {"task": c.task.name, "model": c.model.name} | outcome(before, after) | {"questions": len(exam.questions)} | cost
        journal.end(c.steps, summary, gallery(exam.questions, {"before": before, "after": after}, c.logger.report_images))
    return folder.path


def _create(job: Job[TrainConfig], facts: Mapping[str, Any], held: ExitStack) -> RunFolder:
    folder = RunFolder.create(job.folder, job.yaml, facts)
    _hold(folder.path, held)
    return folder


class Points:
    """The points of a run that it can go on from, scored by the mean reward since the one before; and its weights, at the end."""

    def __init__(self, trainer: Trainer, folder: RunFolder, options: CheckpointOptions, files: Mapping[str, bytes]) -> None:
        self.trainer, self.folder, self.every = trainer, folder, options.every
        self.rewards: list[float] = []
        self.checkpoints = Checkpoints(folder.checkpoints, options, trainer.world, files)

    def after(self, step: Step, journal: Journal, *, stop: bool) -> None:
        """Saves where it is time. Raises ValueError after a fatal step, and Preempted, with the run saved, where it shall stop."""
        if step.fatal:
            raise ValueError(step.fatal)
        if stop or (self.every and step.number % self.every == 0):
            self._save(step, self.trainer.tensors(), {"trainer": self.trainer.note()})
        else:
            self.rewards.append(step.metrics["reward/mean"])
        journal.say(self.checkpoints.settle(wait=stop))
        if stop:
            raise Preempted(f"{self.folder.path}: stopped by a signal after step {step.number}; the same command with resume=auto goes on")

    def at_the_end(self, step: Step) -> None:
        """Begins to save the weights alone."""
        self._save(step, self.trainer.models.whole_weights(), {})

    def _save(self, step: Step, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        self.checkpoints.save(step.number, tensors, note, fmean([*self.rewards, step.metrics["reward/mean"]]))
        self.rewards = []


@contextmanager
def told(job: Job[TrainConfig], folder: RunFolder) -> Iterator[Journal]:
    """The journal of this rank, while the run goes on."""
    if not job.world.is_first:
        yield Journal()
        return
    c = job.config
    logger = open_logger(c.logger, folder=folder.path, name=f"{c.task.name} seed {c.seed}", config=job.plain)
    with Console(c.steps) as console:
        yield Written(folder, logger, console)


def examine(
    trainer: Trainer, exam: Exam, folder: RunFolder, journal: Journal, name: str, is_asked_to_stop: Callable[[], bool] = lambda: False
) -> Evaluation:
    """Asks the policy, as it is now, every test question. Raises Preempted on every rank when one of them is asked to stop; the answers so far are
    kept."""
    world = trainer.world
    tokens, together, workers = trainer.algorithm.max_completion_tokens, trainer.hardware.decoded_together, trainer.hardware.workers
    ask = partial(answer, trainer.speaker, trainer.processor, max_tokens=tokens, together=together, workers=workers)
    with journal.stage(f"evaluate {name}", len(world.share(exam.asked_at_most))) as advance:
        evaluation = evaluate(trainer.task, exam, until(is_asked_to_stop, ask), advance, KeptAnswers(folder, name, world.rank), world)
    journal.answers(name, exam.questions, evaluation)
    return evaluation


def recall(trainer: Trainer, exam: Exam, folder: RunFolder) -> Evaluation:
    """The evaluation of the base model that an interrupted run has made already."""
    started = time.perf_counter()

    def recorded(name: str, questions: Sequence[Example]) -> list[str]:
        file = str(folder.path / f"answers_{name}.jsonl")
        return predictions.completions(file, read_text(file), questions)

    def judged() -> Evaluation:
        first = exam.screening.questions if exam.screening else ()
        screened = {one.id: text for one, text in zip(first, recorded("presence", first) if first else (), strict=True)}
        return judge(trainer.task, exam, recorded("before", exam.questions), started, screened)

    return trainer.world.first(judged)


def go_on(trainer: Trainer, folder: RunFolder, facts: Mapping[str, Any]) -> float:
    """Puts policy, optimizer and logs back to where the newest checkpoint was saved; to the beginning where there is none. Returns the seconds that
    the steps before it took."""
    world = trainer.world
    checkpoint = world.first(lambda: newest(folder.checkpoints))
    if checkpoint:
        trainer.go_on(world.each(lambda: _read(checkpoint, trainer)))
    world.first(lambda: _rewind(folder, trainer.progress.steps if checkpoint else -1, facts))
    return folder.seconds()


def _rewind(folder: RunFolder, step: int, facts: Mapping[str, Any]) -> None:
    folder.same_data(facts)
    folder.rewind(step)
    print(f"{folder.path}: goes on after step {max(step, 0)}", file=sys.stderr)


def _read(checkpoint: Path, trainer: Trainer) -> dict[str, int]:
    try:
        storage.read(checkpoint, trainer.tensors())
        noted: dict[str, int] = note(checkpoint)["trainer"]
    except (OSError, RuntimeError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint}: damaged; delete it to go on from the one before it") from error
    return noted


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
