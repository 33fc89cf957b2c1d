"""Rollouts: each prompt is read once, its completions are drawn token by token beside each other, and a row that is done makes room for the next.

Axes: P prompts, G completions of one, B rows decoded together, T completion tokens, V vocabulary, H hidden width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from visual_rft.rollout.graphs import Replays
from visual_rft.rollout.sampling import draw, greedy
from visual_rft.rollout.slots import Slots
from visual_rft.vocabulary import Prompt

_READ_TOGETHER = 16  # prompts at most: what a prompt needs while it is read is far more than what stays of it


class Speaker(Protocol):
    """What a rollout asks of a model: `models.policy.Policy` is one."""

    @property
    def device(self) -> torch.device: ...

    def read(self, prompts: Sequence[Prompt], features: Sequence[Tensor], remember: Callable[[int, Tensor, Tensor], None]) -> Tensor: ...

    def speak(self, tokens_B: Tensor, positions_B: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor: ...

    def logits(self, hidden_H: Tensor, temperature: float) -> Tensor: ...


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn (without chance when `greedy`), and where they end: with `end_id` as their last token, or after `max_tokens`."""

    max_tokens: int
    end_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False


class Finish(StrEnum):
    """Why a completion ended."""

    END = "end"  # the end token came
    LENGTH = "length"  # it is as long as it may be


@dataclass(frozen=True)
class Request:
    """A prompt, the features of its images (in the order of its placeholders), and for each of its completions the integers that seed its random
    stream; `max_tokens_G` caps each one, where they differ."""

    prompt: Prompt
    features: Sequence[Tensor]
    seeds_G: Sequence[Sequence[int]] = ((),)
    max_tokens_G: Sequence[int] | None = None


@dataclass(frozen=True)
class Sampled:
    """Completions of one prompt: tokens_T each (the end token included where it came), their logprobs_T, and why each ended."""

    tokens: list[Tensor]
    logprobs: list[Tensor]
    reasons: list[Finish]


@dataclass
class _Sequence:
    """One completion under way, and the group it belongs to."""

    group: "_Group"
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: Finish | None = None


@dataclass
class _Group:
    """One request under way, and the place of its prompt."""

    number: int
    place: int
    prompt_length: int
    sequences: list[_Sequence] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return all(sequence.reason for sequence in self.sequences)

    def sampled(self) -> Sampled:
        tokens = [torch.tensor(s.tokens, dtype=torch.int64) for s in self.sequences]
        logprobs = [torch.tensor(s.logprobs, dtype=torch.float32) for s in self.sequences]
        return Sampled(tokens, logprobs, [s.reason for s in self.sequences if s.reason])


