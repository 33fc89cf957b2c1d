"""How an answer is decoded where nothing is trained: greedily, so that only its length is left to choose."""

from dataclasses import dataclass


@dataclass
class DecodingOptions:
    """What an entry that only asks reads of `algorithm`. In tokens, the end token included."""

    max_completion_tokens: int

    def __post_init__(self) -> None:
        if self.max_completion_tokens < 1:
            raise ValueError(f"algorithm.max_completion_tokens={self.max_completion_tokens}: must be at least 1")
