"""The language model's attention, delegated: the stock layers hand over queries, keys and values, and whoever runs the model says who sees whom.

Axes: N tokens of a flat stream, A query heads, K key-value heads, D values a head.
"""

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from visual_rft.hardware import Attention
from visual_rft.models.packing import Segment

# (layer, queries_AND, keys_KND, values_KND) -> attended_AND
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

_LANGUAGE = "visual_rft"  # transformers treats a name with `flash`, `sdpa` or `flex_attention` in it in its own way:
_TOWER = "visual_rft_flash"  # this one is handed all images at once, with the places where they begin


def delegate(language_model: nn.Module, tower: nn.Module, kernel: Attention) -> None:
    """Makes the language model's layers call the `attend` that its forward is given; a kernel for ragged sequences takes the tower's images, too."""
    AttentionInterface.register(_LANGUAGE, _delegated)
    language_model.set_attn_implementation(_LANGUAGE)  # type: ignore[operator]
    if kernel is not Attention.sdpa:
        AttentionInterface.register(_TOWER, _each_image(_KERNELS[kernel]()))
        tower.config._attn_implementation = _TOWER  # type: ignore[union-attr]


def _delegated(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, *, attend: Attend, **_: Any) -> tuple[Tensor, None]:
    attended_AND = attend(module.layer_idx, query[0], key[0], value[0])  # type: ignore[arg-type]
    return attended_AND.transpose(0, 1)[None], None


def _each_image(kernel: "_Kernel") -> Callable[..., tuple[Tensor, None]]:
    """The tower's attention: every patch of an image to all of that image."""

    def attend(
        _: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, cu_seq_lens_q: Tensor, max_length_q: int, **__: Any
    ) -> tuple[Tensor, None]:
        q_NAD, k_NAD, v_NAD = (x[0].transpose(0, 1) for x in (query, key, value))
        starts = cu_seq_lens_q.int()
        return kernel(q_NAD, k_NAD, v_NAD, starts, starts, max_length_q, max_length_q, False)[None], None

    return attend


def segment_attention(kernel: Attention, segments: Sequence[Segment], like: Tensor) -> Attend:
    """Every segment attends to what it sees, and causally to itself. `like` has the dtype and device of the stream."""
    return _by_segment(segments, like) if kernel is Attention.sdpa else _varlen(_KERNELS[kernel](), segments, like.device)


def _by_segment(segments: Sequence[Segment], like: Tensor) -> Attend:
    lengths = [segment.length for segment in segments]
    shapes = {(length, lengths[prompt]) for length, prompt in segments if prompt is not None}
    masks = {shape: _lower_right(*shape, like) for shape in shapes}

    def attend(_layer: int, q_AND: Tensor, k_KND: Tensor, v_KND: Tensor) -> Tensor:
        # Split, not sliced: the gradients of slices would each be as long as the stream.
        queries, keys, values = (x.split(lengths, dim=1) for x in (q_AND, k_KND, v_KND))
        attended = []
        for (length, prompt), q, own_k, own_v in zip(segments, queries, keys, values, strict=True):
            if prompt is None:  # is_causal aligns queries with the first keys: right only where there are as many
                out = scaled_dot_product_attention(q[None], own_k[None], own_v[None], is_causal=True, enable_gqa=True)
            else:
                k, v = torch.cat([keys[prompt], own_k], dim=1), torch.cat([values[prompt], own_v], dim=1)
                out = scaled_dot_product_attention(q[None], k[None], v[None], masks[length, lengths[prompt]], enable_gqa=True)
            attended.append(out[0])
        return torch.cat(attended, dim=1)

    return attend


def _lower_right(length: int, seen: int, like: Tensor) -> Tensor:
    """An additive mask [length, seen + length]: all that is seen, and of the rest what stands before."""
    allowed = torch.ones(length, seen + length, dtype=torch.bool, device=like.device).tril(seen)
    return torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill(~allowed, float("-inf"))


# (q_NAD, k_MKD, v_MKD, query_starts, key_starts, longest_query, longest_key, causal) -> attended_NAD; causal from the last key backwards
_Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool], Tensor]


def _torch_varlen() -> _Kernel:
    from torch.nn.attention.varlen import varlen_attn

    shares_heads = "enable_gqa" in inspect.signature(varlen_attn).parameters  # torch 2.11 has it not

    def kernel(q_NAD: Tensor, k_MKD: Tensor, v_MKD: Tensor, *ragged: Any) -> Any:
        *lengths, causal = ragged
        options: dict[str, Any] = {"window_size": (-1, 0) if causal else (-1, -1)}
        if shares_heads:
            options["enable_gqa"] = True
        else:
            k_MKD, v_MKD = (x.repeat_interleave(q_NAD.shape[1] // x.shape[1], 1) for x in (k_MKD, v_MKD))
        return varlen_attn(q_NAD, k_MKD, v_MKD, *lengths, **options)

    return kernel


def _flash_attention_2() -> _Kernel:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    def kernel(q_NAD: Tensor, k_MKD: Tensor, v_MKD: Tensor, *ragged: Any) -> Any:
        *lengths, causal = ragged
        return flash_attn_varlen_func(q_NAD, k_MKD, v_MKD, *lengths, causal=causal)

    return kernel


_KERNELS = {Attention.varlen: _torch_varlen, Attention.flash_attention_2: _flash_attention_2}


def _varlen(kernel: _Kernel, segments: Sequence[Segment], device: torch.device) -> Attend:
    lengths = [segment.length for segment in segments]
    seen = [length + (0 if prompt is None else lengths[prompt]) for length, prompt in segments]
    starts_q, starts_k = (torch.tensor([0, *accumulate(x)], dtype=torch.int32, device=device) for x in (lengths, seen))
    longest_q, longest_k = max(lengths), max(seen)

    def all_seen(x_KND: Tensor) -> Tensor:
        # What a segment sees stands before it, in one sequence: a merge of two partial attentions could not be trained through.
        pieces = x_KND.split(lengths, dim=1)
        both = ((own,) if prompt is None else (pieces[prompt], own) for (_, prompt), own in zip(segments, pieces, strict=True))
        return torch.cat(list(chain.from_iterable(both)), dim=1).transpose(0, 1)

    def attend(_layer: int, q_AND: Tensor, k_KND: Tensor, v_KND: Tensor) -> Tensor:
        k_MKD, v_MKD = all_seen(k_KND), all_seen(v_KND)
        return kernel(q_AND.transpose(0, 1), k_MKD, v_MKD, starts_q, starts_k, longest_q, longest_k, True).transpose(0, 1)

    return attend
