"""What is done beside a step leaves no trace in it: images ahead of it, rewards aside. Run: .venv/bin/python -m pytest tests/test_workers.py"""

import copy
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from visual_rft import train
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.frames import Contract
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Prepared, answer, prepare, prepare_ahead, sample_groups
from visual_rft.losses import KlOptions
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_detection
from visual_rft.policies import Models
from visual_rft.tasks.task import Task
from visual_rft.trainer import GrpoStep, Trainer
from visual_rft.vocabulary import DetectionTruth, Example, Reward, Truth

SMALL = ["steps=3", "prompts_per_step=2", "algorithm.group_size=4", "task.shots=1", "data.test_images=20", "logger.report_images=2"]
COST = ("time/", "throughput/", "memory/")
OPTIONS = AlgorithmOptions(group_size=4, max_completion_tokens=6, kl=KlOptions(0.0))
HARDWARE = HardwareOptions(tokens_per_micro_batch=200, decoded_together=8)


# Images


def batches(examples: Sequence[Example]) -> Callable[[int], list[Example]]:
    """A few examples for each step, the later ones with images that come twice."""
    return lambda step: [examples[(step + i) % len(examples)] for i in (0, 2, 0)[: 1 + step % 3]]


def as_image(example: Example, id: int) -> Example:
    """The same question about the same pixels under another id."""
    return replace(example, images=(replace(example.asked_about, id=id),))


def assert_same(one: Prepared, other: Prepared) -> None:
    assert one.images == other.images and len(one.tokens) == len(other.tokens)
    assert all(torch.equal(a, b) for a, b in zip(one.tokens, other.tokens, strict=True))
    assert torch.equal(one.pixels.patches_RD, other.pixels.patches_RD) and torch.equal(one.pixels.grid_I3, other.pixels.grid_I3)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("steps", [range(7), range(3, 6), range(2, 2)])
def test_steps_come_in_order_and_as_prepared_here(steps: range, workers: int, untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    processor, batch_of = untrained[1], batches(ragged)
    ahead = list(prepare_ahead(processor, batch_of, steps, workers))
    for step, prepared in zip(steps, ahead, strict=True):
        assert_same(prepared, prepare(processor, batch_of(step)))


@pytest.mark.parametrize("workers", [0, 2])
def test_chance_is_left_alone(workers: int, untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index,union-attr]
    list(prepare_ahead(untrained[1], batches(ragged), range(4), workers))
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index,union-attr]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_that_cannot_be_prepared_ends_the_run_with_its_own_error(
    workers: int, untrained: tuple[Policy, Processor], ragged: list[Example]
) -> None:
    def batch_of(step: int) -> list[Example]:
        if step == 2:
            raise ValueError("this image is too long")
        return ragged[:1]

    ahead = prepare_ahead(untrained[1], batch_of, range(4), workers)
    assert len([next(ahead), next(ahead)]) == 2
    with pytest.raises(ValueError, match="this image is too long"):
        next(ahead)


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_are_the_same(workers: int, untrained: tuple[Policy, Processor], digit_questions: list[Example]) -> None:
    asked = [as_image(q, 100 * turn + q.asked_about.id) for turn in range(4) for q in digit_questions]

    def said(workers: int) -> list[tuple[int, str, list[float]]]:
        found = answer(*untrained, asked, max_tokens=4, together=8, workers=workers)
        return [(p, completion.text, completion.logprobs_T.tolist()) for p, completion in found]

    assert said(workers) == said(0) and len(said(0)) == len(asked) > 32, "of several batches of images"


def test_an_evaluation_encodes_few_images_at_a_time_and_each_once(
    untrained: tuple[Policy, Processor], ragged: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [replace(as_image(ragged[i % 5], i), id=f"{i} {n}") for i in range(40) for n in range(3)]
    passes: list[int] = []
    encode = untrained[0].encode
    monkeypatch.setattr(untrained[0], "encode", lambda pixels: passes.append(len(pixels.grid_I3)) or encode(pixels))
    assert len(list(answer(*untrained, asked, max_tokens=1, together=8, workers=0))) == len(asked)
    assert passes == [16, 16, 8]


def test_a_run_with_workers_writes_the_same_metrics_rollouts_and_answers(tmp_path: Path) -> None:
    def run(workers: int) -> tuple[list[str], bytes, bytes]:
        folder = tmp_path / str(workers)
        assert train.main([*SMALL, f"hardware.workers={workers}", f"hydra.run.dir={folder}"]) == 0
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = [json.dumps({name: value for name, value in line.items() if not name.startswith(COST)}) for line in metrics]
        return kept, (folder / "rollouts.jsonl").read_bytes(), (folder / "answers_after.jsonl").read_bytes()

    assert run(2) == run(0)


# Rewards


def test_what_has_not_begun_is_not_waited_for() -> None:
    begun: list[int] = []

    def rewards(group: int, *, progress: float) -> None:
        begun.append(group)
        time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt), Trainer.judging(SimpleNamespace(rewards=rewards), progress=0.0) as judge:  # type: ignore[arg-type]
        for i in range(50):
            judge(i)  # type: ignore[arg-type]
        raise KeyboardInterrupt
    assert len(begun) < 5


