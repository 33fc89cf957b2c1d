"""Say how good a model is on a task, or how good predictions are that were made elsewhere.

    python -m visual_rft.evaluate task=fsod_digits model.path=outputs/…/checkpoints/step_000060
    python -m visual_rft.evaluate task=fsod_digits run=outputs/…                   the newest checkpoint of a run
    python -m visual_rft.evaluate experiment=table3_coco_2b                        the base model in a row of the paper (docs/reproduce.md)
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.distributed import World, interruptible
from visual_rft.evaluation import Evaluation, evaluate, gallery, judge, until
from visual_rft.frames import NORM1000, Frame, Original
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import answer
from visual_rft.masking import segmenter_of, with_masks
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.policies import of_run
from visual_rft.resuming import Resume, find_run, hold, instead, is_finished
from visual_rft.rewards.options import RewardOptions
from visual_rft.rollout.options import DecodingOptions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.sources.predictions import are_coco_results, as_coco, coco_results, completions
from visual_rft.tasks.detection import by_question
from visual_rft.tasks.meant import SHOTS, TRAINING, TRAINING_DATA, UNREAD, MeantFor
from visual_rft.tasks.task import Exam, Task, TaskOptions
from visual_rft.tracking.console import Console, print_table
from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import KeptAnswers, RunFolder, environment
from visual_rft.vocabulary import Answer, DetectionAnswer, Refusal

# The device and the fingerprints of what is read -> the folder of the evaluation.
Maker = Callable[[str, Mapping[str, str]], RunFolder]


@dataclass
class AnsweringOptions(DecodingOptions):
    """How the model answers, and beside it what an experiment says of training."""

    group_size: Any = field(default=None, metadata=UNREAD)


@dataclass
class EvaluateConfig(MeantFor):
    """Who answers: the model, or that of the newest checkpoint of the folder `run`, or the file `predictions`."""

    in_ranks: ClassVar = True
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    data: DataOptions = MISSING
    hardware: HardwareOptions = MISSING
    algorithm: AnsweringOptions = MISSING
    rewards: Any = field(default=None, metadata=UNREAD)
    unread_keys: ClassVar = (*SHOTS, "task.negatives", "task.iou_threshold", *TRAINING_DATA, *TRAINING, "algorithm.group_size")
    run: str | None = None
    predictions: str | None = None
    resume: Resume = MISSING
    report_images: int = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        if self.run is not None and self.predictions is not None:
            raise ValueError("run and predictions: two to evaluate; give one of them")
        if self.report_images < 0:
            raise ValueError(f"report_images={self.report_images}: must be 0 or a positive number")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the folder it is in, and who answered."""

    folder: RunFolder
    evaluation: Evaluation
    source: Mapping[str, str]


