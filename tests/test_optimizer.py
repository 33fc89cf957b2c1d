"""AdamW, in float32 whatever the weights are in. Run: .venv/bin/python -m pytest tests/test_optimizer.py"""

import copy
import io
from collections.abc import Callable
from itertools import pairwise
from math import inf, nan

import pytest
import torch
from torch import Tensor, nn

from visual_rft.optimizer import Optimizer

RATE, DECAY, NORM = 1e-2, 0.1, 0.5


def module(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Two trained layers, one of them shared, and a frozen one between."""
    torch.manual_seed(seed)
    first, frozen, last = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7)
    last.weight = first.weight
    frozen.requires_grad_(False)
    return nn.Sequential(first, frozen, nn.Tanh(), last).to(dtype)


def loss(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(7, (11,), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(tokens).float(), tokens.flip(0))


def steps(model: nn.Module, optimizer: Optimizer, numbers: range, norm: float = NORM) -> list[Tensor]:
    """Norms of the gradients of steps of two backward passes each."""
    norms = []
    for step in numbers:
        optimizer.zero_grad()
        loss(model, 2 * step).backward()
        loss(model, 2 * step + 1).backward()
        norms.append(optimizer.step(RATE / (step + 1), max_grad_norm=norm))
    return norms


def saved(optimizer: Optimizer) -> dict[str, object]:
    """The state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state(), file)
    return dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))


@pytest.mark.parametrize("norm", [NORM, inf])
def test_in_float32_it_is_plain_adamw_bit_for_bit(norm: float) -> None:
    ours, plain = module(), module()
    found = steps(ours, Optimizer(ours, weight_decay=DECAY), range(5), norm)
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, weight_decay=DECAY)
    for step in range(5):
        adamw.zero_grad()
        loss(plain, 2 * step).backward()
        loss(plain, 2 * step + 1).backward()
        assert torch.equal(found[step], nn.utils.clip_grad_norm_(trained, norm))
        for group in adamw.param_groups:
            group["lr"] = RATE / (step + 1)
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert not torch.equal(next(ours.parameters()), next(module().parameters()))


def test_in_bfloat16_gradients_add_up_and_weights_move_in_float32() -> None:
    """By hand: the bfloat16 gradients of each pass, summed in float32, through plain AdamW on float32 copies of the weights."""
    ours = module(torch.bfloat16)
    optimizer, rounded = Optimizer(ours, weight_decay=DECAY), module(torch.bfloat16)
    masters = [parameter.detach().float().requires_grad_() for parameter in rounded.parameters() if parameter.requires_grad]
    trained = [parameter for parameter in rounded.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(masters, weight_decay=DECAY)
    for step in range(6):
        (norm,) = steps(ours, optimizer, range(step, step + 1))
        passes = [torch.autograd.grad(loss(rounded, 2 * step + i), trained) for i in range(2)]
        for master, first, second in zip(masters, *passes, strict=True):
            master.grad = first.float() + second.float()
        assert torch.equal(norm, nn.utils.clip_grad_norm_(masters, NORM))
        for group in adamw.param_groups:
            group["lr"] = RATE / (step + 1)
        adamw.step()
        with torch.no_grad():
            for parameter, master in zip(trained, masters, strict=True):
                parameter.copy_(master)
        assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, masters, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), rounded.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in ours.parameters()), "no second copy of the gradients is held"


