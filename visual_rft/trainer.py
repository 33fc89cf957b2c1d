"""GRPO as the paper has it (Visual-RFT, arXiv 2503.01785; GRPO: DeepSeekMath, arXiv 2402.03300, algorithm 1), in the order of its method section.

One step: ask P questions, sample a group of G completions each, score them with a reward that can be checked, normalise the rewards
inside each group into advantages, and move the policy along the clipped surrogate, held near a frozen reference by β times the k3 KL.

Axes: P prompts a step, G completions a prompt, B rows of one micro-batch, T completion tokens.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from visual_rft.advantages import group_advantages, shuffled_group_advantages
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, Prepared, ask, prepare, prepare_ahead, sample_groups
from visual_rft.losses import Aggregation, LossOptions, aggregate, policy_loss
from visual_rft.measurements import Stopwatch, batch_metrics, logprob_gap, mean_metrics
from visual_rft.models.packing import cut, stream_length
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.models.processor import Processor
from visual_rft.optimizer import Optimizer
from visual_rft.rollout.engine import Decoding, Engine
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
    top_p: float = 1.0
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
        if not 0 < self.top_p <= 1:
            raise ValueError(f"algorithm.top_p={self.top_p}: must lie in (0, 1]; 1 draws from every token")
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


@dataclass(frozen=True)
class Work:
    """What an update is computed from: the prompts and pixels of a step, features_LCH of each image (without gradient), the micro-batches of its
    groups, and their advantages."""

    asked: Asked
    features: Sequence[Tensor]
    batches: Sequence[Batch]
    advantages_PG: Tensor


class Trainer:
    """The policy, its optimizer and its reference. `run()` yields the steps one by one."""

    def __init__(
        self, policy: Policy, reference: Policy | None, processor: Processor, task: Task, algorithm: AlgorithmOptions, hardware: HardwareOptions
    ) -> None:
        self.policy, self.reference, self.processor, self.task = policy, reference, processor, task
        self.algorithm, self.hardware = algorithm, hardware
        self.optimizer = Optimizer(policy, weight_decay=algorithm.weight_decay)
        decoding = Decoding(algorithm.max_completion_tokens, processor.end_id, algorithm.temperature, algorithm.top_p)
        fixed = policy.device.type == "cuda"
        self.engine = Engine(policy, decoding, group=algorithm.group_size, rows=hardware.decoded_together, fixed=fixed)
        self.progress = Progress()

    def state(self) -> dict[str, Any]:
        """All that a run is beside its weights: chance and data are functions of the seed and the step."""
        return {"optimizer": self.optimizer.state(), "progress": asdict(self.progress)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; the policy's weights must be those of that moment."""
        self.optimizer.load_state(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[Step]:
        """What is left of `steps` steps over the training examples; the learning rate falls linearly to zero. Everything follows from the seed.

        An update whose loss or gradient is not finite leaves the weights alone. After `max_bad_steps` such steps in a row the last is `fatal`.
        """

        def asked_at(step: int) -> list[Example]:
            return step_examples(examples, step=step, prompts_per_step=prompts_per_step, seed=seed)

        left = range(self.progress.steps, steps)
        ahead = prepare_ahead(self.processor, asked_at, left, self.hardware.workers)
        for step in left:
            watch, questions = Stopwatch(), asked_at(step)
            with ThreadPoolExecutor(max_workers=1) as judge:  # rewards are computed beside the rollout and the reference
                with watch.stage("prepare"):
                    prepared = next(ahead)
                with watch.stage("encode"):
                    asked, features = self.look(prepared)
                with watch.stage("rollout"):
                    groups, pending = self.sample(questions, asked, features, judge, seed=(seed, step))
                with watch.stage("reference"):
                    batches = self.pack(groups, asked, features)
                with watch.stage("reward"):
                    rewards_PG = [rewards.result() for rewards in pending]
            totals_PG = torch.tensor([[self.task.total(r) for r in rewards] for rewards in rewards_PG], dtype=torch.float64)
            advantages_PG = self.advantages(totals_PG, seed=(seed, step))
            with watch.stage("update"):
                updates = self.updates(Work(asked, features, batches, advantages_PG), learning_rate * (1 - step / steps))
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

    @torch.no_grad()
    def look(self, prepared: Prepared) -> tuple[Asked, Sequence[Tensor]]:
        """The prompts, and the features of each image: one encode for everything that needs no gradient of the tower."""
        asked = ask(self.policy, prepared)
        return asked, self.policy.encode(asked.pixels)

    def sample(
        self, questions: Sequence[Example], asked: Asked, features: Sequence[Tensor], judge: Executor, seed: tuple[int, int]
    ) -> tuple[list[Group], list[Future[list[Reward]]]]:
        """A group of completions of each question from the policy as it is, and their rewards, which `judge` is at work on."""
        groups: dict[int, Group] = {}
        pending: dict[int, Future[list[Reward]]] = {}
        for p, completions in sample_groups(self.engine, self.processor, asked, features, seed):
            groups[p] = Group(questions[p], completions)
            pending[p] = judge.submit(self.rewards, groups[p])
        return [groups[p] for p in range(len(questions))], [pending[p] for p in range(len(questions))]

    def rewards(self, group: Group) -> list[Reward]:
        """What each completion of a group earns."""
        return [self.task.reward(completion.text, group.example) for completion in group.completions]

    def advantages(self, totals_PG: Tensor, seed: tuple[int, int]) -> Tensor:
        """Advantages_PG of the rewards, by the algorithm's rule."""
        if self.algorithm.advantage is Advantage.shuffled:
            return shuffled_group_advantages(totals_PG, generator=torch.Generator().manual_seed(int(stream(Role.SHUFFLE, *seed).integers(2**62))))
        return group_advantages(totals_PG)

    @torch.no_grad()
    def pack(self, groups: Sequence[Group], asked: Asked, features: Sequence[Tensor]) -> list[Batch]:
        """The groups in micro-batches, those about one image beside each other, with the logprobs that stay fixed over the updates of this step."""
        order = sorted(range(len(groups)), key=lambda p: asked.prompts[p].images)
        lengths = [stream_length(asked.prompts[p], [c.tokens_T for c in groups[p].completions]) for p in order]
        # A frozen tower is the reference's, too.
        shown = features if self.reference is None or self.policy.tower_is_frozen else self.reference.encode(asked.pixels)
        batches = []
        for part in cut(lengths, self.hardware.tokens_per_micro_batch):
            numbers = tuple(order[i] for i in part)
            batch = Batch(numbers, tuple(groups[p] for p in numbers), tuple(asked.prompts[p] for p in numbers), None, None)
            old_BT = self.scores(self.policy, batch, features).logprobs_BT if self.algorithm.updates_per_batch > 1 else None
            reference_BT = self.scores(self.reference, batch, shown).logprobs_BT if self.reference else None
            batches.append(replace(batch, old_logprobs_BT=old_BT, reference_logprobs_BT=reference_BT))
        return batches

    def updates(self, work: Work, learning_rate: float) -> list[Update]:
        """The optimizer steps on one batch, up to the first that is at fault; that one leaves the weights alone."""
        done: list[Update] = []
        while len(done) < self.algorithm.updates_per_batch and not (done and done[-1].fault()):
            done.append(self.update(work, learning_rate))
        return done

    def update(self, work: Work, learning_rate: float) -> Update:
        """One optimizer step on the whole batch: gradients of the micro-batches add up to that of the batch."""
        completions = [c for batch in work.batches for group in batch.groups for c in group.completions]
        by_sequence = self.algorithm.aggregation is Aggregation.sequence
        total = len(completions) if by_sequence else sum(len(c.tokens_T) for c in completions)
        self.optimizer.zero_grad()
        summed: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.policy.device))
        gaps, losses = [], []
        for batch, features in self.seen(work):
            scores = self.scores(self.policy, batch, features)
            loss, metrics = policy_loss(
                logprobs_BT=scores.logprobs_BT,
                old_logprobs_BT=scores.logprobs_BT.detach() if batch.old_logprobs_BT is None else batch.old_logprobs_BT,
                reference_logprobs_BT=batch.reference_logprobs_BT,
                advantages_B=work.advantages_PG[list(batch.numbers)].flatten().to(self.policy.device).float(),
                mask_BT=scores.mask_BT,
                options=self.algorithm,
                total=total,
            )
            loss.backward()
            metrics["policy/entropy"] = aggregate(scores.entropy_BT, mask_BT=scores.mask_BT, aggregation=self.algorithm.aggregation, total=total)
            for name, value in metrics.items():
                summed[name] += value
            losses.append(loss.detach())
            gaps.append(logprob_gap(scores, batch.groups))
        norm = self.optimizer.step(learning_rate, max_grad_norm=self.algorithm.max_grad_norm).item()
        sound = torch.stack(losses).isfinite().tolist()
        unsound = [group.example.id for batch, is_sound in zip(work.batches, sound, strict=True) if not is_sound for group in batch.groups]
        measured = {name: value.item() for name, value in summed.items()}
        gap = torch.stack(gaps).max().item()  # of NaN and a number: NaN
        return Update(measured | {"policy/grad_norm": norm, "policy/lr": learning_rate, "rollout/trainer_logprob_gap": gap}, unsound)

    def seen(self, work: Work) -> Iterator[tuple[Batch, Sequence[Tensor] | dict[int, Tensor]]]:
        """The micro-batches, each with the features of its images. Where the tower is trained, an image is encoded once for all the micro-batches
        that show it: their gradients by its features add up, and pass through the tower together."""
        if self.policy.tower_is_frozen:
            yield from ((batch, work.features) for batch in work.batches)
            return
        for batches in sharing_images(work.batches):
            images = sorted({image for batch in batches for prompt in batch.prompts for image in prompt.images})
            encoded = self.policy.encode(work.asked.pixels.of(images)) if images else ()
            leaves = [features.detach().requires_grad_() for features in encoded]
            yield from ((batch, dict(zip(images, leaves, strict=True))) for batch in batches)
            torch.autograd.backward(encoded, [leaf.grad for leaf in leaves])

    def scores(self, policy: Policy, batch: Batch, features: Sequence[Tensor] | Mapping[int, Tensor]) -> TokenScores:
        """Logprobs of a micro-batch's completions under a policy, at the sampling temperature."""
        return policy(batch.prompts, features, [[c.tokens_T for c in group.completions] for group in batch.groups], self.algorithm.temperature)

    @torch.no_grad()
    def check_rollout(self, questions: Sequence[Example], seed: int) -> None:
        """Rollout and trainer must agree on what was sampled, or the ratio is wrong from the first step: ValueError if they do not."""
        asked, features = self.look(prepare(self.processor, questions))
        sampled = dict(sample_groups(self.engine, self.processor, asked, features, (seed, 0)))
        groups = tuple(Group(question, sampled[p]) for p, question in enumerate(questions))
        scores = self.scores(self.policy, Batch(tuple(range(len(groups))), groups, asked.prompts, None, None), features)
        gap, tolerance = logprob_gap(scores, groups).item(), self.hardware.logprob_tolerance
        if not gap <= tolerance:
            raise ValueError(
                f"hardware.logprob_tolerance={tolerance}: rollout and trainer differ by {gap:.2g} nats on the same tokens and weights, "
                "as if they were two models: look for a defect or a library that attends otherwise with a cache; raise it only if it is rounding"
            )


def sharing_images(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Neighbouring micro-batches that have an image in common, together."""
    together: list[Batch] = []
    shown: set[int] = set()
    for batch in batches:
        images = {image for prompt in batch.prompts for image in prompt.images}
        if together and not images & shown:
            yield together
            together, shown = [], set()
        together.append(batch)
        shown |= images
    if together:
        yield together
