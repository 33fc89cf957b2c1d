"""GRPO as the paper has it (Visual-RFT, arXiv 2503.01785; GRPO: DeepSeekMath, arXiv 2402.03300, algorithm 1), in the order of its method section.

One step: ask P questions, sample a group of G completions each, score them with a reward that can be checked, normalise the rewards
inside each group into advantages, and move the policy along the clipped surrogate, held near a frozen reference by β times the k3 KL.

Axes: P prompts a step, G completions a prompt, B rows of one micro-batch, T completion tokens.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from visual_rft.advantages import group_advantages, shuffled_group_advantages
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import prompt_inputs, sample_groups
from visual_rft.losses import Aggregation, LossOptions, aggregate, policy_loss
from visual_rft.measurements import Stopwatch, batch_metrics, logprob_gap, mean_metrics
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.models.processor import Processor
from visual_rft.rollout.generate import Limits
from visual_rft.seeding import Role, stream
from visual_rft.sources.stream import step_examples
from visual_rft.tasks.task import Task
from visual_rft.vocabulary import Batch, Example, Group, Reward


class Advantage(StrEnum):
    """How rewards become advantages."""

    group = "group"  # the paper's
    shuffled = "shuffled"  # the control: rewards permuted inside each group first


@dataclass
class AlgorithmOptions(LossOptions):
    """The mathematics of a run. Lengths are in tokens, the end token included. A step whose gradient is not finite is skipped; after
    `max_bad_steps` of them in a row the run stops."""

    group_size: int = 8
    temperature: float = 1.0
    max_completion_tokens: int = 256
    updates_per_batch: int = 1
    advantage: Advantage = Advantage.group
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    max_bad_steps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(f"algorithm.group_size={self.group_size}: an advantage compares the completions of one prompt; ask for 2 or more")
        if not 0 < self.temperature < inf:
            raise ValueError(f"algorithm.temperature={self.temperature}: must be positive and finite; without chance a group has no spread")
        if not self.max_grad_norm > 0:
            raise ValueError(f"algorithm.max_grad_norm={self.max_grad_norm}: must be positive; .inf clips nothing")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(f"algorithm.weight_decay={self.weight_decay}: must be 0 or a positive number")
        for name in ("max_completion_tokens", "updates_per_batch", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"algorithm.{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Step:
    """One finished step (`number` counts from 1): its metrics by name, and everything that was sampled and how it was judged.

    `skipped` says why an update left the weights alone (with several a batch, the ones before it moved them); None when none did. `fatal` is the
    line to stop the run with: as many steps in a row were skipped as are allowed.
    """

    number: int
    metrics: dict[str, float]
    groups: list[Group]
    rewards_PG: list[list[Reward]]
    totals_PG: Tensor
    advantages_PG: Tensor
    skipped: str | None
    fatal: str | None


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, how many of them were skipped, and how many of the last in a row."""

    steps: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def after(self, *, skipped: bool) -> "Progress":
        """One step later."""
        return Progress(self.steps + 1, self.skipped + skipped, self.skipped_in_a_row + 1 if skipped else 0)


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured, and the examples of micro-batches whose loss was not finite: with any, or with a gradient that is not
    finite, the weights stayed as they were."""

    metrics: dict[str, float]
    unsound: list[str]

    def fault(self) -> str | None:
        """Why the weights stayed as they were; None when they moved."""
        norm, kl = self.metrics["policy/grad_norm"], self.metrics.get("loss/kl", 0.0)
        if isfinite(norm):
            return None
        where = f"the loss of {', '.join(self.unsound[:4])} is not finite" if self.unsound else f"the gradient's norm is {norm}"
        return f"{where} (KL {kl:.2g} nats, rate {self.metrics['policy/lr']:.2g})"


class Trainer:
    """The policy, its optimizer and its reference. `run()` yields the steps one by one."""

    def __init__(
        self, policy: Policy, reference: Policy | None, processor: Processor, task: Task, algorithm: AlgorithmOptions, hardware: HardwareOptions
    ) -> None:
        self.policy, self.reference, self.processor, self.task = policy, reference, processor, task
        self.algorithm, self.hardware = algorithm, hardware
        self.optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=algorithm.weight_decay)
        self.progress = Progress()

    def state(self) -> dict[str, Any]:
        """All that a run is beside its weights: chance and data are functions of the seed and the step."""
        return {"optimizer": self.optimizer.state_dict(), "progress": asdict(self.progress)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; the policy's weights must be those of that moment."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[Step]:
        """What is left of `steps` steps over the training examples; the learning rate falls linearly to zero. Everything follows from the seed.

        An update whose loss or gradient is not finite leaves the weights alone. After `max_bad_steps` such steps in a row the last is `fatal`.
        """
        for step in range(self.progress.steps, steps):
            watch = Stopwatch()
            questions = step_examples(examples, step=step, prompts_per_step=prompts_per_step, seed=seed)
            with watch.stage("rollout"):
                groups = self.sample(questions, seed=(seed, step))
            with watch.stage("reward"):
                rewards_PG = [[self.task.reward(c.text, group.example) for c in group.completions] for group in groups]
                totals_PG = torch.tensor([[self.task.total(r) for r in rewards] for rewards in rewards_PG], dtype=torch.float64)
            advantages_PG = self.advantages(totals_PG, seed=(seed, step))
            with watch.stage("reference"):
                batches = self.pack(groups, advantages_PG)
            with watch.stage("update"):
                updates = self.updates(batches, learning_rate * (1 - step / steps))
            fault = updates[-1].fault()
            self.progress = self.progress.after(skipped=fault is not None)
            metrics = mean_metrics([update.metrics for update in updates]) | {"policy/skipped_steps": self.progress.skipped}
            metrics |= batch_metrics(groups, rewards_PG, totals_PG) | watch.metrics(groups)
            fatal = self._too_many(fault) if self.progress.skipped_in_a_row == self.algorithm.max_bad_steps else None
            yield Step(step + 1, metrics, groups, rewards_PG, totals_PG, advantages_PG, fault, fatal)
            if fatal:
                return

    def _too_many(self, fault: str | None) -> str:
        bad, step = self.algorithm.max_bad_steps, self.progress.steps
        remedy = "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient"
        return f"algorithm.max_bad_steps={bad}: as many steps in a row were skipped, up to step {step}: {fault}; {remedy}"

    def sample(self, questions: Sequence[Example], seed: tuple[int, int]) -> list[Group]:
        """A group of completions of each question from the policy as it is."""
        limits = Limits(self.algorithm.max_completion_tokens, self.processor.end_id, self.algorithm.temperature)
        return sample_groups(self.policy, self.processor, questions, group_size=self.algorithm.group_size, limits=limits, seed=seed)

    def advantages(self, totals_PG: Tensor, seed: tuple[int, int]) -> Tensor:
        """Advantages_PG of the rewards, by the algorithm's rule."""
        if self.algorithm.advantage is Advantage.shuffled:
            return shuffled_group_advantages(totals_PG, generator=torch.Generator().manual_seed(int(stream(Role.SHUFFLE, *seed).integers(2**62))))
        return group_advantages(totals_PG)

    @torch.no_grad()
    def pack(self, groups: Sequence[Group], advantages_PG: Tensor) -> list[Batch]:
        """The groups in micro-batches, with the logprobs that stay fixed over the updates of this step."""
        size, batches = self.hardware.prompts_per_micro_batch, []
        for first in range(0, len(groups), size):
            part = tuple(groups[first : first + size])
            old_BT = self.scores(self.policy, part).logprobs_BT if self.algorithm.updates_per_batch > 1 else None
            reference_BT = self.scores(self.reference, part).logprobs_BT if self.reference else None
            batches.append(Batch(part, advantages_PG[first : first + size].flatten().to(self.policy.device).float(), old_BT, reference_BT))
        return batches

    def updates(self, batches: Sequence[Batch], learning_rate: float) -> list[Update]:
        """The optimizer steps on one batch, up to the first that is at fault; that one leaves the weights alone."""
        done: list[Update] = []
        while len(done) < self.algorithm.updates_per_batch and not (done and done[-1].fault()):
            done.append(self.update(batches, learning_rate))
        return done

    def update(self, batches: Sequence[Batch], learning_rate: float) -> Update:
        """One optimizer step on the whole batch: gradients of the micro-batches add up to that of the batch."""
        completions = [c for batch in batches for group in batch.groups for c in group.completions]
        by_sequence = self.algorithm.aggregation is Aggregation.sequence
        total = len(completions) if by_sequence else sum(len(c.tokens_T) for c in completions)
        self.optimizer.zero_grad()
        summed: dict[str, float] = defaultdict(float)
        gap, unsound = 0.0, []
        for batch in batches:
            scores = self.scores(self.policy, batch.groups)
            loss, metrics = policy_loss(
                logprobs_BT=scores.logprobs_BT,
                old_logprobs_BT=scores.logprobs_BT.detach() if batch.old_logprobs_BT is None else batch.old_logprobs_BT,
                reference_logprobs_BT=batch.reference_logprobs_BT,
                advantages_B=batch.advantages_B,
                mask_BT=scores.mask_BT,
                options=self.algorithm,
                total=total,
            )
            loss.backward()
            unsound += [] if loss.isfinite() else [group.example.id for group in batch.groups]
            metrics["policy/entropy"] = aggregate(scores.entropy_BT, mask_BT=scores.mask_BT, aggregation=self.algorithm.aggregation, total=total)
            for name, value in metrics.items():
                summed[name] += value.item()
            gap = torch.tensor([gap, logprob_gap(scores, batch.groups)]).max().item()  # of NaN and a number: NaN
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.algorithm.max_grad_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        if norm.isfinite():
            self.optimizer.step()
        measured = {**summed, "policy/grad_norm": norm.item(), "policy/lr": learning_rate, "rollout/trainer_logprob_gap": gap}
        return Update(measured, unsound)

    def scores(self, policy: Policy, groups: Sequence[Group]) -> TokenScores:
        """Logprobs of every completion of `groups` under a policy, at the sampling temperature."""
        inputs = prompt_inputs(policy, self.processor, [group.example for group in groups])
        rows = [p for p, group in enumerate(groups) for _ in group.completions]
        return policy(inputs, rows, [c.tokens_T for group in groups for c in group.completions], self.algorithm.temperature)

    @torch.no_grad()
    def check_rollout(self, questions: Sequence[Example], seed: int) -> None:
        """Rollout and trainer must agree on what was sampled, or the ratio is wrong from the first step: ValueError if they do not."""
        groups = self.sample(questions, seed=(seed, 0))
        gap, tolerance = logprob_gap(self.scores(self.policy, groups), groups), self.hardware.logprob_tolerance
        if not gap <= tolerance:
            raise ValueError(
                f"hardware.logprob_tolerance={tolerance}: rollout and trainer differ by {gap:.2g} nats on the same tokens and weights, "
                "as if they were two models: look for a defect or a library that attends otherwise with a cache; raise it only if it is rounding"
            )
