"""A training run from its beginning to its end, whatever it learns by: evaluates, trains, evaluates again on the same unseen images, in one folder.

    finished? ─ data ─ model ─▶ evaluate ─▶ steps, saved so that they can be gone on from ─▶ evaluate ─▶ report, summary

What it learns by is a `Loop` that the entry makes.
"""

import hashlib
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
from typing import Any, ClassVar, TypeVar

from omegaconf import MISSING
from safetensors import SafetensorError
from torch import Tensor

from visual_rft import storage, workload
from visual_rft.checkpoint import CheckpointOptions, Checkpoints, check_room, newest, note
from visual_rft.config import Job
from visual_rft.distributed import Preempted, interruptible
from visual_rft.evaluation import Evaluation, evaluate, gallery, judge, outcome, until
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import answer
from visual_rft.journal import Draft, Journal, Watch, Written
from visual_rft.loop import Loop, Step
from visual_rft.masking import with_masks
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.resuming import Resume, find_run, hold, instead, is_finished
from visual_rft.revisiting import kinds
from visual_rft.sources import predictions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import Exam, TaskOptions, check_split
from visual_rft.tracking.console import Console, print_table, score_rows, sweep_row
from visual_rft.tracking.loggers import LoggerOptions, Shown, open_logger
from visual_rft.tracking.runfolder import KeptAnswers, RunFolder, environment
from visual_rft.vocabulary import Example

Begin = Callable[[Sequence[Example]], Loop]  # from the training examples: loads the models


@dataclass
class RunConfig:
    """What every training run is made of. Each part goes to the room that declares it; nothing below sees it whole."""

    in_ranks: ClassVar = True
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    data: DataOptions = MISSING
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


Config = TypeVar("Config", bound=RunConfig)


def run(job: Job[Config], begin: Begin) -> Path:
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
        return _train(job, begin, interrupted, held)


def _hold(folder: Path, held: ExitStack) -> None:
    held.enter_context(hold(folder))


def _train(job: Job[Config], begin: Begin, interrupted: Path | None, held: ExitStack) -> Path:
    c, world, started = job.config, job.world, time.perf_counter()
    examples, exam = _given(job)
    trainer = begin(examples)
    facts = _facts(job.command, trainer, examples, exam) | {"kinds": kinds(c.task, c.data)}
    saved = trainer.tensors() if c.checkpoint.every else trainer.models.whole_weights()
    world.first(lambda: check_room((interrupted or job.folder) / "checkpoints", c.checkpoint, saved))
    folder = RunFolder(instead(job.folder, interrupted)) if interrupted else world.first(lambda: _create(job, facts, held))
    points = Points(trainer, folder, c.checkpoint, loading.beside_weights(c.model.path))
    if interrupted:
        started -= go_on(trainer, folder, facts)
    world.first(lambda: _write(folder, {"split": workload.split(c.task, examples)} | trainer.documents()))

    with told(job, folder, trainer.method) as journal, interruptible() as is_asked_to_stop:
        if trainer.progress.steps:
            before = recall(trainer, exam, folder)
            journal.goes_on(trainer.progress.steps, before.metrics())
        else:
            before = examine(trainer, exam, folder, journal, "before", is_asked_to_stop)
            journal.metrics(0, before.metrics())
        known = {"task": c.task.name, "model": c.model.name, "method": trainer.method, "steps": c.steps, "seed": c.seed}
        journal.begin(known, exam.questions, before, c.logger.report_images, examples)
        for step in trainer.run(examples, steps=c.steps, prompts_per_step=c.prompts_per_step, learning_rate=c.model.learning_rate, seed=c.seed):
            journal.rollouts(step)
            if step.number < c.steps or step.fatal:
                journal.metrics(step.number, step.metrics)
                points.after(step, journal, stop=world.any(is_asked_to_stop()))
        points.at_the_end(step)
        after = examine(trainer, exam.knowing(before.screened), folder, journal, "after")
        journal.metrics(c.steps, step.metrics | after.metrics())
        points.checkpoints.settle(wait=True)
        seconds = round(time.perf_counter() - started, 1)
        summary = known | outcome(exam.questions, before, after) | {"questions": len(exam.questions), "seconds": seconds}
        journal.end(c.steps, summary, gallery(exam.questions, {"before": before, "after": after}, c.logger.report_images), examples)
    return folder.path