def trained(untrained: tuple[Policy, Processor], examples: Sequence[Example], score: Callable[[str, Truth, Contract], Reward]) -> list[GrpoStep]:
    task = Task(parse_detection, score, lambda _: DetectionTruth(()), {"worth": 1.0})
    trainer = Trainer(Models.whole(copy.deepcopy(untrained[0]), None, untrained[1]), task, OPTIONS, HARDWARE)
    return list(trainer.run(examples, steps=2, prompts_per_step=len(examples), learning_rate=1e-3, seed=0))


@pytest.fixture
def told_apart(ragged: list[Example]) -> list[Example]:
    """The questions, each with a truth of its own."""
    return [replace(example, truth=DetectionTruth(((float(i), 0.0, 900.0, 900.0),))) for i, example in enumerate(ragged)]


def worth(text: str, truth: Truth, _: Contract) -> Reward:
    """A reward that says which question and which answer it is of."""
    return Reward({"worth": 1000 * truth.boxes[0][0] + sum(map(ord, text)) / 1000}, None, None)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_rewards_land_at_their_prompt_in_whatever_order_groups_are_done(
    order: list[int], untrained: tuple[Policy, Processor], told_apart: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disordered(*arguments: Any) -> Iterator[Any]:
        done = dict(sample_groups(*arguments))
        yield from ((p, done[p]) for p in order)

    monkeypatch.setattr("visual_rft.trainer.sample_groups", disordered)
    for step in trained(untrained, told_apart, worth):
        assert {group.example.id for group in step.groups} == {example.id for example in told_apart}
        for p, (group, rewards) in enumerate(zip(step.groups, step.rewards_PG, strict=True)):
            assert rewards == [worth(completion.text, group.example.truth, group.example.contract) for completion in group.completions]
            assert step.totals_PG[p].tolist() == [reward.parts["worth"] for reward in rewards]


def test_the_order_in_which_groups_are_done_does_not_show(
    untrained: tuple[Policy, Processor], told_apart: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trained(untrained, told_apart, worth)
    monkeypatch.setattr("visual_rft.trainer.sample_groups", lambda *arguments: reversed(list(sample_groups(*arguments))))
    turned = trained(untrained, told_apart, worth)
    for one, other in zip(straight, turned, strict=True):
        assert {k: v for k, v in one.metrics.items() if not k.startswith(COST)} == {k: v for k, v in other.metrics.items() if not k.startswith(COST)}
        assert torch.equal(one.advantages_PG, other.advantages_PG)


def test_a_slow_reward_is_waited_for_and_judged_aside(untrained: tuple[Policy, Processor], told_apart: list[Example]) -> None:
    threads = set()

    def slow(text: str, truth: Truth, contract: Contract) -> Reward:
        threads.add(threading.current_thread())
        time.sleep(0.002)
        return worth(text, truth, contract)

    fast, slowed = trained(untrained, told_apart, worth), trained(untrained, told_apart, slow)
    assert [step.rewards_PG for step in slowed] == [step.rewards_PG for step in fast]
    assert threading.main_thread() not in threads and threads


class BrokenReward(RuntimeError):
    pass


@pytest.mark.parametrize("which", [0, 2, 4])
def test_what_a_reward_raises_reaches_the_caller(which: int, untrained: tuple[Policy, Processor], told_apart: list[Example]) -> None:
    def broken(text: str, truth: Truth, contract: Contract) -> Reward:
        if truth.boxes[0][0] == which:
            raise BrokenReward("no such measure")
        return worth(text, truth, contract)

    before = threading.active_count()
    with pytest.raises(BrokenReward, match="no such measure"):
        trained(untrained, told_apart, broken)
    assert threading.active_count() == before, "nobody is left at work"


def test_the_entry_tells_what_a_reward_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> Reward:
        raise ValueError("rewards.iou: no such measure; take another")

    monkeypatch.setattr(Task, "reward", broken)
    assert train.main([*SMALL, f"hydra.run.dir={tmp_path}"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "rewards.iou: no such measure; take another"
    assert not (tmp_path / "summary.json").exists()
