"""Greedy answers to the questions of an exam, what they are worth, and how two such evaluations compare."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from visual_rft.distributed import ALONE, Preempted, World
from visual_rft.metrics.averages import half_interval_95, percent
from visual_rft.tasks.task import Exam, Task
from visual_rft.tracking.pictures import Picture
from visual_rft.vocabulary import Answer, Completion, Example, Refusal, Scores

# Questions -> a completion of each, with its number among them, in any order.
Asker = Callable[[Sequence[Example]], Iterable[tuple[int, Completion]]]


@dataclass(frozen=True)
class Evaluation:
    """One answer to each question, in order, as text and as parsed; what they are worth; the seconds it took; the answers to what was asked first, by
    the id of its question; what each answer alone is worth, 0..1, where that can be said."""

    texts: list[str]
    answers: list[Answer | Refusal]
    scores: Scores
    seconds: float
    screened: Mapping[str, str] = field(default_factory=dict)
    worth: Sequence[float] = ()

    @property
    def metric(self) -> str:
        """The name of the task's own metric."""
        return next(iter(self.scores.values))

    @property
    def value(self) -> float:
        """The task's own metric, 0..100."""
        return self.scores.values[self.metric]

    def metrics(self) -> dict[str, float]:
        """Every score as `metrics.jsonl` names it."""
        return {f"eval/{name}": value for name, value in self.scores.values.items()}

    def plain(self) -> dict[str, Any]:
        """As `summary.json` says it: every score, the metric by category, how many answers were refused, and what was said for what, if names are."""
        refused = {str(reason): count for reason, count in self.scores.refusals.items()}
        confusion = {true: dict(said) for true, said in self.scores.confusion.items()}
        plain = {**self.scores.values, "by category": dict(self.scores.by_category), "refused": refused}
        return plain | ({"confusion": confusion} if confusion else {})


class Answers(Protocol):
    """Where answers are kept as they come, so that an evaluation which is interrupted need not ask again."""

    def known(self) -> dict[str, str]:
        """What was answered before, on any rank, by the id of the question."""
        ...

    def keep(self, question: str, text: str) -> None:
        """One more answer."""
        ...


class Forgotten:
    """Keeps nothing."""

    def known(self) -> dict[str, str]:
        return {}

    def keep(self, question: str, text: str) -> None: ...


def evaluate(task: Task, exam: Exam, ask: Asker, advance: Callable[[int], None], answers: Answers | None = None, world: World = ALONE) -> Evaluation:
    """Asks what the exam asks first, then each question that this leaves, and scores one completion for each question.

    `ask` is given this rank's share; where it answers less, Preempted is raised on every rank. `advance` is told how many more of this rank's
    questions, of both kinds, are done. What `answers` knows is not asked again.
    """
    started, kept = time.perf_counter(), Forgotten() if answers is None else answers
    known = world.first(kept.known)
    screening, denied = exam.screening, set[str]()
    screened: dict[str, str] = {}
    if screening:
        screened = _texts(screening.questions, ask, advance, known | dict(screening.known), kept, world)
        denied = {one.id for one, first in zip(exam.questions, screening.questions, strict=True) if screening.denied(screened[first.id])}
        advance(len(world.share(len(denied))))
    said = _texts([one for one in exam.questions if one.id not in denied], ask, advance, known, kept, world)
    texts = [screening.blank(one) if screening and one.id in denied else said[one.id] for one in exam.questions]
    return world.first(lambda: judge(task, exam, texts, started, screened))


def _texts(
    questions: Sequence[Example], ask: Asker, advance: Callable[[int], None], known: Mapping[str, str], answers: Answers, world: World
) -> dict[str, str]:
    """What each question was answered, by its id and in order, on all ranks."""
    left = [one for one in questions if one.id not in known]
    share = world.share(len(left))
    mine = left[share.start : share.stop]
    advance(len(world.share(len(questions) - len(left))))
    said: dict[str, str] = {}
    for number, completion in ask(mine) if mine else ():
        said[mine[number].id] = completion.text
        answers.keep(mine[number].id, completion.text)
        advance(1)
    said |= {one.id: known[one.id] for one in questions if one.id in known} if world.is_first else {}
    everyone = {question: text for of_rank in world.gather(said) for question, text in of_rank.items()}
    if len(everyone) < len(questions):
        raise Preempted("stopped by a signal in an evaluation; the same command with resume=auto goes on with it")
    return {one.id: everyone[one.id] for one in questions}


def until(is_asked_to_stop: Callable[[], bool], ask: Asker) -> Asker:
    """The same answers, up to a signal."""

    def answers(questions: Sequence[Example]) -> Iterator[tuple[int, Completion]]:
        for answered in ask(questions):
            yield answered
            if is_asked_to_stop():
                return

    return answers


def judge(task: Task, exam: Exam, texts: list[str], started: float, screened: Mapping[str, str] | None = None) -> Evaluation:
    """What one completion for each question is worth; `started` is when, by `time.perf_counter`, the first was asked for."""
    answers = [task.parse(text, question.contract) for text, question in zip(texts, exam.questions, strict=True)]
    worth = [exam.worth(question, answer) for question, answer in zip(exam.questions, answers, strict=True)]
    return Evaluation(texts, answers, exam.measure(answers), time.perf_counter() - started, screened or {}, worth)


def outcome(questions: Sequence[Example], before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What `summary.json` says of two evaluations of the same questions; `one_answer` is what an answer alone is worth on average, 0..100, and its
    change has an interval over the images."""
    metric = {"metric": before.metric, "before": before.value, "after": after.value}
    changes = [new - old for old, new in zip(before.worth, after.worth, strict=True)]
    half = half_interval_95(changes, [question.asked_about.id for question in questions])
    worth = {"before": percent(before.worth), "after": percent(after.worth), "half_interval_95": None if half is None else 100 * half}
    return metric | {"one_answer": worth, "evaluation_before": before.plain(), "evaluation_after": after.plain()}


def gallery(questions: Sequence[Example], evaluations: Mapping[str, Evaluation], count: int) -> list[Picture]:
    """`count` questions with the answer of each evaluation: of each image one first, with boxes to find, if one has any."""
    asked_of, turns = dict[int, int](), list[tuple[int, int]]()
    for i in sorted(range(len(questions)), key=lambda i: not questions[i].truth.boxes):
        image = questions[i].asked_about.id
        turns.append((asked_of.get(image, 0), i))
        asked_of[image] = asked_of.get(image, 0) + 1
    shown = [i for _, i in sorted(turns)[:count]]
    return [
        Picture(
            image=question.image,
            question=question.question,
            truth=question.truth,
            answers={name: evaluation.answers[i] for name, evaluation in evaluations.items()},
            texts={name: evaluation.texts[i] for name, evaluation in evaluations.items()},
            frame=question.contract.frame,
        )
        for i, question in ((i, questions[i]) for i in shown)
    ]
