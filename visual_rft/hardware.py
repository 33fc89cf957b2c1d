"""How a run is computed, never what: device, precision, kernels and batch cuts. Changing any of it leaves the mathematics as it is."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from visual_rft import distributed
from visual_rft.distributed import ALONE, World


class Precision(StrEnum):
    """What weights and activations are computed in. With bfloat16 the optimizer keeps the weights in float32 beside them."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """The kernel that packed streams go through."""

    sdpa = "sdpa"  # torch's, sequence by sequence: anywhere
    varlen = "varlen"  # torch's for ragged sequences: CUDA, bfloat16
    flash_attention_2 = "flash_attention_2"  # the flash-attn package: CUDA, bfloat16


class ActivationCheckpointing(StrEnum):
    """What a layer keeps of its forward pass for the backward pass; the rest is computed again. (Not `off`: YAML reads that as false.)"""

    none = "none"  # no checkpointing: everything is kept
    selective = "selective"  # results of matrix products and of attention
    full = "full"  # the layer's input


@dataclass
class HardwareOptions:
    """`tokens_per_micro_batch` cuts a step's groups into passes whose gradients add up: tokens of prompts and completions, a group at least.

    `decoded_together` is the number of completions that are drawn beside each other, one group at least; `workers` are processes that prepare images
    ahead of the step that needs them (0: none ahead). `logprob_tolerance` is the largest difference, in nats, allowed between a token's logprob in
    the rollout and in the trainer.

    With `offload` weights, gradients and the optimizer's state stay on the CPU but for the block that is computed; with `offload_reference` the
    reference does. Without `master_weights` bfloat16 weights have no float32 copy, and the optimizer keeps what their rounding drops. Of several
    ranks `ranks_per_copy` share one copy of the weights (0: all).
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = Precision.float32
    attention: Attention = Attention.sdpa
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.none
    tokens_per_micro_batch: int = 4096
    decoded_together: int = 128
    workers: int = 0
    offload: bool = False
    offload_reference: bool = False
    master_weights: bool = True
    ranks_per_copy: int = 0
    logprob_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("threads", "tokens_per_micro_batch", "decoded_together"):
            if getattr(self, name) < 1:
                raise ValueError(f"hardware.{name}={getattr(self, name)}: must be at least 1")
        if self.workers < 0:
            raise ValueError(f"hardware.workers={self.workers}: must be 0 (no process of their own) or a number of processes")
        if not self.logprob_tolerance > 0:
            raise ValueError(f"hardware.logprob_tolerance={self.logprob_tolerance}: must be positive")
        for name in ("offload", "offload_reference"):
            if getattr(self, name) and self.device == "cpu":
                raise ValueError(f"hardware.{name}=true: with hardware.device=cpu everything is on the CPU already; leave it out")
        if not self.master_weights and self.precision is Precision.float32:
            raise ValueError("hardware.master_weights=false: float32 weights have no copy; leave it out, or ask for hardware.precision=bfloat16")
        if self.ranks_per_copy < 0:
            raise ValueError(f"hardware.ranks_per_copy={self.ranks_per_copy}: must be 0 (all) or a number of ranks")
        if self.attention is not Attention.sdpa and (self.device == "cpu" or self.precision is Precision.float32):
            raise ValueError(f"hardware.attention={self.attention}: needs CUDA and hardware.precision=bfloat16; use sdpa")


@dataclass(frozen=True)
class Machine:
    """Where and in what a model is computed."""

    device: torch.device
    dtype: torch.dtype
    attention: Attention


def device_of(options: HardwareOptions, world: World = ALONE) -> torch.device:
    """The device of this rank. Raises ValueError when it is not there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise ValueError(f"hardware.device={options.device}: no such kind of device; use cpu, cuda or cuda:N")
    device = torch.device(f"cuda:{world.local_rank}" if options.device == "cuda" and world.size > 1 else options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"hardware.device={options.device}: torch {torch.__version__} sees no GPU; use hardware=cpu, or install torch's CUDA build")
    return device


def prepare(options: HardwareOptions, seed: int, world: World = ALONE) -> Machine:
    """Seeds torch, asks it for deterministic kernels and sets the thread count. Raises ValueError when the device or the kernel is not there."""
    device = device_of(options, world)
    if options.attention is Attention.flash_attention_2 and not find_spec("flash_attn"):
        raise ValueError("hardware.attention=flash_attention_2: flash-attn is not installed; install the gpu extra, or use varlen")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, graphs and memory figures are the current device's
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it alone; it is what Hopper has anyway
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # else every new tensor is filled first
    # CUDA has no deterministic kernel for some operations: there they are named in a warning.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.set_num_threads(options.threads)
    return Machine(device, getattr(torch, options.precision.value), options.attention)


def mesh(options: HardwareOptions, device: torch.device, world: World) -> DeviceMesh | None:
    """Copies of the weights × the ranks that each copy is spread over; None where they are whole, on one device.

    Raises ValueError when the ranks cannot be divided as asked.
    """
    copy = options.ranks_per_copy or world.size
    if world.size % copy:
        raise ValueError(f"hardware.ranks_per_copy={copy}: {world.size} ranks cannot be divided so; give a divisor, or 0 to spread one copy over all")
    if world.size == 1 and not (options.offload or options.offload_reference):
        return None
    distributed.alone()
    if copy == world.size:
        return init_device_mesh(device.type, (copy,))
    return init_device_mesh(device.type, (world.size // copy, copy), mesh_dim_names=("copies", "ranks"))
