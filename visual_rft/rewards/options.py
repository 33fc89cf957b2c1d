"""Which rewards score a completion: a family, further parts beside it, and what each part weighs."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pkgutil import resolve_name
from typing import Any

from visual_rft.vocabulary import Attempt

GREATEST = 1e6  # of a weight: rewards stay finite whatever they add up to
TARGET = "_target_"

# A further part of a reward: what a completion earns by it. One that cannot be (NaN, a word) is refused where it is added up.
Part = Callable[[Attempt], float]


class Family(StrEnum):
    """`strict` closes the holes that `paper`, the published rewards, leaves open."""

    strict = "strict"
    paper = "paper"


@dataclass
class RewardOptions:
    """`parts` are functions beside the family, by name: {_target_: module.function, and its keyword arguments}. `weights` names the parts, of either
    kind, that do not weigh 1; a part at 0 is logged and not paid."""

    family: Family = Family.strict
    weights: dict[str, float] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not abs(weight) <= GREATEST:
                raise ValueError(f"rewards.weights.{name}={weight}: must lie in -{GREATEST:g}..{GREATEST:g}")
        for name, part in self.parts.items():
            if not isinstance(part, Mapping) or not isinstance(part.get(TARGET), str):
                raise ValueError(f"rewards.parts.{name}: must be {{{TARGET}: module.function, …}} with the function's arguments")


def further_parts(options: RewardOptions, family: Iterable[str]) -> dict[str, Part]:
    """The parts beside those of the family, as functions of an attempt. Raises ValueError on a name that the family has, a function that cannot be
    found, or arguments that it does not take."""
    taken = sorted(set(options.parts) & set(family))
    if taken:
        raise ValueError(f"rewards.parts.{taken[0]}: rewards.family={options.family} has a part of this name; call yours otherwise")
    return {name: _part(f"rewards.parts.{name}", **part) for name, part in options.parts.items()}


def _part(key: str, *, _target_: str, **arguments: Any) -> Part:
    try:
        function = resolve_name(_target_)
    except Exception as error:  # whatever a user's module raises while it is imported
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None and f"{_target_}.".startswith(f"{error.name}.")
        remedy = "a module is found from the working directory, on PYTHONPATH, or where it is installed" if missing else "mend it"
        raise ValueError(f"{key}.{TARGET}={_target_}: {type(error).__name__}: {error}; {remedy}") from error
    if not callable(function):
        raise ValueError(f"{key}.{TARGET}={_target_}: must be a function of an attempt (visual_rft.vocabulary.Attempt)")
    try:
        inspect.signature(function).bind(object(), **arguments)
    except TypeError as error:
        raise ValueError(f"{key}: {_target_} is called with an attempt and {', '.join(arguments) or 'no arguments'}, and {error}") from error
    return partial(function, **arguments)


def weigh(parts: Iterable[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of every part. Raises ValueError on a weight for a part that does not exist."""
    names = list(parts)
    unknown = sorted(set(weights) - set(names))
    if unknown:
        known = f"its parts are {', '.join(names)}"
        raise ValueError(f"rewards.weights.{unknown[0]}: this task has no such reward part; {known}; choose other rewards, or weigh one of these")
    return {name: weights.get(name, 1.0) for name in names}
