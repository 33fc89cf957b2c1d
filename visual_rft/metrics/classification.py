"""Classification metrics over questions of one answer each: accuracy, over all and by class, and how many answers could be read."""

from collections.abc import Mapping, Sequence

from visual_rft.metrics.averages import percent, refusals
from visual_rft.parsing import NO_ALIASES, canonical_name
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Refusal, Scores


def classification_scores(
    truths: Sequence[ClassTruth], answers: Sequence[ClassAnswer | Refusal], *, aliases: Mapping[str, str] = NO_ALIASES
) -> Scores:
    """Score one answer a truth, 0..100; an answer is right as in `rewards.strict`, and a refused one is wrong.

    accuracy        the share of right answers
    mean per class  accuracy averaged over the classes that have truths, each the same weight: `by_category` holds them
    well-formed     the share of answers that parsed

    `aliases` as in `parsing.canonical_name`. ValueError if there are more truths than answers, or fewer.
    """
    right_by_class: dict[str, list[bool]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        right = not isinstance(answer, Refusal) and canonical_name(answer.name, aliases) == canonical_name(truth.name, aliases)
        right_by_class.setdefault(truth.name, []).append(right)
    by_class = {name: percent(right_by_class[name]) for name in sorted(right_by_class)}
    values = {
        "accuracy": percent([right for of_class in right_by_class.values() for right in of_class]),
        "mean per class": percent([accuracy / 100 for accuracy in by_class.values()]),
        "well-formed": percent([not isinstance(answer, Refusal) for answer in answers]),
    }
    return Scores(values, by_class, refusals(answers))
