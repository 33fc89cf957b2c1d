"""Several ranks compute what one does, and none waits for ever. Run: .venv/bin/python -m pytest tests/test_ranks.py

Slow: four ranks, one copy of the weights or two. Axes: P prompts a step, G completions a prompt.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from many import ranks
from PIL import Image
from test_rollout import distributions, lies_at_a_boundary
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from visual_rft import hardware, policies
from visual_rft.advantages import group_advantages
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, ask, prepare
from visual_rft.learner import Learner, Work
from visual_rft.losses import Aggregation, KlOptions
from visual_rft.measurements import Stopwatch
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions, Part
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Pixels, Processor
from visual_rft.parsing import parse_detection
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Request
from visual_rft.seeding import Role
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import Completion, DetectionTruth, Example, Group, Prompt, Reward, Scores, Truth

GROUP = 3
CLOSE = 1e-5
RATE = 1e-4
CLIP = 0.1  # below every norm, so that clipping is at work
TOWER = [Part.vision, Part.merger]
SIZES = [(64, 64), (96, 48), (32, 32), (48, 80), (64, 32)]


@dataclass(frozen=True)
class Case:
    """A step whose completions are fixed: what is trained and how, and which of its prompts have no image, or advantages of zero.

    Prompts p and p + 5 are about one image; `long` prompts have completions of 40 tokens, the others of a few.
    """

    prompts: int
    frozen: Sequence[Part] = ()
    beta: float = 0.0
    updates: int = 1
    aggregation: Aggregation = Aggregation.token
    budget: int = 10_000
    textual: Sequence[int] = ()
    level: Sequence[int] = ()
    long: Sequence[int] = ()
    steps: int = 1
    copy: int = 0  # ranks that share one copy of the weights

    @property
    def algorithm(self) -> AlgorithmOptions:
        return AlgorithmOptions(
            group_size=GROUP, updates_per_batch=self.updates, aggregation=self.aggregation, kl=KlOptions(self.beta), max_grad_norm=CLIP
        )


CASES = {
    "a rank has fewer prompts and micro-batches": Case(5, beta=0.04, updates=2, budget=1, steps=5),
    "a rank has no prompt": Case(1, beta=0.04, updates=2),
    "a rank has no prompt, the tower is frozen": Case(1, frozen=TOWER, beta=0.04, aggregation=Aggregation.sequence, steps=5),
    "a rank has text only": Case(4, beta=0.04, textual=(0, 1), budget=150),
    "a rank has text only, the tower is frozen": Case(4, frozen=TOWER, textual=(2, 3), updates=2, aggregation=Aggregation.sequence),
    "all ranks have text only": Case(2, textual=(0, 1), beta=0.04),
    "a rank has shorter completions": Case(4, long=(2, 3), aggregation=Aggregation.sequence, budget=150),
    "a rank's rewards are all alike": Case(4, level=(0, 1), updates=2),
    "an image is shown in several micro-batches": Case(8, beta=0.04, budget=1, frozen=[Part.vision]),
}


@dataclass(frozen=True)
class Learned:
    """What every update measured, the gradients of the first step, the weights at the end; how many micro-batches a step had here, and how many of
    them had nothing in it."""

    metrics: list[dict[str, float]]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    batches: int
    empty: int


def learn(world: World, folder: str, cases: dict[str, Case]) -> dict[str, Learned]:
    return {name: learned(world, folder, case) for name, case in cases.items()}


def learned(world: World, folder: str, case: Case) -> Learned:
    """Steps on fixed completions, of which each rank has its share."""
    models = load(world, folder, case)
    learner = Learner(models.policy, models.reference, case.algorithm, case.budget, world=world)
    metrics: list[dict[str, float]] = []
    gradients: dict[str, Tensor] = {}
    for step in range(case.steps):
        asked, groups, advantages_PG = given(models, case, world.share(case.prompts))
        with torch.no_grad():
            features = models.speaker.encode(asked.pixels) if len(asked.pixels.grid_I3) else ()
        work = Work(asked, features, learner.pack(groups, asked, features), advantages_PG)
        updates = learner.updates(work, RATE)
        models.tell_speaker()
        metrics += [update.metrics for update in updates]
        if not step:
            gradients = {name: whole(parameter.grad) for name, parameter in models.policy.model.named_parameters() if parameter.grad is not None}
    flat = [batch for batches in work.rounds for batch in batches]
    weights = {name: whole(parameter.detach()) for name, parameter in models.policy.model.named_parameters()}
    for name, weight in models.whole_weights().items():
        assert torch.equal(weight, weights[name]), f"the speaker says it with another {name}"
    return Learned(metrics, gradients, weights, len(flat), sum(not batch.groups for batch in flat))


def load(world: World, folder: str, case: Case) -> Models:
    """The model of a folder; its reference another one than the policy, so that the KL is not zero."""
    options = HardwareOptions(ranks_per_copy=case.copy if world.size > 1 else 0)
    machine = hardware.prepare(options, 0, world)
    model = ModelOptions("small", folder, 16 * 16, 96 * 96, RATE, list(case.frozen))
    models = policies.load(model, options, machine, world, with_reference=case.beta > 0)
    if models.reference:
        with torch.no_grad():
            models.reference.model.model.language_model.norm.weight.mul_(1.05)
    return models


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def given(models: Models, case: Case, share: range) -> tuple[Asked, list[Group], Tensor]:
    """The questions, completions and advantages of some of a case's prompts: each depends on its own number alone."""
    shown = [p for p in share if p not in case.textual]
    rows = {image: row for row, image in enumerate(dict.fromkeys(p % 5 for p in shown))}
    nothing = Pixels(torch.empty(0, 0), torch.empty(0, 3, dtype=torch.int64))
    pixels = models.processor.pixels([picture(image) for image in rows]) if rows else nothing
    prompts = [asked(models, p, rows[p % 5] if p in shown else None, pixels) for p in share]
    groups = [said(models, p, long=p in case.long) for p in share]
    rewards_PG = torch.tensor([[0.0 if p in case.level else float(np.random.default_rng([1, p, g]).random()) for g in range(GROUP)] for p in share])
    return Asked(tuple(prompts), pixels), groups, group_advantages(rewards_PG.reshape(-1, GROUP).double())


