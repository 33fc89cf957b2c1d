"""The update: completions and their advantages in, weights moved along an objective out.

Axes: P prompts a step, G completions a prompt, B rows of one micro-batch, T completion tokens.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.inference import Asked
from visual_rft.losses import Aggregation, aggregate, policy_loss
from visual_rft.measurements import GAP, logprob_gap
from visual_rft.models.packing import cut, stream_length
from visual_rft.models.policy import Features, Policy, TokenScores
from visual_rft.models.processor import Pixels
from visual_rft.optimizer import Optimizer
from visual_rft.vocabulary import Batch, Group

NOTHING = Batch((), (), (), None, None)  # what a rank computes while another has a micro-batch more


class Loss(Protocol):
    """The loss of a micro-batch and detached metrics, which add up over micro-batches and ranks to those of the whole batch (`losses`)."""

    def __call__(
        self,
        *,
        logprobs_BT: Tensor,
        old_logprobs_BT: Tensor,
        reference_logprobs_BT: Tensor | None,
        advantages_B: Tensor,
        mask_BT: Tensor,
        total: float,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Objective:
    """What updates minimise: the loss, and how it becomes one number; the norm that gradients are clipped to, the temperature that logprobs are taken
    at, and how many updates a batch gets."""

    loss: Loss
    aggregation: Aggregation
    max_grad_norm: float
    temperature: float = 1.0
    updates_per_batch: int = 1


def grpo(algorithm: AlgorithmOptions) -> Objective:
    """The clipped surrogate and the KL to the reference."""
    a = algorithm
    return Objective(partial(policy_loss, options=a), a.aggregation, a.max_grad_norm, a.temperature, a.updates_per_batch)


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured, and the examples of micro-batches whose loss was not finite: with any, or with a gradient that is not
    finite, the weights stayed as they were."""

    metrics: dict[str, float]
    unsound: list[str]

    def fault(self) -> str | None:
        """Why the weights stayed as they were; None when they moved."""
        norm, kl = self.metrics["policy/grad_norm"], self.metrics.get("loss/kl")
        if isfinite(norm):
            return None
        where = f"the loss of {', '.join(self.unsound[:4])} is not finite" if self.unsound else f"the gradient's norm is {norm}"
        return f"{where} ({'' if kl is None else f'KL {kl:.2g} nats, '}rate {self.metrics['policy/lr']:.2g})"


@dataclass(frozen=True)
class Work:
    """What an update is computed from: the prompts and pixels of a step, features_LCH of each image (without gradient), the micro-batches of its
    groups in rounds (an image is shown in one round only), and their advantages. Every rank has as many rounds, and micro-batches in each."""

    asked: Asked
    features: Sequence[Tensor]
    rounds: Sequence[Sequence[Batch]]
    advantages_PG: Tensor


