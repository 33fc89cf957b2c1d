"""Rollouts draw from the model and nothing else. Run: .venv/bin/python -m pytest tests/test_rollout.py"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from visual_rft.inference import answer, prompt_inputs, sample_groups
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.rollout.generate import Limits, decode_greedily, sample
from visual_rft.rollout.sampling import draw
from visual_rft.vocabulary import Example


def test_greedy_agrees_with_generate_token_for_token(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    with torch.no_grad():
        ours = decode_greedily(policy, prompt_inputs(policy, processor, ragged), Limits(24, processor.end_id))
    for example, sampled in zip(ragged, ours, strict=True):
        pixels = processor.pixels([example.image])
        ids = processor.prompts([example.question], [0], pixels.grid_I3)[0].tokens_S[None]
        theirs = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels.patches_RD,
            image_grid_thw=pixels.grid_I3,
            mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=processor.end_id,
            pad_token_id=processor.tokenizer.pad_token_id,
            suppress_tokens=torch.nonzero(policy.banned_V)[:, 0].tolist(),
        )
        assert sampled.tokens[0].tolist() == theirs[0, ids.shape[1] :].tolist()


def test_a_completion_depends_on_its_own_seed_alone(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    limits = Limits(12, processor.end_id)
    whole, again = (sample_groups(policy, processor, ragged, group_size=4, limits=limits, seed=(3, 5)) for _ in range(2))
    part = sample_groups(policy, processor, ragged[:1], group_size=2, limits=limits, seed=(3, 5))
    texts = [[c.text for c in group.completions] for group in whole]
    assert texts == [[c.text for c in group.completions] for group in again]
    assert [c.text for c in part[0].completions] == texts[0][:2]
    assert len({text for group in texts for text in group}) == 20
    other = sample_groups(policy, processor, ragged, group_size=4, limits=limits, seed=(3, 6))
    assert texts != [[c.text for c in group.completions] for group in other]


def test_rollout_logprobs_are_the_trainers(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    groups = sample_groups(policy, processor, ragged, group_size=3, limits=Limits(10, processor.end_id, 1.3), seed=(0,))
    with torch.no_grad():
        rows = [p for p in range(len(ragged)) for _ in range(3)]
        completions = [c for group in groups for c in group.completions]
        scores = policy(prompt_inputs(policy, processor, ragged), rows, [c.tokens_T for c in completions], 1.3)
    torch.testing.assert_close(scores.logprobs_BT[scores.mask_BT], torch.cat([c.logprobs_T for c in completions]), atol=1e-5, rtol=0)


def test_a_completion_ends_with_the_end_token_or_at_the_limit(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    inputs = prompt_inputs(policy, processor, ragged)
    seeds = [[[p, g] for g in range(4)] for p in range(5)]
    endless = [tokens for s in sample(policy, inputs, Limits(10, -1), seeds) for tokens in s.tokens]
    end = int(endless[0][4])
    stopped = sample(policy, inputs, Limits(10, end), seeds)
    for long, tokens, finished in zip(endless, *[[x for s in stopped for x in getattr(s, n)] for n in ("tokens", "finished")], strict=True):
        places = (long == end).nonzero()[:, 0].tolist()
        assert tokens.tolist() == long[: places[0] + 1 if places else 10].tolist()
        assert finished == bool(places)
    assert all(len(a) == len(b) for s in stopped for a, b in zip(s.tokens, s.logprobs, strict=True))


def test_answers_come_in_the_order_of_the_questions_whatever_the_batch(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    one, three = ([c.text for part in answer(policy, processor, ragged, max_tokens=6, batch=size) for c in part] for size in (1, 3))
    assert one == three
    assert len(set(one)) > 1


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.0, 0.125, 0.125])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(probabilities.log().expand(20_000, -1), uniforms), minlength=5)
    assert counts[2] == 0
    kept = probabilities > 0
    assert chisquare(counts[kept].numpy(), (probabilities[kept] * 20_000).numpy()).pvalue > 0.01


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=30), st.floats(0, 1, exclude_max=True), st.data())
def test_a_token_of_probability_zero_is_never_drawn(logits: list[float], uniform: float, data: st.DataObject) -> None:
    banned = data.draw(st.sets(st.integers(0, len(logits) - 1), max_size=len(logits) - 1))
    logprobs = torch.tensor([float("-inf") if i in banned else value for i, value in enumerate(logits)]).log_softmax(-1)
    token = int(draw(logprobs[None], torch.tensor([uniform], dtype=torch.float64)))
    assert 0 <= token < len(logits) and token not in banned


def test_temperature_is_honoured(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """The peers' defect: a temperature that is accepted and ignored."""
    policy, processor = untrained
    cold, warm = (
        sample_groups(policy, processor, ragged[:1], group_size=32, limits=Limits(3, processor.end_id, t), seed=(0,))[0] for t in (0.01, 3.0)
    )
    assert len({c.text for c in cold.completions}) < len({c.text for c in warm.completions})
    frozen = sample_groups(policy, processor, ragged, group_size=1, limits=Limits(8, processor.end_id, 1e-4), seed=(0,))
    assert [g.completions[0].text for g in frozen] == [c.text for c in next(answer(policy, processor, ragged, max_tokens=8, batch=5))]


@pytest.mark.parametrize("uniform", [0.0, 1 - 1e-16])
def test_the_ends_of_the_unit_interval_draw_the_first_and_last_possible_token(uniform: float) -> None:
    logprobs = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf")]]).log_softmax(-1)
    assert int(draw(logprobs, torch.tensor([uniform], dtype=torch.float64))) == (1 if uniform == 0 else 2)
