"""Signs that a run goes wrong, read off its metrics: what is seen, and what to do about it. Pure: lines of metrics.jsonl in, findings out.

A sign needs the greater part of WINDOW steps to agree, so that an odd batch is none, and is compared with the run's own first WINDOW steps where
"much" has no meaning of its own: tasks and models differ by orders of magnitude in length, entropy and reward. Such a change must stand out of the
spread of the steps, which is wide where a step has few prompts. What a line lacks is no sign: supervised runs have no reward.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, pvariance
from typing import Any

WINDOW = 5  # steps: medians of fewer, of 16 prompts each, wander by as much as the limits below
CLEAR = 4.0  # standard errors of the difference of two windows
LONG_WINDOW = 10  # steps, for what every run does for a while (nothing learned, nothing to learn) and what depends on which questions a step asks
PATIENCE = 40  # steps before "has not moved" says anything: a healthy tiny run gains most of what it will in so many
STUCK = 0.01  # of a reward of about 1 to 3: nobody is paid
EQUAL = 0.98  # share of groups without spread: fewer than one of 48 teaches anything. Solved tasks hover at 0.75..0.9
SHRUNK, GROWN = 0.5, 2.0  # of the length at the beginning; healthy runs stay within 0.8..1.3
TRUNCATED = 0.2  # share of completions that were cut off, whose reward says nothing of their answer
FAR = 1.0  # nats a token from the reference; healthy tiny runs, which learn fast, reach 0.2
SURE = 0.1  # of the entropy at the beginning; healthy runs that solve their task keep a third
THOUGHT, THOUGHTLESS, OF_IT = 2.0, 1.0, 0.1  # words of thinking: what one needs to lose, what is none ("…" has no word), a share that is next to none
EMPTIER, MISSED = 0.2, 0.6  # more `No Objects` than is true, of all answers or of those where there is something; and than at the beginning
MORE_BOXES, EXTRA = 1.5, 0.2  # boxes an answer to those of the truth; extra ones an answer, more than at the beginning
UNREADABLE = 0.2  # by so much of all completions more without an answer than at the beginning
GAIN = 0.25  # of the spread within groups: a reward of LONG_WINDOW steps that rose by so much did not by chance
LOSS = 0.8  # of what the task measures at the beginning
FORM_ALONE = 0.95  # the format part once it is learned
SKIPPED = 2  # updates in LONG_WINDOW steps: one overflow happens

# Parts that say what is true, and that no schedule or weight changes; the others are what somebody wishes for.
MEASURED = ("reward/iou", "reward/accuracy", "reward/giou")
STAND_STILL = 0.02  # of a part whose best is 1 or 2

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Sign:
    """A finding: its `name`, the step at which it appeared, what is seen as `text`, and the `remedy`; each one line. `keys` are the metrics that show
    it."""

    name: str
    step: int
    text: str
    remedy: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"step {self.step}: {self.text}; {self.remedy}"


@dataclass(frozen=True)
class _Seen:
    """The steps of a run up to one of them, without the base model's evaluation."""

    lines: Sequence[Line]

    def now(self, key: str, window: int = WINDOW) -> list[float]:
        """The last values; none where one of the steps lacks it."""
        return _values(self.lines[-window:], key, window)

    def change(self, key: str, window: int = WINDOW) -> tuple[float, float] | None:
        """(at the beginning, now): medians of as many steps, which do not overlap."""
        first, last = self.ends(key, window)
        return (median(first), median(last)) if first and last else None

    def clear_change(self, key: str) -> tuple[float, float] | None:
        """The same of WINDOW steps; none that could be of the steps' spread."""
        return self.change(key) if _is_clear(*self.ends(key, WINDOW)) else None

    def ends(self, key: str, window: int) -> tuple[list[float], list[float]]:
        """The first and the last values, where they do not overlap."""
        return (_values(self.lines[:window], key, window), self.now(key, window)) if len(self.lines) >= 2 * window else ([], [])

    def excess(self, said: str, true: str) -> tuple[float, float] | None:
        """(at the beginning, now): means of how much more is `said` than is `true`, step by step, so that it does not matter what a step asks. Of
        WINDOW steps; none where the change could be of their spread."""
        (first, last), (first_true, last_true) = self.ends(said, WINDOW), self.ends(true, WINDOW)
        if not (first and last and first_true and last_true):
            return None
        before, now = ([a - b for a, b in zip(*pair, strict=True)] for pair in ((first, first_true), (last, last_true)))
        return (fmean(before), fmean(now)) if _is_clear(before, now) else None


