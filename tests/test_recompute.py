"""Activation checkpointing costs and saves what it says; the gradient is the same. Run: .venv/bin/python -m pytest tests/test_recompute.py"""

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from families import ALLOWED, LAYERS, Family, RaggedBatch, build, ragged_batch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from visual_rft.hardware import ActivationCheckpointing
from visual_rft.models.policy import Policy
from visual_rft.models.recompute import checkpoint_activations

NONE, SELECTIVE, FULL = ActivationCheckpointing
RANKS, PATIENCE = 2, 120  # seconds until processes that wait for each other are a failure
PARTS = ("language", "tower")
LAYER = {"language": r"\.layers\.\d+", "tower": r"\.blocks\.\d+"}
LAST_PRODUCT = r"\.mlp\.(down_proj|fc2|linear_fc2)$"  # nothing in the layer needs its result


class LiveBytes(TorchDispatchMode):
    """The tensors made under it that still live: what autograd keeps for the backward pass, wherever it keeps it, once nobody else holds one."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}  # a view makes nothing
        self.made |= {storage._cdata: (StorageWeakRef(storage), storage.nbytes()) for storage in _storages(out) if storage._cdata not in given}
        return out

    def count(self) -> int:
        return sum(size for reference, size in self.made.values() if not reference.expired())


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Cost:
    flops: int
    live: int  # bytes, between forward and backward


def policy(family: Family, how: ActivationCheckpointing, *, frozen_tower: bool = False) -> Policy:
    made = Policy(build(family), ALLOWED)
    made.model.model.visual.requires_grad_(not frozen_tower)
    checkpoint_activations(made, how)
    return made.train()


def loss(made: Policy, batch: RaggedBatch) -> Tensor:
    prompts = [made.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]
    scores = made(prompts, made.encode(batch.pixels), batch.completions_PG, 0.9)
    return (torch.where(scores.mask_BT, scores.logprobs_BT, 0.0).sum(-1) * torch.linspace(-1, 1, len(scores.mask_BT))).sum()


def whole(gradient: Tensor | None) -> Tensor | None:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def gradients(made: Policy, batch: RaggedBatch) -> dict[str, Tensor | None]:
    """Those of every parameter, and the loss."""
    value = loss(made, batch)
    value.backward()
    return {name: whole(parameter.grad) for name, parameter in made.named_parameters()} | {"loss": value.detach()}


def features(made: Policy, batch: RaggedBatch) -> Tensor:
    return torch.cat([image.flatten() for image in made.encode(batch.pixels)]).square().sum()


def cost(forward: Callable[[Policy, RaggedBatch], Tensor], made: Policy, batch: RaggedBatch) -> Cost:
    with LiveBytes() as memory:
        value = forward(made, batch)
        live = memory.count()
    del value
    with FlopCounterMode(display=False) as counter:
        forward(made, batch).backward()
    return Cost(counter.get_total_flops(), live)


FORWARD = {"language": loss, "tower": features}


def layers_of(made: Policy, part: str) -> nn.ModuleList:
    return made.model.model.language_model.layers if part == "language" else made.model.model.visual.blocks


def few(seed: int) -> RaggedBatch:
    """Two prompts of a batch, and all its images."""
    batch = ragged_batch(seed)
    return replace(batch, tokens_P=batch.tokens_P[:2], images_P=batch.images_P[:2], completions_PG=batch.completions_PG[:2])


@cache
def costs(family: Family, part: str, *, mode: bool = True, without_last: bool = False) -> dict[ActivationCheckpointing, Cost]:
    """Of each way, with the language model's layers alone in the graph, or the tower's blocks; `mode` is train's."""
    found = {}
    for how in ActivationCheckpointing:
        made = policy(family, how, frozen_tower=part == "language").train(mode)
        if without_last:
            del layers_of(made, part)[-1]
        found[how] = cost(FORWARD[part], made, few(3))
    return found


def input_shape(made: Policy, part: str) -> torch.Size:
    shapes = []
    layers_of(made, part)[-1].register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].shape[-2:]))
    FORWARD[part](made, few(3))
    return shapes[0]


