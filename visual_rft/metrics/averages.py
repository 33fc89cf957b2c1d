"""What every score is made of: a mean in percent, how sure it is, and the answers that could not be read."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean

from scipy import stats

from visual_rft.vocabulary import Answer, Reason, Refusal


def percent(values: Sequence[float]) -> float:
    """The mean of values in 0..1, as 0..100, whatever their order; 0 where there is nothing to average."""
    return 100.0 * fmean(values) if values else 0.0


def half_interval_95(values: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """Half the width of the 95 % interval of the mean of `values`, of which those of one group (the questions about one image) say alike.

    Cluster-robust (Liang and Zeger 1986, for a mean) with Student's t of one degree of freedom less than there are groups; as many values as groups
    make it the interval of independent values. None where there are fewer than two groups.
    """
    mean, sums = fmean(values) if values else 0.0, dict[Hashable, float]()
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value - mean
    count = len(sums)
    if count < 2:
        return None
    spread = math.sqrt(count / (count - 1) * math.fsum(off**2 for off in sums.values())) / len(values)
    return float(stats.t.ppf(0.975, count - 1)) * spread


def refusals(answers: Iterable[Answer | Refusal]) -> Mapping[Reason, int]:
    """How many answers were refused, by reason."""
    return dict(sorted(Counter(answer.reason for answer in answers if isinstance(answer, Refusal)).items()))
