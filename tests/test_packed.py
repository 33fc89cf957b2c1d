"""The packed forward is the plain padded path, exactly, on every family. Run: .venv/bin/python -m pytest tests/test_packed.py

Axes: P prompts, G completions of one, B completions of all, T their tokens, C the tokens of all completions one after the other.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from statistics import fmean, median

import pytest
import torch
from families import ALLOWED, VOCABULARY, Family, RaggedBatch, build, ragged_batch
from padded import padded, stock
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from visual_rft.hardware import Attention
from visual_rft.models import attention, head
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.vocabulary import Prompt

CLOSE = 1e-5  # logprobs in nats, absolute; gradients relative to the tensor's largest entry
TOLD_APART = 1e-2  # what changes the question changes logprobs by more than this
BANNED_V = torch.ones(VOCABULARY, dtype=torch.bool).index_fill(0, torch.tensor(ALLOWED), False)

Gradients = dict[str, Tensor | None]


@dataclass(frozen=True)
class Pair:
    """The same weights twice: ours, and the oracle's in a model that no policy ever touched."""

    policy: Policy
    oracle: PreTrainedModel


@pytest.fixture(params=list(Family))
def pair(request: pytest.FixtureRequest) -> Pair:
    model = build(request.param)
    return Pair(policy=Policy(model, ALLOWED), oracle=stock(model))


def asked(policy: Policy, batch: RaggedBatch) -> list[Prompt]:
    return [policy.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]


def scored(policy: Policy, batch: RaggedBatch, temperature: float = 1.0) -> TokenScores:
    return policy(asked(policy, batch), policy.encode(batch.pixels), batch.completions_PG, temperature)


def ours(policy: Policy, batch: RaggedBatch, temperature: float = 1.0) -> tuple[Tensor, ...]:
    """logprobs_T of each completion, in order."""
    scores = scored(policy, batch, temperature)
    return scores.logprobs_BT[scores.mask_BT].split([len(completion) for group in batch.completions_PG for completion in group])


def groups(batch: RaggedBatch, order: Sequence[int]) -> RaggedBatch:
    """These groups in this order; the images stay what they are."""
    parts = {name: [getattr(batch, name)[p] for p in order] for name in ("tokens_P", "images_P", "completions_PG")}
    return replace(batch, **parts)


def with_completion(batch: RaggedBatch, p: int, g: int, completion: Tensor) -> RaggedBatch:
    """The batch with another answer g to prompt p."""
    changed = [list(group) for group in batch.completions_PG]
    changed[p][g] = completion
    return replace(batch, completions_PG=changed)


def other_tokens(completion: Tensor, length: int) -> Tensor:
    """A completion that differs from this one everywhere."""
    return (completion.repeat(length)[:length] + 7) % len(ALLOWED) + ALLOWED.start


def weighted(logprobs_B: Sequence[Tensor], seed: int = 0) -> Tensor:
    """A random weighted sum over all completion tokens."""
    logprobs_C = torch.cat(list(logprobs_B))
    return logprobs_C @ torch.randn(len(logprobs_C), generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, loss: Tensor) -> Gradients:
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def assert_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSE, rtol=0)


def assert_same_gradients(one: Gradients, other: Gradients) -> None:
    assert one.keys() == other.keys()
    for name, a in one.items():
        b = other[name]
        assert (a is None) == (b is None), f"{name} has a gradient on one side only"
        if a is not None and b is not None:
            assert (a - b).abs().max() <= CLOSE * b.abs().max(), name


def rows_of_groups(batch: RaggedBatch) -> list[range]:
    """The rows, among all completions, of each group."""
    return [range(*bounds) for bounds in pairwise([0, *accumulate(map(len, batch.completions_PG))])]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_scores_a_row_of_a_padded_batch_as_that_row_alone(pair: Pair, seed: int) -> None:
    batch = ragged_batch(seed)
    together = padded(pair.oracle, BANNED_V, batch, 0.7).logprobs_B
    alone = [
        padded(pair.oracle, BANNED_V, replace(groups(batch, [p]), completions_PG=[[completion]]), 0.7).logprobs_B[0]
        for p, group in enumerate(batch.completions_PG)
        for completion in group
    ]
    assert_same(together, alone)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("seed", range(6))
def test_logprobs_and_entropies_are_those_of_the_padded_path(pair: Pair, seed: int, temperature: float) -> None:
    batch = ragged_batch(seed)
    scores = scored(pair.policy, batch, temperature)
    expected = padded(pair.oracle, BANNED_V, batch, temperature)
    assert scores.mask_BT.sum(1).tolist() == [len(completion) for group in batch.completions_PG for completion in group]
    assert not (scores.mask_BT[:, 1:] & ~scores.mask_BT[:, :-1]).any(), "results are padded on the right only"
    assert_same([scores.logprobs_BT[scores.mask_BT]], [torch.cat(expected.logprobs_B)])
    assert_same([scores.entropy_BT[scores.mask_BT]], [torch.cat(expected.entropy_B)])