def _is_clear(first: Sequence[float], last: Sequence[float]) -> bool:
    if not first or not last:
        return False
    try:
        noise = math.sqrt(pvariance(first) / (len(first) - 1) + pvariance(last) / (len(last) - 1))
        return abs(fmean(last) - fmean(first)) > CLEAR * noise
    except OverflowError:  # of numbers whose squares or sums are none: a run must not end by what only looks at it
        return False


def _values(lines: Sequence[Line], key: str, count: int) -> list[float]:
    """So many, or none: a number that was not finite is null in a file."""
    found = [line[key] for line in lines if line.get(key) is not None and math.isfinite(line[key])]
    return found if len(found) == count else []


Found = tuple[str, str] | None  # text, remedy


def signs(metrics: Sequence[Line]) -> list[Sign]:
    """Every sign of a run whose lines of metrics.jsonl these are, each at the step where it appeared first."""
    found: dict[str, Sign] = {}
    for count in range(1, len(metrics) + 1):
        for sign in signs_at_the_end(metrics[:count]):
            found.setdefault(sign.name, sign)
    return list(found.values())


def signs_at_the_end(metrics: Sequence[Line]) -> Iterator[Sign]:
    """The signs that the last step shows, whether or not an earlier one did."""
    lines = [line for line in (*metrics[: LONG_WINDOW + 1], *metrics[LONG_WINDOW + 1 :][-LONG_WINDOW:]) if line["step"] > 0]
    seen = _Seen(lines)
    for name, (look, keys) in _SIGNS.items():
        if lines and (found := look(seen)):
            text, remedy = found
            yield Sign(name, lines[-1]["step"], text, remedy, keys)


def _reward_stuck(seen: _Seen) -> Found:
    means, spreads = seen.now("reward/mean", LONG_WINDOW), seen.now("reward/std", LONG_WINDOW)
    if not means or not spreads or max(map(abs, means)) > STUCK or max(spreads) > STUCK:
        return None
    refused, unreadable = _refusals(seen), seen.now("answer/unreadable_fraction", LONG_WINDOW)
    if not refused and unreadable and fmean(unreadable) > 0.5:
        text = f"the reward is stuck at 0 for {LONG_WINDOW} steps: {fmean(unreadable):.0%} of the completions hold no answer"
        return text, "read some in rollouts.jsonl, and teach the form first: python -m visual_rft.sft"
    if not refused:
        remedy = "begin with a reward that pays for near misses (docs/rewards.md), or with python -m visual_rft.sft"
        return f"the reward is stuck at 0 for {LONG_WINDOW} steps, and no answer is refused: all are read, and all are wrong", remedy
    reason = max(refused, key=lambda reason: refused[reason])
    text = f"the reward is stuck at 0 for {LONG_WINDOW} steps: {sum(refused.values()):.0%} of the answers are refused, most as {reason}"
    if reason == "truncated":
        return text, "raise algorithm.max_completion_tokens"
    return text, "read some in rollouts.jsonl, and teach the form first: python -m visual_rft.sft"


def _refusals(seen: _Seen) -> dict[str, float]:
    """Share of all completions by reason, over the last steps."""
    last = seen.lines[-LONG_WINDOW:]
    reasons = sorted({key for line in last for key in line if key.startswith("refused/")})
    shares = {key.removeprefix("refused/"): sum(sum(_values([line], key, 1)) for line in last) / len(last) for key in reasons}
    return {reason: share for reason, share in shares.items() if share}


def _groups_equal(seen: _Seen) -> Found:
    equal, means = seen.now("reward/zero_std_fraction", LONG_WINDOW), seen.now("reward/mean", LONG_WINDOW)
    if not equal or not means or sum(equal) / LONG_WINDOW < EQUAL:
        return None
    text = f"in {sum(equal) / LONG_WINDOW:.0%} of the groups all rewards are equal, {means[-1]:.2f} on average: there is nothing to learn from"
    return text, "stop if that is the best there is; else ask what is harder, or raise algorithm.temperature or algorithm.group_size"