def test_bfloat16_weights_are_the_rounded_masters_and_small_steps_are_not_lost() -> None:
    ours = module(torch.bfloat16)
    optimizer = Optimizer(ours, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    for _ in range(40):
        optimizer.zero_grad()
        loss(ours, 0).backward()
        optimizer.step(1e-5, max_grad_norm=inf)  # far below the spacing of bfloat16 at these weights
    trained = [(parameter, was) for parameter, was in zip(ours.parameters(), before, strict=True) if parameter.requires_grad]
    for (parameter, was), master in zip(trained, optimizer.masters, strict=True):
        assert master.dtype == torch.float32 and torch.equal(parameter, master.bfloat16())
        assert ((master - was.float()).abs() > 1e-4).any(), "forty steps of 1e-5 are a way of 4e-4"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_stay_where_they_are_and_the_frozen_stay_what_they_are(dtype: torch.dtype) -> None:
    model = module(dtype)
    before, frozen = [parameter.data_ptr() for parameter in model.parameters()], copy.deepcopy(model[1])  # type: ignore[index]
    optimizer = Optimizer(model, weight_decay=DECAY)
    steps(model, optimizer, range(3))
    optimizer.load_state(saved(optimizer))
    steps(model, optimizer, range(3, 5))
    assert before == [parameter.data_ptr() for parameter in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model[1].parameters(), frozen.parameters(), strict=True))  # type: ignore[index]
    assert len(optimizer.trained) == len(optimizer.masters) == 2, "one shared weight and one bias"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(dtype: torch.dtype) -> None:
    whole = module(dtype)
    optimizer = Optimizer(whole, weight_decay=DECAY)
    steps(whole, optimizer, range(4))
    weights, state = copy.deepcopy(whole.state_dict()), saved(optimizer)
    steps(whole, optimizer, range(4, 8))

    resumed = module(dtype, seed=1)
    other = Optimizer(resumed, weight_decay=DECAY)
    resumed.load_state_dict(weights)
    other.load_state(state)
    steps(resumed, other, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, other.masters, strict=True))


def spoil_one(model: nn.Module, value: float) -> None:
    """A backward pass in which one gradient is not a number that one can step by."""
    loss(model, 0).backward()
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    (parameter.flatten()[0].float() * value).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("norm", [NORM, inf])
def test_a_norm_that_is_not_finite_changes_nothing(norm: float, value: float, dtype: torch.dtype) -> None:
    calm, shaken = module(dtype), module(dtype)
    one, other = Optimizer(calm, weight_decay=DECAY), Optimizer(shaken, weight_decay=DECAY)
    for model, optimizer in ((calm, one), (shaken, other)):
        steps(model, optimizer, range(2))
    other.zero_grad()
    spoil_one(shaken, value)
    assert not other.step(RATE, max_grad_norm=norm).isfinite()
    for a, b in zip(calm.parameters(), shaken.parameters(), strict=True):
        assert torch.equal(a, b)
    for model, optimizer in ((calm, one), (shaken, other)):
        steps(model, optimizer, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(calm.parameters(), shaken.parameters(), strict=True)), "nor do its moments remember"


def norms_of(make: Callable[[], nn.Module], passes: int) -> list[float]:
    model = make()
    optimizer = Optimizer(model, weight_decay=0.0)
    norms = []
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(passes):
            loss(model, 0).backward()
        norms.append(optimizer.step(0.0, max_grad_norm=inf).item())
    return norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_add_up_and_are_forgotten(dtype: torch.dtype) -> None:
    once, three = norms_of(lambda: module(dtype), 1), norms_of(lambda: module(dtype), 3)
    assert once[0] == once[1] > 0 and three[0] == three[1]
    assert three[0] == pytest.approx(3 * once[0], rel=1e-6)


def test_every_step_is_clipped_to_the_norm_and_the_norm_before_is_told() -> None:
    model = module()
    optimizer = Optimizer(model, weight_decay=0.0)
    for norm in (1e-3, inf):
        optimizer.zero_grad()
        loss(model, 0).backward()
        before = torch.stack([p.grad.norm() for p in optimizer.trained if p.grad is not None]).norm()
        told = optimizer.step(0.0, max_grad_norm=norm)
        after = torch.stack([p.grad.norm() for p in optimizer.trained if p.grad is not None]).norm()
        assert told.item() == pytest.approx(before.item()) and after.item() == pytest.approx(min(norm, before.item()), rel=1e-2)


def test_the_rate_is_that_of_the_step() -> None:
    model = module()
    optimizer = Optimizer(model, weight_decay=0.0)
    moved = []
    for rate in (0.0, 1e-3, 2e-3, 0.0):
        before = [parameter.detach().clone() for parameter in optimizer.trained]
        optimizer.zero_grad()
        loss(model, 0).backward()
        optimizer.step(rate, max_grad_norm=inf)
        moved.append(max(float((a - b).abs().max().detach()) for a, b in zip(optimizer.trained, before, strict=True)))
    assert moved[0] == moved[3] == 0 < moved[1] < moved[2]
    assert all(a != b for a, b in pairwise(moved[:3]))
