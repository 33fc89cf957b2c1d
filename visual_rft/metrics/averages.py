"""What every score is made of: a mean in percent, and the answers that could not be read."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from visual_rft.vocabulary import Answer, Reason, Refusal


def percent(values: Sequence[float]) -> float:
    """The mean of values in 0..1, as 0..100, whatever their order; 0 where there is nothing to average."""
    return 100.0 * fmean(values) if values else 0.0


def refusals(answers: Iterable[Answer | Refusal]) -> Mapping[Reason, int]:
    """How many answers were refused, by reason."""
    return dict(sorted(Counter(answer.reason for answer in answers if isinstance(answer, Refusal)).items()))