def picture(number: int) -> Image.Image:
    width, height = SIZES[number]
    return Image.fromarray(np.random.default_rng([2, number]).integers(0, 255, (height, width, 3), dtype=np.uint8))


def asked(models: Models, p: int, row: int | None, pixels: Pixels) -> Prompt:
    images = () if row is None else (row,)
    tokens_S = models.processor.prompt(f"Find {'every ' * p}one.", pixels.grid_I3[list(images)])
    return models.speaker.prompt(tokens_S, images, pixels.grid_I3)


def said(models: Models, p: int, *, long: bool) -> Group:
    """Tokens by chance."""
    example = Example(str(p), p % 5, picture(p % 5), "", "", DetectionTruth(()))
    completions = []
    for g in range(GROUP):
        chance = np.random.default_rng([3, p, g])
        length = 40 if long else int(chance.integers(1, 9))
        tokens_T = torch.from_numpy(chance.choice(models.processor.allowed_ids, length))
        completions.append(Completion(tokens_T, torch.zeros(length), "", True))
    return Group(example, tuple(completions))


def assert_alike(one: Learned, other: Learned) -> None:
    """Within 1e-5: gradients relative to the largest entry of their tensor, since AdamW hides their scale."""
    assert len(one.metrics) == len(other.metrics)
    for name, value in one.metrics[0].items():
        assert other.metrics[0][name] == pytest.approx(value, abs=CLOSE, rel=CLOSE), name
    for name, gradient in other.gradients.items():
        expected = one.gradients.get(name, torch.zeros(()))  # a tower that has seen a blank image only
        assert (gradient - expected).abs().max() <= CLOSE * max(expected.abs().max().item(), 1e-3), name
    assert one.gradients.keys() <= other.gradients.keys()
    worst = {name: (other.weights[name] - weight).abs().max().item() for name, weight in one.weights.items()}
    assert max(worst.values()) <= CLOSE, sorted(worst.items(), key=lambda item: -item[1])[:8]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded model with half its layers, untrained: there is no end token in its mind."""
    folder, source = tmp_path_factory.mktemp("small"), loading.folder("embedded:tiny")
    config = AutoConfig.from_pretrained(source)
    config.text_config.num_hidden_layers = config.vision_config.depth = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    torch.manual_seed(0)
    loading.save(Policy(Qwen2VLForConditionalGeneration(config), [0]), Processor.load(source, min_pixels=4096, max_pixels=4096), folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(small: str) -> dict[str, Learned]:
    return learn(ALONE, small, CASES)


@pytest.fixture(scope="module")
def by_two(small: str) -> list[dict[str, Learned]]:
    return ranks(2, learn, small, CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_learn_what_one_does(name: str, alone: dict[str, Learned], by_two: list[dict[str, Learned]]) -> None:
    for of_rank in by_two:
        assert_alike(alone[name], of_rank[name])


def test_the_cases_are_what_they_say(alone: dict[str, Learned], by_two: list[dict[str, Learned]]) -> None:
    """Ranks with fewer micro-batches pass through as many, with nothing in some; the KL, the clip and the gradients are at work."""
    counts = {name: [(of_rank[name].batches, of_rank[name].empty) for of_rank in by_two] for name in CASES}
    assert counts["a rank has fewer prompts and micro-batches"] == [(3, 1), (3, 0)]
    assert counts["a rank has no prompt"] == [(1, 1), (1, 0)]
    assert alone["an image is shown in several micro-batches"].batches == 8
    first = alone["a rank has fewer prompts and micro-batches"]
    assert len(first.metrics) == 10 and first.metrics[0]["loss/kl"] > 1e-4 and first.metrics[0]["policy/grad_norm"] > 0.1 == CLIP
    assert any("visual." in name and gradient.abs().max() > 1e-6 for name, gradient in first.gradients.items())


FOUR = {f"{name}, {copy or 4} ranks a copy": replace(case, steps=5, copy=copy) for copy in (0, 2) for name, case in CASES.items()}


@pytest.mark.slow
def test_four_ranks_learn_what_one_does(small: str) -> None:
    expected = learn(ALONE, small, {name: case for name, case in FOUR.items() if not case.copy})
    for of_rank in ranks(4, learn, small, FOUR, seconds=1200):
        for name, found in of_rank.items():
            assert_alike(expected[name.replace("2 ranks a copy", "4 ranks a copy")], found)


@dataclass(frozen=True)
class Drawn:
    """What a step drew and measured, the weights it drew from (where they were asked for), and how many collective calls each stage made."""

    groups: list[Group]
    metrics: dict[str, float]
    weights: dict[str, Tensor]
    calls: Counter[str]


class Calls(TorchDispatchMode):
    """Counts collective calls by the stage of a step, and copies of all weights as `copies`."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.counted = "", Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[self.stage] += func.namespace in ("c10d", "_c10d_functional")
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watching(self) -> Iterator[None]:
        stage, copy = Stopwatch.stage, policies.copy_whole

        @contextmanager
        def staged(watch: Stopwatch, name: str) -> Iterator[None]:
            self.stage = name
            with stage(watch, name):
                yield
            self.stage = ""

        def copied(*arguments: Any, **named: Any) -> None:
            self.counted["copies"] += 1
            copy(*arguments, **named)

        with patch.object(Stopwatch, "stage", staged), patch.object(policies, "copy_whole", copied), self:
            yield


