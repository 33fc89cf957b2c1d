"""Greedy answers to a task's test questions, what they are worth, and how two such evaluations compare."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visual_rft.boxes import iou_matrix
from visual_rft.inference import answer
from visual_rft.metrics.detection import DetectionMetrics
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_detection
from visual_rft.tracking.report import GalleryItem
from visual_rft.vocabulary import DetectionAnswer, DetectionTruth, Example, Refusal
from visual_rft.workload import Workload


@dataclass(frozen=True)
class Evaluation:
    """One answer to each test question, in order; their metrics; the seconds it took."""

    texts: list[str]
    metrics: DetectionMetrics
    seconds: float

    def scores(self) -> dict[str, float]:
        """The numbers of the before/after table, 0..100; the first is the task's metric."""
        m = self.metrics
        return {"AP": m.ap, "AP50": m.ap50, "AP75": m.ap75, "mean IoU": m.mean_iou, "well-formed": m.well_formed}


def evaluate(policy: Policy, processor: Processor, workload: Workload, *, max_tokens: int, batch: int, advance: Callable[[int], None]) -> Evaluation:
    """Asks every test question of the workload, `batch` at a time; `advance` is told how many were answered."""
    started = time.perf_counter()
    texts: list[str] = []
    for completions in answer(policy, processor, workload.test, max_tokens=max_tokens, batch=batch):
        texts += [completion.text for completion in completions]
        advance(len(completions))
    return Evaluation(texts, workload.task.evaluate(workload.test, texts), time.perf_counter() - started)


def table(before: Evaluation, after: Evaluation) -> list[tuple[str, float, float, float]]:
    """(name, before, after, change) rows, the task's metric first."""
    old, new = before.scores(), after.scores()
    return [(name, old[name], new[name], new[name] - old[name]) for name in new]


def summary_scores(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What `summary.json` says of two evaluations: the metric, before and after, all scores and refusals, AP by category."""
    metric = next(iter(after.scores()))
    return {"metric": metric, "before": before.scores()[metric], "after": after.scores()[metric]} | {
        f"evaluation_{name}": {
            **e.scores(),
            "AP by category": dict(e.metrics.ap_by_category),
            "refused": {str(k): n for k, n in e.metrics.refusals.items()},
        }
        for name, e in (("before", before), ("after", after))
    }


def gallery(examples: Sequence[Example], before: Evaluation, after: Evaluation, count: int) -> list[GalleryItem]:
    """The first `count` test questions with both answers."""
    items = []
    for example, old, new in list(zip(examples, before.texts, after.texts, strict=True))[:count]:
        old_answer, new_answer = parse_detection(old), parse_detection(new)
        items.append(
            GalleryItem(
                image=example.image,
                question=example.question,
                truth=example.truth,
                before_text=old,
                before=old_answer,
                after_text=new,
                after=new_answer,
                before_ious=_best_ious(old_answer, example.truth),
                after_ious=_best_ious(new_answer, example.truth),
            )
        )
    return items


def _best_ious(answer: DetectionAnswer | Refusal, truth: DetectionTruth) -> list[float]:
    """Each detection's IoU with the truth nearest to it."""
    if isinstance(answer, Refusal) or not truth.boxes:
        return []
    return [float(row.max()) for row in iou_matrix([d.box for d in answer.detections], truth.boxes)]
