"""The update: what was sampled and how it was judged in, weights moved along the clipped surrogate out.

Axes: P prompts a step, G completions a prompt, B rows of one micro-batch, T completion tokens.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.inference import Asked
from visual_rft.losses import Aggregation, aggregate, policy_loss
from visual_rft.measurements import logprob_gap
from visual_rft.models.packing import cut, stream_length
from visual_rft.models.policy import Features, Policy, TokenScores
from visual_rft.optimizer import Optimizer
from visual_rft.vocabulary import Batch, Group


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


class Learner:
    """The policy, the reference it is held near, and the optimizer that moves it; `budget` is in tokens of a micro-batch's streams."""

    def __init__(self, policy: Policy, reference: Policy | None, algorithm: AlgorithmOptions, budget: int) -> None:
        self.policy, self.reference, self.algorithm, self.budget = policy, reference, algorithm, budget
        self.optimizer = Optimizer(policy, weight_decay=algorithm.weight_decay)

    @torch.no_grad()
    def pack(self, groups: Sequence[Group], asked: Asked, features: Sequence[Tensor]) -> list[Batch]:
        """The groups in micro-batches, those about one image beside each other, with the logprobs that stay fixed over the updates of this step."""
        order = sorted(range(len(groups)), key=lambda p: asked.prompts[p].images)
        lengths = [stream_length(asked.prompts[p], [c.tokens_T for c in groups[p].completions]) for p in order]
        # A frozen tower is the reference's, too.
        shown = features if self.reference is None or self.policy.tower_is_frozen else self.reference.encode(asked.pixels)
        batches = []
        for part in cut(lengths, self.budget):
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
        """One optimizer step on the whole batch."""
        self.optimizer.zero_grad()
        measured, unsound = self.backward(work)
        norm = self.optimizer.step(learning_rate, max_grad_norm=self.algorithm.max_grad_norm).item()
        return Update(measured | {"policy/grad_norm": norm, "policy/lr": learning_rate}, unsound)

    def backward(self, work: Work) -> tuple[dict[str, float], list[str]]:
        """The gradients of the whole batch, added up over its micro-batches; what was measured on the way, and the examples of micro-batches whose
        loss is not finite."""
        completions = [c for batch in work.batches for group in batch.groups for c in group.completions]
        by_sequence = self.algorithm.aggregation is Aggregation.sequence
        total = len(completions) if by_sequence else sum(len(c.tokens_T) for c in completions)
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
        sound = torch.stack(losses).isfinite().tolist()
        unsound = [group.example.id for batch, is_sound in zip(work.batches, sound, strict=True) if not is_sound for group in batch.groups]
        gap = torch.stack(gaps).max().item()  # of NaN and a number: NaN
        return {name: value.item() for name, value in summed.items()} | {"rollout/trainer_logprob_gap": gap}, unsound

    def seen(self, work: Work) -> Iterator[tuple[Batch, Features]]:
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

    def scores(self, policy: Policy, batch: Batch, features: Features) -> TokenScores:
        """Logprobs of a micro-batch's completions under a policy, at the sampling temperature."""
        return policy(batch.prompts, features, [[c.tokens_T for c in group.completions] for group in batch.groups], self.algorithm.temperature)


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
