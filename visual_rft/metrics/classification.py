"""Classification metrics over questions of one answer each: accuracy, over all and by class, and how many answers could be read."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from visual_rft.metrics.averages import percent, refusals
from visual_rft.parsing import NO_ALIASES, canonical_name
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Refusal, Scores

ANOTHER_WORD, REFUSED = "(another word)", "(refused)"  # what a confusion has beside the classes


def right(truth: ClassTruth, answer: ClassAnswer | Refusal, aliases: Mapping[str, str] = NO_ALIASES) -> bool:
    """Whether an answer is right, as in `rewards.strict`; a refused one is wrong."""
    return not isinstance(answer, Refusal) and canonical_name(answer.name, aliases) == canonical_name(truth.name, aliases)


def classification_scores(
    truths: Sequence[ClassTruth],
    answers: Sequence[ClassAnswer | Refusal],
    *,
    aliases: Mapping[str, str] = NO_ALIASES,
    classes: Iterable[str] = (),
) -> Scores:
    """Score one answer a truth, 0..100; an answer is right as in `rewards.strict`, and a refused one is wrong.

    accuracy        the share of right answers
    mean per class  accuracy averaged over the classes that have truths, each the same weight: `by_category` holds them
    well-formed     the share of answers that parsed

    The confusion says which classes were answered for which: {the true one: {what was said: how often}}, right answers among them; what names none of
    the truths' classes and of `classes` is ANOTHER_WORD there. However a truth or an answer spells a class, it has the spelling of `classes`, or else
    the first of the truths' in order. `aliases` as in `parsing.canonical_name`. ValueError if there are more truths than answers, or fewer.
    """
    spelling = {canonical_name(name, aliases): name for name in [*sorted({truth.name for truth in truths}, reverse=True), *classes]}
    right_by_class: dict[str, list[bool]] = {}
    said_by_class: dict[str, Counter[str]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        true, said = canonical_name(truth.name, aliases), None if isinstance(answer, Refusal) else canonical_name(answer.name, aliases)
        right_by_class.setdefault(spelling[true], []).append(said == true)
        said_by_class.setdefault(spelling[true], Counter())[REFUSED if said is None else spelling.get(said, ANOTHER_WORD)] += 1
    by_class = {name: percent(right_by_class[name]) for name in sorted(right_by_class)}
    values = {
        "accuracy": percent([right for of_class in right_by_class.values() for right in of_class]),
        "mean per class": percent([accuracy / 100 for accuracy in by_class.values()]),
        "well-formed": percent([not isinstance(answer, Refusal) for answer in answers]),
    }
    confusion = {name: dict(sorted(said_by_class[name].items())) for name in sorted(said_by_class)}
    return Scores(values, by_class, refusals(answers), confusion)
