"""Weights spread over the ranks of a run (FSDP2, PyTorch; ZeRO stage 3, arXiv 1910.02054), and the whole copy that rollouts are drawn from.

Every rank makes the same forward and backward passes in the same order: each gathers one block's weights at a time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from visual_rft.models.policy import Policy


@dataclass(frozen=True)
class Sharding:
    """The mesh that weights are spread over, the precision in which the trained ones stay between two passes, and whether all of them wait on
    the CPU meanwhile."""

    mesh: DeviceMesh
    kept_in: torch.dtype
    offload: bool


def shard(policy: Policy, sharding: Sharding, computed_in: torch.dtype) -> None:
    """Spreads the weights of a policy, in place: a block at a time is whole. Gradients are summed over the ranks, in float32."""
    options: dict[str, Any] = {
        "mesh": sharding.mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if sharding.offload else OffloadPolicy(),
        "reshard_after_forward": True,
    }
    for block in (*policy.model.model.visual.blocks, *policy.model.model.language_model.layers, policy):
        fully_shard(block, **options)
        # The loss of a rank is divided by the completions of all: what is left to do is to add. Gloo can add, and no more.
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(policy, "encode")


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(source: nn.Module, target: nn.Module, *, trained_only: bool) -> None:
    """Gathers the weights of a sharded module into a whole one, in place: who captured where they stand reads the new ones."""
    whole = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        if parameter.requires_grad or not trained_only:
            whole[name].copy_(_gathered(parameter, whole[name]))


def _gathered(parameter: Tensor, like: Tensor) -> Tensor:
    """The whole of a parameter, rounded before it travels."""
    if not isinstance(parameter, DTensor):
        return parameter
    local = parameter.to_local().to(like.device, like.dtype)
    mesh, placements, shape, stride = parameter.device_mesh, parameter.placements, parameter.shape, parameter.stride()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()
