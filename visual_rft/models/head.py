"""The language model's head on completion tokens only, a chunk at a time: the logits of a step never stand in memory together.

Axes: C completion tokens, H hidden width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK = {"cpu": 2**20, "cuda": 2**26}  # logits at a time: what stays in a cache, or keeps a GPU busy
_KEPT = 2**25  # up to so many probabilities (128 MB) are kept for the backward pass; beyond, they are computed again


def tempered_logits(hidden_H: Tensor, weight_VH: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """[..., V] float32 logits divided by the temperature; those of the ids in `banned` are −inf."""
    logits_V = (hidden_H @ weight_VH.T).float()
    return logits_V.div_(temperature).index_fill_(-1, banned, float("-inf"))


def token_logprobs(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """logprobs_C of the targets, and entropies_C (without gradient) of the distributions they are drawn from; both float32, in nats."""
    logprobs_C, entropy_C = _TokenLogprobs.apply(hidden_CH, weight_VH, targets_C, banned, temperature)
    return logprobs_C, entropy_C


class _TokenLogprobs(torch.autograd.Function):
    """Where the probabilities are too many to be kept, backward computes the logits again: a third more of the head's work, and no memory."""

    @staticmethod
    def forward(ctx: Any, hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs_C = hidden_CH.new_empty(len(hidden_CH), dtype=torch.float32)
        entropy_C = torch.empty_like(logprobs_C)
        keep, kept = any(ctx.needs_input_grad) and len(hidden_CH) * len(weight_VH) <= _KEPT, []
        for rows in _chunks(hidden_CH, weight_VH):
            logits_CV = tempered_logits(hidden_CH[rows], weight_VH, banned, temperature)
            highest_C1 = logits_CV.amax(-1, keepdim=True)
            probabilities_CV, mass_C1 = _normalised((logits_CV - highest_C1).exp_())
            total_C = (highest_C1 + mass_C1.log())[:, 0]
            logprobs_C[rows] = logits_CV.gather(1, targets_C[rows, None])[:, 0] - total_C
            entropy_C[rows] = total_C - logits_CV.index_fill_(1, banned, 0.0).mul_(probabilities_CV).sum(-1)
            kept += [probabilities_CV] if keep else []
        ctx.save_for_backward(hidden_CH, weight_VH, targets_C, banned, *kept)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_C)
        return logprobs_C, entropy_C

    @staticmethod
    def backward(ctx: Any, grad_C: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_CH, weight_VH, targets_C, banned, *kept = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden_CH = torch.empty_like(hidden_CH) if to_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if to_weight else None
        for i, rows in enumerate(_chunks(hidden_CH, weight_VH)):
            grad_C1 = grad_C[rows, None] / ctx.temperature
            # of a logprob by the tempered logits: one for the target, minus the probabilities
            grad_CV = kept[i] * -grad_C1 if kept else _probabilities(hidden_CH[rows], weight_VH, banned, ctx.temperature).mul_(-grad_C1)
            grad_CV = grad_CV.scatter_add_(1, targets_C[rows, None], grad_C1).to(hidden_CH.dtype)
            if grad_hidden_CH is not None:
                grad_hidden_CH[rows] = grad_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH += grad_CV.T @ hidden_CH[rows]
        return grad_hidden_CH, None if grad_weight_VH is None else grad_weight_VH.to(weight_VH.dtype), None, None, None


def _probabilities(hidden_CH: Tensor, weight_VH: Tensor, banned: Tensor, temperature: float) -> Tensor:
    logits_CV = tempered_logits(hidden_CH, weight_VH, banned, temperature)
    return _normalised(logits_CV.sub_(logits_CV.amax(-1, keepdim=True)).exp_())[0]


def _normalised(weights_CV: Tensor) -> tuple[Tensor, Tensor]:
    """The weights divided, in place, by their sum_C1, and that sum."""
    mass_C1 = weights_CV.sum(-1, keepdim=True)
    return weights_CV.div_(mass_C1), mass_C1


def _chunks(hidden_CH: Tensor, weight_VH: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK[hidden_CH.device.type] // len(weight_VH))
    return (slice(first, first + size) for first in range(0, len(hidden_CH), size))
