"""Greedy answers to a task's test questions, what they are worth, and how two such evaluations compare."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visual_rft.distributed import ALONE, World
from visual_rft.tasks.task import Task
from visual_rft.tracking.pictures import Picture
from visual_rft.vocabulary import Answer, Completion, Example, Refusal, Scores


@dataclass(frozen=True)
class Evaluation:
    """One answer to each test question, in order, as text and as parsed; what they are worth; the seconds it took."""

    texts: list[str]
    answers: list[Answer | Refusal]
    scores: Scores
    seconds: float

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
        """As `summary.json` says it: every score, the metric by category, and how many answers were refused."""
        refused = {str(reason): count for reason, count in self.scores.refusals.items()}
        return {**self.scores.values, "by category": dict(self.scores.by_category), "refused": refused}


def evaluate(
    task: Task,
    questions: Sequence[Example],
    answer: Callable[[Sequence[Example]], Iterable[tuple[int, Completion]]],
    advance: Callable[[int], None],
    world: World = ALONE,
) -> Evaluation:
    """Scores one completion for each question. `answer` is given this rank's, and gives a completion of each, with its number among them, in any
    order; `advance` is told of each."""
    started = time.perf_counter()
    share = world.share(len(questions))
    texts = [""] * len(share)
    for number, completion in answer(questions[share.start : share.stop]):
        texts[number] = completion.text
        advance(1)
    everyone = [text for of_rank in world.gather(texts) for text in of_rank]
    return world.first(lambda: judge(task, questions, everyone, started))


def judge(task: Task, questions: Sequence[Example], texts: list[str], started: float) -> Evaluation:
    """What one completion for each question is worth; `started` is when, by `time.perf_counter`, the first was asked for."""
    answers = [task.parse(text) for text in texts]
    return Evaluation(texts, answers, task.measure(questions, answers), time.perf_counter() - started)


def outcome(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What `summary.json` says of two evaluations of the same questions."""
    metric = {"metric": before.metric, "before": before.value, "after": after.value}
    return metric | {"evaluation_before": before.plain(), "evaluation_after": after.plain()}


def gallery(questions: Sequence[Example], evaluations: Mapping[str, Evaluation], count: int) -> list[Picture]:
    """The first `count` questions with the answer of each evaluation."""
    return [
        Picture(
            image=question.image,
            question=question.question,
            truth=question.truth,
            answers={name: evaluation.answers[i] for name, evaluation in evaluations.items()},
            texts={name: evaluation.texts[i] for name, evaluation in evaluations.items()},
        )
        for i, question in enumerate(questions[:count])
    ]
