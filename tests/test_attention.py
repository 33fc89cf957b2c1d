"""What kernels for ragged sequences are handed, on any machine. Run: .venv/bin/python -m pytest tests/test_attention.py

That the results are right with a kernel that does as it is told: tests/test_packed.py.
Axes: N rows of queries, M rows of keys, A query heads, K key-value heads, D values a head.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from families import ALLOWED, Family, build, ragged_batch
from torch import Tensor
from torch.nn.attention import varlen

from visual_rft.hardware import Attention
from visual_rft.miniature import build as build_miniature
from visual_rft.models import attention
from visual_rft.models.loading import save
from visual_rft.models.packing import Segment
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.models.processor import Processor

RAGGED = [Attention.varlen, Attention.flash_attention_2]
CLOSE = 1e-5
# A prompt with three completions, one alone, one with one.
SEGMENTS = [Segment(9), Segment(4, 0), Segment(1, 0), Segment(7, 0), Segment(5), Segment(3), Segment(6, 5)]


@dataclass(frozen=True)
class Call:
    """What a kernel was handed."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    starts_q: Tensor
    starts_k: Tensor
    longest_q: int
    longest_k: int
    causal: bool


def reference(calls: list[Call]) -> attention._Kernel:
    """A kernel by the definition alone, entry by entry of the mask, that writes down its calls and takes nothing but what the real ones take."""

    def kernel(
        q_NAD: Tensor, k_MKD: Tensor, v_MKD: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int, causal: bool
    ) -> Tensor:
        for starts, longest, rows in ((starts_q, longest_q, q_NAD), (starts_k, longest_k, k_MKD)):
            assert starts.dtype == torch.int32 and starts.ndim == 1 and starts.is_contiguous()
            assert starts[0] == 0 and (starts.diff() > 0).all() and starts[-1] == len(rows) and int(longest) == starts.diff().max()
        assert len(starts_q) == len(starts_k) and (starts_q.diff() <= starts_k.diff()).all()
        assert k_MKD.shape == v_MKD.shape and q_NAD.shape[2] == k_MKD.shape[2] and q_NAD.shape[1] % k_MKD.shape[1] == 0
        assert type(causal) is bool
        calls.append(Call(tuple(q_NAD.shape), tuple(k_MKD.shape), starts_q, starts_k, int(longest_q), int(longest_k), causal))
        heads = q_NAD.shape[1] // k_MKD.shape[1]
        pieces = []
        for i in range(len(starts_q) - 1):
            q_nAD = q_NAD[starts_q[i] : starts_q[i + 1]]
            k_mAD, v_mAD = (x[starts_k[i] : starts_k[i + 1]].repeat_interleave(heads, 1) for x in (k_MKD, v_MKD))
            scores_Anm = torch.einsum("nad,mad->anm", q_nAD, k_mAD) / q_nAD.shape[2] ** 0.5
            n, m = len(q_nAD), len(k_mAD)
            hidden_nm = torch.tensor([[causal and key > query + m - n for key in range(m)] for query in range(n)])
            pieces.append(torch.einsum("anm,mad->nad", scores_Anm.masked_fill(hidden_nm, float("-inf")).softmax(-1), v_mAD))
        return torch.cat(pieces)

    return kernel


