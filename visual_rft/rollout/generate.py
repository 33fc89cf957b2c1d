"""Rollouts: each prompt is prefilled once, its key-value cache shared out to the group, and tokens are drawn one by one.

Axes: P prompts, G completions a prompt, B = P·G rows, S prompt tokens, T completion tokens, V vocabulary, H hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from visual_rft.rollout.sampling import draw, greedy
from visual_rft.vocabulary import PromptInputs

Choose = Callable[[Tensor, int], Tensor]  # (logprobs_BV, t) -> tokens_B


class Speaker(Protocol):
    """What a rollout asks of a model: `models.policy.Policy` is one."""

    @property
    def device(self) -> torch.device: ...

    def embed(self, tokens: Tensor) -> Tensor: ...

    def new_cache(self) -> DynamicCache: ...

    def language(self, *, embeds: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor: ...

    def log_distribution(self, hidden_H: Tensor, temperature: float) -> Tensor: ...


@dataclass(frozen=True)
class Limits:
    """How a rollout is drawn and where it stops: at `end_id`, which is the last token of a finished completion, or after `max_tokens`."""

    max_tokens: int
    end_id: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Sampled:
    """Completions of one prompt: tokens_T each (end token included when finished), their logprobs_T, and whether the end token came."""

    tokens: list[Tensor]
    logprobs: list[Tensor]
    finished: list[bool]


@torch.no_grad()
def sample(model: Speaker, inputs: PromptInputs, limits: Limits, seeds_PG: Sequence[Sequence[Sequence[int]]]) -> list[Sampled]:
    """G completions for each of P prompts; completion (p, g) is drawn with its own random stream, seeded by the integers `seeds_PG[p][g]`."""
    streams = [np.random.default_rng(seed).random(limits.max_tokens) for seeds_G in seeds_PG for seed in seeds_G]
    uniforms_BT = torch.from_numpy(np.stack(streams)).to(model.device)
    return _decode(model, inputs, limits, len(seeds_PG[0]), lambda logprobs_BV, t: draw(logprobs_BV, uniforms_BT[:, t]))


@torch.no_grad()
def decode_greedily(model: Speaker, inputs: PromptInputs, limits: Limits) -> list[Sampled]:
    """The most probable continuation of each of P prompts, token by token: P groups of one completion."""
    return _decode(model, inputs, limits, 1, lambda logprobs_BV, _: greedy(logprobs_BV))


def _decode(model: Speaker, inputs: PromptInputs, limits: Limits, group: int, choose: Choose) -> list[Sampled]:
    cache = model.new_cache()
    hidden_PSH = model.language(embeds=inputs.embeds_PSH, mask=inputs.mask_PS, positions=inputs.positions_3PS, cache=cache)
    cache.batch_repeat_interleave(group)
    last_BH = hidden_PSH[:, -1].repeat_interleave(group, dim=0)
    mask_BS = inputs.mask_PS.repeat_interleave(group, dim=0)
    position_B = inputs.next_position_P.repeat_interleave(group)
    running_B = torch.ones_like(position_B, dtype=torch.bool)
    tokens, logprobs, alive = [], [], []
    for t in range(limits.max_tokens):
        logprobs_BV = model.log_distribution(last_BH, limits.temperature)
        token_B = choose(logprobs_BV, t)
        tokens.append(token_B)
        logprobs.append(logprobs_BV.gather(-1, token_B[:, None])[:, 0])
        alive.append(running_B)
        running_B = running_B & (token_B != limits.end_id)
        if t == limits.max_tokens - 1 or not running_B.any():
            break
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], dim=1)
        positions_3B1 = (position_B + t)[None, :, None].expand(3, -1, -1)
        last_BH = model.language(embeds=model.embed(token_B)[:, None], mask=mask_BS, positions=positions_3B1, cache=cache)[:, -1]
    return _gather(torch.stack(tokens, 1), torch.stack(logprobs, 1), torch.stack(alive, 1), ~running_B, group)


def _gather(tokens_BT: Tensor, logprobs_BT: Tensor, alive_BT: Tensor, finished_B: Tensor, group: int) -> list[Sampled]:
    lengths = alive_BT.sum(1).tolist()
    tokens = [row[:n].clone() for row, n in zip(tokens_BT.cpu(), lengths, strict=True)]
    logprobs = [row[:n].clone() for row, n in zip(logprobs_BT.cpu(), lengths, strict=True)]
    finished = finished_B.tolist()
    return [Sampled(tokens[i : i + group], logprobs[i : i + group], finished[i : i + group]) for i in range(0, len(tokens), group)]
