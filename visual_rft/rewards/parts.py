"""Further parts of a reward, each a function of an attempt: other projects' ways to pay for boxes, and what a long or repetitive text costs.

A YAML of conf/rewards chooses them (`rewards.parts`), as it may a function of your own. Those that score boxes pay 0 for a refused answer and 1 for a
rightly empty one, whatever the number of boxes otherwise: boxes are matched one-to-one, and the sum over pairs is divided by max(N, M).

Axes: N predicted boxes, M true ones.
"""

import math
import re
from collections.abc import Callable, Sequence

from visual_rft.boxes import Floats, giou_matrix, iou_matrix, match
from visual_rft.frames import Box
from visual_rft.vocabulary import Attempt, ClassAnswer, ClassTruth, Refusal


def giou(one: Attempt) -> float:
    """(GIoU + 1) / 2 of the matched pairs (Rezatofighi et al. 2019, arXiv 1902.09630), in 0..1: it tells a near miss from a far one, and so pays a
    little for every miss. ValueError for a task without boxes."""
    return _over_pairs(one, lambda found, true: (giou_matrix(found, true) + 1) / 2, above=0.0)


def dynamic_iou(one: Attempt, *, thresholds: Sequence[Sequence[float]]) -> float:
    """IoU of the matched pairs above a threshold that rises with the training (V-Triune, Ma et al. 2025, arXiv 2505.18129), in 0..1.

    `thresholds` are pairs (from this progress on, IoU), rising; the first is from 0. ValueError for others, and for a task without boxes.
    """
    starts = [pair[0] for pair in thresholds if len(pair) == 2 and 0 <= pair[1] < 1]
    if len(starts) < len(thresholds) or starts[:1] != [0] or starts != sorted(set(starts)):
        raise ValueError(f"thresholds={thresholds}: must be pairs [progress, IoU], the first from 0, progress rising, IoU at least 0 and below 1")
    return _over_pairs(one, iou_matrix, above=[iou for start, iou in thresholds if start <= one.progress][-1])


def overlong(one: Attempt, *, longest: int, buffer: int) -> float:
    """0 for a completion of up to `longest` - `buffer` tokens, falling evenly to -1 at `longest`.

    DAPO's soft punishment (Yu et al. 2025, arXiv 2503.14476, equation 13). ValueError for a text whose length in tokens is not known, or a buffer
    that is not in 1..longest.
    """
    if not 1 <= buffer <= longest:
        raise ValueError(f"buffer={buffer}: must lie in 1..longest={longest} tokens")
    if one.tokens is None:
        raise ValueError("the length in tokens is not known; give each line of completions its `tokens`")
    return 0.0 - min(max(one.tokens - (longest - buffer), 0) / buffer, 1.0)


def repetition(one: Attempt, *, words: int) -> float:
    """Minus the share of runs of so many `words` of the thinking that were said before, in -1..0, as VLM-R1 counts them in the whole text (after Yeo
    et al. 2025, arXiv 2502.03373): box after box of an answer is no repetition. ValueError below one word."""
    if words < 1:
        raise ValueError(f"words={words}: must be at least 1")
    said = re.findall(r"\w+", one.thinking.lower())
    runs = [tuple(said[i : i + words]) for i in range(len(said) - words + 1)]
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0


def _over_pairs(one: Attempt, overlap: Callable[[Sequence[Box], Sequence[Box]], Floats], *, above: float) -> float:
    if isinstance(one.truth, ClassTruth) or isinstance(one.answer, ClassAnswer):
        raise ValueError("it scores boxes, and this task has none")
    if isinstance(one.answer, Refusal):
        return 0.0
    found, true = sorted(one.answer.boxes), sorted(one.truth.boxes)  # equal overlaps: the same matching however they are listed
    count = max(len(found), len(true))
    overlap_NM = overlap(found, true)
    return math.fsum(overlap_NM[pair] for pair in match(overlap_NM, above=above)) / count if count else 1.0