def stream(segments: list[Segment], heads: int = 4, shared: int = 2, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [A, N, D] and keys and values [K, N, D] of a stream, with gradients."""
    generator, length = torch.Generator().manual_seed(0), sum(segment.length for segment in segments)
    q, k, v = (torch.randn(count, length, width, generator=generator).requires_grad_() for count in (heads, shared, shared))
    return q, k, v


@pytest.mark.parametrize("kernel", RAGGED)
def test_a_stream_is_attended_to_as_by_sdpa(kernel: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []
    monkeypatch.setitem(attention._KERNELS, kernel, lambda: reference(calls))
    q, k, v = stream(SEGMENTS)
    attended, gradients = [], []
    for one in (Attention.sdpa, kernel):
        out = attention.segment_attention(one, SEGMENTS, q)(0, q, k, v)
        attended.append(out)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        gradients.append(torch.autograd.grad((out * weights).sum(), (q, k, v)))
    torch.testing.assert_close(attended[1], attended[0], atol=CLOSE, rtol=0)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSE, rtol=0)
    (call,) = calls
    assert call.starts_q.diff().tolist() == [segment.length for segment in SEGMENTS]
    assert call.starts_k.diff().tolist() == [9, 9 + 4, 9 + 1, 9 + 7, 5, 3, 3 + 6]
    assert call.queries == (35, 4, 8) and call.keys == (65, 2, 8) and call.causal, "shared heads are not repeated for it"


def test_what_a_token_attends_to_is_its_own_past_and_its_prompt() -> None:
    """By the gradient of each row of the result: the sdpa path itself, without a kernel."""
    q, k, v = stream(SEGMENTS)
    out = attention.segment_attention(Attention.sdpa, SEGMENTS, q)(0, q, k, v)
    firsts = [sum(segment.length for segment in SEGMENTS[:i]) for i in range(len(SEGMENTS))]
    for segment, first in zip(SEGMENTS, firsts, strict=True):
        for n in range(first, first + segment.length):
            (grad_v,) = torch.autograd.grad(out[:, n].sum(), v, retain_graph=True)
            seen = set(grad_v.abs().sum((0, 2)).nonzero()[:, 0].tolist())
            prompt = range(0) if segment.prompt is None else range(firsts[segment.prompt], firsts[segment.prompt] + SEGMENTS[segment.prompt].length)
            assert seen == {*prompt, *range(first, n + 1)}


def scored(policy: Policy, seed: int) -> TokenScores:
    batch = ragged_batch(seed)
    prompts = [policy.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]
    return policy(prompts, policy.encode(batch.pixels), batch.completions_PG, 0.7)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("kernel", RAGGED)
def test_tower_and_layers_take_one_call_each_whatever_the_number_of_images_and_groups(
    kernel: Attention, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []
    monkeypatch.setitem(attention._KERNELS, kernel, lambda: reference(calls))
    ragged, plain = Policy(build(family), ALLOWED, kernel), Policy(build(family), ALLOWED)
    scores, expected = scored(ragged, 1), scored(plain, 1)
    vision, text = ragged.model.config.vision_config, ragged.model.config.get_text_config()
    assert [call.causal for call in calls] == [False] * vision.depth + [True] * text.num_hidden_layers
    assert all(torch.equal(call.starts_q, call.starts_k) for call in calls if not call.causal), "a patch sees its image"
    torch.testing.assert_close(scores.logprobs_BT, expected.logprobs_BT, atol=CLOSE, rtol=0)
    weights_BT = torch.randn(scores.logprobs_BT.shape, generator=torch.Generator().manual_seed(0))
    for result in (scores, expected):
        (result.logprobs_BT * weights_BT).sum().backward()
    for (name, a), b in zip(ragged.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        assert (a.grad - b.grad).abs().max() <= CLOSE * b.grad.abs().max(), name


@torch.no_grad()
def test_a_prompt_alone_is_read_as_by_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rollout begins with."""
    monkeypatch.setitem(attention._KERNELS, Attention.varlen, lambda: reference([]))
    batch, read = ragged_batch(0), []
    for kernel in (Attention.sdpa, Attention.varlen):
        policy, kept = Policy(build(Family.qwen2_vl), ALLOWED, kernel), []
        prompts = [policy.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]
        hidden_PH = policy.read(prompts, policy.encode(batch.pixels), lambda _, k, v, kept=kept: kept.extend([k, v]))
        read.append([hidden_PH, *kept])
    for a, b in zip(*read, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSE, rtol=0)


def test_a_folder_saved_from_such_a_policy_is_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(attention._KERNELS, Attention.varlen, lambda: reference([]))
    policy, processor = build_miniature(seed=0)
    save(Policy(policy.model, Processor(processor.tokenizer, processor.images).allowed_ids, Attention.varlen), processor, tmp_path / "model")
    assert "visual_rft" not in (tmp_path / "model/config.json").read_text()
    stock = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert stock.config.vision_config._attn_implementation == stock.config._attn_implementation == "sdpa"


# The two libraries


def handed(monkeypatch: pytest.MonkeyPatch, kernel: Attention, library: Callable[..., Any], *, causal: bool) -> dict[str, Any]:
    """What a library's function gets by name, given a stream of 3 and 5 rows."""
    if kernel is Attention.varlen:
        monkeypatch.setattr(varlen, "varlen_attn", library)
    else:
        module = ModuleType("flash_attn")
        module.flash_attn_varlen_func = library  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "flash_attn", module)
    q_NAD, k_MKD, starts = torch.zeros(8, 4, 2), torch.arange(32.0).reshape(8, 2, 2), torch.tensor([0, 3, 8], dtype=torch.int32)
    return dict(attention._KERNELS[kernel]()(q_NAD, k_MKD, k_MKD + 100, starts, starts, 5, 5, causal))  # type: ignore[call-overload]


def assert_rows(bound: dict[str, Any], names: tuple[str, ...], heads: int) -> None:
    q, k, v, starts_q, starts_k, longest_q, longest_k = (bound[name] for name in names)
    keys = torch.arange(32.0).reshape(8, 2, 2).repeat_interleave(heads // 2, 1)
    assert q.shape == (8, 4, 2) and torch.equal(k, keys) and torch.equal(v, keys + 100)
    assert starts_q.tolist() == starts_k.tolist() == [0, 3, 8] and (longest_q, longest_k) == (5, 5)


TORCH = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
FLASH = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")


@pytest.mark.parametrize("causal", [True, False])
def test_torchs_kernel_is_called_as_it_is_declared(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = signature(varlen.varlen_attn)

    def library(*arguments: Any, **options: Any) -> dict[str, Any]:
        return declared.bind(*arguments, **options).arguments

    library.__signature__ = declared  # type: ignore[attr-defined]
    bound = handed(monkeypatch, Attention.varlen, library, causal=causal)
    assert bound["window_size"] == ((-1, 0) if causal else (-1, -1))
    assert_rows(bound, TORCH, heads=2 if bound.get("enable_gqa") else 4)


def test_where_torchs_kernel_cannot_share_heads_they_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11."""

    def library(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *, window_size: tuple[int, int]
    ) -> dict[str, Any]:
        return locals()

    bound = handed(monkeypatch, Attention.varlen, library, causal=True)
    assert bound["window_size"] == (-1, 0)
    assert_rows(bound, TORCH, heads=4)


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_called_as_it_is_declared(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn 2's `flash_attn_varlen_func`, whose dropout stands right behind the lengths."""

    def library(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> dict[str, Any]:
        return locals()

    bound = handed(monkeypatch, Attention.flash_attention_2, library, causal=causal)
    assert (bound["dropout_p"], bound["softmax_scale"], bound["causal"], bound["window_size"]) == (0.0, None, causal, (-1, -1))
    assert_rows(bound, FLASH, heads=2)
