"""Token log-probabilities -> the loss of GRPO, or of supervised tuning, and its metrics.

Axes: B rows of one micro-batch, T completion tokens. mask_BT (bool) marks the tokens of the completion; what stands elsewhere is never read.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

import torch
from torch import Tensor


class Aggregation(StrEnum):
    """How the values of tokens become one number."""

    sequence = "sequence"  # mean over sequences of each one's token mean: GRPO and the paper
    token = "token"  # mean over all tokens: DAPO, where long completions weigh more


@dataclass
class KlOptions:
    """`coefficient` is β, the weight of the KL to the frozen reference; at 0 there is no reference at all."""

    coefficient: float = 0.04

    def __post_init__(self) -> None:
        if not 0 <= self.coefficient < inf:
            raise ValueError(f"algorithm.kl.coefficient={self.coefficient}: must be 0 or a positive number")


@dataclass
class LossOptions:
    """The clip range of the probability ratio is 1 − clip_low .. 1 + clip_high."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = Aggregation.sequence
    kl: KlOptions = field(default_factory=KlOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"algorithm.clip_low={self.clip_low}: must lie in 0..1, since no ratio is negative")
        if not self.clip_high >= 0:
            raise ValueError(f"algorithm.clip_high={self.clip_high}: must not be negative")


def clipped_surrogate(
    *, logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_B: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """loss_BT = −min(ratio · A, clip(ratio) · A), and clipped_BT (bool): where the clip cuts the gradient off.

    Source: PPO (arXiv 1707.06347), equation 7; two bounds as in DAPO (arXiv 2503.14476), equation 10.
    """
    advantages_B1 = advantages_B[:, None]
    ratio_BT = (logprobs_BT - old_logprobs_BT).exp()
    loss_BT = -torch.minimum(ratio_BT * advantages_B1, ratio_BT.clamp(1 - clip_low, 1 + clip_high) * advantages_B1)
    above_BT = (ratio_BT > 1 + clip_high) & (advantages_B1 > 0)
    below_BT = (ratio_BT < 1 - clip_low) & (advantages_B1 < 0)
    return loss_BT, above_BT | below_BT


def k3_kl(*, logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """kl_BT ≥ 0: exp(d) − d − 1 with d = reference − policy, whose mean over the policy's samples is KL(policy ‖ reference), in nats.

    Source: Schulman, "Approximating KL Divergence" (2020), estimator k3; DeepSeekMath (arXiv 2402.03300), equation 4.
    """
    difference_BT = reference_logprobs_BT - logprobs_BT
    return difference_BT.expm1() - difference_BT


def aggregate(values_BT: Tensor, *, mask_BT: Tensor, aggregation: Aggregation, total: float) -> Tensor:
    """This micro-batch's share of the mean: shares of all micro-batches and ranks add up to the mean of the whole batch.

    `total` counts, over all of those, the sequences (sequence) or the completion tokens (token). A sequence without tokens contributes 0.
    """
    sums_B = torch.where(mask_BT, values_BT, 0.0).sum(dim=1)
    if aggregation == Aggregation.sequence:
        sums_B = sums_B / mask_BT.sum(dim=1).clamp(min=1)
    return sums_B.sum() / max(total, 1)  # a batch that was masked whole has no tokens, and costs nothing


def policy_loss(  # noqa: PLR0913 - four tensors of the batch, one of advantages, and what weighs them: nothing here can be left out
    *,
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor | None,
    advantages_B: Tensor,
    mask_BT: Tensor,
    options: LossOptions,
    total: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate plus β times the KL to the reference, and detached metrics; all add up over micro-batches as `aggregate` says.

    Metrics: `loss/policy`; `loss/kl` in nats, not multiplied by β, absent without a reference; `policy/clip_fraction`, 0..1.
    With one update a batch, old_logprobs_BT is logprobs_BT.detach(). Raises ValueError unless there is a reference exactly when β is not 0.
    """
    if (reference_logprobs_BT is None) != (options.kl.coefficient == 0):
        given = "no reference log-probabilities" if reference_logprobs_BT is None else "reference log-probabilities nobody uses"
        raise ValueError(f"algorithm.kl.coefficient={options.kl.coefficient} with {given}: give the reference, or set it to 0 and give none")

    def masked(values_BT: Tensor) -> Tensor:
        # Before any arithmetic: multiplying an inf or NaN by 0 afterwards gives NaN, in the gradient too.
        return torch.where(mask_BT, values_BT, 0.0)

    def share(values_BT: Tensor) -> Tensor:
        return aggregate(values_BT, mask_BT=mask_BT, aggregation=options.aggregation, total=total)

    logprobs_BT = masked(logprobs_BT)
    surrogate_BT, clipped_BT = clipped_surrogate(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=masked(old_logprobs_BT),
        advantages_B=advantages_B,
        clip_low=options.clip_low,
        clip_high=options.clip_high,
    )
    loss = share(surrogate_BT)
    metrics = {"loss/policy": loss.detach(), "policy/clip_fraction": share(clipped_BT.to(logprobs_BT.dtype)).detach()}
    if reference_logprobs_BT is not None:
        kl = share(k3_kl(logprobs_BT=logprobs_BT, reference_logprobs_BT=masked(reference_logprobs_BT)))
        metrics["loss/kl"] = kl.detach()
        loss = loss + options.kl.coefficient * kl
    return loss, metrics


def supervised_loss(*, logprobs_BT: Tensor, mask_BT: Tensor, aggregation: Aggregation, total: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean negative logprob of the labels' tokens, in nats, and as a detached metric `loss/nll`; both add up over micro-batches as `aggregate`
    says. Its gradient is that of `policy_loss` on one update a batch at an advantage of 1 and β = 0."""
    loss = aggregate(-logprobs_BT, mask_BT=mask_BT, aggregation=aggregation, total=total)
    return loss, {"loss/nll": loss.detach()}
