"""This side: the policy, the engine and the trainer of visual_rft on a workload.

Axes: P prompts, G completions a prompt, B = P·G rows, T completion tokens.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import _workloads as workloads
import torch
from _workloads import Workload
from torch import Tensor

from visual_rft.losses import KlOptions, LossOptions, policy_loss
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.rollout.engine import Decoding, Engine, Request
from visual_rft.vocabulary import Prompt

NEVER = -1  # no token: completions end by their lengths alone


class Clocked:
    """A policy for the engine that notes when the first distribution is there: the prefill is over."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.device = policy, policy.device
        self.read, self.speak = policy.read, policy.speak
        self.prefilled: float | None = None

    def logits(self, hidden_H: Tensor, temperature: float) -> Tensor:
        """As the policy's."""
        logits_V = self.policy.logits(hidden_H, temperature)
        self.prefilled = self.prefilled or time.perf_counter()
        return logits_V


class Ours:
    """Each prompt and each image once. `prompts_at_once` cuts forward and backward into micro-batches."""

    def __init__(self, workload: Workload, *, train_tower: bool = False, prompts_at_once: int = 1) -> None:
        self.workload, self.prompts_at_once = workload, prompts_at_once
        words = workloads.tokenizer(workload)
        processor = Processor(words, workloads.image_processor(workload))
        self.policy = Policy(workloads.model(workload, words), allowed_ids(processor))
        self.policy.model.model.visual.requires_grad_(train_tower)
        self.advantages_B = workloads.advantages(workload)
        self.pixels = processor.pixels(workloads.images(workload))
        grid_I3 = self.pixels.grid_I3
        asked = enumerate(workloads.questions(workload))
        self.prompts: list[Prompt] = [self.policy.prompt(processor.prompt(question, grid_I3[[i]]), [i], grid_I3) for i, question in asked]

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, ...]:
        """Every image once."""
        return self.policy.encode(self.pixels)

    def generate(self, lengths_PG: Sequence[Sequence[int]], features: Sequence[Tensor] | None = None) -> tuple[list[list[Tensor]], float]:
        """Sampled completions_PG of these lengths, and the seconds that the decoding took, without the prefill. Encodes unless given features."""
        self.policy.eval()
        features = self.encode() if features is None else features
        clocked = Clocked(self.policy)
        decoding = Decoding(max(n for lengths in lengths_PG for n in lengths), NEVER)
        engine = Engine(clocked, decoding, group=self.workload.group, rows=self.workload.rows, fixed=False)
        requests = [
            Request(prompt, [features[p]], [(workloads.SEED, p, g) for g in range(self.workload.group)], lengths_PG[p])
            for p, prompt in enumerate(self.prompts)
        ]
        sampled = dict(engine.run(requests))
        assert clocked.prefilled
        return [sampled[p].tokens for p in range(len(requests))], time.perf_counter() - clocked.prefilled

    def forward_backward(self, completions_PG: Sequence[Sequence[Tensor]], features: Sequence[Tensor] | None = None) -> Tensor:
        """logprobs_BT (right-padded with 0) of the completions; the loss's gradients are left on the model. Encodes unless given features."""
        self.policy.train().zero_grad()
        if features is None:
            features = self.policy.encode(self.pixels)
        size, group = self.prompts_at_once, self.workload.group
        parts = []
        for first in range(0, len(self.prompts), size):
            part = slice(first, first + size)
            scores = self.policy(self.prompts[part], features, completions_PG[part], 1.0)
            loss, _ = policy_loss(
                logprobs_BT=scores.logprobs_BT,
                old_logprobs_BT=scores.logprobs_BT.detach(),
                reference_logprobs_BT=None,
                advantages_B=self.advantages_B[first * group : (first + size) * group],
                mask_BT=scores.mask_BT,
                options=LossOptions(kl=KlOptions(0.0)),
                total=self.workload.rows,
            )
            loss.backward(retain_graph=not self.policy.tower_is_frozen)
            parts.append(torch.where(scores.mask_BT, scores.logprobs_BT, 0.0).detach())
        width = max(part.shape[1] for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])

    def gradients(self) -> dict[str, Tensor]:
        """Of every parameter that trains, by its name in the Hugging Face model."""
        return {name: p.grad for name, p in self.policy.model.named_parameters() if p.grad is not None}


def allowed_ids(processor: Processor) -> list[int]:
    """All that a completion may hold, but for the end: every completion is as long as it may be."""
    return [i for i in processor.allowed_ids if i != processor.end_id]
