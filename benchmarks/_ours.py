"""This side: the policy, the engine and the trainer of visual_rft on a workload.

Axes: P prompts, G completions a prompt, B = P·G rows, T completion tokens.
"""

import copy
import gc
import time
from collections.abc import Iterator, Sequence
from itertools import count as counter
from typing import Any

import _workloads as workloads
import torch
from _measure import Sample
from _workloads import KL, Workload
from torch import Tensor

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.hardware import HardwareOptions
from visual_rft.images import StoredImage
from visual_rft.inference import Asked
from visual_rft.learner import Learner, Work, grpo
from visual_rft.losses import KlOptions
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Engine, Request
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import ClassTruth, Completion, Example, Group, Prompt, Reward

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
    """Each prompt and each image once."""

    def __init__(self, workload: Workload, *, train_tower: bool = False) -> None:
        self.workload, self.advantages_B = workload, workloads.advantages(workload)
        self.policy, processor = policy(workload, train_tower=train_tower)
        self.pixels = processor.pixels(workloads.images(workload))
        grid_I3 = self.pixels.grid_I3
        asked = enumerate(workloads.questions(workload))
        self.prompts: list[Prompt] = [self.policy.prompt(processor.prompt(question, grid_I3[[i]]), [i], grid_I3) for i, question in asked]
        self.examples = examples(workload)
        algorithm = AlgorithmOptions(kl=KlOptions(0.0), group_size=workload.group)
        self.learner = Learner(self.policy, None, grpo(algorithm), HardwareOptions().tokens_per_micro_batch)

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, ...]:
        """Every image once."""
        return self.policy.encode(self.pixels)

    def step(self, lengths_PG: Sequence[Sequence[int]]) -> None:
        """One encode, completions of these lengths, and forward and backward on them."""
        features = self.encode()
        self.forward_backward(self.generate(lengths_PG, features)[0], features)

    def generate(self, lengths_PG: Sequence[Sequence[int]], features: Sequence[Tensor] | None = None) -> tuple[list[list[Tensor]], dict[str, float]]:
        """Sampled completions_PG of these lengths, and the seconds of prefill and decode. Encodes, as a part of the
        prefill, unless given features."""
        started = time.perf_counter()
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
        parts = {"prefill": clocked.prefilled - started, "decode": time.perf_counter() - clocked.prefilled}
        return [sampled[p].tokens for p in range(len(requests))], parts

    def forward_backward(self, completions_PG: Sequence[Sequence[Tensor]], features: Sequence[Tensor] | None = None) -> None:
        """The learner's own: the loss's gradients are left on the model. Encodes unless given features."""
        if features is None:  # a tower that is trained is encoded by the learner
            features = self.encode() if self.policy.tower_is_frozen else ()
        groups = [
            Group(example, tuple(Completion(tokens, torch.zeros(len(tokens)), "", finished=True) for tokens in completions))
            for example, completions in zip(self.examples, completions_PG, strict=True)
        ]
        asked = Asked(tuple(self.prompts), self.pixels)
        self.learner.optimizer.zero_grad()
        rounds = self.learner.pack(groups, asked, features)
        self.learner.backward(Work(asked, features, rounds, self.advantages_B.unflatten(0, (-1, self.workload.group))))

    @torch.no_grad()
    def logprobs(self, completions_PG: Sequence[Sequence[Tensor]]) -> Tensor:
        """logprobs_BT of the completions, 0 beyond their ends."""
        return self.policy(self.prompts, self.encode(), completions_PG, 1.0).logprobs_BT

    def gradients(self) -> dict[str, Tensor]:
        """Of every parameter that trains, by its name in the Hugging Face model."""
        return {name: p.grad for name, p in self.policy.model.named_parameters() if p.grad is not None}


def policy(workload: Workload, *, train_tower: bool) -> tuple[Policy, Processor]:
    """The workload's model, for completions that do not end before they are as long as they may be, and its processor."""
    words = workloads.tokenizer(workload)
    processor = Processor(words, workloads.image_processor(workload))
    allowed = [i for i in processor.allowed_ids if i != processor.end_id]
    speaking = Policy(workloads.model(workload, words), allowed)
    speaking.model.model.visual.requires_grad_(train_tower)
    return speaking, processor


def examples(workload: Workload) -> list[Example]:
    """Each prompt with its image; nobody looks at the truth."""
    asked = enumerate(zip(workloads.images(workload), workloads.questions(workload), strict=True))
    return [Example(str(i), (StoredImage.of(i, image),), "", question, ClassTruth("")) for i, (image, question) in asked]


def steps(workload: Workload, *, kl: bool = False, train_tower: bool = False, count: int) -> Iterator[Sample]:
    """`count` steps of our trainer on the workload's prompts, one whenever the next is asked for."""
    speaking, processor = policy(workload, train_tower=train_tower)
    reference = copy.deepcopy(speaking).requires_grad_(False) if kl else None
    algorithm = AlgorithmOptions(kl=KlOptions(KL if kl else 0.0), group_size=workload.group, max_completion_tokens=workload.tokens)
    trainer = Trainer(Models.whole(speaking, reference, processor), _task(), algorithm, HardwareOptions())
    run = trainer.run(examples(workload), steps=count, prompts_per_step=workload.prompts, learning_rate=1e-6, seed=workloads.SEED)
    for _ in range(count):
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        step = next(run)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert all(len(c.tokens_T) == workload.tokens for group in step.groups for c in group.completions)
        parts = {name.removeprefix("time/"): value for name, value in step.metrics.items() if name.startswith("time/") and name != "time/step"}
        yield Sample(seconds, cpu, parts)


def _task() -> Task:
    """Its rewards do not look at what they reward."""
    number = counter()

    def score(*_: Any) -> Reward:
        return Reward({"constant": workloads.reward(next(number))}, None, None)

    def nothing(*_: Any) -> Any:
        raise AssertionError("a step reads rewards alone")

    return Task(parse=nothing, score=score, truth=nothing, weights={"constant": 1.0})
