"""The chunked head is log_softmax and gather, entropy and gradients too. Run: .venv/bin/python -m pytest tests/test_head.py

Axes: C completion tokens, H hidden width, V vocabulary.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from visual_rft.models import head
from visual_rft.models.head import tempered_logits, token_logprobs

C, H, V = 11, 6, 37
BANNED = torch.tensor([0, 5, 30, 31, 32, 33, 34, 35, 36])
CLOSE = 1e-6


@dataclass(frozen=True)
class Case:
    """Hidden states, weights and targets of a head, what flows back, and the temperature."""

    hidden_CH: Tensor
    weight_VH: Tensor
    targets_C: Tensor
    banned: Tensor
    grad_C: Tensor
    temperature: float

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, hidden_CH=self.hidden_CH.to(dtype), weight_VH=self.weight_VH.to(dtype), grad_C=self.grad_C.to(dtype))


def case(seed: int = 0, temperature: float = 0.7, rows: int = C, banned: Tensor = BANNED) -> Case:
    generator = torch.Generator().manual_seed(seed)
    hidden_CH, weight_VH = (torch.randn(count, H, generator=generator) / 2 for count in (rows, V))
    allowed = torch.tensor([token for token in range(V) if token not in banned.tolist()])
    targets_C = allowed[torch.randint(len(allowed), (rows,), generator=generator)]
    return Case(hidden_CH, weight_VH, targets_C, banned, torch.randn(rows, generator=generator), temperature)


def plain(c: Case) -> tuple[Tensor, Tensor]:
    """logprobs_C and entropy_C by log_softmax and gather, in the precision of the case."""
    logits_CV = (c.hidden_CH @ c.weight_VH.T / c.temperature).index_fill(1, c.banned, float("-inf"))
    logprobs_CV = logits_CV.log_softmax(-1)
    entropy_C = -(logprobs_CV.exp() * logprobs_CV.index_fill(1, c.banned, 0.0)).sum(-1)
    return logprobs_CV.gather(1, c.targets_C[:, None])[:, 0], entropy_C


def by(function: object, c: Case, *, to_hidden: bool = True, to_weight: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """logprobs_C, entropy_C and the gradients of hidden states and weights, as far as each is asked for."""
    hidden_CH, weight_VH = c.hidden_CH.clone().requires_grad_(to_hidden), c.weight_VH.clone().requires_grad_(to_weight)
    c = replace(c, hidden_CH=hidden_CH, weight_VH=weight_VH)
    ours = function is token_logprobs
    logprobs_C, entropy_C = token_logprobs(c.hidden_CH, c.weight_VH, c.targets_C, c.banned, c.temperature) if ours else plain(c)
    if to_hidden or to_weight:
        (logprobs_C * c.grad_C).sum().backward()
    return logprobs_C.detach(), entropy_C.detach(), hidden_CH.grad, weight_VH.grad


@pytest.fixture(params=[1, 3, 1000], ids=["a row at a time", "three rows", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(head._CHUNK, "cpu", request.param * V)
    return int(request.param)


@pytest.fixture(params=[True, False], ids=["kept", "computed again"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(head, "_KEPT", C * V if request.param else C * V - 1)
    return bool(request.param)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_are_those_of_the_plain_way_in_float64(seed: int, temperature: float, chunk: int, kept: bool) -> None:
    c = case(seed, temperature)
    largest = float((c.hidden_CH @ c.weight_VH.T).abs().max() / temperature)  # a logit is no better known than its own rounding
    for name, a, b in zip(("logprobs", "entropy", "hidden", "weight"), by(token_logprobs, c), by(plain, c.to(torch.float64)), strict=True):
        assert a is not None and b is not None and a.dtype == torch.float32
        assert (a - b).abs().max() <= CLOSE * max(1.0, largest), name


def test_gradients_are_finite_differences(chunk: int, kept: bool) -> None:
    """Central differences of the plain values in float64."""
    c, small = case(1), 1e-6
    exact = c.to(torch.float64)
    _, _, grad_hidden_CH, grad_weight_VH = by(token_logprobs, c)
    for name, gradient in (("hidden_CH", grad_hidden_CH), ("weight_VH", grad_weight_VH)):
        value = getattr(exact, name)
        assert gradient is not None
        for i in range(0, value.numel(), 7):
            step = torch.zeros(value.numel(), dtype=torch.float64).index_fill(0, torch.tensor([i]), small).reshape(value.shape)
            up, down = (float((plain(replace(exact, **{name: value + sign * step}))[0] * exact.grad_C).sum()) for sign in (1, -1))
            assert float(gradient.flatten()[i]) == pytest.approx((up - down) / (2 * small), abs=2e-5)


@pytest.mark.parametrize("to_hidden, to_weight", [(True, False), (False, True), (False, False)])
def test_a_gradient_that_nobody_wants_is_not_made_and_the_other_stays(to_hidden: bool, to_weight: bool, chunk: int, kept: bool) -> None:
    c = case()
    whole, part = by(token_logprobs, c), by(token_logprobs, c, to_hidden=to_hidden, to_weight=to_weight)
    assert torch.equal(whole[0], part[0]) and torch.equal(whole[1], part[1])
    for gradient, wanted, full in ((part[2], to_hidden, whole[2]), (part[3], to_weight, whole[3])):
        assert (gradient is not None) == wanted
        assert gradient is None or (full is not None and torch.equal(gradient, full))


def test_a_weight_that_embeds_too_gets_both_gradients(chunk: int, kept: bool) -> None:
    """Tied, as in most small models: what flows back through the tokens that were read adds up with what the head sends."""
    c = case()
    gradients = []
    for ours in (True, False):
        dtype = torch.float32 if ours else torch.float64
        embedding = nn.Embedding(V, H).to(dtype)
        with torch.no_grad():
            embedding.weight.copy_(c.weight_VH)
        shown = replace(c.to(dtype), hidden_CH=torch.tanh(embedding(c.targets_C.flip(0))), weight_VH=embedding.weight)
        logprobs_C, _ = token_logprobs(shown.hidden_CH, shown.weight_VH, shown.targets_C, shown.banned, 0.7) if ours else plain(shown)
        (logprobs_C * shown.grad_C).sum().backward()
        assert embedding.weight.grad is not None
        gradients.append(embedding.weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() <= CLOSE * gradients[1].abs().max()


def test_entropy_has_no_gradient() -> None:
    c = case()
    logprobs_C, entropy_C = token_logprobs(c.hidden_CH.requires_grad_(), c.weight_VH.requires_grad_(), c.targets_C, c.banned, 1.0)
    assert logprobs_C.requires_grad and not entropy_C.requires_grad


def test_chunks_are_told_apart_from_one_piece_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    c = case(rows=C)
    whole = by(token_logprobs, c)
    for rows in range(1, C + 2):
        monkeypatch.setitem(head._CHUNK, "cpu", rows * V)
        for a, b in zip(by(token_logprobs, c), whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_tokens_or_none(rows: int, chunk: int) -> None:
    logprobs_C, entropy_C, grad_hidden_CH, grad_weight_VH = by(token_logprobs, case(rows=rows))
    assert logprobs_C.shape == entropy_C.shape == (rows,)
    assert grad_hidden_CH is not None and grad_hidden_CH.shape == (rows, H)
    assert grad_weight_VH is not None and grad_weight_VH.shape == (V, H) and bool(grad_weight_VH.any()) == bool(rows)


def test_probabilities_of_all_tokens_sum_to_one_and_the_banned_have_none(chunk: int) -> None:
    c = case(rows=1)
    targets = torch.arange(V)
    logprobs_V, entropy_V = token_logprobs(c.hidden_CH.expand(V, -1).contiguous(), c.weight_VH, targets, BANNED, 0.7)
    assert (logprobs_V[BANNED] == float("-inf")).all() and logprobs_V.exp().sum().item() == pytest.approx(1, abs=1e-6)
    allowed_V = logprobs_V[logprobs_V.isfinite()]
    torch.testing.assert_close(entropy_V, -(allowed_V.exp() * allowed_V).sum().expand(V), atol=1e-6, rtol=0)


def test_what_is_banned_gets_no_gradient(chunk: int, kept: bool) -> None:
    grad_weight_VH = by(token_logprobs, case())[3]
    assert grad_weight_VH is not None
    assert not grad_weight_VH[BANNED].any() and grad_weight_VH.isfinite().all()


def test_extreme_logits_stay_numbers(chunk: int, kept: bool) -> None:
    c = case()
    c = replace(c, hidden_CH=c.hidden_CH * 1e4)
    for value in by(token_logprobs, c):
        assert value is not None and value.isfinite().all()


def test_nothing_banned_and_temperature_one_is_the_models_own_distribution() -> None:
    c = case(temperature=1.0, banned=torch.empty(0, dtype=torch.int64))
    expected = (c.hidden_CH @ c.weight_VH.T).log_softmax(-1).gather(1, c.targets_C[:, None])[:, 0]
    torch.testing.assert_close(by(token_logprobs, c)[0], expected, atol=CLOSE, rtol=0)


def test_logits_are_float32_tempered_and_banned_where_they_should_be() -> None:
    c = case().to(torch.bfloat16)
    logits_CV = tempered_logits(c.hidden_CH, c.weight_VH, BANNED, 0.5)
    assert logits_CV.dtype == torch.float32 and (logits_CV[:, BANNED] == float("-inf")).all()
    allowed = [token for token in range(V) if token not in BANNED.tolist()]
    assert torch.equal(logits_CV[:, allowed], (c.hidden_CH @ c.weight_VH.T).float()[:, allowed] / 0.5)


def test_bfloat16_gradients_come_back_in_bfloat16_and_near(chunk: int, kept: bool) -> None:
    c = case()
    rounded = c.to(torch.bfloat16)
    hidden_CH, weight_VH = rounded.hidden_CH.requires_grad_(), rounded.weight_VH.requires_grad_()
    logprobs_C, entropy_C = token_logprobs(hidden_CH, weight_VH, c.targets_C, BANNED, 0.7)
    assert logprobs_C.dtype == entropy_C.dtype == torch.float32
    (logprobs_C * c.grad_C).sum().backward()
    exact = by(plain, c.to(torch.float64))
    for gradient, expected in ((hidden_CH.grad, exact[2]), (weight_VH.grad, exact[3])):
        assert gradient is not None and expected is not None and gradient.dtype == torch.bfloat16
        assert (gradient - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("rows", [C, 4 * C])
def test_what_is_kept_for_the_backward_pass_is_bounded(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a number of probabilities they are kept; beyond it nothing of the size of the logits is."""
    monkeypatch.setattr(head, "_KEPT", C * V)
    c, entries = case(rows=rows), []
    with saved_tensors_hooks(lambda tensor: entries.append(tensor.numel()) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        token_logprobs(c.hidden_CH.requires_grad_(), c.weight_VH.requires_grad_(), c.targets_C, BANNED, 0.7)
    others = c.hidden_CH.numel() + c.weight_VH.numel() + rows + len(BANNED)
    assert sum(entries) == others + (C * V if rows == C else 0)
