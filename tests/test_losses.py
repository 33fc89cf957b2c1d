"""Laws of the loss: its gradient on policy, its sums over micro-batches, and what it must not depend on.

    pytest tests/test_losses.py

Axes: B rows, T completion tokens.
"""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from visual_rft.losses import Aggregation, KlOptions, LossOptions, aggregate, clipped_surrogate, k3_kl, policy_loss

both = pytest.mark.parametrize("aggregation", list(Aggregation))


@dataclass(frozen=True)
class Rows:
    """The tensors of a batch; masks are ragged, and one row has no tokens at all."""

    logprobs_BT: Tensor
    old_logprobs_BT: Tensor
    reference_logprobs_BT: Tensor
    advantages_B: Tensor
    mask_BT: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Rows":
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))


def random_rows(b: int = 7, t: int = 9, seed: int = 0, on_policy: bool = False) -> Rows:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs_BT = -normal(b, t).abs()
    lengths_B = torch.randint(1, t + 1, (b,), generator=generator)
    lengths_B[1] = 0
    old_BT = logprobs_BT if on_policy else logprobs_BT + 0.3 * normal(b, t)
    return Rows(logprobs_BT, old_BT, logprobs_BT + 0.5 * normal(b, t), normal(b), torch.arange(t) < lengths_B[:, None])


def total_of(rows: Rows, aggregation: Aggregation) -> int:
    return len(rows.mask_BT) if aggregation is Aggregation.sequence else int(rows.mask_BT.sum())


