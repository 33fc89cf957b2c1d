"""How a run is computed, never what: device, threads and batch cuts. Changing any of it leaves the mathematics as it is."""

import re
from dataclasses import dataclass

import torch


@dataclass
class HardwareOptions:
    """`prompts_per_micro_batch` cuts a step's groups into backward passes whose gradients add up; `evaluation_batch` is in questions.

    `logprob_tolerance` is the largest difference, in nats, allowed between a token's logprob in the rollout and in the trainer.
    """

    device: str = "cpu"
    threads: int = 1
    prompts_per_micro_batch: int = 4
    evaluation_batch: int = 64
    logprob_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("threads", "prompts_per_micro_batch", "evaluation_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"hardware.{name}={getattr(self, name)}: must be at least 1")
        if not self.logprob_tolerance > 0:
            raise ValueError(f"hardware.logprob_tolerance={self.logprob_tolerance}: must be positive")


def prepare(options: HardwareOptions, seed: int) -> torch.device:
    """Seeds torch, asks it for deterministic kernels and sets the thread count. Raises ValueError when the device is not there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        raise ValueError(f"hardware.device={options.device}: no such kind of device; use cpu, cuda or cuda:N")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"hardware.device={options.device}: torch {torch.__version__} sees no GPU; use hardware=cpu, or install torch's CUDA build")
    torch.manual_seed(seed)
    # CUDA has no deterministic kernel for some operations: there they are named in a warning.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.set_num_threads(options.threads)
    return device
