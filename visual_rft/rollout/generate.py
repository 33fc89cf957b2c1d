"""Rollouts: each prompt is prefilled once, its key-value cache shared out to the group, and tokens are drawn one by one.

Axes: P prompts, G completions a prompt, B = P·G rows, T completion tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from visual_rft.models.policy import Policy, PromptInputs
from visual_rft.rollout.sampling import draw, greedy


@dataclass(frozen=True)
class Sampled:
    """Completions of one prompt: tokens_T each (end token included when finished), their logprobs_T, and whether the end token came."""

    tokens: list[Tensor]
    logprobs: list[Tensor]
    finished: list[bool]


@torch.no_grad()
def sample(
    policy: Policy, inputs: PromptInputs, *, seeds_PG: Sequence[Sequence[Sequence[int]]], temperature: float, max_tokens: int, end_id: int
) -> list[Sampled]:
    """G completions for each of P prompts; completion (p, g) is drawn with its own random stream, seeded by the integers `seeds_PG[p][g]`."""
    group = len(seeds_PG[0])
    uniforms_BT = torch.from_numpy(np.stack([np.random.default_rng(seed).random(max_tokens) for seeds in seeds_PG for seed in seeds]))
    uniforms_BT = uniforms_BT.to(policy.device)
    return _decode(policy, inputs, group, max_tokens, end_id, temperature, lambda logprobs_BV, t: draw(logprobs_BV, uniforms_BT[:, t]))


@torch.no_grad()
def decode_greedily(policy: Policy, inputs: PromptInputs, *, max_tokens: int, end_id: int) -> list[Sampled]:
    """The most probable continuation of each of P prompts, token by token: P groups of one completion."""
    return _decode(policy, inputs, 1, max_tokens, end_id, 1.0, lambda logprobs_BV, _: greedy(logprobs_BV))


def _decode(policy, inputs, group, max_tokens, end_id, temperature, choose) -> list[Sampled]:  # type: ignore[no-untyped-def]
    cache = DynamicCache(config=policy.model.config.get_text_config())
    out = policy.language(embeds=inputs.embeds_PSH, mask=inputs.mask_PS, positions=inputs.positions_3PS, cache=cache)
    last_BH = out.last_hidden_state[:, -1].repeat_interleave(group, dim=0)
    cache.batch_repeat_interleave(group)
    mask_BS = inputs.mask_PS.repeat_interleave(group, dim=0)
    next_position_B = inputs.next_position_P.repeat_interleave(group)
    running_B = torch.ones(len(last_BH), dtype=torch.bool, device=policy.device)
    tokens, logprobs, alive = [], [], []
    for t in range(max_tokens):
        logprobs_BV = policy.log_distribution(last_BH, temperature)
        token_B = choose(logprobs_BV, t)
        tokens.append(token_B)
        logprobs.append(logprobs_BV.gather(-1, token_B[:, None])[:, 0])
        alive.append(running_B)
        running_B = running_B & (token_B != end_id)
        if t == max_tokens - 1 or not running_B.any():
            break
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], dim=1)
        embeds = policy.model.get_input_embeddings()(token_B)[:, None]
        positions = (next_position_B + t)[None, :, None].expand(3, -1, -1)
        last_BH = policy.language(embeds=embeds, mask=mask_BS, positions=positions, cache=cache).last_hidden_state[:, -1]
    return _gather(torch.stack(tokens, 1), torch.stack(logprobs, 1), torch.stack(alive, 1), ~running_B, group)


def _gather(tokens_BT: Tensor, logprobs_BT: Tensor, alive_BT: Tensor, finished_B: Tensor, group: int) -> list[Sampled]:
    lengths = alive_BT.sum(1).tolist()
    tokens = [row[:n].clone() for row, n in zip(tokens_BT.cpu(), lengths, strict=True)]
    logprobs = [row[:n].clone() for row, n in zip(logprobs_BT.cpu(), lengths, strict=True)]
    finished = finished_B.tolist()
    return [Sampled(tokens[i : i + group], logprobs[i : i + group], finished[i : i + group]) for i in range(0, len(tokens), group)]
