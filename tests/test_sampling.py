"""Tokens are drawn from the model's distribution, and from nothing else. Run: .venv/bin/python -m pytest tests/test_sampling.py

Axes: B rows, V vocabulary.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from visual_rft.inference import ask, prepare
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.rollout.engine import Decoding, Engine, Request
from visual_rft.rollout.sampling import draw, greedy
from visual_rft.vocabulary import Example

NEARLY_ONE = 1 - 2**-53


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


def logits(vocabulary: int, seed: int, spread: float = 2.0) -> Tensor:
    """Random float32 logits_V, a tenth of them −inf."""
    generator = torch.Generator().manual_seed(seed)
    logits_V = torch.randn(vocabulary, generator=generator) * spread
    return logits_V.index_fill(0, torch.randperm(vocabulary, generator=generator)[: vocabulary // 10], float("-inf"))


def nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    """Probabilities of the smallest set of most probable tokens whose mass reaches top_p, in float64."""
    probabilities_V = logits_V.double().softmax(-1)
    mass, kept = 0.0, torch.zeros_like(probabilities_V)
    for token in probabilities_V.argsort(descending=True, stable=True):
        if mass >= top_p:
            break
        mass += float(probabilities_V[token])
        kept[token] = probabilities_V[token]
    return kept / mass


def p_value(counts_V: Tensor, probabilities_V: Tensor, at_least: float = 20.0) -> float:
    """Of a chi-square test; tokens, from the most probable on, share a bin until it expects so many."""
    assert not counts_V[probabilities_V == 0].any(), "a token of probability zero was drawn"
    total = int(counts_V.sum())
    order = probabilities_V.argsort(descending=True)
    order = order[probabilities_V[order] > 0]
    cumulative = (probabilities_V[order] * total).double().cumsum(0)
    seen, expected, first, before = [], [], 0, 0.0
    for i, until in enumerate(cumulative.tolist()):
        if (until - before >= at_least and total - until >= at_least) or i == len(order) - 1:
            seen.append(float(counts_V[order[first : i + 1]].sum()))
            expected.append(until - before)
            first, before = i + 1, until
    assert len(expected) > 1
    return float(chisquare(seen, np.array(expected) * total / sum(expected)).pvalue)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.5, 0.8), (1.0, 0.3)])
@pytest.mark.parametrize("vocabulary", [2, 5, 127, 128, 129, 1000, 5000])
def test_draws_follow_the_distribution(vocabulary: int, temperature: float, top_p: float) -> None:
    logits_V = logits(vocabulary, seed=vocabulary) / temperature
    expected_V = nucleus(logits_V, top_p)
    tokens_B = torch.cat([draw(logits_V.expand(len(u), -1), u, top_p)[0] for u in uniforms(8000).split(500)])
    counts_V = torch.bincount(tokens_B, minlength=vocabulary)
    if int((expected_V > 0).sum()) == 1:
        assert counts_V[expected_V.argmax()] == len(tokens_B)
    else:
        assert p_value(counts_V, expected_V) > 1e-3


@given(st.integers(2, 700), st.integers(0, 10**6), st.sampled_from([1.0, 0.9, 0.5, 0.1]), st.floats(0, 1, exclude_max=True))
def test_a_token_is_the_first_whose_cumulative_probability_exceeds_the_draw(vocabulary: int, seed: int, top_p: float, uniform: float) -> None:
    logits_V = logits(vocabulary, seed)
    probabilities_V = nucleus(logits_V, top_p)
    tokens_B, logprobs_B = draw(logits_V[None], torch.tensor([uniform], dtype=torch.float64), top_p)
    cumulative_V = probabilities_V.cumsum(0)
    token = int(tokens_B)
    assert probabilities_V[token] > 0
    assert cumulative_V[token] - probabilities_V[token] - 1e-6 <= uniform <= cumulative_V[token] + 1e-6
    torch.testing.assert_close(logprobs_B[0].double(), logits_V.double().log_softmax(-1)[token], atol=1e-5, rtol=0)  # those before top-p


@given(st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=300), st.floats(0, 1, exclude_max=True), st.floats(0.01, 1), st.data())
def test_a_token_of_probability_zero_is_never_drawn(values: list[float], uniform: float, top_p: float, data: st.DataObject) -> None:
    banned = data.draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values) - 1))
    logits_V = torch.tensor([float("-inf") if i in banned else value for i, value in enumerate(values)])
    for u in (uniform, 0.0, NEARLY_ONE):
        tokens_B, logprobs_B = draw(logits_V[None], torch.tensor([u], dtype=torch.float64), top_p)
        assert 0 <= int(tokens_B) < len(values) and int(tokens_B) not in banned
        assert torch.isfinite(logprobs_B).all()


@pytest.mark.parametrize("vocabulary", [4, 128, 300])
@pytest.mark.parametrize("uniform", [0.0, NEARLY_ONE])
def test_the_ends_of_the_unit_interval_draw_the_first_and_last_possible_token(uniform: float, vocabulary: int) -> None:
    logits_V = torch.zeros(vocabulary)
    logits_V[[0, -1]] = float("-inf")
    tokens_B, _ = draw(logits_V[None], torch.tensor([uniform], dtype=torch.float64))
    assert int(tokens_B) == (1 if uniform == 0 else vocabulary - 2)


@given(st.integers(2, 300), st.integers(0, 10**6), st.sampled_from([1.0, 0.7]))
def test_a_row_depends_on_itself_alone(vocabulary: int, seed: int, top_p: float) -> None:
    logits_BV = torch.stack([logits(vocabulary, seed + b) for b in range(5)])
    uniforms_B = uniforms(5, seed)
    order_B = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    together = draw(logits_BV, uniforms_B, top_p)
    for one, other in zip(draw(logits_BV[order_B], uniforms_B[order_B], top_p), together, strict=True):
        assert torch.equal(one, other[order_B])
    alone = [draw(logits_BV[b : b + 1], uniforms_B[b : b + 1], top_p) for b in range(5)]
    assert torch.equal(torch.cat([tokens for tokens, _ in alone]), together[0])


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits_V = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    grid_B = torch.linspace(0, NEARLY_ONE, 1001, dtype=torch.float64)

    def drawn(top_p: float) -> set[int]:
        return set(draw(logits_V.expand(len(grid_B), -1), grid_B, top_p)[0].tolist())

    assert [drawn(p) for p in (1e-9, 0.49, 0.51, 0.74, 0.76, 0.874, 0.9, 1.0)] == [
        {0}, {0}, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3},
    ]  # fmt: skip


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_row_breaks_no_other_and_raises_nothing(value: float, top_p: float) -> None:
    logits_V = logits(300, seed=1)
    healthy = draw(logits_V.expand(2, -1), uniforms(2), top_p)
    broken = draw(torch.stack([torch.full_like(logits_V, value), logits_V]), uniforms(2), top_p)
    assert broken[0][1] == healthy[0][1] and broken[1][1] == healthy[1][1]
    assert 0 <= int(broken[0][0]) < 300


def test_greedy_is_the_most_probable_token_and_its_logprob() -> None:
    logits_BV = torch.stack([logits(300, seed=b) for b in range(8)])
    tokens_B, logprobs_B = greedy(logits_BV)
    assert tokens_B.tolist() == logits_BV.argmax(-1).tolist()
    torch.testing.assert_close(logprobs_B, logits_BV.log_softmax(-1).amax(-1))


@torch.no_grad()
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.5, 1.0), (0.7, 0.8)])
def test_the_engine_draws_from_the_models_distribution(
    untrained: tuple[Policy, Processor], ragged: list[Example], temperature: float, top_p: float, fixed: bool
) -> None:
    policy, processor = untrained
    asked = ask(policy, prepare(processor, ragged[:1]))
    features = policy.encode(asked.pixels)
    requests = [Request(asked.prompts[0], features, [(7, r, g) for g in range(256)], [1] * 256) for r in range(16)]
    engine = Engine(policy, Decoding(1, processor.end_id, temperature, top_p), group=256, rows=256, fixed=fixed)
    tokens_B = torch.cat([tokens for _, sampled in engine.run(requests) for tokens in sampled.tokens])
    hidden_1H = policy.read(asked.prompts, features, lambda *_: None)
    expected_V = nucleus(policy.logits(hidden_1H, temperature)[0], top_p)
    assert len(tokens_B) == 4096
    assert p_value(torch.bincount(tokens_B, minlength=len(expected_V)), expected_V) > 1e-3


@torch.no_grad()
def test_temperature_is_honoured(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """The peers' defect: a temperature that is accepted and ignored."""
    policy, processor = untrained
    asked = ask(policy, prepare(processor, ragged[:1]))
    features = policy.encode(asked.pixels)

    def tokens(decoding: Decoding, group: int) -> list[tuple[int, ...]]:
        request = Request(asked.prompts[0], features, [(g,) for g in range(group)])
        (_, sampled), *_ = Engine(policy, decoding, group=group, rows=group, fixed=False).run([request])
        return [tuple(tokens_T.tolist()) for tokens_T in sampled.tokens]

    cold, warm = (set(tokens(Decoding(3, processor.end_id, t), 32)) for t in (0.01, 3.0))
    assert len(cold) < len(warm)
    assert tokens(Decoding(8, processor.end_id, 1e-4), 1) == tokens(Decoding(8, processor.end_id, greedy=True), 1)