@pytest.mark.parametrize("tower", ["frozen", "trained"])
@pytest.mark.parametrize("seed", range(3))
def test_every_gradient_is_that_of_the_padded_path(pair: Pair, seed: int, tower: str) -> None:
    for model in (pair.policy.model, pair.oracle):
        model.model.visual.requires_grad_(tower == "trained")
    batch = ragged_batch(seed)
    one = gradients(pair.policy.model, weighted(ours(pair.policy, batch, 0.7)))
    other = gradients(pair.oracle, weighted(padded(pair.oracle, BANNED_V, batch, 0.7).logprobs_B))
    assert_same_gradients(one, other)
    assert any(name.startswith("model.visual.") for name in one) == (tower == "trained")
    assert all(gradient is not None and gradient.any() for gradient in one.values()), "the batch must reach every parameter"


def test_streams_that_share_one_encode_add_up_to_the_gradient_of_one_stream(pair: Pair) -> None:
    batch = ragged_batch(0)
    prompts, features = asked(pair.policy, batch), pair.policy.encode(batch.pixels)
    total = torch.zeros(())
    for part in ([0, 1], [2], [3, 4]):
        scores = pair.policy([prompts[p] for p in part], features, [batch.completions_PG[p] for p in part], 1.0)
        total = total + scores.logprobs_BT[scores.mask_BT].sum()
    whole = torch.cat(padded(pair.oracle, BANNED_V, batch, 1.0).logprobs_B).sum()
    assert_same_gradients(gradients(pair.policy.model, total), gradients(pair.oracle, whole))