class Engine:
    """Decodes groups of `group` completions, up to `rows` completions at a time (one group at least).

    With `fixed` rows, every step computes all of them, so that its shapes stay: on the CPU a completion's bits do not depend on its neighbours, and
    CUDA can replay the step as a graph. Otherwise rows that are done are left out as soon as they are a tenth of all.
    """

    def __init__(self, speaker: Speaker, decoding: Decoding, *, group: int, rows: int, fixed: bool) -> None:
        self.speaker, self.decoding, self.group, self.fixed = speaker, decoding, group, fixed
        self.groups = max(1, rows // group)
        # Where rows are left out, a group's last completions need its prompt while the next groups have theirs already.
        places = self.groups if fixed or group == 1 else 2 * self.groups
        self.slots = Slots(self.groups * group, places, decoding.max_tokens, speaker.device)
        self.rows: list[_Sequence | None] = []
        if fixed:
            self.slots.seat([row // group for row in range(self.groups * group)])
        self.replays = Replays(self.slots.state, self.slots.shape) if speaker.device.type == "cuda" and fixed else None

    @torch.no_grad()
    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Sampled]]:
        """The completions of each request, with its number, in the order in which they are done."""
        self.rows, waiting = [None] * (self.groups * self.group if self.fixed else 0), enumerate(requests)
        while True:
            while new := list(islice(waiting, self._room())):
                alone = self.fixed and self.slots.device.type == "cpu"
                together = 1 if alone else _READ_TOGETHER  # the bits of a prompt depend on how many tokens are read beside it
                for first in range(0, len(new), together):
                    yield from self._admit(new[first : first + together])
            under_way = [sequence for sequence in self.rows if sequence]
            if not under_way:
                return
            self.slots.look(max(s.group.prompt_length for s in under_way), max(len(s.tokens) for s in under_way))
            yield from self._record(range(len(self.rows)), self.step().tolist())

    def _groups(self) -> list[_Group]:
        return list({s.group.number: s.group for s in self.rows if s}.values())

    def _room(self) -> int:
        """Groups to admit now: none before a quarter of the room is free, so that prompts are read several at a time."""
        groups = self._groups()
        rows = len(groups) * self.group if self.fixed else len(self.rows)
        room = min(self.groups - -(-rows // self.group), self.slots.places - len(groups))
        return room if 4 * room >= self.groups else 0

    def _admit(self, new: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Sampled]]:
        """Reads the prompts and draws the first token of each completion."""
        taken = {group.place for group in self._groups()}
        places = [place for place in range(self.slots.places) if place not in taken][: len(new)]
        rows: list[int] = []
        seeds: list[Sequence[int]] = []
        for place, (number, request) in zip(places, new, strict=True):
            group = _Group(number, place, len(request.prompt.tokens_S))
            limits = request.max_tokens_G or [self.decoding.max_tokens] * self.group
            assert len(limits) == self.group and 1 <= min(limits) <= max(limits) <= self.decoding.max_tokens, (
                "a token at least, and what the buffers hold"
            )
            group.sequences = [_Sequence(group, limit) for limit in limits]
            first = place * self.group if self.fixed else len(self.rows)
            rows += range(first, first + self.group)
            self.rows[first : first + self.group] = group.sequences
            seeds += list(request.seeds_G)
        if not self.fixed:
            self.slots.seat([s.group.place for s in self.rows if s])
        prompts, features = _together([request for _, request in new])
        hidden_PH = self.speaker.read(prompts, features, self.slots.admit(places, [len(prompt.tokens_S) for prompt in prompts]))
        logits_PV = self.speaker.logits(hidden_PH, self.decoding.temperature)
        uniforms_BT = torch.from_numpy(np.stack([np.random.default_rng(seed).random(self.decoding.max_tokens) for seed in seeds]))
        starts_B = torch.tensor([prompt.next_position for prompt in prompts for _ in range(self.group)])
        uniforms_BT, starts_B = uniforms_BT.to(self.slots.device), starts_B.to(self.slots.device)
        tokens_B, logprobs_B = self._choose(logits_PV.repeat_interleave(self.group, dim=0), uniforms_BT[:, 0])
        self.slots.begin(rows, tokens_B, starts_B, uniforms_BT)
        yield from self._record(rows, torch.stack([tokens_B.double(), logprobs_B.double()]).tolist())

    def step(self) -> Tensor:
        """`_advance`, launched as one thing where it can be."""
        return self.replays(self._advance) if self.replays else self._advance()

    def _advance(self) -> Tensor:
        """One token more for every row in use: their ids and logprobs, [2, B] in float64, so that the host asks once."""
        tokens_B, lengths_B, starts_B, uniforms_BT = (state[: self.slots.used] for state in self.slots.state)
        hidden_BH = self.speaker.speak(tokens_B, starts_B + lengths_B, self.slots.attention())
        lengths_B.add_(1).clamp_(max=self.slots.capacity - 1)  # a row that is done idles at the end of its buffer
        logits_BV = self.speaker.logits(hidden_BH, self.decoding.temperature)
        drawn_B, logprobs_B = self._choose(logits_BV, uniforms_BT.gather(1, lengths_B[:, None])[:, 0])
        tokens_B.copy_(drawn_B)
        return torch.stack([drawn_B.double(), logprobs_B.double()])

    def _choose(self, logits_BV: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
        return greedy(logits_BV) if self.decoding.greedy else draw(logits_BV, uniforms_B, self.decoding.top_p)

    def _record(self, rows: Iterable[int], choice_2B: Sequence[Sequence[float]]) -> Iterator[tuple[int, Sampled]]:
        """Writes down what was drawn, hands out the groups that are done, and makes room."""
        touched = {}
        for row, token, logprob in zip(rows, *choice_2B, strict=True):
            sequence = self.rows[row]
            if sequence is None or sequence.reason:
                continue
            sequence.tokens.append(int(token))
            sequence.logprobs.append(logprob)
            if token == self.decoding.end_id:
                sequence.reason = Finish.END
            elif len(sequence.tokens) == sequence.limit:
                sequence.reason = Finish.LENGTH
            touched[sequence.group.number] = sequence.group
        done = [group for group in touched.values() if group.is_done]
        yield from ((group.number, group.sampled()) for group in done)
        if self.fixed:
            self.rows = [None if s and s.group.is_done else s for s in self.rows]
        else:
            self._compact()

    def _compact(self) -> None:
        live = [row for row, s in enumerate(self.rows) if s and not s.reason]
        if 10 * len(live) > 9 * len(self.rows):
            return
        self.rows = [self.rows[row] for row in live]
        groups = sorted(self._groups(), key=lambda group: group.place)
        self.slots.keep(live, [group.place for group in groups])
        for place, group in enumerate(groups):
            group.place = place
        self.slots.seat([s.group.place for s in self.rows if s])


def _together(requests: Sequence[Request]) -> tuple[list[Prompt], list[Tensor]]:
    """The requests' prompts, and the features of all their images in one list that the prompts point into."""
    prompts: list[Prompt] = []
    features: list[Tensor] = []
    for request in requests:
        prompts.append(replace(request.prompt, images=tuple(range(len(features), len(features) + len(request.features)))))
        features += request.features
    return prompts, features
