"""How a run is computed, never what: device, precision, kernels and batch cuts. Changing any of it leaves the mathematics as it is."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

import torch


class Precision(StrEnum):
    """What weights and activations are computed in. With bfloat16 the optimizer keeps the weights in float32 beside them."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """The kernel that packed streams go through."""

    sdpa = "sdpa"  # torch's, sequence by sequence: anywhere
    varlen = "varlen"  # torch's for ragged sequences: CUDA, bfloat16
    flash_attention_2 = "flash_attention_2"  # the flash-attn package: CUDA, bfloat16


@dataclass
class HardwareOptions:
    """`tokens_per_micro_batch` cuts a step's groups into passes whose gradients add up: tokens of prompts and completions, a group at least.

    `decoded_together` is the number of completions that are drawn beside each other, one group at least; `workers` are processes that prepare images
    ahead of the step that needs them (0: none ahead). `logprob_tolerance` is the largest difference, in nats, allowed between a token's logprob in
    the rollout and in the trainer.
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = Precision.float32
    attention: Attention = Attention.sdpa
    tokens_per_micro_batch: int = 4096
    decoded_together: int = 128
    workers: int = 0
    logprob_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("threads", "tokens_per_micro_batch", "decoded_together"):
            if getattr(self, name) < 1:
                raise ValueError(f"hardware.{name}={getattr(self, name)}: must be at least 1")
        if self.workers < 0:
            raise ValueError(f"hardware.workers={self.workers}: must be 0 (no process of their own) or a number of processes")
        if not self.logprob_tolerance > 0:
            raise ValueError(f"hardware.logprob_tolerance={self.logprob_tolerance}: must be positive")
        if self.attention is not Attention.sdpa and (self.device == "cpu" or self.precision is Precision.float32):
            raise ValueError(f"hardware.attention={self.attention}: needs CUDA and hardware.precision=bfloat16; use sdpa")


@dataclass(frozen=True)
class Machine:
    """Where and in what a model is computed."""

    device: torch.device
    dtype: torch.dtype
    attention: Attention


def prepare(options: HardwareOptions, seed: int) -> Machine:
    """Seeds torch, asks it for deterministic kernels and sets the thread count. Raises ValueError when the device or the kernel is not there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise ValueError(f"hardware.device={options.device}: no such kind of device; use cpu, cuda or cuda:N")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"hardware.device={options.device}: torch {torch.__version__} sees no GPU; use hardware=cpu, or install torch's CUDA build")
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