def run(job: Job[EvaluateConfig]) -> Path:
    """One evaluation, from a checked configuration to a finished folder, which it returns."""
    c, started, world = job.config, time.perf_counter(), job.world
    boxes = c.predictions is not None and are_coco_results(read_text(c.predictions))
    computes = c.predictions is None or segmenter_of(c.task) is not None
    for key in job.typed:
        if ((c.run or boxes) and key.startswith("model")) or (not computes and key.startswith("hardware")):
            raise ValueError(f"{key}: not read with {'run' if c.run else 'predictions'}=…; leave it out")
    interrupted = world.first(lambda: find_run(job.folder, job.yaml) if c.resume is Resume.auto else None)
    if interrupted and is_finished(interrupted):
        if world.is_first:
            print(f"{interrupted}: this evaluation has finished; nothing is left to do", file=sys.stderr)
        return instead(job.folder, interrupted)
    with ExitStack() as held:  # the folder, on the first rank, until the evaluation ends
        if interrupted:
            world.first(lambda: _hold(interrupted, held))
        task = workload.task(c.task, RewardOptions())
        model = c.model if c.run is None else model_of(Path(c.run).expanduser(), c.task, job.typed)
        found = world.each(lambda: workload.test_data(c.data))
        unsaid = c.predictions is not None and not any(key.startswith("model") for key in job.typed)
        speaks = _in_pixels if boxes else _in_thousandths if unsaid else world.each(lambda: loading.speaks(model))
        exam = world.each(lambda: workload.exam_of(c.task, found, speaks))
        exam = world.each(lambda: with_masks(c.task, exam, c.hardware, world))
        folder = partial(_folder, job, interrupted, held)
        done = _by_model(job, task, exam, model, folder) if c.predictions is None else _by_predictions(job, task, exam, folder)
        summary = {"task": c.task.name, **done.source, "metric": done.evaluation.metric, "value": done.evaluation.value}
        summary |= {"evaluation": done.evaluation.plain(), "questions": len(exam.questions), "seconds": round(time.perf_counter() - started, 1)}
        if world.is_first:
            pictures = _pictures(exam, done.evaluation, c.report_images, may_lack=c.predictions is not None)
            write_report(done.folder.path / "report.html", Report.of(done.folder.path, summary, pictures))
            done.folder.write_summary(summary)
    return done.folder.path


def _hold(folder: Path, held: ExitStack) -> None:
    held.enter_context(hold(folder))


def _pictures(exam: Exam, evaluation: Evaluation, count: int, *, may_lack: bool) -> list[Picture]:
    """For the report; none where images are not there and nothing else needs them."""
    try:
        return gallery(exam.questions, {"answer": evaluation}, count)
    except ValueError as error:
        if not may_lack:
            raise
        print(f"report.html shows no images: {error}", file=sys.stderr)
        return []


def _in_thousandths(_: tuple[int, int]) -> Frame:
    """What answers in a file count, unless it is said which model gave them."""
    return NORM1000


def _in_pixels(size: tuple[int, int]) -> Frame:
    """What boxes of COCO results are in, whoever found them; completions are in the frame of `model`."""
    return Original(*size)


def _by_model(job: Job[EvaluateConfig], task: Task, exam: Exam, model: ModelOptions, make: Maker) -> Evaluated:
    """The model's answers, worth what they are; the folder they are in; who gave them."""
    c, world = job.config, job.world
    policy, processor = world.each(lambda: loading.load(model, hardware.prepare(c.hardware, c.seed, world)))
    folder = make(str(policy.device), {"test": fingerprint(exam.questions), "model": model.path})  # a run may have gone on to another checkpoint
    with _progress(world, exam) as advance, interruptible() as is_asked_to_stop:
        tokens, together, workers = c.algorithm.max_completion_tokens, c.hardware.decoded_together, c.hardware.workers
        ask = partial(answer, policy, processor, max_tokens=tokens, together=together, workers=workers)
        evaluation = evaluate(task, exam, until(is_asked_to_stop, ask), advance, KeptAnswers(folder, "evaluation", world.rank), world)
    if world.is_first:
        _write(folder, exam, evaluation)
    return Evaluated(folder, evaluation, {"model": model.name, "path": model.path})


def _write(folder: RunFolder, exam: Exam, evaluation: Evaluation) -> None:
    """The answers, those to what was asked first among them, and their boxes as COCO results."""
    if exam.boxes:
        folder.write_json("coco_results.json", [as_coco(one, exam.boxes.category_ids) for one in exam.boxes.of(evaluation.answers)])
    if evaluation.screened:
        folder.write_answers("presence", evaluation.screened)
    said = {question.id: text for question, text in zip(exam.questions, evaluation.texts, strict=True)}
    folder.write_answers("evaluation", said, evaluation.worth)