def _length_collapse(seen: _Seen) -> Found:
    change = seen.clear_change("completion/length_mean")
    if not change or change[1] >= SHRUNK * change[0]:
        return None
    return (
        f"completions collapse: {change[0]:.0f} tokens at the beginning, {change[1]:.0f} now",
        "read some in rollouts.jsonl; raise algorithm.kl.coefficient, or pay for what has gone with a part of your own (rewards.parts)",
    )


def _length_explosion(seen: _Seen) -> Found:
    change = seen.clear_change("completion/length_mean")
    if not change or change[1] <= GROWN * change[0]:
        return None
    text = f"completions grow without end: {change[0]:.0f} tokens at the beginning, {change[1]:.0f} now"
    return text, "read some in rollouts.jsonl; rewards=brief costs what is long or repeats itself"


def _truncated(seen: _Seen) -> Found:
    cut = seen.now("completion/truncated_fraction")
    if not cut or min(cut) < TRUNCATED:
        return None
    text = f"{median(cut):.0%} of the completions are cut off at their greatest length"
    return text, "raise algorithm.max_completion_tokens, or make long ones cost something: rewards=brief"


def _kl_runaway(seen: _Seen) -> Found:
    kl = seen.now("loss/kl")
    if not kl or min(kl) < FAR:
        return None
    text = f"the policy runs away from the base model: KL {median(kl):.2f} nats a token"
    return text, "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient"


def _entropy_collapse(seen: _Seen) -> Found:
    change = seen.clear_change("policy/entropy")
    if not change or change[1] >= SURE * change[0]:
        return None
    text = f"the policy hardly tries anything else any more: entropy {change[0]:.3f} nats at the beginning, {change[1]:.3f} now"
    return text, "ask for a smaller model.learning_rate, or raise algorithm.kl.coefficient, algorithm.temperature or algorithm.clip_high"


def _thinking_gone(seen: _Seen) -> Found:
    change = seen.clear_change("completion/thinking_words_mean")
    if not change or change[0] < THOUGHT or change[1] >= max(THOUGHTLESS, OF_IT * change[0] + 1e-9):
        return None
    text = f'the thinking is reduced to "…": {change[0]:.1f} words at the beginning, {change[1]:.1f} now'
    return text, "pay for it (rewards.parts), or do without and be faster: task.thinking=false"


def _empty_answers(seen: _Seen) -> Found:
    excess, change = seen.excess("answer/empty_fraction", "truth/empty_fraction"), seen.change("answer/empty_fraction")
    true = seen.now("truth/empty_fraction")
    if not excess or not change or excess[1] < max(excess[0], 0.0) + min(EMPTIER, MISSED * (1 - fmean(true))):
        return None
    right, began = f"right for {median(true):.0%}", f"{change[0]:.0%} at the beginning"
    text = f"it says `No Objects` more often than is true, as cheating does: {change[1]:.0%} of the answers, and {right}; {began}"
    return text, "it is paid too well: fewer task.negatives, and no reward for boxes that are missing"


def _more_boxes(seen: _Seen) -> Found:
    excess, change, true = seen.excess("answer/boxes_mean", "truth/boxes_mean"), seen.change("answer/boxes_mean"), seen.now("truth/boxes_mean")
    if not excess or not change or excess[1] < max(excess[0], 0.0) + EXTRA or fmean(seen.now("answer/boxes_mean")) < MORE_BOXES * fmean(true):
        return None
    there, began = f"where there are {median(true):.1f}", f"{change[0]:.1f} at the beginning"
    text = f"it draws boxes where there is nothing, as cheating does: {change[1]:.1f} an answer, {there}; {began}"
    return text, "make an extra box cost what it takes: rewards=strict, and no part that pays for boxes or length"