@pytest.mark.parametrize("kept", [0, 2**20])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_head_may_go_in_chunks_of_any_size(pair: Pair, rows: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = ragged_batch(1)
    monkeypatch.setitem(head._CHUNK, "cpu", rows * VOCABULARY)
    monkeypatch.setattr(head, "_KEPT", kept)
    logprobs_B = ours(pair.policy, batch, 0.7)
    expected = padded(pair.oracle, BANNED_V, batch, 0.7).logprobs_B
    assert_same(logprobs_B, expected)
    assert_same_gradients(gradients(pair.policy.model, weighted(logprobs_B)), gradients(pair.oracle, weighted(expected)))


def sequence_by_sequence(
    q_NAD: Tensor, k_MKD: Tensor, v_MKD: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int, causal: bool
) -> Tensor:
    """What a kernel for ragged sequences computes: causal from the last key backwards."""
    lengths_q, lengths_k = starts_q.diff().tolist(), starts_k.diff().tolist()
    assert (max(lengths_q), max(lengths_k)) == (longest_q, longest_k)
    attended = []
    for q, k, v in zip(q_NAD.split(lengths_q), k_MKD.split(lengths_k), v_MKD.split(lengths_k), strict=True):
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q) if causal else len(k))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        attended.append(scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(attended)


@pytest.mark.parametrize("family", list(Family))
def test_a_kernel_for_ragged_sequences_is_given_the_same_work(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones need CUDA; what they are handed does not."""
    monkeypatch.setitem(attention._KERNELS, Attention.varlen, lambda: sequence_by_sequence)
    model, batch = build(family), ragged_batch(2)
    policy, oracle = Policy(model, ALLOWED, Attention.varlen), stock(model)
    logprobs_B, expected = ours(policy, batch), padded(oracle, BANNED_V, batch, 1.0).logprobs_B
    assert_same(logprobs_B, expected)
    assert_same_gradients(gradients(policy.model, weighted(logprobs_B)), gradients(oracle, weighted(expected)))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(2))
def test_a_group_scores_the_same_alone_and_among_any_others_in_any_order(pair: Pair, seed: int) -> None:
    batch = ragged_batch(seed)
    logprobs_B = ours(pair.policy, batch)
    rows_P = rows_of_groups(batch)
    for order in ([0], [1], [2], [3], [4], [4, 3, 2, 1, 0], [2, 0], [3, 1, 4], [1, 1]):
        assert_same(ours(pair.policy, groups(batch, order)), [logprobs_B[row] for p in order for row in rows_P[p]])


@torch.no_grad()
def test_a_completion_scores_the_same_at_any_place_of_its_group(pair: Pair) -> None:
    batch = ragged_batch(2)
    turned = replace(batch, completions_PG=[group[::-1] for group in batch.completions_PG])
    logprobs_B = ours(pair.policy, batch)
    assert_same(ours(pair.policy, turned), [logprobs_B[row] for rows in rows_of_groups(batch) for row in reversed(rows)])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5, 12])
def test_what_one_completion_says_no_other_hears(pair: Pair, length: int) -> None:
    batch = ragged_batch(0)
    before = ours(pair.policy, batch)
    for p, rows in enumerate(rows_of_groups(batch)):
        for g in {0, len(rows) // 2}:
            changed = with_completion(batch, p, g, other_tokens(batch.completions_PG[p][g], length))
            after = ours(pair.policy, changed)
            others = [row for row in range(len(before)) if row != rows[g]]
            assert_same([after[row] for row in others], [before[row] for row in others])
            assert (after[rows[g]][0] - before[rows[g]][0]).abs() > CLOSE, "the change must be one"


def test_what_one_completion_says_no_gradient_of_another_hears(pair: Pair) -> None:
    batch = ragged_batch(0)
    p = next(p for p, group in enumerate(batch.completions_PG) if len(group) == 3)
    row = rows_of_groups(batch)[p][2]
    before = gradients(pair.policy.model, weighted([ours(pair.policy, batch)[row]]))
    for g in (0, 1):
        changed = with_completion(batch, p, g, other_tokens(batch.completions_PG[p][g], 9))
        assert_same_gradients(gradients(pair.policy.model, weighted([ours(pair.policy, changed)[row]])), before)


@torch.no_grad()
def test_another_picture_is_another_question(pair: Pair) -> None:
    """Without this the images could be lost and no law above would see it."""
    batch = ragged_batch(0)
    before = ours(pair.policy, batch)
    after = ours(pair.policy, replace(batch, pixels=replace(batch.pixels, patches_RD=batch.pixels.patches_RD.flip(0))))
    for images, rows in zip(batch.images_P, rows_of_groups(batch), strict=True):
        moved = max((after[row] - before[row]).abs().max() for row in rows)
        assert moved > TOLD_APART if images else moved <= CLOSE


@torch.no_grad()
def test_two_images_of_a_prompt_are_told_apart(pair: Pair) -> None:
    batch = ragged_batch(0)
    straight = groups(batch, [batch.images_P.index((1, 2))])
    swapped = replace(straight, images_P=[(2, 1)])
    one, other = ours(pair.policy, straight), ours(pair.policy, swapped)
    assert (torch.cat(one) - torch.cat(other)).abs().max() > TOLD_APART
    assert_same(other, padded(pair.oracle, BANNED_V, swapped, 1.0).logprobs_B)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3]])
def test_completions_of_a_single_token(pair: Pair, order: list[int]) -> None:
    batch = groups(ragged_batch(1), order)
    batch = replace(batch, completions_PG=[[completion[:1] for completion in group] for group in batch.completions_PG])
    logprobs_B, expected = ours(pair.policy, batch), padded(pair.oracle, BANNED_V, batch, 1.0).logprobs_B
    assert_same(logprobs_B, expected)
    assert_same_gradients(gradients(pair.policy.model, weighted(logprobs_B)), gradients(pair.oracle, weighted(expected)))


@torch.no_grad()
def test_prompts_without_an_image_need_no_features(pair: Pair) -> None:
    batch = ragged_batch(0)
    batch = groups(batch, [batch.images_P.index(())])
    scores = pair.policy(asked(pair.policy, batch), (), batch.completions_PG, 1.0)
    assert_same([scores.logprobs_BT[scores.mask_BT]], [torch.cat(padded(pair.oracle, BANNED_V, batch, 1.0).logprobs_B)])


def relative_error(one: Gradients, exact: Gradients) -> float:
    """The mean over tensors of |error| / |gradient|, both L2."""
    return fmean(float((one[name].float() - true).norm() / true.norm()) for name, true in exact.items())


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_the_padded_path_in_bfloat16(pair: Pair) -> None:
    """The statistic: an error of ours by that of the padded path; of 16 batches, the median ratio. The error of logprobs is the mean of
    |bf16 − float32| over a batch's tokens, that of the gradient `relative_error`.

    Float32 is the padded path on the weights that bfloat16 holds, so that what is compared is the arithmetic alone.
    """
    policy, rounded = pair.policy.to(torch.bfloat16), pair.oracle.to(torch.bfloat16)
    exact = deepcopy(rounded).float()
    logprob_ratios, gradient_ratios = [], []
    for seed in range(16):
        batch = ragged_batch(seed)
        logprobs_C = {policy.model: torch.cat(ours(policy, batch))}
        logprobs_C |= {model: torch.cat(padded(model, BANNED_V, batch, 1.0).logprobs_B) for model in (rounded, exact)}
        mine, theirs = (float((logprobs_C[model] - logprobs_C[exact]).detach().abs().mean()) for model in (policy.model, rounded))
        logprob_ratios.append(mine / theirs)
        true = gradients(exact, weighted([logprobs_C[exact]]))
        mine, theirs = (relative_error(gradients(model, weighted([logprobs_C[model]])), true) for model in (policy.model, rounded))
        gradient_ratios.append(mine / theirs)
    assert median(logprob_ratios) <= 1.2
    assert median(gradient_ratios) <= 1.2
