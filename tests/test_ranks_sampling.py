"""Several ranks sample what one does, with weights that are gathered once a step. Run: .venv/bin/python -m pytest tests/test_ranks_sampling.py

Axes: P prompts a step, G completions a prompt. Slow: four ranks.
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
from test_ranks import GROUP, RATE, Case, load, make_small, said
from test_rollout import distributions, lies_at_a_boundary
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from visual_rft import policies
from visual_rft.distributed import ALONE, World
from visual_rft.frames import Contract
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import ask, prepare
from visual_rft.measurements import Stopwatch
from visual_rft.parsing import parse_detection
from visual_rft.rollout.engine import Decoding, Request
from visual_rft.seeding import Role
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import DetectionTruth, Example, Group, Reward, Truth

CLOSE = 1e-5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_small(tmp_path_factory.mktemp("small"))


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


def vowels(text: str, _: Truth, __: Contract) -> Reward:
    return Reward({"vowels": sum(c in "aeiou" for c in text) / max(len(text), 1)}, None, None)


VOWELS = Task(parse_detection, vowels, lambda _: DetectionTruth(()), {"vowels": 1.0})
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


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.split("/")[0] not in ("time", "throughput", "memory")}


def assert_drawn_alike(folder: str, one: Sequence[Drawn], other: Sequence[Drawn]) -> None:
    """The first step is equal; a later one differs first where a draw falls on a boundary, and what comes after that is its consequence."""
    assert comparable(other[0].metrics) == pytest.approx(comparable(one[0].metrics), abs=CLOSE, rel=CLOSE)
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
