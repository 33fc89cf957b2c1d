"""Both sides of the step of one GPU: the trainer's own stages, and plain Hugging Face with every prompt and image repeated.

Axes: P prompts, G completions a prompt, B = P·G rows, S tokens of a row, T completion tokens, R patches, D values a patch.
"""

import copy
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from _gpu import SEED, Clock, Size, model, prepared
from torch import Tensor, nn

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.hardware import HardwareOptions, prepare
from visual_rft.learner import Work, grpo
from visual_rft.losses import KlOptions, policy_loss
from visual_rft.models.policy import Policy
from visual_rft.optimizer import Optimizer
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Engine
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import ClassTruth, Example, Reward

LEARNING_RATE = 1e-6
KL = 0.04
REPLAYS = 50


class Mute:
    """In place of a processor: no completion ends before its time, and none has a text."""

    end_id = -1

    def decode(self, _: Tensor) -> str:
        """Nothing."""
        return ""


class Clocked:
    """A policy whose reading of prompts is timed."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self.policy, self.clock, self.device = policy, clock, policy.device
        self.speak, self.logits = policy.speak, policy.logits

    def read(self, *arguments: Any) -> Tensor:
        """As the policy's."""
        with self.clock.stage("prefill"):
            return self.policy.read(*arguments)


class Ours:
    """The trainer's stages, one after the other as in its `run`."""

    def __init__(self, size: Size, options: HardwareOptions, *, train_tower: bool) -> None:
        machine = prepare(options, SEED)
        self.size, self.prepared, self.clock, self.number = size, prepared(size), Clock(machine.device), 0
        self.policy = Policy(model(size, machine.device, machine.dtype), range(size.speakable), machine.attention).to(machine.device)
        self.policy.model.model.visual.requires_grad_(train_tower)
        algorithm = AlgorithmOptions(kl=KlOptions(0.0), group_size=size.group, max_completion_tokens=size.tokens)
        self.trainer = Trainer(Models.whole(self.policy, None, Mute()), _task(), algorithm, options)
        decoding = Decoding(size.tokens, Mute.end_id)
        self.trainer.engine = Engine(Clocked(self.policy, self.clock), decoding, group=size.group, rows=size.rows, fixed=True)
        self._time_optimizer()
        self.examples = [Example(str(p), (), "", "", ClassTruth("")) for p in range(size.prompts)]

    def set_kl(self, *, on: bool) -> None:
        """Whether a reference is held beside the policy from now on, and the KL to it is part of the loss."""
        self.trainer.learner.reference = copy.deepcopy(self.policy).requires_grad_(False) if on else None
        self.trainer.learner.objective = grpo(replace(self.trainer.algorithm, kl=KlOptions(KL if on else 0.0)))

    def step(self) -> dict[str, float]:
        """Seconds of each stage."""
        trainer, stage, self.number = self.trainer, self.clock.stage, self.number + 1
        with stage("step"), trainer.judging(progress=0.0) as judge:
            with stage("encode"):
                asked, features = trainer.look(self.prepared)
            with stage("rollout"):
                groups, pending = trainer.sample(self.examples, range(self.size.prompts), asked, features, judge, seed=(SEED, self.number))
            with stage("reference"):
                rounds = trainer.learner.pack(groups, asked, features)
            totals_PG = torch.tensor([[trainer.task.total(r) for r in rewards.result()] for rewards in pending])
            advantages_PG = trainer.advantages(totals_PG, seed=(SEED, self.number))
            with stage("update"):
                (update,) = trainer.learner.updates(Work(asked, features, rounds, advantages_PG), LEARNING_RATE)
        if fault := update.fault():
            raise ArithmeticError(fault)
        self.gap = update.metrics["rollout/trainer_logprob_gap"]
        seconds = self.clock.take()
        seconds["decode"] = seconds["rollout"] - seconds["prefill"]
        seconds["vision and prefill"] = seconds["encode"] + seconds["prefill"]
        seconds["forward and backward"] = seconds["update"] - seconds["optimizer"]
        seconds["decode a token"] = seconds["decode"] / (self.size.tokens - 1)
        return seconds

    @torch.no_grad()
    def decode_step(self) -> float:
        """Seconds of one token for every row, by the device alone: the last step of the rollout again and again, nobody reads what was drawn."""
        for stage in ("warm up", "replay"):
            with self.clock.stage(stage):
                for _ in range(REPLAYS):
                    self.trainer.engine.step()
        return self.clock.take()["replay"] / REPLAYS

    def _time_optimizer(self) -> None:
        optimizer, take_step = self.trainer.learner.optimizer, self.trainer.learner.optimizer.step

        def timed(*arguments: Any, **options: Any) -> Tensor:
            with self.clock.stage("optimizer"):
                return take_step(*arguments, **options)

        optimizer.step = timed  # type: ignore[method-assign]


