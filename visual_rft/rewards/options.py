"""Which family of rewards scores a completion, and what each part weighs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

GREATEST = 1e6  # of a weight: rewards stay finite whatever they add up to


class Family(StrEnum):
    """`strict` closes the holes that `paper`, the published rewards, leaves open."""

    strict = "strict"
    paper = "paper"


@dataclass
class RewardOptions:
    """`weights` names the parts that do not weigh 1; a part at 0 is logged and not paid."""

    family: Family = Family.strict
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not abs(weight) <= GREATEST:
                raise ValueError(f"rewards.weights.{name}={weight}: must lie in -{GREATEST:g}..{GREATEST:g}")


def weigh(parts: Iterable[str], weights: dict[str, float]) -> dict[str, float]:
    """The weight of every part. Raises ValueError on a weight for a part that does not exist."""
    names = list(parts)
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise ValueError(f"rewards.weights.{unknown[0]}: this task has no such reward part; its parts are {', '.join(names)}")
    return {name: weights.get(name, 1.0) for name in names}