@pytest.mark.parametrize("frozen_tower", [False, True])
@pytest.mark.parametrize("how", [SELECTIVE, FULL])
@pytest.mark.parametrize("family", list(Family))
def test_loss_and_gradients_are_the_same_bit_for_bit(family: Family, how: ActivationCheckpointing, frozen_tower: bool) -> None:
    plain, again = (gradients(policy(family, way, frozen_tower=frozen_tower), ragged_batch(0)) for way in (NONE, how))
    assert any(gradient is not None for name, gradient in plain.items() if "visual" in name) is not frozen_tower
    for name, gradient in plain.items():
        found = again[name]
        assert found is gradient is None or (found is not None and gradient is not None and torch.equal(found, gradient)), name


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", list(Family))
def test_selective_computes_no_matrix_product_again_and_full_all_but_the_last_of_each_layer(family: Family, part: str) -> None:
    found = costs(family, part)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        FORWARD[part](policy(family, NONE), few(3))
    of_module = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    layers, last = (sum(flops for name, flops in of_module.items() if re.search(LAYER[part] + rest, name)) for rest in ("$", LAST_PRODUCT))
    assert found[SELECTIVE].flops == found[NONE].flops
    assert found[FULL].flops - found[NONE].flops == layers - last > 0


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", list(Family))
def test_a_layer_keeps_less_and_less_and_with_full_its_input_alone(family: Family, part: str) -> None:
    more, fewer = costs(family, part), costs(family, part, without_last=True)
    kept = {how: more[how].live - fewer[how].live for how in ActivationCheckpointing}
    rows, width = input_shape(policy(family, NONE), part)
    assert kept[FULL] == rows * width * torch.float32.itemsize
    assert kept[NONE] > 1.3 * kept[SELECTIVE] > 1.3 * 2 * kept[FULL]


@pytest.mark.parametrize("part", PARTS)
def test_in_eval_mode_nothing_is_computed_again(part: str) -> None:
    """Of the mode nothing depends but that: plain layers cost the same in both."""
    found = costs(Family.qwen2_5_vl, part, mode=False)
    assert set(found.values()) == {costs(Family.qwen2_5_vl, part)[NONE]}


@pytest.mark.parametrize("family", list(Family))
def test_the_mode_changes_no_score(family: Family) -> None:
    made = policy(family, FULL)
    with torch.no_grad():
        assert torch.equal(loss(made.train(), few(1)), loss(made.eval(), few(1)))


def test_no_gradient_enters_a_frozen_language_model_where_none_is_asked_for() -> None:
    made = policy(Family.qwen2_vl, FULL)
    made.model.requires_grad_(False)
    assert not loss(made, ragged_batch(0)).requires_grad


@pytest.mark.parametrize("how", [SELECTIVE, FULL])
def test_dropout_is_refused(how: ActivationCheckpointing) -> None:
    made = policy(Family.qwen2_vl, NONE)
    made.model.model.language_model.layers[1].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=f"hardware.activation_checkpointing={how}: the model has dropout; set attention_dropout to 0"):
        checkpoint_activations(made, how)


@pytest.mark.slow
def test_sharded_by_block_it_is_the_same_too(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = processes.start_processes(_rank, (port, tmp_path), nprocs=RANKS, join=False, start_method="spawn")
    assert context is not None
    deadline = time.monotonic() + PATIENCE
    try:
        while not context.join(1):
            assert time.monotonic() < deadline, f"ranks still wait for each other after {PATIENCE} s"
    finally:
        for process in context.processes:
            process.kill()
    for family in Family:
        for rank in range(RANKS):
            plain, *others = (torch.load(tmp_path / f"{family}_{how}_{rank}.pt") for how in ActivationCheckpointing)
            for other in others:
                torch.testing.assert_close(other, plain, rtol=1e-6, atol=1e-6)
            assert sum(gradient is not None and bool(gradient.any()) for gradient in plain.values()) > LAYERS


def _rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    for family in Family:
        for how in ActivationCheckpointing:
            made = policy(family, how)
            for block in (*made.model.model.visual.blocks, *made.model.model.language_model.layers, made):
                fully_shard(block, mesh=mesh)
            register_fsdp_forward_method(made, "encode")
            torch.save(gradients(made, ragged_batch(rank)), folder / f"{family}_{how}_{rank}.pt")
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