class Peer:
    """Plain Hugging Face on B rows: every row has its own copy of its prompt and of its image."""

    def __init__(self, size: Size, ours: Ours, *, rows_at_once: int, train_tower: bool) -> None:
        device, dtype = ours.policy.device, next(ours.policy.parameters()).dtype
        self.size, self.rows_at_once, self.clock, self.algorithm = size, rows_at_once, Clock(device), ours.trainer.algorithm
        self.model = model(size, device, dtype)
        self.model.model.visual.requires_grad_(train_tower)
        self.reference: nn.Module | None = None
        self.optimizer = Optimizer(self.model, weight_decay=0.0)
        rows = [p for p in range(size.prompts) for _ in range(size.group)]
        pixels = ours.prepared.pixels.of(rows)
        self.ids_BS = torch.stack([ours.prepared.tokens[p] for p in rows]).to(device)
        self.patches_RD, self.grid_B3 = pixels.patches_RD.to(device, dtype), pixels.grid_I3.to(device)
        self.advantages_B = torch.randn(size.rows, generator=torch.Generator().manual_seed(SEED)).to(device)
        self.model.generation_config.update(eos_token_id=None, pad_token_id=0)

    def set_kl(self, *, on: bool) -> None:
        """As ours."""
        self.reference = copy.deepcopy(self.model).requires_grad_(False) if on else None
        self.algorithm = replace(self.algorithm, kl=KlOptions(KL if on else 0.0))

    def step(self) -> dict[str, float]:
        """Seconds of each stage; without the deterministic kernels that ours asks torch for, which cost time."""
        ours = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        try:
            return self._step()
        finally:
            torch.set_deterministic_debug_mode(ours)

    def _step(self) -> dict[str, float]:
        with self.clock.stage("step"):
            with self.clock.stage("rollout"):
                tokens_BT = self.generate()
            parts = [slice(i, i + self.rows_at_once) for i in range(0, self.size.rows, self.rows_at_once)]
            with self.clock.stage("reference"), torch.no_grad():
                reference = [self.logprobs(self.reference, part, tokens_BT) if self.reference else None for part in parts]
            with self.clock.stage("forward and backward"):
                for part, reference_BT in zip(parts, reference, strict=True):
                    self.loss(part, tokens_BT, reference_BT).backward()
            with self.clock.stage("optimizer"):
                self.optimizer.step(LEARNING_RATE, max_grad_norm=1.0)
                self.optimizer.zero_grad()
        return self.clock.take()

    @torch.no_grad()
    def generate(self) -> Tensor:
        """tokens_BT, as many as the workload says; no special ones, since an image's token would want an image."""
        inputs = {"input_ids": self.ids_BS, "attention_mask": torch.ones_like(self.ids_BS), **self._images(slice(0, self.size.rows), self.ids_BS)}
        sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "suppress_tokens": list(self.size.special)}
        drawn_BS = self.model.generate(**inputs, **sampling, max_new_tokens=self.size.tokens, disable_compile=True)
        return drawn_BS[:, self.ids_BS.shape[1] :]

    def logprobs(self, speaker: nn.Module, rows: slice, tokens_BT: Tensor) -> Tensor:
        """logprobs_BT of some rows' completions."""
        ids_BS = torch.cat([self.ids_BS[rows], tokens_BT[rows]], dim=1)
        out = speaker(
            input_ids=ids_BS,
            attention_mask=torch.ones_like(ids_BS),
            use_cache=False,
            logits_to_keep=self.size.tokens + 1,
            **self._images(rows, ids_BS),
        )
        return out.logits[:, :-1].float().log_softmax(-1).gather(-1, tokens_BT[rows, :, None])[..., 0]

    def loss(self, rows: slice, tokens_BT: Tensor, reference_BT: Tensor | None) -> Tensor:
        """These rows' part of the loss of all."""
        logprobs_BT = self.logprobs(self.model, rows, tokens_BT)
        loss, _ = policy_loss(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=logprobs_BT.detach(),
            reference_logprobs_BT=reference_BT,
            advantages_B=self.advantages_B[rows],
            mask_BT=torch.ones_like(logprobs_BT, dtype=torch.bool),
            options=self.algorithm,
            total=self.size.rows,
        )
        return loss

    def _images(self, rows: slice, ids_BS: Tensor) -> dict[str, Tensor]:
        patches, last = self.size.patches, min(rows.stop, self.size.rows)
        return {
            "mm_token_type_ids": (ids_BS == self.model.config.image_token_id).int(),
            "pixel_values": self.patches_RD[rows.start * patches : last * patches],
            "image_grid_thw": self.grid_B3[rows],
        }


def _task() -> Task:
    """Its rewards do not look at what they reward, and no group is of one mind."""
    number = count()

    def nothing(*_: Any) -> Any:
        raise AssertionError("a step reads rewards alone")

    return Task(nothing, lambda *_: Reward({"constant": (next(number) * 7 % 5) / 4}, None, None), nothing, {"constant": 1.0})