def _by_predictions(job: Job[EvaluateConfig], task: Task, exam: Exam, make: Maker) -> Evaluated:
    """The same of the answers in a file."""
    c, started = job.config, time.perf_counter()
    assert c.predictions is not None
    text = read_text(c.predictions)
    boxes = are_coco_results(text)
    evaluation = _of_boxes(c, exam, text) if boxes else judge(task, exam, completions(c.predictions, text, exam.questions), started)
    facts = {"test": fingerprint(exam.questions, with_images=False), "predictions": hashlib.sha256(text.encode()).hexdigest()}
    folder = make("cpu", facts)
    if job.world.is_first and not boxes:
        _write(folder, exam, evaluation)
    return Evaluated(folder, evaluation, {"model": Path(c.predictions).name, "path": c.predictions})


def _of_boxes(c: EvaluateConfig, exam: Exam, text: str) -> Evaluation:
    """What COCO results are worth: all images and all tested categories count, whatever `task.present` says. For the report each question is answered
    by the boxes of its image and category."""
    started = time.perf_counter()
    assert c.predictions is not None
    if exam.boxes is None:
        remedy = 'give lines of {"example": "…", "completion": "…"}'
        raise ValueError(f"predictions={c.predictions}: a list, as COCO results are, and {c.task.name} is no detection task; {remedy}")
    found, others = coco_results(c.predictions, text, exam.boxes.images, exam.boxes.category_ids, exam.boxes.categories)
    if others:
        print(f"{c.predictions}: {others.total()} boxes of {len(others)} categories that {c.task.name} does not test do not count", file=sys.stderr)
    drawn = by_question(found)
    answers: list[Answer | Refusal] = [DetectionAnswer(tuple(drawn.get((q.asked_about.id, q.subject), ()))) for q in exam.questions]
    texts = [json.dumps(answer.plain) for answer in answers if not isinstance(answer, Refusal)]
    return Evaluation(texts, answers, exam.boxes.measure(found), time.perf_counter() - started)


@contextmanager
def _progress(world: World, exam: Exam) -> Iterator[Callable[[int], None]]:
    """On the first rank's console, through its own questions."""
    if not world.is_first:
        yield lambda _: None
        return
    with Console(0) as console, console.stage("evaluate", len(world.share(exam.asked_at_most))) as advance:
        yield advance


def _folder(job: Job[EvaluateConfig], interrupted: Path | None, held: ExitStack, device: str, fingerprints: Mapping[str, str]) -> RunFolder:
    """A new one, or that of the evaluation which was interrupted. Raises ValueError when its data were other ones."""
    facts = environment(device, fingerprints, job.command)
    if interrupted is None:
        return job.world.first(lambda: _create(job, facts, held))
    folder = RunFolder(instead(job.folder, interrupted))
    job.world.first(lambda: folder.same_data(facts))
    return folder


def _create(job: Job[EvaluateConfig], facts: Mapping[str, Any], held: ExitStack) -> RunFolder:
    folder = RunFolder.create(job.folder, job.yaml, facts)
    _hold(folder.path, held)
    return folder


def model_of(folder: Path, task: TaskOptions, typed: Sequence[str]) -> ModelOptions:
    """The model of a run at its newest checkpoint. Raises ValueError when there is none, or when the run was trained for another task than `task`, or
    asked otherwise, and nobody has `typed` that this is meant."""
    trained = of_run(folder)
    if trained.task != task.name and not {"task", "experiment"} & set(typed):
        raise ValueError(
            f"run={folder}: it was trained for {trained.task}, and {task.name} is only the default; give task={trained.task}, or task={task.name}"
        )
    for key, value in trained.asked.items():
        here = getattr(task, key)
        if str(here).lower() != str(value).lower() and f"task.{key}" not in typed:
            shown = [str(one).lower() if isinstance(one, bool) else str(one) for one in (value, here)]
            remedy = f"give task.{key}={shown[0]}, or task.{key}={shown[1]}"
            raise ValueError(f"run={folder}: it was trained with task.{key}={shown[0]}, and {shown[1]} is only the default; {remedy}")
    return trained.model


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
