"""Which examples a step asks: every example once an epoch, in an order that depends on the seed and the epoch alone."""

from collections.abc import Sequence

from visual_rft.seeding import Role, stream
from visual_rft.vocabulary import Example


def step_examples(examples: Sequence[Example], *, step: int, prompts_per_step: int, seed: int) -> list[Example]:
    """The `prompts_per_step` examples of step `step` (from 0); a step may straddle two epochs. A pure function: a resumed run asks the same."""
    positions = range(step * prompts_per_step, (step + 1) * prompts_per_step)
    orders = {epoch: stream(Role.ORDER, seed, epoch).permutation(len(examples)) for epoch in {p // len(examples) for p in positions}}
    return [examples[orders[p // len(examples)][p % len(examples)]] for p in positions]