def vowels(text: str, _: Truth) -> Reward:
    return Reward({"vowels": sum(c in "aeiou" for c in text) / max(len(text), 1)}, None, None)


VOWELS = Task(parse_detection, vowels, lambda _: DetectionTruth(()), lambda *_: Scores({}, {}, {}), {"vowels": 1.0})
SAMPLED = Case(5, beta=0.04)


def draw(world: World, folder: str, steps: int, with_weights: bool) -> list[Drawn]:
    """Steps of a trainer that samples five prompts' completions each."""
    models, algorithm = load(world, folder, SAMPLED), replace(SAMPLED.algorithm, max_completion_tokens=12)
    examples = [replace(said(models, p, long=False).example, question=f"Find {'every ' * p}one.") for p in range(5)]
    trainer, calls, drawn = Trainer(models, VOWELS, algorithm, HardwareOptions(), world), Calls(), []
    trainer.check_rollout(examples[:2], seed=0)
    with calls.watching():
        stepping = trainer.run(examples, steps=steps, prompts_per_step=5, learning_rate=RATE, seed=0)
        for _ in range(steps):
            weights = {name: weight.clone() for name, weight in models.whole_weights().items()} if with_weights else {}
            calls.counted.clear()
            step = next(stepping)
            drawn.append(Drawn(step.groups, step.metrics, weights, calls.counted.copy()))
    return drawn


