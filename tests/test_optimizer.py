"""AdamW, in float32 whatever the weights are in. Run: .venv/bin/python -m pytest tests/test_optimizer.py"""

import copy
from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visual_rft import storage
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


def tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """All that the next steps depend on, as it is now."""
    return {name: master.detach() for name, master in optimizer.masters.items()} | optimizer.state()


def save(optimizer: Optimizer, folder: Path) -> Path:
    save_file(tensors(optimizer), folder / "state.safetensors")
    return folder


def restore(optimizer: Optimizer, folder: Path) -> None:
    """What was saved, read into the tensors that are in use."""
    storage.read(folder, tensors(optimizer))
    optimizer.publish()


def clip(weights: list[Tensor], norm: float) -> Tensor:
    """torch's clipping, by a norm without rounding."""
    total = torch.cat([weight.grad.flatten().double() for weight in weights if weight.grad is not None]).norm().float()
    nn.utils.clip_grads_with_norm_(weights, norm, total)
    return total


def test_the_norm_is_that_of_all_gradients_and_a_weight_that_no_pass_used_has_gradient_zero() -> None:
    model = nn.ModuleList(nn.Linear(1000, 1000, bias=False) for _ in range(2))
    optimizer = Optimizer(model, weight_decay=0.0)
    model[0].weight.grad = torch.full((1000, 1000), 0.1)  # type: ignore[union-attr]
    assert optimizer.step(1e-3, max_grad_norm=inf).item() == pytest.approx(100.0, rel=1e-7), "a float32 sum of a million squares would drift"
    assert all(tensor.eq(1).all() for name, tensor in optimizer.state().items() if name.startswith("step.")), "and counts its steps as the others do"


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
        assert torch.equal(found[step], clip(trained, norm))
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
        assert torch.equal(norm, clip(masters, NORM))
        for group in adamw.param_groups:
            group["lr"] = RATE / (step + 1)
        adamw.step()
        with torch.no_grad():
            for parameter, master in zip(trained, masters, strict=True):
                parameter.copy_(master)
        assert all(torch.equal(a, b) for a, b in zip(optimizer.masters.values(), masters, strict=True))
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
    for (parameter, was), master in zip(trained, optimizer.masters.values(), strict=True):
        assert master.dtype == torch.float32 and torch.equal(parameter, master.bfloat16())
        assert ((master - was.float()).abs() > 1e-4).any(), "forty steps of 1e-5 are a way of 4e-4"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_stay_where_they_are_and_the_frozen_stay_what_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = module(dtype)
    before, frozen = [parameter.data_ptr() for parameter in model.parameters()], copy.deepcopy(model[1])  # type: ignore[index]
    optimizer = Optimizer(model, weight_decay=DECAY)
    steps(model, optimizer, range(3))
    restore(optimizer, save(optimizer, tmp_path))
    steps(model, optimizer, range(3, 5))
    assert before == [parameter.data_ptr() for parameter in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model[1].parameters(), frozen.parameters(), strict=True))  # type: ignore[index]
    assert len(optimizer.trained) == len(optimizer.masters) == 2, "one shared weight and one bias"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(dtype: torch.dtype, tmp_path: Path) -> None:
    """The weights need not be saved: they are what the masters are."""
    whole = module(dtype)
    optimizer = Optimizer(whole, weight_decay=DECAY)
    steps(whole, optimizer, range(4))
    save(optimizer, tmp_path)
    steps(whole, optimizer, range(4, 8))

    resumed = module(dtype, seed=1)
    resumed[1].load_state_dict(whole[1].state_dict())  # type: ignore[index]  # what is frozen is not the optimizer's
    other = Optimizer(resumed, weight_decay=DECAY)
    restore(other, tmp_path)
    steps(resumed, other, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(value, other.state()[name]) for name, value in optimizer.state().items())
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters.values(), other.masters.values(), strict=True))


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
        before = torch.stack([p.grad.norm() for p in optimizer.trained.values() if p.grad is not None]).norm()
        told = optimizer.step(0.0, max_grad_norm=norm)
        after = torch.stack([p.grad.norm() for p in optimizer.trained.values() if p.grad is not None]).norm()
        assert told.item() == pytest.approx(before.item()) and after.item() == pytest.approx(min(norm, before.item()), rel=1e-2)


