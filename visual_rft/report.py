"""Compare finished runs: a table over seeds with intervals on stdout, the curves over each other on one page.

    python -m visual_rft.report runs='outputs/study/*'
    python -m visual_rft.report runs=[outputs/study/grpo,outputs/study/control] scores=all out=study.html json=study.json

Runs whose configurations differ by chance alone (seed, split) or by what leaves the mathematics as it is (hardware, logger, checkpoints) are one
group. Warnings are on stderr.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from visual_rft.config import Job, start
from visual_rft.revisiting import questions_of
from visual_rft.tasks.task import Task
from visual_rft.tracking.comparison import arms_of, category_table, repeated_seeds, summary_table, write_json, write_page
from visual_rft.tracking.console import print_table
from visual_rft.tracking.pictures import Look, Picture
from visual_rft.tracking.runs import Run, find_runs, patterns, read_run
from visual_rft.vocabulary import Example


class Shown(StrEnum):
    """Which scores the table has."""

    metric = "metric"  # the task's own, and how many answers were well-formed
    all = "all"
    categories = "categories"  # the task's own, category by category


@dataclass
class ReportConfig:
    """`runs`: a folder or pattern, or several; `out` and `json`: files to write."""

    runs: Any = MISSING
    scores: Shown = MISSING
    out: str | None = None
    json: str | None = None

    def __post_init__(self) -> None:
        self.runs = patterns(self.runs) if isinstance(self.runs, str) else self.runs
        if not isinstance(self.runs, list) or not self.runs or not all(isinstance(pattern, str) and pattern for pattern in self.runs):
            raise ValueError(f"runs={self.runs}: must be a folder, a pattern or a list of them; a folder whose name is a number is ./7")
        if self.out and self.json and Path(self.out).resolve() == Path(self.json).resolve():
            raise ValueError(f"out={self.out}, json={self.json}: one file for both; name two")
        for name in ("out", "json"):
            file = getattr(self, name) and Path(getattr(self, name)).expanduser()
            if file and (file.is_dir() or not file.parent.is_dir()):
                raise ValueError(f"{name}={file}: must be a file in a folder that exists")


def run(job: Job[ReportConfig]) -> None:
    """From the folders of runs to the table and the files that were asked for."""
    c = job.config
    finished, unfinished = find_runs(c.runs)
    for folder in unfinished:
        print(f"{folder}: no finished training run, left out", file=sys.stderr)
    if not finished:
        raise ValueError(f"runs={','.join(c.runs)}: no finished run there; a run that has finished has a summary.json")
    for name, file in (("out", c.out), ("json", c.json)):
        if file and any(Path(file).expanduser().resolve().is_relative_to(folder.resolve()) for folder in finished):
            raise ValueError(f"{name}={file}: lies in the folder of a run, whose files must stay as they are; name a file elsewhere")
    arms = arms_of([read_run(folder) for folder in finished])
    for arm in arms:
        for seed, runs in repeated_seeds(arm).items():
            print(f"warning: {arm.label}: seed {seed} more than once, and all count: {', '.join(str(r.folder) for r in runs)}", file=sys.stderr)
    head, *rows = category_table(arms) if c.scores is Shown.categories else summary_table(arms, every_score=c.scores is Shown.all)
    print_table(head, rows)
    for file, write in ((c.out, partial(write_page, look_at=_looker())), (c.json, write_json)):
        if file:
            written = Path(file).expanduser()
            try:
                write(written, arms)
            except OSError as error:
                raise ValueError(f"{written}: {error.strerror}; name a file that can be written") from error
            print(f"written: {written}")
    if not c.out:
        print("out=comparison.html draws the curves over each other", file=sys.stderr)


def _looker() -> Callable[[Run, Run], Look]:
    """Shows the answers of two runs to a test question on its image, each read as its own run was asked, if their folders and the data are as they
    were; one line on stderr for a run of which that is not so."""

    @cache
    def asked(folder: Path) -> tuple[Task, dict[str, Example]] | None:
        try:
            return questions_of(folder)
        except ValueError as error:
            print(f"{folder}: {error}, so the page shows none of its images", file=sys.stderr)
            return None

    def look_at(run: Run, other: Run) -> Look:
        one, two = asked(run.folder), asked(other.folder)
        return Look(partial(_beside, (one, two)), partial(_is_same, one[1], two[1])) if one and two else Look()

    return look_at


def _is_same(questions: Mapping[str, Example], others: Mapping[str, Example], question: str) -> bool:
    one, two = questions[question], others[question]
    return one.subject == two.subject and [image.digest() for image in one.images] == [image.digest() for image in two.images]


def _beside(asked: Sequence[tuple[Task, Mapping[str, Example]]], question: str, texts: Mapping[str, str]) -> Picture | None:
    """None where the two models speak in different frames: a picture has one."""
    examples = [questions[question] for _, questions in asked]
    first = examples[0]
    if examples[1].contract.frame != first.contract.frame:
        return None
    answers = {name: task.parse(text, example.contract) for (name, text), (task, _), example in zip(texts.items(), asked, examples, strict=True)}
    return Picture(first.image, first.question, first.truth, answers, texts, first.contract.frame)


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(ReportConfig, "report", run, argv)


if __name__ == "__main__":
    sys.exit(main())
