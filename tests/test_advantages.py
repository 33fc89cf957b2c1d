"""Laws of the group advantages: what may change in the rewards without changing what is learned.

    pytest tests/test_advantages.py

Axes: P prompts, G completions a prompt.
"""

import math

import pytest
import torch
from torch import Tensor

from visual_rft.advantages import group_advantages, shuffled_group_advantages, zero_std_fraction


def random_rewards(p: int = 6, g: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(p, g, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("g", [2, 3, 8])
def test_a_group_sums_to_zero_and_has_unit_spread(g: int) -> None:
    advantages_PG = group_advantages(random_rewards(g=g), epsilon=0.0)
    torch.testing.assert_close(advantages_PG.sum(dim=1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(advantages_PG.std(dim=1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(("shift", "scale"), [(5.0, 1.0), (-3.0, 1.0), (0.0, 0.01), (0.0, 100.0), (-2.0, 7.0)])
def test_shift_and_positive_scale_change_nothing(shift: float, scale: float) -> None:
    rewards_PG = random_rewards()
    torch.testing.assert_close(group_advantages(shift + scale * rewards_PG, epsilon=0.0), group_advantages(rewards_PG, epsilon=0.0))


def test_a_negative_scale_turns_the_sign() -> None:
    rewards_PG = random_rewards()
    torch.testing.assert_close(group_advantages(-2 * rewards_PG, epsilon=0.0), -group_advantages(rewards_PG, epsilon=0.0))


def test_permutation_of_completions_permutes_advantages() -> None:
    rewards_PG, order = random_rewards(), torch.randperm(8, generator=seeded())
    torch.testing.assert_close(group_advantages(rewards_PG[:, order]), group_advantages(rewards_PG)[:, order])


def test_a_group_alone_is_as_in_the_batch() -> None:
    rewards_PG = random_rewards()
    alone_PG = torch.cat([group_advantages(row_G[None]) for row_G in rewards_PG])
    torch.testing.assert_close(group_advantages(rewards_PG), alone_PG)


def test_by_hand() -> None:
    """Of rewards 1, 2, 3 the unbiased standard deviation is 1; a paper's epsilon of 1e-4 then shrinks them by 1.0001."""
    expected = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64) / 1.0001
    torch.testing.assert_close(group_advantages(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("g", [2, 3, 5, 7, 8])
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, -0.7, 1e4])
def test_equal_rewards_give_exactly_zero(value: float, g: int, dtype: torch.dtype) -> None:
    rewards_PG = torch.full((3, g), value, dtype=dtype)
    assert (group_advantages(rewards_PG, epsilon=0.0) == 0).all()
    assert zero_std_fraction(rewards_PG) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_equal_but_for_rounding_give_exactly_zero(dtype: torch.dtype) -> None:
    parts = torch.tensor([0.1, 0.7, 0.9], dtype=dtype)
    rewards_PG = torch.stack([parts[0] + parts[1] + parts[2], parts[2] + parts[1] + parts[0]])[None]
    assert rewards_PG[0, 0] != rewards_PG[0, 1], "these parts must show the rounding"
    assert (group_advantages(rewards_PG, epsilon=0.0) == 0).all()


def test_zero_std_fraction_counts_groups() -> None:
    rewards_PG = random_rewards(p=4)
    assert zero_std_fraction(rewards_PG) == 0.0
    rewards_PG[2] = 0.1
    assert zero_std_fraction(rewards_PG) == 0.25
    assert (group_advantages(rewards_PG)[2] == 0).all()
    assert (group_advantages(rewards_PG)[[0, 1, 3]] != 0).all()


def test_shuffling_keeps_each_group_and_loses_the_order() -> None:
    rewards_PG = random_rewards(p=50)
    plain_PG, shuffled_PG = group_advantages(rewards_PG), shuffled_group_advantages(rewards_PG, generator=seeded())
    torch.testing.assert_close(shuffled_PG.sort(dim=1).values, plain_PG.sort(dim=1).values)
    assert ((shuffled_PG - plain_PG).abs() > 1e-9).any(dim=1).float().mean() > 0.9
    assert abs(torch.corrcoef(torch.stack([plain_PG.flatten(), shuffled_PG.flatten()]))[0, 1]) < 0.2


def test_shuffling_is_seeded_and_differs_between_groups_and_calls() -> None:
    rewards_PG = torch.arange(8.0).expand(20, 8)
    generator = seeded(3)
    first_PG, second_PG = (shuffled_group_advantages(rewards_PG, generator=generator) for _ in range(2))
    torch.testing.assert_close(first_PG, shuffled_group_advantages(rewards_PG, generator=seeded(3)), rtol=0, atol=0)
    assert not first_PG.equal(second_PG)
    assert len(first_PG.unique(dim=0)) == 20


def test_shuffling_is_uniform() -> None:
    """Each of the 6 orders of 3 rewards comes up equally often: 1000 ± 29 of 6000."""
    shuffled_PG = shuffled_group_advantages(torch.arange(3.0).expand(6000, 3), generator=seeded())
    counts = shuffled_PG.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000).abs() < 5 * 29).all()


@pytest.mark.parametrize("function", [group_advantages, zero_std_fraction, lambda r: shuffled_group_advantages(r, generator=seeded())])
def test_what_cannot_be_compared_is_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"group_size=1.*2 or more"):
        function(torch.ones(4, 1))
    for bad in (math.nan, math.inf):
        rewards_PG = random_rewards()
        rewards_PG[1, 2] = bad
        with pytest.raises(ValueError, match=rf"of prompt \d is {bad}.*finite"):
            function(rewards_PG)
