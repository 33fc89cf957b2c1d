"""What is told of a run while it goes on: its folder, its logger and the console hear the same, from the first rank alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from visual_rft.evaluation import Evaluation, gallery
from visual_rft.loop import Step
from visual_rft.tracking.console import Console
from visual_rft.tracking.loggers import Logger
from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.tracking.signs import Sign, signs, signs_at_the_end
from visual_rft.vocabulary import Example

DRAFT_SECONDS = 60.0  # between two reports of a run that goes on, and before the first


class Journal:
    """Tells nobody: every rank's but the first."""

    def rollouts(self, step: Step) -> None:
        """What a step sampled, if it did; and why its update was skipped, if it was."""

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step's numbers; step 0 is the base model."""

    def begin(self, known: Mapping[str, Any], questions: Sequence[Example], before: Evaluation, pictures: int, examples: Sequence[Example]) -> None:
        """What is known before the first step: what the summary will say of the run, the test and how the base model does in it, how many of its
        questions a report shows, what is trained on."""

    def goes_on(self, step: int, metrics: Mapping[str, float]) -> None:
        """So many steps were taken before, from a base model of these scores."""

    def answers(self, name: str, questions: Sequence[Example], evaluation: Evaluation) -> None:
        """What an evaluation was answered, and what it asked first."""

    def end(self, step: int, summary: Mapping[str, Any], pictures: Sequence[Picture], examples: Sequence[Example]) -> None:
        """The outcome, after so many steps, and what was trained on."""

    def say(self, line: str | None) -> None:
        """A line for the person at the console, if there is one."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG002
        """Progress through so many items: the block tells how many more are done."""
        return nullcontext(lambda _: None)


class Watch:
    """Finds each sign of a run once, when it appears; `lines` are of the steps that were taken before, whose signs were said."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._lines = list(lines)
        self._said = {sign.name for sign in signs(lines)}

    def after(self, step: int, metrics: Mapping[str, float]) -> list[Sign]:
        """The signs that this step is the first to show."""
        self._lines.append({"step": step, **metrics})
        new = [sign for sign in signs_at_the_end(self._lines) if sign.name not in self._said]
        self._said |= {sign.name for sign in new}
        return new


class Draft:
    """The report of a run that goes on, or that stopped: written anew from time to time, which takes a fiftieth of the time at most."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._due = folder, time.monotonic() + DRAFT_SECONDS
        self._report: Callable[[int], Report] | None = None

    def begin(self, report: Callable[[int], Report]) -> None:
        """`report` of so many steps."""
        self._report = report

    def after(self, step: int) -> None:
        """Written if it is time."""
        began = time.monotonic()
        if self._report and began >= self._due:
            write_report(self._folder.path / "report.html", self._report(step))
            now = time.monotonic()
            self._due = now + max(DRAFT_SECONDS, 50 * (now - began))


@dataclass(frozen=True)
class Written(Journal):
    """The first rank's."""

    folder: RunFolder
    logger: Logger
    console: Console
    watch: Watch
    draft: Draft

    def rollouts(self, step: Step) -> None:
        if records := step.records():
            self.folder.log_rollouts(step.number, records)
            self.logger.log_rollouts(step.number, records, [group.example for group in step.groups], step.pictures)
        if step.skipped:
            saved = self.folder.save_skipped(step.number, step.groups, step.advantages_PG)
            self.say(f"step {step.number}: the update is skipped, since {step.skipped}; its batch is in {saved}")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.folder.log_metrics(step, metrics)
        self.logger.log_metrics(step, metrics)
        self.console.step(step, metrics)
        for sign in self.watch.after(step, metrics):
            self.say(str(sign))
            self.logger.log_sign(sign.step, sign.name, f"{sign.text}; {sign.remedy}")
        self.draft.after(step)

    def begin(self, known: Mapping[str, Any], questions: Sequence[Example], before: Evaluation, pictures: int, examples: Sequence[Example]) -> None:
        def report(step: int) -> Report:
            so_far = {"steps": f"{step} of {known['steps']}", "metric": before.metric, "before": before.value, "questions": len(questions)}
            shown = gallery(questions, {"before": before}, pictures)
            return Report.of(self.folder.path, {**known, **so_far, "evaluation_before": before.plain()}, shown, examples)

        self.draft.begin(report)

    def goes_on(self, step: int, metrics: Mapping[str, float]) -> None:
        self.console.step(step, metrics)

    def answers(self, name: str, questions: Sequence[Example], evaluation: Evaluation) -> None:
        if evaluation.screened:
            self.folder.write_answers("presence", evaluation.screened)
        said = {question.id: text for question, text in zip(questions, evaluation.texts, strict=True)}
        self.folder.write_answers(name, said, evaluation.worth)
        self.console.final_seconds = evaluation.seconds  # of the evaluation that is still to come

    def end(self, step: int, summary: Mapping[str, Any], pictures: Sequence[Picture], examples: Sequence[Example]) -> None:
        write_report(self.folder.path / "report.html", Report.of(self.folder.path, summary, pictures, examples))
        self.logger.log_gallery(step, pictures)
        self.logger.finish(summary)
        self.folder.write_summary(summary)  # at the very end: it says that the run has finished

    def say(self, line: str | None) -> None:
        if line:
            self.console.say(line)

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return self.console.stage(name, total)
