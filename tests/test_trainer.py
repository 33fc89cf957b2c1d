"""The GRPO step: what must not matter does not, what must matter does. Run: .venv/bin/python -m pytest tests/test_trainer.py"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isnan
from typing import Any

import pytest
import torch
from torch import Tensor

from visual_rft.algorithm import Advantage, AlgorithmOptions
from visual_rft.frames import Contract
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, prepare, sample_groups
from visual_rft.learner import Update, Work
from visual_rft.losses import Aggregation, KlOptions
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.models.processor import Pixels, Processor
from visual_rft.parsing import parse_detection
from visual_rft.policies import Models
from visual_rft.tasks.task import Task
from visual_rft.trainer import GrpoStep, Trainer
from visual_rft.vocabulary import DetectionTruth, Example, Reason, Refusal, Reward, Truth

OPTIONS = AlgorithmOptions(group_size=4, max_completion_tokens=6)
HARDWARE = HardwareOptions(threads=1, tokens_per_micro_batch=200, decoded_together=8)


def vowels(text: str, truth: Truth, _: Contract) -> Reward:
    """A reward that an untrained model can earn: the share of vowels in its text."""
    refusal = None if text.isascii() else Refusal(Reason.NO_THINK)
    return Reward({"vowels": sum(c in "aeiou" for c in text) / max(len(text), 1), "length": len(text) / 100}, None, refusal)


VOWELS = Task(parse_detection, vowels, lambda _: DetectionTruth(()), {"vowels": 1.0, "length": 1.0})


def held(untrained: tuple[Policy, Processor]) -> Models:
    """A policy that may be trained, and no reference."""
    return Models.whole(copy.deepcopy(untrained[0]), None, untrained[1])


def train(
    untrained: tuple[Policy, Processor],
    examples: Sequence[Example],
    steps: int = 2,
    options: AlgorithmOptions = OPTIONS,
    hardware: HardwareOptions = HARDWARE,
    learning_rate: float = 1e-3,
) -> tuple[list[GrpoStep], Policy]:
    policy = copy.deepcopy(untrained[0])
    reference = copy.deepcopy(policy).requires_grad_(False) if options.kl.coefficient else None
    trainer = Trainer(Models.whole(policy, reference, untrained[1]), VOWELS, options, hardware)
    return list(trainer.run(examples, steps=steps, prompts_per_step=5, learning_rate=learning_rate, seed=0)), policy


def sampled(trainer: Trainer, examples: Sequence[Example]) -> Work:
    """All that an update is computed from, of one step."""
    asked, features = trainer.look(prepare(trainer.processor, examples))
    with trainer.judging(progress=0.0) as judge:
        trainer.engine = trainer.engine_for(len(examples))
        groups, pending = trainer.sample(examples, range(len(examples)), asked, features, judge, seed=(0, 0))
        totals = torch.tensor([[trainer.task.total(reward) for reward in rewards.result()] for rewards in pending])
    return Work(asked, features, trainer.learner.pack(groups, asked, features), trainer.advantages(totals, seed=(0, 0)))


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.split("/")[0] not in ("time", "throughput", "memory")}


def test_two_runs_with_one_seed_are_identical(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    (a, policy_a), (b, policy_b) = (train(untrained, ragged) for _ in range(2))
    assert [comparable(s.metrics) for s in a] == [comparable(s.metrics) for s in b]
    assert [c.text for s in a for g in s.groups for c in g.completions] == [c.text for s in b for g in s.groups for c in g.completions]
    assert all(torch.equal(x, y) for x, y in zip(policy_a.parameters(), policy_b.parameters(), strict=True))


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("updates", [1, 2])
def test_micro_batches_change_nothing(untrained: tuple[Policy, Processor], ragged: list[Example], aggregation: Aggregation, updates: int) -> None:
    options = replace(OPTIONS, aggregation=aggregation, updates_per_batch=updates)
    results = [train(untrained, ragged, 1, options, replace(HARDWARE, tokens_per_micro_batch=tokens)) for tokens in (1, 200, 10_000)]
    for steps, policy in results[1:]:
        for name, value in comparable(results[0][0][0].metrics).items():
            assert steps[0].metrics[name] == pytest.approx(value, rel=1e-4, abs=2e-5), name
        # Adam's first step has the size of the learning rate whatever the gradient's: rounding shows where a gradient is almost 0.
        for x, y in zip(results[0][1].parameters(), policy.parameters(), strict=True):
            assert (x - y).abs().mean() < 2e-5


def test_the_first_step_starts_at_the_reference(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps, _ = train(untrained, ragged, 3)
    assert steps[0].metrics["loss/kl"] == pytest.approx(0, abs=1e-9)
    assert steps[2].metrics["loss/kl"] > 1e-6
    assert all(s.metrics["policy/clip_fraction"] == 0 for s in steps)
    assert all(s.metrics["rollout/trainer_logprob_gap"] < 1e-4 for s in steps)


def test_two_updates_a_batch_move_further_and_keep_the_old_logprobs(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps, _ = train(untrained, ragged, 1, replace(OPTIONS, updates_per_batch=3, clip_low=1e-4, clip_high=1e-4))
    assert steps[0].metrics["policy/clip_fraction"] > 0
    assert steps[0].metrics["loss/kl"] > 0


def test_gradients_do_not_outlive_their_step(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """At learning rate 0 the policy stays, so the same batch must give the same gradient norm twice."""
    trainer = Trainer(held(untrained), VOWELS, replace(OPTIONS, kl=KlOptions(0.0)), HARDWARE)
    work = sampled(trainer, ragged)
    first, second = (trainer.learner.update(work, 0.0).metrics["policy/grad_norm"] for _ in range(2))
    assert first == second > 0


def test_the_gradient_is_clipped(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    _, policy = train(untrained, ragged, 1, replace(OPTIONS, max_grad_norm=1e-3))
    norm = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


def test_a_diverged_run_stops_with_a_remedy(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps, _ = train(untrained, ragged, 6, replace(OPTIONS, max_bad_steps=2), learning_rate=1e30)
    assert [bool(step.fatal) for step in steps] == [False, False, True]
    line = r"algorithm\.max_bad_steps=2: .*, up to step 3: the loss of .* is not finite.* smaller model\.learning_rate"
    assert re.match(line, str(steps[-1].fatal)) and isnan(steps[-1].metrics["rollout/trainer_logprob_gap"])


def test_a_step_whose_loss_is_nan_is_skipped_counted_and_explained(
    untrained: tuple[Policy, Processor], ragged: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Policy.forward

    def run(bad: set[int]) -> tuple[list[GrpoStep], list[Tensor]]:
        """The steps, and the first weights after each, with a NaN among the logprobs of the steps `bad`."""
        models = held(untrained)
        trainer = Trainer(models, VOWELS, replace(OPTIONS, kl=KlOptions(0.0), max_bad_steps=2), HARDWARE)
        done: list[GrpoStep] = []
        weights: list[Tensor] = []

        def forward(*arguments: object) -> TokenScores:
            scores = sound(*arguments)  # type: ignore[arg-type]
            return scores._replace(logprobs_BT=scores.logprobs_BT * float("nan")) if len(done) + 1 in bad else scores

        monkeypatch.setattr(Policy, "forward", forward)
        for step in trainer.run(ragged, steps=6, prompts_per_step=5, learning_rate=1e-3, seed=0):
            done.append(step)
            weights.append(next(models.policy.parameters()).detach().clone())
        return done, weights

    steps, weights = run({2, 4})
    assert [s.skipped is None for s in steps] == [True, False, True, False, True, True]
    assert [s.metrics["policy/skipped_steps"] for s in steps] == [0, 1, 1, 2, 2, 2]
    assert str(steps[1].skipped).startswith("the loss of ") and all(e.id in str(steps[1].skipped) for e in ragged[:1])
    assert [torch.equal(a, b) for a, b in pairwise(weights)] == [True, False, True, False, False]
    assert all(w.isfinite().all() for w in weights)
    steps, _ = run({3, 4})
    assert [step.fatal is None for step in steps] == [True, True, True, False]


def test_a_batch_stops_at_its_first_bad_update(untrained: tuple[Policy, Processor], ragged: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(held(untrained), VOWELS, replace(OPTIONS, kl=KlOptions(0.0), updates_per_batch=4), HARDWARE)
    metrics = {"policy/grad_norm": 1.0, "policy/lr": 0.0}
    updates = iter([Update(metrics, []), Update(metrics | {"policy/grad_norm": float("inf")}, []), Update(metrics, [])])
    monkeypatch.setattr(trainer.learner, "update", lambda *_: next(updates))
    done = trainer.learner.updates(Work(Asked((), Pixels(torch.empty(0, 1), torch.empty(0, 3))), (), (), torch.empty(0)), 0.0)
    assert [update.fault() is None for update in done] == [True, False] and "the gradient's norm is inf" in str(done[-1].fault())


def test_no_reference_is_held_without_kl(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps, _ = train(untrained, ragged, 1, replace(OPTIONS, kl=KlOptions(0.0)))
    assert "loss/kl" not in steps[0].metrics


def test_it_learns_what_is_rewarded_and_the_control_does_not(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    gains = {}
    for advantage in Advantage:
        steps, _ = train(untrained, ragged, 12, replace(OPTIONS, advantage=advantage), learning_rate=5e-3)
        rewards = [s.metrics["reward/mean"] for s in steps]
        gains[advantage] = sum(rewards[-3:]) / 3 - sum(rewards[:3]) / 3
    assert gains[Advantage.group] > 0.05
    assert gains[Advantage.group] > 3 * gains[Advantage.shuffled]


def test_the_learning_rate_falls_linearly(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps, _ = train(untrained, ragged, 4)
    assert [s.metrics["policy/lr"] for s in steps] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_rollout_from_other_weights_stops_the_run(
    untrained: tuple[Policy, Processor], ragged: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = held(untrained)
    trainer = Trainer(models, VOWELS, replace(OPTIONS, kl=KlOptions(0.0)), HARDWARE)

    def stale(*arguments: Any) -> Iterator[Any]:
        yield from sample_groups(*arguments)
        models.speaker.model.get_input_embeddings().weight.mul_(1.05)

    monkeypatch.setattr("visual_rft.trainer.sample_groups", stale)
    with pytest.raises(ValueError, match=r"logprob_tolerance=0\.001: rollout and trainer differ by"):
        trainer.check_rollout(ragged[:2], seed=0)


def test_metrics_carry_the_contract_s_names(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    metrics = train(untrained, ragged, 1)[0][0].metrics
    names = "reward/mean reward/std reward/vowels reward/length reward/zero_std_fraction completion/length_mean completion/truncated_fraction "
    names += "loss/policy loss/kl policy/entropy policy/clip_fraction policy/grad_norm policy/lr rollout/trainer_logprob_gap "
    names += "time/step time/encode time/rollout time/reference time/reward time/update "
    names += "throughput/completions_per_second throughput/tokens_per_second memory/peak_gb"
    assert set(names.split()) <= set(metrics)
    assert metrics["reward/mean"] == pytest.approx(metrics["reward/vowels"] + metrics["reward/length"])


@pytest.mark.parametrize(
    "change, line",
    [
        ({"group_size": 1}, "algorithm.group_size=1"),
        ({"temperature": 0.0}, "algorithm.temperature=0.0"),
        ({"top_p": 0.0}, "algorithm.top_p=0.0"),
        ({"top_p": 1.5}, "algorithm.top_p=1.5"),
        ({"max_completion_tokens": 0}, "algorithm.max_completion_tokens=0"),
        ({"updates_per_batch": 0}, "algorithm.updates_per_batch=0"),
        ({"temperature": float("nan")}, "algorithm.temperature=nan"),
        ({"clip_low": 1.5}, "algorithm.clip_low=1.5"),
        ({"clip_high": -0.1}, "algorithm.clip_high=-0.1"),
        ({"max_grad_norm": 0.0}, "algorithm.max_grad_norm=0.0"),
        ({"max_bad_steps": 0}, "algorithm.max_bad_steps=0"),
        ({"weight_decay": -1.0}, "algorithm.weight_decay=-1.0"),
    ],
)
def test_impossible_options_are_refused_by_name(change: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        replace(OPTIONS, **change)  # type: ignore[arg-type]
