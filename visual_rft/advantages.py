"""Rewards of a group of completions -> advantages, and the control that shows whether a gain was learned.

Axes: P prompts a step, G completions a prompt.
"""

import torch
from torch import Generator, Tensor

# Rewards are of order one and come as sums of parts in float32: two that should be equal may differ in their last digits.
EQUAL_WITHIN = 1e-6


def group_advantages(rewards_PG: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Advantages_PG = (r − mean) / (std + epsilon) of each group, std unbiased; exactly 0 in a group of equal rewards.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.2. Raises ValueError on groups of one completion and on rewards that are not finite.
    """
    flat_P1 = _flat(rewards_PG)[:, None]
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    advantages_PG = centred_PG / (rewards_PG.std(dim=1, keepdim=True) + epsilon)
    return advantages_PG.masked_fill(flat_P1, 0.0)


def zero_std_fraction(rewards_PG: Tensor) -> float:
    """The share, 0..1, of groups whose rewards are all equal and so teach nothing. Raises as `group_advantages` does."""
    return _flat(rewards_PG).double().mean().item()


def shuffled_group_advantages(rewards_PG: Tensor, *, generator: Generator, epsilon: float = 1e-4) -> Tensor:
    """`group_advantages` after the rewards of each group are permuted uniformly, by a permutation of its own.

    The control of an experiment: rewards and advantages keep their distribution but say nothing about the completion that holds them,
    so a gain that this run shares is not learning. Raises as `group_advantages` does.
    """
    keys_PG = torch.rand(rewards_PG.shape, generator=generator, device=generator.device, dtype=torch.float64)
    order_PG = keys_PG.argsort(dim=1).to(rewards_PG.device)
    return group_advantages(rewards_PG.gather(1, order_PG), epsilon=epsilon)


def _flat(rewards_PG: Tensor) -> Tensor:
    """Which groups have no spread, as bool_P."""
    assert rewards_PG.ndim == 2, f"rewards of shape P, G expected, got {tuple(rewards_PG.shape)}"
    if rewards_PG.shape[1] < 2:
        raise ValueError("algorithm.group_size=1: an advantage compares the completions of one prompt; ask for 2 or more")
    if not rewards_PG.isfinite().all():
        row, column = (~rewards_PG.isfinite()).nonzero()[0].tolist()
        value = rewards_PG[row, column].item()
        raise ValueError(f"the reward of completion {column} of prompt {row} is {value}: make the reward return a finite number for every completion")
    spread_P = rewards_PG.amax(dim=1) - rewards_PG.amin(dim=1)
    return spread_P <= EQUAL_WITHIN * rewards_PG.abs().amax(dim=1).clamp(min=1.0)
