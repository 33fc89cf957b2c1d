"""Supervised tuning is GRPO's update on labels: pytest tests/test_supervised.py

Axes: P prompts, with one label each, B rows, T tokens of one label.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from families import ALLOWED, VOCABULARY, Family, RaggedBatch, build, ragged_batch
from many import ranks
from padded import padded, stock
from test_trainer import HARDWARE, VOWELS, comparable, held
from torch import Tensor

from visual_rft import hardware, policies
from visual_rft.algorithm import AlgorithmOptions, SupervisedOptions
from visual_rft.distributed import ALONE, World
from visual_rft.frames import Contract, Resized
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked
from visual_rft.learner import Learner, Objective, Work, grpo
from visual_rft.losses import Aggregation, KlOptions
from visual_rft.models.loading import ModelOptions
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_classification, parse_detection, parse_grounding
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.supervised import SupervisedStep, Tutor, objective
from visual_rft.tasks.detection import questions
from visual_rft.tasks.labels import Reasoning, label
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Style
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import ClassTruth, Completion, DetectionTruth, Example, GroundingTruth, Group, Refusal, Truth, thinking

CLOSE = 1e-5  # relative to the largest entry of a tensor's gradient
BANNED_V = torch.ones(VOCABULARY, dtype=torch.bool).index_fill(0, torch.tensor(ALLOWED), False)
OPTIONS = SupervisedOptions()


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize(("family", "budget"), [(Family.qwen2_vl, 1), (Family.qwen3_vl, 10_000)])
def test_the_gradient_is_that_of_the_labels_likelihood_on_the_padded_path(family: Family, aggregation: Aggregation, budget: int) -> None:
    model = build(family)
    oracle = stock(model)
    batch = replace(given := ragged_batch(0), completions_PG=[group[:1] for group in given.completions_PG])
    logprobs_B = padded(oracle, BANNED_V, batch, 1.0).logprobs_B
    by_sequence = torch.stack([logprobs_T.mean() for logprobs_T in logprobs_B]).mean()
    loss = -(by_sequence if aggregation is Aggregation.sequence else torch.cat(logprobs_B).mean())
    loss.backward()
    expected = {name: parameter.grad for name, parameter in oracle.named_parameters() if parameter.grad is not None}

    measured, found = gradients(Policy(model, ALLOWED), batch, objective(SupervisedOptions(aggregation=aggregation)), budget)
    assert measured["loss/nll"] == pytest.approx(loss.item(), abs=CLOSE)
    assert_alike(found, expected)

    algorithm = AlgorithmOptions(aggregation=aggregation, kl=KlOptions(0.0))
    _, sampled = gradients(Policy(model, ALLOWED), batch, grpo(algorithm), budget)
    assert_alike(found, sampled)  # at an advantage of 1


def gradients(policy: Policy, batch: RaggedBatch, of: Objective, budget: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What the learner measures on a ragged batch whose completions are all worth 1, and the gradients it leaves."""
    grid_I3 = batch.pixels.grid_I3
    prompts = [policy.prompt(tokens, images, grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]
    example = Example("", (), "", "", ClassTruth(""))
    groups = [Group(example, (Completion(tokens, torch.zeros(len(tokens)), "", True),)) for (tokens,) in batch.completions_PG]
    learner = Learner(policy, None, of, budget)
    asked = Asked(tuple(prompts), batch.pixels)
    with torch.no_grad():
        features = policy.encode(asked.pixels)
    rounds = learner.pack(groups, asked, features)
    learner.optimizer.zero_grad()
    measured, _ = learner.backward(Work(asked, features, rounds, torch.ones(len(groups), 1)))
    return measured, {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= CLOSE * gradient.abs().max(), name


def tutor(untrained: tuple[Policy, Processor], examples: Sequence[Example], options: SupervisedOptions = OPTIONS) -> Tutor:
    return Tutor(held(untrained), VOWELS, options, HARDWARE, {example.id: label(example, Reasoning.label, 0.95) for example in examples})


def taught(untrained: tuple[Policy, Processor], examples: Sequence[Example], steps: int, rate: float = 1e-3) -> list[SupervisedStep]:
    return list(tutor(untrained, examples).run(examples, steps=steps, prompts_per_step=5, learning_rate=rate, seed=0))


def test_the_loss_falls_and_a_step_says_what_it_learned(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    steps = taught(untrained, ragged, 6)
    losses = [step.metrics["loss/nll"] for step in steps]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]
    first = steps[0]
    assert first.score == -losses[0] and first.records() == []
    assert {c.text for group in first.groups for c in group.completions} == {label(example, Reasoning.label, 0.95) for example in ragged}
    assert first.metrics["loss/nll_worst_token"] >= losses[0]
    names = set(comparable(first.metrics))
    expected = {"loss/nll", "loss/nll_worst_token", "policy/entropy", "policy/grad_norm", "policy/lr", "policy/skipped_steps"}
    assert names == expected | {"completion/length_mean"}
    assert first.metrics["policy/lr"] == 1e-3 and steps[3].metrics["policy/lr"] == pytest.approx(0.5e-3)


def test_it_asks_what_grpo_asks_in_the_same_order(untrained: tuple[Policy, Processor], digit_questions: list[Example]) -> None:
    run = {"steps": 3, "prompts_per_step": 5, "learning_rate": 0.0, "seed": 3}
    trainer = Trainer(held(untrained), VOWELS, AlgorithmOptions(group_size=2, max_completion_tokens=2, kl=KlOptions(0.0)), HARDWARE)
    sampled = [[group.example.id for group in step.groups] for step in trainer.run(digit_questions, **run)]  # type: ignore[arg-type]
    told = [[group.example.id for group in step.groups] for step in tutor(untrained, digit_questions).run(digit_questions, **run)]  # type: ignore[arg-type]
    assert told == sampled and told[0] != told[1]


def test_a_run_that_diverges_stops_with_a_remedy_of_its_own(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    def broken(bad: Tutor) -> Tutor:
        with torch.no_grad():
            next(bad.models.policy.parameters()).fill_(float("nan"))
        return bad

    bad = broken(tutor(untrained, ragged, SupervisedOptions(max_bad_steps=2)))
    steps = list(bad.run(ragged, steps=5, prompts_per_step=5, learning_rate=1e-3, seed=0))
    assert [bool(step.fatal) for step in steps] == [False, True]
    assert str(steps[-1].fatal).endswith("ask for a smaller model.learning_rate") and "KL" not in str(steps[-1].fatal)


def learned(world: World) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Three steps of three questions, of which a second rank has one."""
    options = HardwareOptions()
    model = ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)
    models = policies.load(model, options, hardware.prepare(options, 0, world), world, with_reference=False)
    examples = questions(scenes(Split.TRAIN, 6, seed=0), CATEGORIES, Present.ground_truth, Style())
    told = {example.id: label(example, Reasoning.label, 0.95) for example in examples}
    steps = Tutor(models, VOWELS, OPTIONS, options, told, world).run(examples, steps=3, prompts_per_step=3, learning_rate=1e-4, seed=0)
    metrics = [comparable(step.metrics) for step in steps]
    return metrics, {name: weight.clone() for name, weight in models.whole_weights().items()}


def test_two_ranks_learn_what_one_does() -> None:
    metrics, weights = learned(ALONE)
    for metrics_of_rank, weights_of_rank in ranks(2, learned):
        for one, other in zip(metrics, metrics_of_rank, strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
        assert max((weights_of_rank[name] - weight).abs().max().item() for name, weight in weights.items()) < 1e-4


RIGHT = {
    DetectionTruth(((500.0, 10.0, 900.0, 200.0), (20.0, 700.0, 300.0, 1000.0))): ("horse_buggy", "horse buggy: bottom left, top right."),
    DetectionTruth(()): ("bus", "bus: none."),
    ClassTruth("seven"): ("", "seven."),
    GroundingTruth((0.0, 0.0, 100.0, 200.0)): ("the leftmost even digit", "the leftmost even digit: top left."),
}
PARSE = {DetectionTruth: parse_detection, ClassTruth: parse_classification, GroundingTruth: parse_grounding}


@pytest.mark.parametrize("truth", RIGHT)
@pytest.mark.parametrize("reasoning", list(Reasoning))
def test_a_label_is_the_right_answer_in_the_form_that_is_asked_for(truth: Truth, reasoning: Reasoning) -> None:
    subject, thought = RIGHT[truth]
    example = Example("1", (), subject, "?", truth, Contract(thinking=reasoning is not Reasoning.none), reasoning="I see\nit.")
    text = label(example, reasoning, 0.95)
    answer = PARSE[type(truth)](text, example.contract)
    assert isinstance(truth, ClassTruth | GroundingTruth) or {one.confidence for one in answer.detections} <= {0.95}
    assert not isinstance(answer, Refusal) and sorted(answer.boxes) == sorted(truth.boxes) == list(answer.boxes)
    assert isinstance(truth, DetectionTruth) or str(answer) == str(truth)
    assert thinking(text) == {Reasoning.none: "", Reasoning.label: thought, Reasoning.data: "I see\nit."}[reasoning]


def test_the_places_in_a_reasoning_are_those_of_the_image_in_any_frame() -> None:
    pixels = Contract(Resized(1280, 640))
    example = Example("1", (), "bus", "?", DetectionTruth(((1000.0, 0.0, 1270.0, 100.0),)), pixels)
    assert "[1000, 0, 1270, 100]" in label(example, Reasoning.label, 0.95) and thinking(label(example, Reasoning.label, 0.95)) == "bus: top right."


def test_a_label_without_the_reasoning_that_the_data_should_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="reasoning=data: training example 17 has none"):
        label(Example("17", (), "", "?", ClassTruth("x")), Reasoning.data, 0.95)
