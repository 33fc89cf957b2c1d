"""The language model's head on completion tokens only, a chunk at a time: the logits of a step never stand in memory together.

Axes: C completion tokens, H hidden width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK = 2**23  # logits at a time: 32 MB in float32


def tempered_logits(hidden_H: Tensor, weight_VH: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """[..., V] float32 logits divided by the temperature; those of the ids in `banned` are −inf."""
    logits_V = (hidden_H @ weight_VH.T).float()
    return logits_V.div_(temperature).index_fill_(-1, banned, float("-inf"))


def token_logprobs(hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """logprobs_C of the targets, and entropies_C (without gradient) of the distributions they are drawn from; both float32, in nats."""
    logprobs_C, entropy_C = _TokenLogprobs.apply(hidden_CH, weight_VH, targets_C, banned, temperature)  # type: ignore[no-untyped-call]
    return logprobs_C, entropy_C


class _TokenLogprobs(torch.autograd.Function):
    """Backward computes the logits again instead of keeping them: a third more of the head's work, V/H times less memory."""

    @staticmethod
    def forward(ctx: Any, hidden_CH: Tensor, weight_VH: Tensor, targets_C: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs_C = hidden_CH.new_empty(len(hidden_CH), dtype=torch.float32)
        entropy_C = torch.empty_like(logprobs_C)
        for rows in _chunks(len(hidden_CH), len(weight_VH)):
            logits_CV = tempered_logits(hidden_CH[rows], weight_VH, banned, temperature)
            total_C = logits_CV.logsumexp(-1)
            logprobs_C[rows] = logits_CV.gather(1, targets_C[rows, None])[:, 0] - total_C
            probabilities_CV = (logits_CV - total_C[:, None]).exp_()
            entropy_C[rows] = total_C - torch.linalg.vecdot(probabilities_CV, logits_CV.index_fill_(1, banned, 0.0))
        ctx.save_for_backward(hidden_CH, weight_VH, targets_C, banned)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_C)
        return logprobs_C, entropy_C

    @staticmethod
    def backward(ctx: Any, grad_C: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_CH, weight_VH, targets_C, banned = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden_CH = torch.empty_like(hidden_CH) if to_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if to_weight else None
        for rows in _chunks(len(hidden_CH), len(weight_VH)):
            grad = grad_C[rows, None] / ctx.temperature
            # of a logprob by the tempered logits: one for the target, minus the probabilities
            grad_CV = tempered_logits(hidden_CH[rows], weight_VH, banned, ctx.temperature).softmax(-1).mul_(-grad)
            grad_CV = grad_CV.scatter_add_(1, targets_C[rows, None], grad).to(hidden_CH.dtype)
            if grad_hidden_CH is not None:
                grad_hidden_CH[rows] = grad_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH += grad_CV.T @ hidden_CH[rows]
        return grad_hidden_CH, None if grad_weight_VH is None else grad_weight_VH.to(weight_VH.dtype), None, None, None


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, _CHUNK // vocabulary)
    return (slice(first, first + size) for first in range(0, rows, size))
