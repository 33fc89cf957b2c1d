"""One token a row from its distribution. Axes: B rows, V vocabulary."""

import torch
from torch import Tensor


def draw(logprobs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """tokens_B by inverse transform: the first token whose cumulative probability exceeds the row's uniform draw in [0, 1).

    A row's token depends on its own distribution and draw alone, whatever else is in the batch. Sums in float64, so that
    a vocabulary of 150,000 tokens does not lose the tail; a token of probability zero is never drawn.
    """
    cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
    threshold_B1 = uniforms_B[:, None].double() * cumulative_BV[:, -1:]
    tokens_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0]
    return tokens_B.clamp(max=logprobs_BV.shape[1] - 1)  # of NaN any token is as wrong: the trainer sees the NaN and stops


def greedy(logprobs_BV: Tensor) -> Tensor:
    """tokens_B: each row's most probable token."""
    return logprobs_BV.argmax(-1)
