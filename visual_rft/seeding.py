"""Random streams: each use of chance has a role, so that no two uses of one seed share their numbers."""

import hashlib
from collections.abc import Hashable, Iterable
from enum import IntEnum
from typing import TypeVar

from numpy.random import Generator, default_rng

Item = TypeVar("Item", bound=Hashable)


class Role(IntEnum):
    """What a stream is drawn for. A number is never given to another role: every figure of a seed depends on it."""

    SHOTS = 1  # which images are the few shots, and what is asked of them
    ORDER = 2  # in which order an epoch asks the examples
    COMPLETION = 3  # the tokens of one completion
    SHUFFLE = 4  # the control's permutation of rewards
    TEST = 5  # what is asked of the test images
    # 6 is spent
    NEGATIVES = 7  # which images are asked about what they do not show


def stream(role: Role, *numbers: int) -> Generator:
    """The stream of `role` for these non-negative integers: equal arguments give equal numbers, others independent ones."""
    # numpy pads seeds with zeros: without the length [1, 2] and [1, 2, 0] would be one stream.
    return default_rng([role, len(numbers), *numbers])


def shuffled(items: Iterable[Item], role: Role, *numbers: int) -> list[Item]:
    """Items in an order that depends on what they are called (`str`), the role and the numbers alone: not on how they came, nor on the machine or the
    version of a library, as streams may. For what people publish."""

    def rank(item: Item) -> bytes:
        return hashlib.sha256(repr((int(role), numbers, str(item))).encode()).digest()

    return sorted(items, key=rank)
