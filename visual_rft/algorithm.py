"""The mathematics of a run, as options: conf/algorithm."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from visual_rft.losses import Aggregation, LossOptions


class Advantage(StrEnum):
    """How rewards become advantages."""

    group = "group"  # the paper's
    shuffled = "shuffled"  # the control: rewards permuted inside each group first


@dataclass
class UpdateOptions:
    """What every training asks for. Lengths are in tokens, the end token included. A step whose gradient is not finite is skipped; after
    `max_bad_steps` of them in a row the run stops."""

    max_completion_tokens: int = 256
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    max_bad_steps: int = 3

    def __post_init__(self) -> None:
        if not self.max_grad_norm > 0:
            raise ValueError(f"algorithm.max_grad_norm={self.max_grad_norm}: must be positive; .inf clips nothing")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(f"algorithm.weight_decay={self.weight_decay}: must be 0 or a positive number")
        for name in ("max_completion_tokens", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"algorithm.{name}={getattr(self, name)}: must be at least 1")


@dataclass
class SupervisedOptions(UpdateOptions):
    """The mathematics of supervised tuning."""

    aggregation: Aggregation = Aggregation.sequence


@dataclass
class AlgorithmOptions(LossOptions, UpdateOptions):
    """The mathematics of GRPO."""

    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    updates_per_batch: int = 1
    advantage: Advantage = Advantage.group

    def __post_init__(self) -> None:
        LossOptions.__post_init__(self)
        UpdateOptions.__post_init__(self)
        if self.group_size < 2:
            raise ValueError(f"algorithm.group_size={self.group_size}: an advantage compares the completions of one prompt; ask for 2 or more")
        if not 0 < self.temperature < inf:
            raise ValueError(f"algorithm.temperature={self.temperature}: must be positive and finite; without chance a group has no spread")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"algorithm.top_p={self.top_p}: must lie in (0, 1]; 1 draws from every token")
        if self.updates_per_batch < 1:
            raise ValueError(f"algorithm.updates_per_batch={self.updates_per_batch}: must be at least 1")