def _given(job: Job[Config]) -> tuple[list[Example], Exam]:
    """What is trained on, and what is tested with."""
    c, world = job.config, job.world
    check_split(c.task, job.typed)
    found = world.each(lambda: (workload.training_data(c.data, c.task.split_seed), workload.test_data(c.data)))
    speaks = world.each(lambda: loading.speaks(c.model))  # not before: a model may have to be downloaded
    examples, exam = world.each(lambda: (workload.examples_of(c.task, found[0], speaks), workload.exam_of(c.task, found[1], speaks)))
    return examples, world.each(lambda: with_masks(c.task, exam, c.hardware, world))


def _facts(command: str, trainer: Loop, examples: Sequence[Example], exam: Exam) -> dict[str, Any]:
    """The environment, with the fingerprints of all that is learned from and asked."""
    data = {"train": fingerprint(examples), "test": fingerprint(exam.questions)}
    data |= {name: hashlib.sha256(json.dumps(document).encode()).hexdigest() for name, document in trainer.documents().items()}
    return environment(str(trainer.speaker.device), data, command)


def _write(folder: RunFolder, documents: Mapping[str, Any]) -> None:
    for name, document in documents.items():
        folder.write_json(f"{name}.json", document)


def _create(job: Job[Config], facts: Mapping[str, Any], held: ExitStack) -> RunFolder:
    folder = RunFolder.create(job.folder, job.yaml, facts)
    _hold(folder.path, held)
    return folder


class Points:
    """The points of a run that it can go on from, scored by the mean of the steps since the one before; and its weights, at the end."""

    def __init__(self, trainer: Loop, folder: RunFolder, options: CheckpointOptions, files: Mapping[str, bytes]) -> None:
        self.trainer, self.folder, self.every = trainer, folder, options.every
        self.scores: list[float] = []
        self.checkpoints = Checkpoints(folder.checkpoints, options, trainer.world, files)

    def after(self, step: Step, journal: Journal, *, stop: bool) -> None:
        """Saves where it is time. Raises ValueError after a fatal step, and Preempted, with the run saved, where it shall stop."""
        if step.fatal:
            raise ValueError(step.fatal)
        if stop or (self.every and step.number % self.every == 0):
            self._save(step, self.trainer.tensors(), {"trainer": self.trainer.note()})
        else:
            self.scores.append(step.score)
        journal.say(self.checkpoints.settle(wait=stop))
        if stop:
            raise Preempted(f"{self.folder.path}: stopped by a signal after step {step.number}; the same command with resume=auto goes on")

    def at_the_end(self, step: Step) -> None:
        """Begins to save the weights alone."""
        self._save(step, self.trainer.models.whole_weights(), {})

    def _save(self, step: Step, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        self.checkpoints.save(step.number, tensors, note, fmean([*self.scores, step.score]))
        self.scores = []


@contextmanager
def told(job: Job[Config], folder: RunFolder, method: str) -> Iterator[Journal]:
    """The journal of this rank, while the run goes on."""
    if not job.world.is_first:
        yield Journal()
        return
    c = job.config
    name = job.folder.name if job.sweep else f"{c.task.name} {method} seed {c.seed}"  # the folder of a job says what it was told
    shown = Shown(name, method, job.sweep, job.plain | {"environment": folder.environment()})
    logger = open_logger(c.logger, folder=folder.path, shown=shown)
    with Console(c.steps) as console:
        yield Written(folder, logger, console, Watch(folder.metrics()), Draft(folder))


def examine(
    trainer: Loop, exam: Exam, folder: RunFolder, journal: Journal, name: str, is_asked_to_stop: Callable[[], bool] = lambda: False
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


def recall(trainer: Loop, exam: Exam, folder: RunFolder) -> Evaluation:
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


def go_on(trainer: Loop, folder: RunFolder, facts: Mapping[str, Any]) -> float:
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


def _read(checkpoint: Path, trainer: Loop) -> dict[str, int]:
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
