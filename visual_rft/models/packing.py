"""Groups laid out as one flat stream of tokens, each prompt once and nothing padded:

    [ prompt 1 | c₁₁ | c₁₂ | … | c₁G | prompt 2 | c₂₁ | … ]

A completion sees its own prompt and itself, and its positions go on where the prompt's end, so that its logprobs are those of a row of its own.
Its last token is predicted and never read: it has no place in the stream.

Axes: P prompts, G completions of one (as many as it has), N tokens of the stream, C completion tokens of all groups, S prompt tokens, T tokens of
one completion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visual_rft.vocabulary import Prompt


class Segment(NamedTuple):
    """The next `length` tokens of the stream: each sees those of its segment up to itself and, in a completion, all of the segment `prompt`."""

    length: int
    prompt: int | None = None


@dataclass(frozen=True)
class Packed:
    """tokens_N and positions_3N of the stream; `image_places`: where image features stand, in the order of `images`; `before_C`: the place from
    which each completion token is predicted; `targets_C`: those tokens; `lengths`: T of each completion; `ends_P`: the last place of each prompt."""

    tokens_N: Tensor
    positions_3N: Tensor
    segments: tuple[Segment, ...]
    images: tuple[int, ...]
    image_places: Tensor
    before_C: Tensor
    targets_C: Tensor
    lengths: tuple[int, ...]
    ends_P: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on `device`."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def pack(prompts: Sequence[Prompt], completions_PG: Sequence[Sequence[Tensor]], image_token: int) -> Packed:
    """The stream of each prompt with its completions (tokens_T, at least one each). Raises ValueError for an empty completion."""
    tokens, positions, before, places, ends, n = [], [], [], [], [], 0
    segments: list[Segment] = []
    for prompt, completions in zip(prompts, completions_PG, strict=True):
        start, reads = n, len(segments)
        segments.append(Segment(len(prompt.tokens_S)))
        tokens.append(prompt.tokens_S)
        positions.append(prompt.positions_3S)
        places.append(start + torch.nonzero(prompt.tokens_S == image_token)[:, 0])
        n += len(prompt.tokens_S)
        ends.append(n - 1)
        for completion in completions:
            if not len(completion):
                raise ValueError("an empty completion has no logprobs: every completion holds its end token at least")
            read = len(completion) - 1
            before += [torch.tensor(ends[-1:]), torch.arange(n, n + read)]
            tokens.append(completion[:-1])
            positions.append((prompt.next_position + torch.arange(read)).expand(3, -1))
            if read:
                segments.append(Segment(read, reads))
            n += read
    flat = [completion for completions in completions_PG for completion in completions]
    return Packed(
        tokens_N=torch.cat(tokens),
        positions_3N=torch.cat(positions, dim=1),
        segments=tuple(segments),
        images=tuple(image for prompt in prompts for image in prompt.images),
        image_places=torch.cat(places),
        before_C=torch.cat(before) if before else torch.empty(0, dtype=torch.int64),
        targets_C=torch.cat(flat) if flat else torch.empty(0, dtype=torch.int64),
        lengths=tuple(len(completion) for completion in flat),
        ends_P=torch.tensor(ends),
    )


def stream_length(prompt: Prompt, completions: Sequence[Tensor]) -> int:
    """Tokens of the stream that one group takes."""
    return len(prompt.tokens_S) + sum(len(completion) - 1 for completion in completions)


def cut(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Neighbours together, as many as the budget of tokens allows; what exceeds it alone stands alone."""
    first, total = 0, 0
    for i, length in enumerate(lengths):
        if i > first and total + length > budget:
            yield range(first, i)
            first, total = i, 0
        total += length
    if first < len(lengths):
        yield range(first, len(lengths))
