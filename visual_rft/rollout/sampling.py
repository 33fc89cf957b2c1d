"""One token a row from its distribution. Axes: B rows, V vocabulary, K blocks of it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 128


def draw(logits_BV: Tensor, uniforms_B: Tensor, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """tokens_B by inverse transform, each the first whose cumulative probability exceeds its row's uniform draw in [0, 1), and their logprobs_B.

    With `top_p` below 1, only from the fewest most probable tokens that hold that much probability together (nucleus sampling, arXiv 1904.09751);
    logprobs are those of the whole distribution. A row's token depends on its own logits and draw alone. A token at −inf is never drawn.
    """
    highest_B1 = logits_BV.amax(-1, keepdim=True)
    weights_BV = (logits_BV - highest_B1).exp_()
    total_B1 = weights_BV.sum(-1, keepdim=True)
    drawn_BV = weights_BV if top_p == 1 else _nucleus(weights_BV, top_p * total_B1)
    # Blocks first, then the block: a running sum in float64 over 150,000 tokens keeps the tail, and costs more than the model's last layer.
    blocks_BKV = pad(drawn_BV, (0, -drawn_BV.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    sums_BK = blocks_BKV.sum(-1).double()
    block_B1, within_B1 = _place(sums_BK, uniforms_B[:, None].double())
    block_BV = blocks_BKV.gather(1, block_B1[..., None].expand(-1, -1, _BLOCK))[:, 0].double()
    tokens_B1 = block_B1 * _BLOCK + _place(block_BV, within_B1)[0]
    logprobs_B1 = logits_BV.gather(1, tokens_B1) - highest_B1 - total_B1.log()
    return tokens_B1[:, 0], logprobs_B1[:, 0]


def greedy(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """tokens_B, each row's most probable, and their logprobs_B."""
    highest_B, tokens_B = logits_BV.max(-1)
    return tokens_B, highest_B - logits_BV.logsumexp(-1)


def _place(weights_BK: Tensor, uniforms_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The entry in which a uniform draw falls, and where in it, in [0, 1)."""
    sums_BK = weights_BK.cumsum(-1)
    total_B1 = sums_BK[:, -1:]
    target_B1 = uniforms_B1 * total_B1
    last_B1 = (sums_BK < total_B1).sum(-1, keepdim=True)  # the last entry with any weight: what rounds up to the total falls into it
    entry_B1 = torch.searchsorted(sums_BK, target_B1, right=True).minimum(last_B1)
    weight_B1 = weights_BK.gather(1, entry_B1)
    return entry_B1, ((target_B1 - (sums_BK.gather(1, entry_B1) - weight_B1)) / weight_B1).clamp(0, 1)


def _nucleus(weights_BV: Tensor, enough_B1: Tensor) -> Tensor:
    """The weights without those of tokens beyond the nucleus."""
    sorted_BV, tokens_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.double().cumsum(-1) - sorted_BV
    return weights_BV.scatter(1, tokens_BV, sorted_BV.masked_fill(before_BV >= enough_B1, 0.0))