def assert_drawn_alike(folder: str, one: Sequence[Drawn], other: Sequence[Drawn]) -> None:
    """The first step is equal; a later one differs first where a draw falls on a boundary, and what comes after that is its consequence."""
    for name, value in one[0].metrics.items():
        if name.split("/")[0] not in ("time", "throughput", "memory"):
            assert other[0].metrics[name] == pytest.approx(value, abs=CLOSE, rel=CLOSE), name
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        pairs = [(p, g, a.groups[p].completions[g], b.groups[p].completions[g]) for p in range(5) for g in range(GROUP)]
        apart = [pair for pair in pairs if not torch.equal(pair[2].tokens_T, pair[3].tokens_T)]
        assert number or not apart
        for p, g, mine, theirs in apart:
            assert_at_a_boundary(folder, a.weights, a.groups[p].example, (number, p, g), (mine.tokens_T, theirs.tokens_T))
        if apart:
            return


def assert_at_a_boundary(
    folder: str, weights: dict[str, Tensor], example: Example, numbers: tuple[int, int, int], pair: tuple[Tensor, Tensor]
) -> None:
    models = load(ALONE, folder, replace(SAMPLED, beta=0.0))
    with torch.no_grad():
        for name, weight in models.policy.model.named_parameters():
            weight.copy_(weights[name])
        shown = ask(models.policy, prepare(models.processor, [example]))
        request = Request(shown.prompts[0], models.policy.encode(shown.pixels), [[Role.COMPLETION, 0, *numbers]])
        place = torch.nonzero(pair[0][: min(map(len, pair))] != pair[1][: min(map(len, pair))])[0].item()
        probabilities_V = distributions(models.policy, request, pair[0][: int(place) + 1], Decoding(12, models.processor.end_id))[int(place)]
    uniform = np.random.default_rng(request.seeds_G[0]).random(12)[int(place)]
    assert lies_at_a_boundary(probabilities_V, float(uniform), (int(pair[0][place]), int(pair[1][place])))


def test_two_ranks_sample_what_one_does_and_gather_weights_once_a_step(small: str) -> None:
    one, (other, second) = draw(ALONE, small, 2, True), ranks(2, draw, small, 2, False)
    assert_drawn_alike(small, one, other)
    for step, mine in zip(other, second, strict=True):
        assert {
            name: value for name, value in step.metrics.items() if "/" in name and name.split("/")[0] in ("loss", "reward", "policy")
        }.items() <= (mine.metrics.items())
        assert max(len(c.tokens_T) for group in step.groups for c in group.completions) > 4
        assert step.calls["rollout"] == step.calls["encode"] == 0 and step.calls["update"] > 0 and step.calls["copies"] == 1


@pytest.mark.slow
def test_four_ranks_sample_what_one_does(small: str) -> None:
    one = draw(ALONE, small, 6, True)
    for of_rank in ranks(4, draw, small, 6, False, seconds=1200):
        assert_drawn_alike(small, one, of_rank)
