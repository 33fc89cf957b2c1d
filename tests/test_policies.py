"""What each memory switch changes: where and in what weights stay, what is copied, what moves.

Run: .venv/bin/python -m pytest tests/test_policies.py
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from visual_rft import distributed, storage
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import Attention, HardwareOptions, Machine, Precision, mesh
from visual_rft.models.loading import ModelOptions, Part, PartRates, beside_weights, load, part_of
from visual_rft.models.sharding import Sharding
from visual_rft.optimizer import Optimizer
from visual_rft.policies import Models
from visual_rft.policies import load as load_models
from visual_rft.trainer import Trainer

TINY = ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)
CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
ROUNDED = replace(CPU, dtype=torch.bfloat16)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    distributed.alone()
    yield
    dist.destroy_process_group()


def models(options: HardwareOptions, machine: Machine = CPU, model: ModelOptions = TINY, *, with_reference: bool = True) -> Models:
    return load_models(model, options, machine, ALONE, with_reference=with_reference)


def test_on_one_device_the_policy_speaks_for_itself_and_the_reference_is_a_copy() -> None:
    found = models(HardwareOptions())
    assert found.speaker is found.policy and found.reference is not None and found.reference is not found.policy
    own = {p.data_ptr() for p in found.policy.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in found.reference.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found.policy.parameters(), found.reference.parameters(), strict=True))
    assert not any(p.requires_grad for p in found.reference.parameters())
    assert not dist.is_initialized(), "and no process group is made for it"


def test_without_kl_there_is_no_reference() -> None:
    assert models(HardwareOptions(), with_reference=False).reference is None


@pytest.mark.parametrize("offload", [False, True])
def test_spread_weights_wait_where_they_are_told_to(offload: bool, alone: None) -> None:
    policy, _ = load(TINY, CPU, Sharding(init_device_mesh("cpu", (1,)), torch.float32, offload))
    assert all(isinstance(p, DTensor) for p in policy.parameters())
    waiting = [p.offload_to_cpu for block in policy.modules() if hasattr(block, "_get_fsdp_state") for p in parameters_of(block)]
    assert len(waiting) == len(list(policy.parameters())) and set(waiting) == {offload}
    whole, _ = load(TINY, CPU)
    assert all(torch.equal(a.full_tensor(), b) for a, b in zip(policy.parameters(), whole.parameters(), strict=True))  # type: ignore[attr-defined]
    for one in (policy, whole):
        torch.stack([features.square().sum() for features in one.encode(one.blank)]).sum().backward()
    of_tower = [(a, b) for (name, a), b in zip(policy.named_parameters(), whole.parameters(), strict=True) if "visual" in name]
    assert all(torch.equal(a.grad.full_tensor(), b.grad) for a, b in of_tower), "and the gradients are the same"  # type: ignore[union-attr]


def parameters_of(block: torch.nn.Module) -> list[object]:
    group = block._get_fsdp_state()._fsdp_param_group  # type: ignore[operator]
    return list(group.fsdp_params) if group else []


def test_spread_weights_stay_in_float32_if_they_are_trained_and_as_they_are_computed_if_not(alone: None) -> None:
    model = replace(TINY, frozen=[Part.vision])
    policy, _ = load(model, ROUNDED, Sharding(init_device_mesh("cpu", (1,)), torch.float32, False))
    for name, parameter in policy.model.named_parameters():
        is_trained = part_of(name) is not Part.vision
        assert parameter.requires_grad == is_trained and parameter.dtype == (torch.float32 if is_trained else torch.bfloat16), name


@pytest.mark.parametrize("with_masters", [True, False])
def test_bytes_a_weight(with_masters: bool) -> None:
    """Of weights, gradients and moments: 2 (bfloat16) + 4 (master) + 4 + 8; or 2 + 2 + 4 + 2 (what rounding drops)."""
    found = models(HardwareOptions(precision=Precision.bfloat16, master_weights=with_masters), ROUNDED, with_reference=False)
    trainer = Trainer(found, None, AlgorithmOptions(), HardwareOptions(precision=Precision.bfloat16, master_weights=with_masters))  # type: ignore[arg-type]
    optimizer = trainer.learner.optimizer
    held = {t.data_ptr(): t.nbytes for t in [*optimizer.trained.values(), *optimizer.masters.values(), *optimizer.state().values()]}
    gradients = sum(t.nbytes for t in optimizer.masters.values())
    weights = sum(t.numel() for t in optimizer.trained.values())
    assert (sum(held.values()) + gradients) / weights == pytest.approx(18 if with_masters else 10, rel=1e-3)


def test_weights_without_masters_go_where_masters_would_take_them_as_far_as_bfloat16_can_say() -> None:
    start = torch.linspace(-1.0, 1.0, 64).bfloat16()
    moved = {}
    for with_masters in (True, False):
        module = torch.nn.Linear(64, 1, bias=False).to(torch.bfloat16)
        with torch.no_grad():
            module.weight.copy_(start)
        optimizer = Optimizer(module, weight_decay=0.0, with_masters=with_masters)
        for step in range(100):
            optimizer.zero_grad()
            (module.weight.float() * torch.linspace(1.0, 2.0, 64) * (1 + step % 3)).sum().backward()
            optimizer.step(1e-4, max_grad_norm=1.0)  # far below the spacing of bfloat16 at most of these weights
        moved[with_masters] = module.weight.detach().float()
    assert (moved[True] - start.float()).abs().mean() > 5e-3, "a hundred steps of 1e-4"
    assert (moved[True] - moved[False]).abs().max() <= 2**-8, "the spacing at 1"
    assert (moved[True] - moved[False]).abs().mean() < 5e-4


def test_a_part_moves_at_its_own_rate() -> None:
    model = replace(TINY, learning_rates=PartRates(vision=1e-6, merger=2e-4), frozen=[])
    optimizer = Trainer(models(HardwareOptions(), model=model), None, AlgorithmOptions(), HardwareOptions()).learner.optimizer  # type: ignore[arg-type]
    before = {name: weight.detach().clone() for name, weight in optimizer.masters.items()}
    for weight in optimizer.masters.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1e-4, max_grad_norm=float("inf"))
    rates = {Part.vision: 1e-6, Part.merger: 2e-4, Part.language: 1e-4}  # AdamW's first step is as long as its rate
    for name, weight in optimizer.masters.items():
        assert (before[name] - weight).mean().item() == pytest.approx(rates[part_of(name)], rel=0.02), name


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"offload": True}, "hardware.offload=true: with hardware.device=cpu everything is on the CPU already; leave it out"),
        ({"offload_reference": True}, "hardware.offload_reference=true: with hardware.device=cpu everything is on the CPU already; leave it out"),
        (
            {"master_weights": False},
            "hardware.master_weights=false: float32 weights have no copy; leave it out, or ask for hardware.precision=bfloat16",
        ),
        ({"ranks_per_copy": -1}, "hardware.ranks_per_copy=-1: must be 0 (all) or a number of ranks"),
    ],
)
def test_a_switch_that_would_do_nothing_is_refused(wrong: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as refused:
        HardwareOptions(**wrong)  # type: ignore[arg-type]
    assert str(refused.value) == line


def test_ranks_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^hardware.ranks_per_copy=8: 2 ranks cannot be divided so; give a divisor, or 0 to spread one copy over all$"
    ):
        mesh(HardwareOptions(ranks_per_copy=8), CPU.device, World(0, 2))


@pytest.mark.parametrize(
    ("rates", "frozen", "line"),
    [
        (PartRates(vision=0.0), [], "model.learning_rates.vision=0.0: must be a positive number; model.frozen is for parts that are not trained"),
        (PartRates(vision=1e-5), [Part.vision], "model.learning_rates.vision=1e-05: that part is in model.frozen; leave one of the two out"),
    ],
)
def test_a_rate_that_cannot_be_is_refused(rates: PartRates, frozen: list[Part], line: str) -> None:
    with pytest.raises(ValueError) as refused:
        replace(TINY, learning_rates=rates, frozen=frozen)
    assert str(refused.value) == line


def test_a_checkpoint_takes_along_what_stands_beside_the_weights_but_no_list_of_them(tmp_path: Path) -> None:
    mine, others = (
        ("config.json", "merges.txt", "chat_template.jinja"),
        ("model.safetensors.index.json", storage.SHARDS, "model.safetensors", "README.md"),
    )
    for name in (*mine, *others):
        (tmp_path / name).write_text(name)
    assert beside_weights(str(tmp_path)) == {name: name.encode() for name in mine}