def run(rows: Rows, aggregation: Aggregation, total: int, kl_coefficient: float = 0.04) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, gradient by logprobs_BT, metrics."""
    leaf_BT = rows.logprobs_BT.clone().requires_grad_()
    loss, metrics = policy_loss(
        logprobs_BT=leaf_BT,
        old_logprobs_BT=rows.old_logprobs_BT,
        reference_logprobs_BT=rows.reference_logprobs_BT if kl_coefficient else None,
        advantages_B=rows.advantages_B,
        mask_BT=rows.mask_BT,
        options=LossOptions(kl=KlOptions(kl_coefficient), aggregation=aggregation),
        total=total,
    )
    (gradient_BT,) = torch.autograd.grad(loss, leaf_BT)
    return loss.detach(), gradient_BT, metrics


def whole(rows: Rows, aggregation: Aggregation) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return run(rows, aggregation, total_of(rows, aggregation))


@both
def test_on_policy_the_gradient_is_the_policy_gradient(aggregation: Aggregation) -> None:
    """At ratio 1 it is that of the mean of −A · log p, and nothing is clipped."""
    rows = random_rows(on_policy=True)
    _, gradient_BT, metrics = run(rows, aggregation, total_of(rows, aggregation), kl_coefficient=0.0)
    weights_BT = rows.mask_BT / rows.mask_BT.sum(dim=1, keepdim=True).clamp(min=1) if aggregation is Aggregation.sequence else rows.mask_BT * 1.0
    torch.testing.assert_close(gradient_BT, -rows.advantages_B[:, None] * weights_BT / total_of(rows, aggregation))
    assert metrics["policy/clip_fraction"] == 0


@both
@pytest.mark.parametrize("cuts", [[7], [1, 6], [3, 4], [2, 2, 3], [1] * 7])
def test_micro_batches_add_up_to_the_whole(aggregation: Aggregation, cuts: list[int]) -> None:
    rows = random_rows()
    loss, gradient_BT, metrics = whole(rows, aggregation)
    parts = [run(rows[part], aggregation, total_of(rows, aggregation)) for part in torch.arange(7).split(cuts)]
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).sum(), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient_BT)
    for name, value in metrics.items():
        torch.testing.assert_close(torch.stack([part[2][name] for part in parts]).sum(), value)


@both
def test_permutation_of_rows_changes_no_sum(aggregation: Aggregation) -> None:
    rows, order = random_rows(), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    loss, gradient_BT, metrics = whole(rows, aggregation)
    permuted_loss, permuted_gradient_BT, permuted_metrics = whole(rows[order], aggregation)
    torch.testing.assert_close(permuted_loss, loss)
    torch.testing.assert_close(permuted_gradient_BT, gradient_BT[order])
    torch.testing.assert_close(permuted_metrics, metrics)


@both
def test_padding_width_changes_nothing(aggregation: Aggregation) -> None:
    rows = random_rows()

    def widen(values_BT: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values_BT, (2, 5), value=fill)

    wide = Rows(
        widen(rows.logprobs_BT, -1.0),
        widen(rows.old_logprobs_BT, -2.0),
        widen(rows.reference_logprobs_BT, -3.0),
        rows.advantages_B,
        widen(rows.mask_BT, False),
    )
    loss, gradient_BT, metrics = whole(rows, aggregation)
    wide_loss, wide_gradient_BT, wide_metrics = whole(wide, aggregation)
    torch.testing.assert_close(wide_loss, loss)
    torch.testing.assert_close(wide_gradient_BT, widen(gradient_BT, 0.0))
    torch.testing.assert_close(wide_metrics, metrics)


@both
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("where", ["logprobs_BT", "old_logprobs_BT", "reference_logprobs_BT"])
def test_garbage_outside_the_mask_is_never_read(aggregation: Aggregation, garbage: float, where: str) -> None:
    rows = random_rows()
    dirty = replace(rows, **{where: getattr(rows, where).masked_fill(~rows.mask_BT, garbage)})
    with torch.autograd.set_detect_anomaly(True):  # refuses a NaN anywhere on the way back, even one that is thrown away later
        clean_run, dirty_run = whole(rows, aggregation), whole(dirty, aggregation)
    torch.testing.assert_close(dirty_run, clean_run, rtol=0, atol=0)
    assert (dirty_run[1][~rows.mask_BT] == 0).all()


@both
def test_garbage_outside_the_mask_is_not_aggregated(aggregation: Aggregation) -> None:
    values_BT, mask_BT = torch.tensor([[1.0, math.nan], [math.inf, 5.0]]), torch.tensor([[True, False], [False, True]])
    assert aggregate(values_BT, mask_BT=mask_BT, aggregation=aggregation, total=2) == 3.0


@both
def test_a_batch_without_tokens_costs_nothing(aggregation: Aggregation) -> None:
    rows = random_rows()
    empty = replace(rows, mask_BT=torch.zeros_like(rows.mask_BT))
    loss, gradient_BT, metrics = whole(empty, aggregation)
    assert loss == 0
    assert (gradient_BT == 0).all()
    assert all(value == 0 for value in metrics.values())


def test_aggregations_by_hand() -> None:
    """Rows of 1 and 3 tokens: a sequence weighs 1/2, or a token 1/4."""
    values_BT, mask_BT = torch.tensor([[4.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), torch.tensor([[True, False, False], [True, True, True]])
    assert aggregate(values_BT, mask_BT=mask_BT, aggregation=Aggregation.sequence, total=2) == 3.0
    assert aggregate(values_BT, mask_BT=mask_BT, aggregation=Aggregation.token, total=4) == 2.5


def test_kl_is_positive_and_zero_only_at_equality() -> None:
    rows = random_rows(b=50)
    assert (k3_kl(logprobs_BT=rows.logprobs_BT, reference_logprobs_BT=rows.reference_logprobs_BT) > 0).all()
    assert (k3_kl(logprobs_BT=rows.logprobs_BT, reference_logprobs_BT=rows.logprobs_BT) == 0).all()


def test_kl_is_the_divergence_in_the_mean_over_the_policy() -> None:
    """Over a whole vocabulary, weighted by the policy's own probabilities, it is Σ p log(p / q)."""
    generator = torch.Generator().manual_seed(0)
    policy_V, reference_V = torch.randn(2, 11, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    kl_1V = k3_kl(logprobs_BT=policy_V[None], reference_logprobs_BT=reference_V[None])
    torch.testing.assert_close((policy_V.exp() * kl_1V[0]).sum(), (policy_V.exp() * (policy_V - reference_V)).sum())


@both
def test_kl_enters_the_loss_by_its_coefficient_and_the_metrics_without(aggregation: Aggregation) -> None:
    rows = random_rows()
    total = total_of(rows, aggregation)
    for coefficient in (0.04, 2.0):
        loss, _, metrics = run(rows, aggregation, total, kl_coefficient=coefficient)
        torch.testing.assert_close(loss, metrics["loss/policy"] + coefficient * metrics["loss/kl"])
    assert "loss/kl" not in run(rows, aggregation, total, kl_coefficient=0.0)[2]
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 2.0, -2.6, True),  # more of what was good: only as far as 1 + 0.3
        (1.5, -2.0, 3.0, False),  # more of what was bad: the whole way back
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.6, True),  # less of what was bad: only as far as 1 − 0.2
        (1.25, 2.0, -2.5, False),
        (0.85, -2.0, 1.7, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_clip_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprobs_BT = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    loss_BT, clipped_BT = clipped_surrogate(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=logprobs_BT.detach() - math.log(ratio),
        advantages_B=torch.tensor([advantage], dtype=torch.float64),
        clip_low=0.2,
        clip_high=0.3,
    )
    assert loss_BT.item() == pytest.approx(loss)
    assert clipped_BT.item() is clipped
    (gradient_BT,) = torch.autograd.grad(loss_BT.sum(), logprobs_BT)
    assert gradient_BT.item() == pytest.approx(0.0 if clipped else -ratio * advantage)


def test_clip_fraction_counts_tokens_of_the_mask() -> None:
    old_BT = torch.zeros(2, 3)
    rows = Rows(
        logprobs_BT=torch.tensor([[1.0, 0.0, 0.0], [-1.0, -1.0, 1.0]]),  # clipped: the first of row 0; of row 1 the first two
        old_logprobs_BT=old_BT,
        reference_logprobs_BT=old_BT,
        advantages_B=torch.tensor([1.0, -1.0]),
        mask_BT=torch.tensor([[True, True, True], [True, False, False]]),
    )
    assert whole(rows, Aggregation.token)[2]["policy/clip_fraction"].item() == pytest.approx(2 / 4)
    assert whole(rows, Aggregation.sequence)[2]["policy/clip_fraction"].item() == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("coefficient", [0.0, 0.04])
def test_a_reference_is_given_exactly_when_it_is_used(coefficient: float) -> None:
    rows = random_rows()
    with pytest.raises(ValueError, match=rf"algorithm.kl.coefficient={coefficient} .*give the reference, or set it to 0"):
        policy_loss(
            logprobs_BT=rows.logprobs_BT,
            old_logprobs_BT=rows.old_logprobs_BT,
            reference_logprobs_BT=None if coefficient else rows.reference_logprobs_BT,
            advantages_B=rows.advantages_B,
            mask_BT=rows.mask_BT,
            options=LossOptions(kl=KlOptions(coefficient)),
            total=7,
        )


def test_a_negative_coefficient_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm.kl.coefficient=-0.1"):
        KlOptions(-0.1)