def test_the_rate_is_that_of_the_step() -> None:
    model = module()
    optimizer = Optimizer(model, weight_decay=0.0)
    moved = []
    for rate in (0.0, 1e-3, 2e-3, 0.0):
        before = [parameter.detach().clone() for parameter in optimizer.trained.values()]
        optimizer.zero_grad()
        loss(model, 0).backward()
        optimizer.step(rate, max_grad_norm=inf)
        moved.append(max(float((a - b).abs().max().detach()) for a, b in zip(optimizer.trained.values(), before, strict=True)))
    assert moved[0] == moved[3] == 0 < moved[1] < moved[2]
    assert all(a != b for a, b in pairwise(moved[:3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_parameter_moves_at_its_own_pace(dtype: torch.dtype) -> None:
    """As under a tenth of the rate, bit for bit: its gradients and moments are no other; what has no pace of its own moves as ever."""
    paced, fast, slow = (module(dtype) for _ in range(3))
    optimizer = Optimizer(paced, weight_decay=DECAY, pace=lambda name: 0.1 if name.endswith("bias") else 1.0)
    others = [Optimizer(model, weight_decay=DECAY) for model in (fast, slow)]
    for model, one, rate in ((paced, optimizer, RATE), (fast, others[0], RATE), (slow, others[1], RATE * 0.1)):
        one.zero_grad()
        loss(model, 0).backward()
        one.step(rate, max_grad_norm=NORM)
    quick, lame = (one.masters for one in others)
    assert {name.rpartition(".")[2] for name in optimizer.masters} == {"weight", "bias"}
    for name, master in optimizer.masters.items():
        assert torch.equal(master, (lame if name.endswith("bias") else quick)[name])
        assert not torch.equal(quick[name], lame[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paces_are_multiples_of_each_step_s_rate(dtype: torch.dtype) -> None:
    """All at pace 0.5 through a schedule is that schedule at half the rate."""
    one, other = module(dtype), module(dtype)
    halved, plain = Optimizer(one, weight_decay=DECAY, pace=lambda _: 0.5), Optimizer(other, weight_decay=DECAY)
    for step in range(4):
        for model, optimizer, rate in ((one, halved, RATE / (step + 1)), (other, plain, RATE / (step + 1) / 2)):
            optimizer.zero_grad()
            loss(model, step).backward()
            optimizer.step(rate, max_grad_norm=NORM)
    assert all(torch.equal(halved.masters[name], master) for name, master in plain.masters.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_moments_are_there_and_zero_before_the_first_step_and_the_weights_as_they_were(dtype: torch.dtype) -> None:
    model, before = module(dtype), module(dtype)
    optimizer = Optimizer(model, weight_decay=DECAY)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert all(torch.equal(optimizer.masters[name], weight.float()) for name, weight in optimizer.trained.items())
    assert all(parameter.grad is None for parameter in [*model.parameters(), *optimizer.masters.values()])
    fresh = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    assert all(not tensor.any() for tensor in fresh.values())
    steps(model, optimizer, range(2))
    moved = optimizer.state()
    assert fresh.keys() == moved.keys() and all(tensor.any() for tensor in moved.values())
    assert fresh.keys() == {f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in optimizer.trained}
    assert all(moved[f"exp_avg{kind}.{name}"].shape == weight.shape for kind in ("", "_sq") for name, weight in optimizer.trained.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_is_what_the_optimizer_uses_not_a_copy(dtype: torch.dtype) -> None:
    model = module(dtype)
    optimizer = Optimizer(model, weight_decay=DECAY)
    steps(model, optimizer, range(1))
    was, held = {name: tensor.clone() for name, tensor in optimizer.state().items()}, optimizer.state()
    steps(model, optimizer, range(1, 2))
    assert all(torch.equal(held[name], tensor) and tensor.data_ptr() == held[name].data_ptr() for name, tensor in optimizer.state().items())
    assert all(not torch.equal(held[name], tensor) for name, tensor in was.items())
