"""An image is encoded once for all that reads it, and where groups are cut does not show. Run: .venv/bin/python -m pytest tests/test_one_encode.py"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.frames import Contract
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import prepare
from visual_rft.learner import Work
from visual_rft.losses import KlOptions, policy_loss
from visual_rft.models.loading import Part, part_of
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_detection
from visual_rft.policies import Models
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import DetectionTruth, Example, Reward, Truth

GROUP = 4
ALONE, PAIRS, ALL = 1, 150, 10_000  # tokens a micro-batch: one group each, about two, the whole step
TIGHT = 1e-6  # of a gradient, relative to the largest entry of its tensor


def vowels(text: str, _: Truth, __: Contract) -> Reward:
    return Reward({"vowels": sum(c in "aeiou" for c in text) / max(len(text), 1)}, None, None)


VOWELS = Task(parse_detection, vowels, lambda _: DetectionTruth(()), {"vowels": 1.0})


@pytest.fixture(scope="module")
def questions(ragged: list[Example]) -> list[Example]:
    """Nine questions about five images of different sizes: three about one, two about two, one about the others."""
    more = [(0, "a"), (2, "b"), (0, "c"), (3, "d")]
    return ragged + [replace(ragged[i], id=f"{i}{word}", question=f"And where is {word}?") for i, word in more]


@dataclass(frozen=True)
class Pass:
    """One forward of a tower: the images it was given, the rows of patches, and whether a gradient was to flow back."""

    images: tuple[int, ...]
    rows: int
    with_gradient: bool


def watched(tower: nn.Module, images: Sequence[Tensor]) -> list[Pass]:
    """What the tower is given from now on; `images` are the patches_RD of each image that it may be given."""
    passes: list[Pass] = []

    def look(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        patches_RD, grid_I3 = arguments[0], named["grid_thw"]
        shown = patches_RD.split(grid_I3.prod(-1).tolist())
        which = [next(i for i, image in enumerate(images) if torch.equal(image, patches)) for patches in shown]
        passes.append(Pass(tuple(which), len(patches_RD), torch.is_grad_enabled()))

    tower.register_forward_pre_hook(look, with_kwargs=True)
    return passes


def make(untrained: tuple[Policy, Processor], tokens: int, *, beta: float = 0.04, updates: int = 1, frozen: Sequence[Part] = ()) -> Trainer:
    """A trainer whose reference is another model than its policy."""
    policy, reference = (copy.deepcopy(untrained[0]) for _ in range(2))
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)
    if beta:
        with torch.no_grad():
            reference.model.model.language_model.norm.weight.mul_(1.1)
    algorithm = AlgorithmOptions(
        group_size=GROUP, max_completion_tokens=6, updates_per_batch=updates, kl=KlOptions(beta), max_grad_norm=inf, max_bad_steps=1
    )
    hardware = HardwareOptions(tokens_per_micro_batch=tokens, decoded_together=8)
    models = Models.whole(policy, reference.requires_grad_(False) if beta else None, untrained[1])
    return Trainer(models, VOWELS, algorithm, hardware)


@dataclass(frozen=True)
class Encoded:
    """The passes of a policy's and a reference's tower in one training step, and the patches of each of its images."""

    policy: list[Pass]
    reference: list[Pass]
    patches: tuple[Tensor, ...]

    @property
    def of_all(self) -> Pass:
        """One pass for every image, without gradient."""
        return Pass(tuple(range(len(self.patches))), sum(map(len, self.patches)), False)


def one_step(trainer: Trainer, questions: Sequence[Example]) -> Encoded:
    shown = list({question.asked_about.id: question.image for question in questions}.values())
    pixels = trainer.processor.pixels(shown)
    patches = pixels.patches_RD.split(pixels.grid_I3.prod(-1).tolist())
    policy = watched(trainer.models.policy.model.model.visual, patches)
    reference = watched(trainer.learner.reference.model.model.visual, patches) if trainer.learner.reference else []
    (step,) = trainer.run(questions, steps=1, prompts_per_step=len(questions), learning_rate=1e-3, seed=0)
    assert step.skipped is None and all(len(group.completions) == GROUP for group in step.groups)
    return Encoded(policy, reference, patches)


@pytest.mark.parametrize(
    ("tokens", "updates", "beta"), [(ALONE, 1, 0.0), (ALONE, 3, 0.04), (PAIRS, 3, 0.0), (PAIRS, 1, 0.04), (ALL, 1, 0.04), (ALL, 3, 0.0)]
)
def test_a_frozen_tower_sees_each_image_once_a_step(
    beta: float, updates: int, tokens: int, untrained: tuple[Policy, Processor], questions: list[Example]
) -> None:
    encoded = one_step(make(untrained, tokens, beta=beta, updates=updates, frozen=[Part.vision, Part.merger]), questions)
    (once,) = encoded.policy
    assert sorted(once.images) == list(encoded.of_all.images) and once.rows == encoded.of_all.rows and not once.with_gradient
    assert encoded.reference == []


@pytest.mark.parametrize(
    ("tokens", "updates", "beta"), [(ALONE, 1, 0.0), (ALONE, 2, 0.04), (PAIRS, 2, 0.0), (PAIRS, 1, 0.04), (ALL, 1, 0.04), (ALL, 2, 0.0)]
)
@pytest.mark.parametrize("frozen", [[], [Part.vision], [Part.merger, Part.language]])
def test_a_trained_tower_sees_each_image_once_for_the_rollout_and_once_an_update(
    frozen: list[Part], beta: float, updates: int, tokens: int, untrained: tuple[Policy, Processor], questions: list[Example]
) -> None:
    encoded = one_step(make(untrained, tokens, beta=beta, updates=updates, frozen=frozen), questions)
    rollout, *trained = encoded.policy
    assert sorted(rollout.images) == list(encoded.of_all.images) and rollout.rows == encoded.of_all.rows and not rollout.with_gradient
    assert [(sorted(one.images), one.rows, one.with_gradient) for one in encoded.reference] == (
        [(sorted(rollout.images), rollout.rows, False)] if beta else []
    )
    assert all(one.with_gradient for one in trained)
    assert sorted(image for one in trained for image in one.images) == sorted([*rollout.images] * updates)
    assert sum(one.rows for one in trained) == updates * rollout.rows, "patches are never repeated"
    if tokens == ALL:
        assert len(trained) == updates


def sampled(trainer: Trainer, questions: Sequence[Example]) -> Work:
    """All that an update is computed from; the advantages are any numbers."""
    asked, features = trainer.look(prepare(trainer.processor, questions))
    with trainer.judging(progress=0.0) as judge:
        trainer.engine = trainer.engine_for(len(questions))
        groups, _ = trainer.sample(questions, range(len(questions)), asked, features, judge, seed=(0, 0))
    advantages_PG = torch.randn(len(questions), GROUP, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Work(asked, features, trainer.learner.pack(groups, asked, features), advantages_PG)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in trainer.models.policy.named_parameters() if parameter.grad is not None}


def in_one_piece(trainer: Trainer, work: Work) -> dict[str, Tensor]:
    """The gradient by autograd alone, through one encode and one forward of everything."""
    ((batch,),) = work.rounds
    completions_PG = [[completion.tokens_T for completion in group.completions] for group in batch.groups]
    scores = trainer.models.policy(batch.prompts, trainer.models.policy.encode(work.asked.pixels), completions_PG, 1.0)
    loss, _ = policy_loss(
        logprobs_BT=scores.logprobs_BT,
        old_logprobs_BT=scores.logprobs_BT.detach(),
        reference_logprobs_BT=batch.reference_logprobs_BT,
        advantages_B=work.advantages_PG[list(batch.numbers)].flatten().float(),
        mask_BT=scores.mask_BT,
        options=trainer.algorithm,
        total=len(scores.mask_BT),
    )
    trainer.learner.optimizer.zero_grad()
    loss.backward()
    return gradients(trainer)


@pytest.mark.parametrize("frozen", [[], [Part.vision, Part.merger]], ids=["trained", "frozen"])
def test_the_gradient_of_an_update_is_that_of_one_piece_wherever_it_is_cut(
    frozen: list[Part], untrained: tuple[Policy, Processor], questions: list[Example]
) -> None:
    whole = make(untrained, ALL, frozen=frozen)
    work = sampled(whole, questions)
    expected = in_one_piece(whole, work)
    assert expected and any("visual." in name for name in expected) != bool(frozen)
    cuts = []
    for tokens in (ALONE, PAIRS, ALL):
        trainer = make(untrained, tokens, frozen=frozen)
        ((batch,),) = work.rounds
        groups = [batch.groups[batch.numbers.index(p)] for p in range(len(questions))]
        rounds = trainer.learner.pack(groups, work.asked, work.features)
        trainer.learner.update(replace(work, rounds=rounds), 0.0)
        cuts.append(sum(map(len, rounds)))
        found = gradients(trainer)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert (gradient - expected[name]).abs().max() <= TIGHT * expected[name].abs().max(), (tokens, name)
    assert cuts[0] == len(questions) > cuts[1] > cuts[2] == 1


def test_groups_about_one_image_are_cut_apart_and_still_share_its_encode(untrained: tuple[Policy, Processor], questions: list[Example]) -> None:
    """What the laws above rest on: the smallest budget does split an image's groups."""
    trainer = make(untrained, ALONE)
    work = sampled(trainer, questions)
    batches = [batch for together in work.rounds for batch in together]
    shown = [prompt.images for batch in batches for prompt in batch.prompts]
    assert all(len(batch.groups) == 1 for batch in batches) and len(set(shown)) < len(shown)
    assert shown == sorted(shown), "those about one image stand beside each other"
    numbers = [number for batch in batches for number in batch.numbers]
    assert sorted(numbers) == list(range(len(questions)))
    assert [batch.groups[0].example for batch in batches] == [questions[number] for number in numbers]