class Learner:
    """The policy, the reference it is held near, and the optimizer that moves it (AdamW in float32, without decay, all weights alike, if none is
    given); `budget` is in tokens of a micro-batch's streams.

    Each rank of the `world` has groups of its own; losses, gradients and figures are those of all groups together.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        objective: Objective,
        budget: int,
        *,
        world: World = ALONE,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.policy, self.reference, self.objective, self.budget, self.world = policy, reference, objective, budget, world
        self.optimizer = optimizer or Optimizer(policy.model, weight_decay=0.0)

    @torch.no_grad()
    def pack(self, groups: Sequence[Group], asked: Asked, features: Sequence[Tensor]) -> list[list[Batch]]:
        """The groups in micro-batches, those about one image beside each other, with the logprobs that stay fixed over the updates of this step."""
        order = sorted(range(len(groups)), key=lambda p: asked.prompts[p].images)
        lengths = [stream_length(asked.prompts[p], [c.tokens_T for c in groups[p].completions]) for p in order]
        # A frozen tower is the reference's, too.
        shown = features if self.reference is None or self.policy.tower_is_frozen else self.encode(self.reference, asked.pixels)
        cuts = [tuple(order[i] for i in part) for part in cut(lengths, self.budget)]
        batches = [Batch(numbers, tuple(groups[p] for p in numbers), tuple(asked.prompts[p] for p in numbers), None, None) for numbers in cuts]
        rounds = [batches] if self.policy.tower_is_frozen else list(sharing_images(batches))
        return [[self._with_fixed(batch, features, shown) for batch in together] for together in self._even(rounds)]

    def _even(self, rounds: Sequence[Sequence[Batch]]) -> list[list[Batch]]:
        """The same number of rounds and micro-batches on every rank: a pass gathers weights from all of them, so all must make it."""
        most = [max(sizes) for sizes in zip_longest(*self.world.gather([len(batches) for batches in rounds]), fillvalue=0)]
        rounds = [*rounds, *[[]] * (len(most) - len(rounds))]
        return [[*batches, *[NOTHING] * (size - len(batches))] for batches, size in zip(rounds, most, strict=True)]

    def _with_fixed(self, batch: Batch, features: Sequence[Tensor], shown: Sequence[Tensor]) -> Batch:
        old_BT = self.scores(self.policy, batch, features).logprobs_BT if self.objective.updates_per_batch > 1 else None
        reference_BT = self.scores(self.reference, batch, shown).logprobs_BT if self.reference else None
        return replace(batch, old_logprobs_BT=old_BT, reference_logprobs_BT=reference_BT)

    def updates(self, work: Work, learning_rate: float) -> list[Update]:
        """The optimizer steps on one batch, up to the first that is at fault; that one leaves the weights alone."""
        done: list[Update] = []
        while len(done) < self.objective.updates_per_batch and not (done and done[-1].fault()):
            done.append(self.update(work, learning_rate))
        return done

    def update(self, work: Work, learning_rate: float) -> Update:
        """One optimizer step on the whole batch."""
        self.optimizer.zero_grad()
        self.policy.train()  # in which alone layers may forget what they can compute again
        measured, unsound = self.backward(work)
        self.policy.eval()
        norm = self.optimizer.step(learning_rate, max_grad_norm=self.objective.max_grad_norm).item()
        return Update(measured | {"policy/grad_norm": norm, "policy/lr": learning_rate}, unsound)

    def backward(self, work: Work) -> tuple[dict[str, float], list[str]]:
        """The gradients of the whole batch, added up over its micro-batches and ranks; what was measured on the way, and the examples of
        micro-batches whose loss is not finite."""
        total = self._total([batch for batches in work.rounds for batch in batches])
        summed: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.policy.device))
        gaps, losses = [], []
        for batch, features in self.seen(work):
            scores = self.scores(self.policy, batch, features)
            if not batch.groups:
                (scores.logprobs_BT.sum() * 0.0).backward()
                continue
            loss, metrics = self.objective.loss(
                logprobs_BT=scores.logprobs_BT,
                old_logprobs_BT=scores.logprobs_BT.detach() if batch.old_logprobs_BT is None else batch.old_logprobs_BT,
                reference_logprobs_BT=batch.reference_logprobs_BT,
                advantages_B=work.advantages_PG[list(batch.numbers)].flatten().to(self.policy.device).float(),
                mask_BT=scores.mask_BT,
                total=total,
            )
            loss.backward()
            metrics["policy/entropy"] = aggregate(scores.entropy_BT, mask_BT=scores.mask_BT, aggregation=self.objective.aggregation, total=total)
            for name, value in metrics.items():
                summed[name] += value
            losses.append((batch, loss.detach()))
            gaps.append(logprob_gap(scores, batch.groups))
        measured = {name: value.item() for name, value in summed.items()}
        gap = torch.stack(gaps).max().item() if gaps else 0.0
        unsound = [group.example.id for batch, loss in losses if not loss.isfinite() for group in batch.groups]
        return self._of_all(measured, gap, unsound)

    def _total(self, batches: Sequence[Batch]) -> int:
        """What the loss is a mean of: completions, or tokens, of all ranks."""
        completions = [c for batch in batches for group in batch.groups for c in group.completions]
        by_sequence = self.objective.aggregation is Aggregation.sequence
        return sum(self.world.gather(len(completions) if by_sequence else sum(len(c.tokens_T) for c in completions)))

    def _of_all(self, measured: dict[str, float], gap: float, unsound: list[str]) -> tuple[dict[str, float], list[str]]:
        everyone = self.world.gather((measured, gap, unsound))
        names = dict.fromkeys(chain.from_iterable(measured for measured, _, _ in everyone))
        summed = {name: sum(measured.get(name, 0.0) for measured, _, _ in everyone) for name in names}
        gap = torch.tensor([gap for _, gap, _ in everyone], dtype=torch.float64).max().item()  # of NaN and a number: NaN
        return summed | {GAP: gap}, [example for _, _, unsound in everyone for example in unsound]

    def seen(self, work: Work) -> Iterator[tuple[Batch, Features]]:
        """The micro-batches, each with the features of its images. Where the tower is trained, an image is encoded once for all the micro-batches
        that show it: their gradients by its features add up, and pass through the tower together."""
        if self.policy.tower_is_frozen:
            yield from ((batch, work.features) for batches in work.rounds for batch in batches)
            return
        for batches in work.rounds:
            images = sorted({image for batch in batches for prompt in batch.prompts for image in prompt.images})
            encoded = self.encode(self.policy, work.asked.pixels.of(images))
            leaves = [features.detach().requires_grad_() for features in encoded]
            shown = dict(zip(images, leaves, strict=False))  # no image: those of the blank one are shown to nobody
            yield from ((batch, shown) for batch in batches)
            torch.autograd.backward(encoded, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])

    def encode(self, policy: Policy, pixels: Pixels) -> Sequence[Tensor]:
        """Features_LCH of each image; beside other ranks, which have images, those of a blank one where there is none."""
        if len(pixels.grid_I3) == 0 and self.world.size == 1:
            return ()
        return policy.encode(pixels if len(pixels.grid_I3) else policy.blank)

    def scores(self, policy: Policy, batch: Batch, features: Features) -> TokenScores:
        """Logprobs of a micro-batch's completions under a policy, at the sampling temperature; those of a word about nothing where there are none."""
        if not batch.groups:
            word = self.policy.word
            return policy((self.policy.prompt(word, (), torch.empty(0, 3)),), (), ((word,),), self.objective.temperature)
        return policy(batch.prompts, features, [[c.tokens_T for c in group.completions] for group in batch.groups], self.objective.temperature)


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
