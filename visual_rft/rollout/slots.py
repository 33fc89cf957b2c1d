"""The rows that are decoded together, and their key-value buffers: a group's prompt stands there once, its completions read it together.

Axes: Q places (a place holds one group's prompt), B rows (one completion each), R rows of one place, A query heads, K key-value heads, M = A/K,
S prompt tokens, T completion tokens, D values a head, N tokens of a stream of prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

# Buffers are read in pieces of so many tokens: the same sums in the same order, whatever the longest neighbour.
_PIECE = 64


def rounded(tokens: int) -> int:
    """The least number of whole pieces that holds so many tokens."""
    return -(-tokens // _PIECE) * _PIECE


@dataclass
class _Layer:
    """prompt and own keys and values: [Q, K, S, D] and [B, K, T, D]."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor


class Slots:
    """Fixed buffers for `places` prompts and `rows` completions of up to `capacity` tokens. Only the first `used` rows are computed."""

    def __init__(self, rows: int, places: int, capacity: int, device: torch.device) -> None:
        self.capacity, self.device, self.places = rounded(capacity), device, places
        self.prompt_capacity = self.prompt_width = self.width = 0
        self.layers: list[_Layer] = []
        self.tokens_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.lengths_B = torch.zeros_like(self.tokens_B)  # tokens whose keys are stored
        self.starts_B = torch.zeros_like(self.tokens_B)  # position of the first token
        self.uniforms_BT = torch.zeros(rows, self.capacity, dtype=torch.float64, device=device)
        self.prompt_lengths_Q = torch.zeros(places, dtype=torch.int64, device=device)
        self.seat([])

    @property
    def state(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a row is beside its keys and values: its last token, which is not read yet; how many are; the position of its first; its draws."""
        return self.tokens_B, self.lengths_B, self.starts_B, self.uniforms_BT

    def seat(self, place_of_row: Sequence[int]) -> None:
        """Says which place's prompt each row in use reads. Rows of one place are gathered, so that they read its keys once."""
        self.used = len(place_of_row)
        by_place: list[list[int]] = [[] for _ in range(max(place_of_row, default=-1) + 1)]
        for row, place in enumerate(place_of_row):
            by_place[place].append(row)
        most = max(map(len, by_place), default=0)
        self.rows_QR = torch.tensor([rows + [0] * (most - len(rows)) for rows in by_place], dtype=torch.int64, device=self.device)
        where = {row: (place, r) for place, rows in enumerate(by_place) for r, row in enumerate(rows)}
        self.in_order = [row for rows in by_place for row in rows] == list(range(most * len(by_place)))
        self.cell_B = torch.tensor([where[row][0] * most + where[row][1] for row in range(self.used)], dtype=torch.int64, device=self.device)

    def keep(self, rows: Sequence[int], places: Sequence[int]) -> None:
        """Moves these rows and places to the front, in this order; what stood elsewhere is lost."""
        rows_B, places_Q = (torch.tensor(kept, dtype=torch.int64, device=self.device) for kept in (rows, places))
        for state in self.state:
            state[: len(rows)] = state[rows_B]
        moved = list(places) != list(range(len(places)))
        if moved:
            self.prompt_lengths_Q[: len(places)] = self.prompt_lengths_Q[places_Q]
        for layer in self.layers:
            for own in (layer.keys, layer.values):
                own[: len(rows), :, : self.width] = own[rows_B, :, : self.width]
            for prompt in (layer.prompt_keys, layer.prompt_values) if moved else ():
                prompt[: len(places)] = prompt[places_Q]  # whole: what was admitted just now may be longer than all that was looked at

    def admit(self, places: Sequence[int], prompt_lengths: Sequence[int]) -> Callable[[int, Tensor, Tensor], None]:
        """Makes room at these places for prompts of these lengths; the result stores a layer's keys_KND and values_KND of all of them."""
        if max(prompt_lengths) > self.prompt_capacity:
            self._widen(rounded(max(prompt_lengths)))
        self.prompt_lengths_Q[list(places)] = torch.tensor(prompt_lengths, device=self.device)

        def remember(index: int, keys_KND: Tensor, values_KND: Tensor) -> None:
            if index == len(self.layers):
                self.layers.append(self._layer(keys_KND))
            layer, start = self.layers[index], 0
            for place, length in zip(places, prompt_lengths, strict=True):
                layer.prompt_keys[place, :, :length] = keys_KND[:, start : start + length]
                layer.prompt_values[place, :, :length] = values_KND[:, start : start + length]
                start += length

        return remember

    def begin(self, rows: Sequence[int], tokens_B: Tensor, starts_B: Tensor, uniforms_BT: Tensor) -> None:
        """Puts newly admitted completions into rows: their first tokens, not yet read, the positions of those, and the draws of all."""
        rows_B = torch.tensor(rows, dtype=torch.int64, device=self.device)
        self.tokens_B[rows_B], self.starts_B[rows_B], self.lengths_B[rows_B] = tokens_B, starts_B, 0
        self.uniforms_BT[rows_B, : uniforms_BT.shape[1]] = uniforms_BT

    def look(self, prompt_width: int, width: int) -> None:
        """From now on so many tokens of every prompt and of every completion are attended to, as far as they are filled."""
        self.prompt_width, self.width = min(rounded(prompt_width), self.prompt_capacity), min(rounded(width), self.capacity)

    def shape(self) -> tuple[int, ...]:
        """What the shapes of a step depend on, beside the rows in use."""
        return self.prompt_capacity, self.prompt_width, self.width

    def attention(self) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
        """How each row's new token attends: to its place's prompt, to its own tokens, and to itself; its keys and values are stored."""
        lengths_B, each_B = self.lengths_B[: self.used], torch.arange(self.used, device=self.device)
        (q, r), s = self.rows_QR.shape, self.prompt_width
        prompt_Q11S = self._filled(self.prompt_lengths_Q[:q], s)
        own_B11T = self._filled(lengths_B + 1, self.width)

        def attend(index: int, q_AND: Tensor, k_KND: Tensor, v_KND: Tensor) -> Tensor:
            layer = self.layers[index]
            layer.keys[each_B, :, lengths_B], layer.values[each_B, :, lengths_B] = k_KND.transpose(0, 1), v_KND.transpose(0, 1)
            q_BKMD = q_AND.transpose(0, 1).unflatten(1, (len(k_KND), -1)) * q_AND.shape[-1] ** -0.5
            k, m, d = q_BKMD.shape[1:]

            # by place: [Q, K, R·M, ·]; by row: [B, K, M, ·]
            def by_place(x_BKMX: Tensor) -> Tensor:
                return (x_BKMX.unflatten(0, (q, r)) if self.in_order else x_BKMX[self.rows_QR]).transpose(1, 2).reshape(q, k, r * m, -1)

            def by_row(x_QKX: Tensor) -> Tensor:
                x_BKMX = x_QKX.unflatten(2, (r, m)).transpose(1, 2).reshape(q * r, k, m, -1)
                return x_BKMX if self.in_order else x_BKMX[self.cell_B]

            to_prompt = by_row(by_place(q_BKMD) @ layer.prompt_keys[:q, :, :s].transpose(2, 3) + prompt_Q11S)
            to_own = q_BKMD @ layer.keys[: self.used, :, : self.width].transpose(2, 3) + own_B11T
            weights_BKMX = torch.cat([to_prompt, to_own], dim=-1).float().softmax(-1).to(v_KND.dtype)
            of_prompt = by_row(_weighted(by_place(weights_BKMX[..., :s]), layer.prompt_values[:q]))
            of_own = _weighted(weights_BKMX[..., s:], layer.values[: self.used])
            return (of_prompt + of_own).reshape(-1, k * m, d).transpose(0, 1)

        return attend

    def _filled(self, lengths_B: Tensor, width: int) -> Tensor:
        """An additive mask [B, 1, 1, width] that hides what lies beyond each length."""
        beyond_BT = torch.arange(width, device=self.device) >= lengths_B[:, None]
        return torch.zeros(beyond_BT.shape, device=self.device).masked_fill(beyond_BT, float("-inf"))[:, None, None]

    def _layer(self, like_KND: Tensor) -> _Layer:
        heads, _, values = like_KND.shape
        # Zeros: what is masked is multiplied by zero, which NaN or infinity would survive.
        prompts = [like_KND.new_zeros(self.places, heads, self.prompt_capacity, values) for _ in range(2)]
        return _Layer(*prompts, *(like_KND.new_zeros(len(self.tokens_B), heads, self.capacity, values) for _ in range(2)))

    def _widen(self, capacity: int) -> None:
        for layer in self.layers:
            for name in ("prompt_keys", "prompt_values"):
                narrow = getattr(layer, name)
                setattr(layer, name, torch.nn.functional.pad(narrow, (0, 0, 0, capacity - self.prompt_capacity)))
        self.prompt_capacity = capacity


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """weights [..., S] @ values [..., S or more, D]. On the CPU a piece after the other, since one product groups its sums by its width."""
    width = weights.shape[-1]
    piece = _PIECE if weights.device.type == "cpu" else width
    return reduce(Tensor.add_, (weights[..., i : i + piece] @ values[..., i : min(i + piece, width), :] for i in range(0, width, piece)))