def _reward_falls(seen: _Seen) -> Found:
    spread, reward = seen.change("reward/std", LONG_WINDOW), seen.change("reward/mean", LONG_WINDOW)
    if not spread or not reward or reward[1] > reward[0] - spread[0] or abs(reward[1]) <= STUCK:
        return None
    if not _is_clear(*seen.ends("reward/mean", LONG_WINDOW)):
        return None
    text = f"the reward falls, {reward[0]:.2f} to {reward[1]:.2f}, by more than answers of one group differ"
    return text, "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient"


def _hacking(seen: _Seen) -> Found:
    spread, reward = seen.change("reward/std", LONG_WINDOW), seen.change("reward/mean", LONG_WINDOW)
    if not spread or not reward or reward[1] < reward[0] + GAIN * spread[0]:
        return None
    text = f"the reward rises, {reward[0]:.2f} to {reward[1]:.2f}, and"
    remedy = "read the best paid in rollouts.jsonl; rewards=strict closes the known holes"
    for key in MEASURED:
        if (change := seen.change(key, LONG_WINDOW)) and change[1] < min(LOSS * change[0], change[0] - STAND_STILL):
            part = key.removeprefix("reward/")
            return f"{text} {part} falls, {change[0]:.2f} to {change[1]:.2f}: something else is paid", f"{remedy}, and {part} must weigh more"
    unreadable = seen.change("answer/unreadable_fraction", LONG_WINDOW)
    if unreadable and unreadable[1] > unreadable[0] + UNREADABLE:
        return f"{text} ever more completions hold no answer, {unreadable[0]:.0%} to {unreadable[1]:.0%}: what cannot be read is paid", remedy
    return None


def _form_alone(seen: _Seen) -> Found:
    form, keys = seen.now("reward/format", LONG_WINDOW), [key for key in MEASURED if seen.change(key)]
    if seen.lines[-1]["step"] < PATIENCE or not keys or not form or sum(form) / LONG_WINDOW < FORM_ALONE:
        return None
    for key in keys:
        change = seen.change(key)
        if change and (not LOSS * change[0] <= change[1] <= change[0] + STAND_STILL or change[1] > FORM_ALONE / 2):
            return None
    stand = ", ".join(f"{key.removeprefix('reward/')} {median(seen.now(key)):.2f}" for key in keys)
    text = f"the form alone earns: format {sum(form) / LONG_WINDOW:.2f}, and {stand} stands where it stood"
    remedy = "look whether the labels are right (python -m visual_rft.data check, score)"
    return text, f"{remedy}; then a greater model.learning_rate, or a reward for near misses (docs/rewards.md)"


def _skipped(seen: _Seen) -> Found:
    count = seen.now("policy/skipped_steps", LONG_WINDOW)
    if not count or count[-1] - count[0] < SKIPPED:
        return None
    text = f"{count[-1] - count[0]:.0f} of the last {LONG_WINDOW} updates were skipped, since their numbers were not finite"
    return text, "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient; their batches lie in skipped/"


# How each is found, and the metrics that show it.
_SIGNS: Mapping[str, tuple[Callable[[_Seen], Found], tuple[str, ...]]] = {
    "reward_stuck": (_reward_stuck, ("reward/mean",)),
    "groups_equal": (_groups_equal, ("reward/zero_std_fraction",)),
    "length_collapse": (_length_collapse, ("completion/length_mean",)),
    "length_explosion": (_length_explosion, ("completion/length_mean",)),
    "truncated": (_truncated, ("completion/truncated_fraction",)),
    "kl_runaway": (_kl_runaway, ("loss/kl",)),
    "entropy_collapse": (_entropy_collapse, ("policy/entropy",)),
    "thinking_gone": (_thinking_gone, ("completion/thinking_words_mean",)),
    "empty_answers": (_empty_answers, ("answer/empty_fraction", "truth/empty_fraction")),
    "more_boxes": (_more_boxes, ("answer/boxes_mean", "truth/boxes_mean")),
    "reward_falls": (_reward_falls, ("reward/mean",)),
    "hacking": (_hacking, ("reward/mean", *MEASURED, "answer/unreadable_fraction")),
    "form_alone": (_form_alone, ("reward/format", *MEASURED)),
    "skipped": (_skipped, ("policy/skipped_steps",)),
}
