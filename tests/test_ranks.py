"""Several ranks compute what one does, and none waits for ever. Run: .venv/bin/python -m pytest tests/test_ranks.py

Slow: four ranks, one copy of the weights or two. Axes: P prompts a step, G completions a prompt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from many import ranks
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from visual_rft import hardware, policies
from visual_rft.advantages import group_advantages
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.images import StoredImage
from visual_rft.inference import Asked
from visual_rft.learner import Learner, Work, grpo
from visual_rft.losses import Aggregation, KlOptions
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions, Part
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Pixels, Processor
from visual_rft.models.sharding import Sharding
from visual_rft.policies import Models
from visual_rft.vocabulary import Completion, DetectionTruth, Example, Group, Prompt

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
    "a rank has fewer prompts and micro-batches": Case(5, beta=0.04, updates=2, budget=1, steps=2),
    "a rank has no prompt": Case(1, beta=0.04, updates=2),
    "a rank has no prompt, the tower is frozen": Case(1, frozen=TOWER, beta=0.04, aggregation=Aggregation.sequence),
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
    learner = Learner(models.policy, models.reference, grpo(case.algorithm), case.budget, world=world)
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
    example = Example(str(p), (StoredImage.of(p % 5, picture(p % 5)),), "", "", DetectionTruth(()))
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


def make_small(folder: Path, width: int = 448) -> str:
    """The embedded model with half its layers, of this width inside, untrained."""
    source = loading.folder("embedded:tiny")
    config = AutoConfig.from_pretrained(source)
    config.text_config.intermediate_size = width
    config.text_config.num_hidden_layers = config.vision_config.depth = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    torch.manual_seed(0)
    loading.save(Policy(Qwen2VLForConditionalGeneration(config), [0]), Processor.load(source, min_pixels=4096, max_pixels=4096), folder)
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_small(tmp_path_factory.mktemp("small"))


def held_while_loading(world: World, folder: str) -> tuple[int, int]:
    """Bytes of the process's own memory that loading takes at its peak, and those of the whole model."""
    options, over = HardwareOptions(), Event()
    machine = hardware.prepare(options, 0, world)
    mesh, held = hardware.mesh(options, machine.device, world), [own_memory()]

    def watch() -> None:
        while not over.wait(0.001):
            held.append(own_memory())

    watcher = Thread(target=watch)
    watcher.start()
    sharding = Sharding(mesh, machine.dtype, offload=False) if mesh else None
    policy, _ = loading.load(ModelOptions("wide", folder, 4096, 4096, RATE), machine, sharding)
    over.set()
    watcher.join()
    return max(held) - held[0], sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())


def own_memory() -> int:
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of a process's memory")
def test_no_rank_holds_the_whole_model_when_it_loads(tmp_path: Path) -> None:
    folder = make_small(tmp_path, width=25_000)
    ((alone, whole),) = ranks(1, held_while_loading, folder)
    assert alone > 0.9 * whole > 5e7, "it can be seen"
    for held, size in ranks(2, held_while_loading, folder):
        assert size == whole and held < 0.75 * whole


QUICK = {
    name: case for name, case in CASES.items() if name not in ("all ranks have text only", "a rank has shorter completions", "a rank has no prompt")
}


@pytest.fixture(scope="module")
def alone(small: str) -> dict[str, Learned]:
    return learn(ALONE, small, QUICK)


@pytest.fixture(scope="module")
def by_two(small: str) -> list[dict[str, Learned]]:
    return ranks(2, learn, small, QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks_learn_what_one_does(name: str, alone: dict[str, Learned], by_two: list[dict[str, Learned]]) -> None:
    for of_rank in by_two:
        assert_alike(alone[name], of_rank[name])


def test_the_cases_are_what_they_say(alone: dict[str, Learned], by_two: list[dict[str, Learned]]) -> None:
    """Ranks with fewer micro-batches pass through as many, with nothing in some; the KL, the clip and the gradients are at work."""
    counts = {name: [(of_rank[name].batches, of_rank[name].empty) for of_rank in by_two] for name in QUICK}
    assert counts["a rank has fewer prompts and micro-batches"] == [(3, 1), (3, 0)]
    assert counts["a rank has no prompt, the tower is frozen"] == [(1, 1), (1, 0)]
    assert alone["an image is shown in several micro-batches"].batches == 8
    first = alone["a rank has fewer prompts and micro-batches"]
    assert len(first.metrics) == 4 and first.metrics[0]["loss/kl"] > 1e-4 and first.metrics[0]["policy/grad_norm"] > 0.1 == CLIP
    assert any("visual." in name and gradient.abs().max() > 1e-6 for name, gradient in first.gradients.items())


FOUR = {f"{name}, {copy or 4} ranks a copy": replace(case, steps=5, copy=copy) for copy in (0, 2) for name, case in CASES.items()}


@pytest.mark.slow
def test_four_ranks_learn_what_one_does(small: str) -> None:
    expected = learn(ALONE, small, {name: case for name, case in FOUR.items() if not case.copy})
    for of_rank in ranks(4, learn, small, FOUR, seconds=1200):
        for name, found in of_rank.items():
            assert_alike(expected[name.replace("2 ranks a copy", "4 ranks a copy")], found)
