"""Say how good a model is on a task, or how good predictions are that were made elsewhere.

    python -m visual_rft.evaluate task=fsod_digits model.path=outputs/…/checkpoints/step_000060
    python -m visual_rft.evaluate task=fsod_digits run=outputs/…                   the newest checkpoint of a run
    python -m visual_rft.evaluate task=fsod_digits predictions=answers_after.jsonl
    python -m visual_rft.evaluate task=fsod_digits task.present=all predictions=coco_results.json

The questions are those that training asks before and after. Everything is in a folder of its own; the table is on stdout.
`sources/predictions.py` says what a file of predictions may hold.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.distributed import World
from visual_rft.evaluation import Evaluation, evaluate, gallery
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import answer
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.policies import of_run
from visual_rft.rewards.options import RewardOptions
from visual_rft.rollout.options import DecodingOptions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.sources.predictions import are_coco_results, coco_results, completions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.meant import SHOTS, TRAINING, MeantFor
from visual_rft.tasks.task import Task, TaskOptions
from visual_rft.tracking.console import Console, print_table
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder, environment
from visual_rft.vocabulary import Answer, Example, Refusal


@dataclass
class EvaluateConfig(MeantFor):
    """Who answers: the model, or that of the newest checkpoint of the folder `run`, or the file `predictions`."""

    in_ranks: ClassVar = True
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    data: DataOptions = MISSING
    hardware: HardwareOptions = MISSING
    algorithm: DecodingOptions = MISSING
    unread_keys: ClassVar = (*SHOTS, "task.negatives", "task.iou_threshold", "data.train_images", *TRAINING)
    run: str | None = None
    predictions: str | None = None
    report_images: int = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        if self.run is not None and self.predictions is not None:
            raise ValueError("run and predictions: two to evaluate; give one of them")
        if self.report_images < 0:
            raise ValueError(f"report_images={self.report_images}: must be 0 or a positive number")


def run(job: Job[EvaluateConfig]) -> None:
    """One evaluation, from a checked configuration to a finished folder."""
    c, started = job.config, time.perf_counter()
    for key in job.typed:
        if ((c.run or c.predictions) and key.startswith("model")) or (c.predictions and key.startswith("hardware")):
            raise ValueError(f"{key}: not read with {'run' if c.run else 'predictions'}=…; leave it out")
    task, questions = workload.task(c.task, RewardOptions()), job.world.each(lambda: workload.test_questions(c.task, c.data))
    by = _by_model if c.predictions is None else _by_predictions
    folder, evaluation, source = by(job, task, questions)
    summary = {"task": c.task.name, **source, "metric": evaluation.metric, "value": evaluation.value, "evaluation": evaluation.plain()}
    summary |= {"questions": len(questions), "seconds": round(time.perf_counter() - started, 1)}
    if not job.world.is_first:
        return
    write_report(folder.path / "report.html", Report.of(folder.path, summary, gallery(questions, {"answer": evaluation}, c.report_images)))
    folder.write_summary(summary)


def _by_model(job: Job[EvaluateConfig], task: Task, questions: Sequence[Example]) -> tuple[RunFolder, Evaluation, dict[str, str]]:
    """The model's answers, worth what they are; the folder they are in; who gave them."""
    c, world = job.config, job.world
    model = c.model if c.run is None else model_of(Path(c.run).expanduser(), c.task.name, task_typed="task" in job.typed)
    policy, processor = world.each(lambda: loading.load(model, hardware.prepare(c.hardware, c.seed, world)))
    folder = _create(job, str(policy.device), {"test": fingerprint(questions)})
    with _progress(world, len(world.share(len(questions)))) as advance:
        tokens, together, workers = c.algorithm.max_completion_tokens, c.hardware.decoded_together, c.hardware.workers
        ask = partial(answer, policy, processor, max_tokens=tokens, together=together, workers=workers)
        evaluation = evaluate(task, questions, ask, advance, world)
    if world.is_first:
        folder.write_answers("evaluation", questions, evaluation.texts)
    return folder, evaluation, {"model": model.name, "path": model.path}


def _by_predictions(job: Job[EvaluateConfig], task: Task, questions: Sequence[Example]) -> tuple[RunFolder, Evaluation, dict[str, str]]:
    """The same of the answers in a file."""
    c, started = job.config, time.perf_counter()
    assert c.predictions is not None
    text = read_text(c.predictions)
    texts, answers = given(task, c.task, c.predictions, text, questions)
    evaluation = Evaluation(texts, answers, task.measure(questions, answers), time.perf_counter() - started)
    folder = _create(job, "cpu", {"test": fingerprint(questions), "predictions": hashlib.sha256(text.encode()).hexdigest()})
    if job.world.is_first and not are_coco_results(text):
        folder.write_answers("evaluation", questions, texts)
    return folder, evaluation, {"model": Path(c.predictions).name, "path": c.predictions}


@contextmanager
def _progress(world: World, questions: int) -> Iterator[Callable[[int], None]]:
    """On the first rank's console, through its own questions."""
    if not world.is_first:
        yield lambda _: None
        return
    with Console(0) as console, console.stage("evaluate", questions) as advance:
        yield advance


def _create(job: Job[EvaluateConfig], device: str, fingerprints: Mapping[str, str]) -> RunFolder:
    return job.world.first(lambda: RunFolder.create(job.folder, job.yaml, environment(device, fingerprints)))


def model_of(folder: Path, task: str, *, task_typed: bool) -> ModelOptions:
    """The model of a run at its newest checkpoint. Raises ValueError when there is none, or when the run was trained for another task than `task` and
    nobody asked for this one."""
    trained = of_run(folder)
    if trained.task != task and not task_typed:
        raise ValueError(f"run={folder}: it was trained for {trained.task}, and {task} is only the default; give task={trained.task}, or task={task}")
    return trained.model


def given(task: Task, options: TaskOptions, file: str, text: str, questions: Sequence[Example]) -> tuple[list[str], list[Answer | Refusal]]:
    """The predictions in `text`, read from `file`, for each question as text and as parsed. ValueError for what is not that, naming file and row."""
    if not are_coco_results(text):
        texts = completions(file, text, questions)
        return texts, [task.parse(one) for one in texts]
    if not isinstance(options, DetectionOptions):
        remedy = 'give lines of {"example": "…", "completion": "…"}'
        raise ValueError(f"predictions={file}: a list, as COCO results are, and {options.name} is no detection task; {remedy}")
    answers = coco_results(file, text, questions, options.categories)
    return [json.dumps(one.plain) for one in answers], list(answers)


def conclude(folders: Sequence[Path], sweep: bool) -> None:
    """The table on stdout: the scores of one evaluation, or a line for each job of a sweep that succeeded."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    if not sweep:
        (summary,) = summaries
        print(f"{summary['task']}, {summary['path']}, {summary['questions']} questions about unseen images")
        scores = {name: score for name, score in summary["evaluation"].items() if not isinstance(score, Mapping)}
        print_table(("", "score"), [(name, f"{score:.2f}") for name, score in scores.items()])
    else:
        rows = [(folder.name, one["metric"], f"{one['value']:.2f}") for folder, one in zip(folders, summaries, strict=True)]
        print_table(("job", "metric", "score"), rows)
    print(f"run folder{'s' if sweep else ''}: {os.path.commonpath([folder.parent for folder in folders] if sweep else folders)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(EvaluateConfig, "evaluate", run, argv, schemas=workload.SCHEMAS, conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
