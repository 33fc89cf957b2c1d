"""No row takes another's place: the engine on a stand-in for a model. Run: .venv/bin/python -m pytest tests/test_slots.py

The stand-in has one layer, whose keys and values tell every token and its position apart: whatever a row reads that is not its own shows in its
logits.
Axes: R requests, G completions of one, B rows decoded together, P prompts, S prompt tokens, N tokens of several prompts, T completion tokens,
A query heads, K key-value heads, D values a head, V vocabulary.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visual_rft.rollout.engine import Decoding, Engine, Finish, Request, Sampled
from visual_rft.rollout.graphs import Replays
from visual_rft.vocabulary import Prompt

VOCABULARY, BANNED, END = 11, 5, 3
HEADS, GROUPED, WIDTH = 2, 3, 8  # K, A / K, D
POSITIONS = 1000
NEAR = 1e-4

_CHANCE = torch.Generator().manual_seed(0)


def _table(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_CHANCE, dtype=torch.float64)


@dataclass
class StandIn:
    """Speaks like a policy, remembers what it was asked to compute."""

    read_prompts: list[tuple[int, ...]] = field(default_factory=list)
    spoken: list[tuple[torch.Size, torch.Size]] = field(default_factory=list)

    keys, values = _table(VOCABULARY + POSITIONS, HEADS, WIDTH), _table(VOCABULARY + POSITIONS, HEADS, WIDTH)
    queries = _table(VOCABULARY, HEADS * GROUPED, WIDTH)
    head = _table(VOCABULARY, HEADS * GROUPED * WIDTH)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def read(self, prompts: Sequence[Prompt], features: Sequence[Tensor], remember: Callable[[int, Tensor, Tensor], None]) -> Tensor:
        self.read_prompts += [tuple(prompt.tokens_S.tolist()) for prompt in prompts]
        parts = [self.heads(p.tokens_S, p.positions_3S[0], self.shift([features[i] for i in p.images])) for p in prompts]
        remember(0, *(torch.cat(x, dim=1) for x in list(zip(*parts, strict=True))[1:]))
        return torch.cat([self.attended(*qkv)[:, -1].flatten()[None] for qkv in parts])

    def speak(self, tokens_B: Tensor, positions_B: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        self.spoken.append((tokens_B.shape, positions_B.shape))
        return attend(0, *self.heads(tokens_B, positions_B, self.shift([]))).transpose(0, 1).flatten(1)

    def logits(self, hidden_H: Tensor, temperature: float) -> Tensor:
        return (hidden_H @ self.head.T * 0.7 / temperature).index_fill_(-1, torch.tensor([BANNED]), float("-inf"))

    def heads(self, tokens_N: Tensor, positions_N: Tensor, shift_KD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q_AND, k_KND and v_KND."""
        k, v = (table[tokens_N] + table[VOCABULARY + positions_N] for table in (self.keys, self.values))
        return self.queries[tokens_N].transpose(0, 1), k.transpose(0, 1), (v + shift_KD).transpose(0, 1)

    def shift(self, features: Sequence[Tensor]) -> Tensor:
        """What a prompt's images, in their order, add to its values: [K, D]."""
        return sum((i * feature for i, feature in enumerate(features, start=1)), torch.zeros(HEADS, WIDTH, dtype=torch.float64))

    def attended(self, q_AND: Tensor, k_KND: Tensor, v_KND: Tensor) -> Tensor:
        """Causal, in the plainest way."""
        k, v = k_KND.repeat_interleave(GROUPED, 0), v_KND.repeat_interleave(GROUPED, 0)
        scores = q_AND @ k.transpose(1, 2) * WIDTH**-0.5
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v

    def alone(self, request: Request, tokens_T: Tensor, temperature: float) -> Tensor:
        """logprobs_TV from which each token of a completion is drawn, the whole sequence computed by itself."""
        prompt = request.prompt
        positions = torch.cat([prompt.positions_3S[0], prompt.next_position + torch.arange(len(tokens_T))])
        q, k, v = self.heads(torch.cat([prompt.tokens_S, tokens_T]), positions, self.shift([]))
        v[:, : len(prompt.tokens_S)] += self.shift(request.features)[:, None]
        hidden = self.attended(q, k, v).transpose(0, 1).flatten(1)[len(prompt.tokens_S) - 1 : -1]
        return self.logits(hidden, temperature).log_softmax(-1)


def request(number: int, length: int, group: int, caps: Sequence[int] | None = None, *, seed: int = 0, image: bool = False) -> Request:
    """A prompt of random tokens whose positions have gaps, as those of images have, with a stream of its own for each completion."""
    rng = np.random.default_rng([seed, number])
    tokens_S = torch.from_numpy(rng.integers(0, VOCABULARY, length))
    positions_S = torch.from_numpy(rng.integers(0, 3, length).cumsum())
    features = [torch.from_numpy(rng.normal(size=(HEADS, WIDTH))) for _ in range(2)] if image else []
    # the engine numbers the images of what it reads together anew
    prompt = Prompt(tokens_S, positions_S.expand(3, -1), tuple(range(40, 40 + len(features))))
    return Request(prompt, features, [(seed, number, g) for g in range(group)], caps)


def check(speaker: StandIn, decoding: Decoding, asked: Request, sampled: Sampled) -> None:
    """Every token is what its own stream draws from the distribution that the sequence has alone; it ends where it must."""
    caps = asked.max_tokens_G or [decoding.max_tokens] * len(asked.seeds_G)
    for cap, seed, tokens_T, logprobs_T, reason in zip(caps, asked.seeds_G, sampled.tokens, sampled.logprobs, sampled.reasons, strict=True):
        ended = tokens_T[-1] == decoding.end_id
        assert decoding.end_id not in tokens_T[:-1] and (ended or len(tokens_T) == cap) and 1 <= len(tokens_T) <= cap
        assert reason is (Finish.END if ended else Finish.LENGTH)
        alone_TV = speaker.alone(asked, tokens_T, decoding.temperature)
        mine_T = alone_TV.gather(1, tokens_T[:, None])[:, 0]
        torch.testing.assert_close(logprobs_T.double(), mine_T, atol=1e-5, rtol=0)
        if decoding.greedy:
            assert (alone_TV.amax(-1) - mine_T).max() < 1e-5
        else:
            until_T = alone_TV.exp().cumsum(-1).gather(1, tokens_T[:, None])[:, 0]
            uniforms_T = torch.from_numpy(np.random.default_rng(seed).random(decoding.max_tokens))[: len(tokens_T)]
            assert (uniforms_T <= until_T + NEAR).all() and (uniforms_T >= until_T - mine_T.exp() - NEAR).all()


@st.composite
def workloads(draw: st.DrawFn) -> tuple[list[Request], int]:
    """Up to nine requests of equal group size."""
    group = draw(st.integers(1, 4))
    lengths = st.sampled_from([1, 2, 5, 40, 63, 64, 65, 130])
    caps = st.none() | st.lists(st.integers(1, 12), min_size=group, max_size=group)
    seed = draw(st.integers(0, 10**6))
    count = draw(st.integers(0, 9))
    requests = [request(i, draw(lengths), group, draw(caps), seed=seed, image=draw(st.booleans())) for i in range(count)]
    return requests, group


@settings(max_examples=120, deadline=None)
@given(workloads(), st.integers(1, 14), st.booleans(), st.sampled_from([END, -1]), st.booleans())
def test_every_request_is_read_once_and_answered_once_as_if_alone(
    workload: tuple[list[Request], int], rows: int, fixed: bool, end_id: int, greedy: bool
) -> None:
    requests, group = workload
    speaker, decoding = StandIn(), Decoding(12, end_id, temperature=1.3, greedy=greedy)
    engine = Engine(speaker, decoding, group=group, rows=rows, fixed=fixed)
    for _ in range(2):  # the second run finds the buffers full of the first
        speaker.read_prompts.clear()
        results = list(engine.run(iter(requests)))
        assert sorted(number for number, _ in results) == list(range(len(requests)))
        for number, sampled in results:
            check(speaker, decoding, requests[number], sampled)
        assert sorted(speaker.read_prompts) == sorted(tuple(r.prompt.tokens_S.tolist()) for r in requests)
    assert all(b <= max(rows, group) for (b,), _ in speaker.spoken)


def test_whoever_ends_with_the_first_token_takes_nothing_from_the_others() -> None:
    """Rows move before any prompt was looked at: the buffers must move whole."""
    for group, rows in ((1, 4), (2, 8)):
        for length in (20, 100):
            requests = [request(i, length + i, group, [1 if i == 0 else 9] * group) for i in range(5)]
            speaker, decoding = StandIn(), Decoding(9, -1)
            for number, sampled in Engine(speaker, decoding, group=group, rows=rows, fixed=False).run(requests):
                check(speaker, decoding, requests[number], sampled)


@pytest.mark.parametrize("long_first", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_wider_prompt_or_a_longer_completion_that_comes_later_disturbs_nobody(fixed: bool, long_first: bool) -> None:
    lengths = [(10, 3), (12, 150), (90, 70), (300, 5), (20, 150), (63, 64), (64, 65), (65, 1), (129, 100)]
    lengths = sorted(lengths, reverse=long_first)
    requests = [request(i, length, 2, [cap, max(1, cap - 3)]) for i, (length, cap) in enumerate(lengths)]
    speaker, decoding = StandIn(), Decoding(150, -1)
    results = dict(Engine(speaker, decoding, group=2, rows=6, fixed=fixed).run(requests))
    assert len(results) == len(requests)
    for number, sampled in results.items():
        check(speaker, decoding, requests[number], sampled)


def test_rows_that_are_done_are_left_out() -> None:
    caps = [2, 3, 4, 5, 6, 7, 8, 40] * 4
    speaker = StandIn()
    list(Engine(speaker, Decoding(40, -1), group=4, rows=32, fixed=False).run(request(i, 30, 4, caps[4 * i : 4 * i + 4]) for i in range(8)))
    computed = [b for (b,), _ in speaker.spoken]
    assert len(computed) == 39
    for step, b in enumerate(computed):
        live = sum(cap > step + 1 for cap in caps)
        assert live <= b and 10 * live > 9 * b  # fewer than a tenth are done
    assert sum(computed) < 0.3 * 32 * 39


@pytest.mark.parametrize("fixed", [True, False])
def test_room_is_filled_before_the_longest_is_done(fixed: bool) -> None:
    caps = [33, 2, 2, 2] * 6
    speaker = StandIn()
    results = list(Engine(speaker, Decoding(33, -1), group=1, rows=4, fixed=fixed).run(request(i, 30, 1, [cap]) for i, cap in enumerate(caps)))
    assert len(results) == len(caps)
    batches = 6 * 32  # each four waiting for their longest
    assert len(speaker.spoken) < 0.5 * batches
    if not fixed:
        assert sum(b for (b,), _ in speaker.spoken) < 0.35 * 4 * batches


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("groups", [1, 7, 16, 17, 40])
def test_what_fits_is_decoded_together(groups: int, fixed: bool) -> None:
    speaker = StandIn()
    list(Engine(speaker, Decoding(5, -1), group=2, rows=2 * groups, fixed=fixed).run(request(i, 10, 2) for i in range(groups)))
    assert [b for (b,), _ in speaker.spoken] == [2 * groups] * 4


def test_requests_are_taken_as_they_are_needed() -> None:
    """Thousands of images are asked about through the same engine: they are not in memory together."""
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for i in range(40):
            taken += 1
            yield request(i, 10, 1, [3])

    done = 0
    for _ in Engine(StandIn(), Decoding(3, -1), group=1, rows=4, fixed=False).run(requests()):
        done += 1
        assert taken <= done + 2 * 4
    assert done == taken == 40


@pytest.mark.parametrize("fixed", [True, False])
def test_runs_of_one_engine_are_equal_and_an_abandoned_one_leaves_it_usable(fixed: bool) -> None:
    requests = [request(i, 20 + 9 * i, 2) for i in range(7)]
    engine = Engine(StandIn(), Decoding(10, END), group=2, rows=4, fixed=fixed)
    whole = dict(engine.run(requests))
    for taken in (1, 3):
        abandoned = engine.run(requests[::-1])
        for _ in range(taken):
            next(abandoned)
        abandoned.close()
        again = dict(engine.run(requests))
        assert again.keys() == whole.keys()
        for number, sampled in whole.items():
            assert [t.tolist() for t in again[number].tokens] == [t.tolist() for t in sampled.tokens]
            assert all(torch.equal(a, b) for a, b in zip(again[number].logprobs, sampled.logprobs, strict=True))


def pointers(engine: Engine) -> list[int]:
    slots = engine.slots
    buffers = [getattr(layer, name) for layer in slots.layers for name in ("prompt_keys", "prompt_values", "keys", "values")]
    return [tensor.data_ptr() for tensor in (*slots.state, *buffers, slots.prompt_lengths_Q, slots.rows_QR, slots.cell_B)]


def test_a_fixed_step_has_the_same_shapes_and_buffers_for_ever() -> None:
    """What a CUDA graph needs: it replays on the addresses that it was captured with."""
    requests = [request(i, 100 - 10 * i, 2, [1 + i, 12]) for i in range(7)]
    speaker = StandIn()
    engine = Engine(speaker, Decoding(12, END), group=2, rows=6, fixed=True)
    seen = []
    for _ in range(2):
        for _ in engine.run(requests):
            seen.append(pointers(engine))
    assert len(seen) == 14 and all(each == seen[0] for each in seen)
    assert set(speaker.spoken) == {((6,), (6,))}


class Cuda:
    """Records what is asked of torch.cuda. A graph holds the step it was captured from and runs it into the result of the capture."""

    def __init__(self, step: Callable[[], Tensor]) -> None:
        self.step, self.calls, self.warm = step, [], 0

    def counted(self) -> Tensor:
        self.calls.append("step")
        return self.step()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Stream:
            def wait_stream(self, other: "Stream") -> None:
                cuda.calls.append("wait")

        class Graph:
            result: Tensor

            def replay(self) -> None:
                cuda.calls.append("replay")
                self.result.copy_(cuda.step())

        @contextmanager
        def capture(graph: Graph, pool: object) -> Iterator[None]:
            cuda.calls.append("capture")
            yield
            cuda.calls.append("captured")

        @contextmanager
        def stream(_: Stream) -> Iterator[None]:
            yield

        fakes = {"Stream": Stream, "CUDAGraph": Graph, "graph": capture, "stream": stream, "current_stream": Stream, "graph_pool_handle": object}
        for name, value in fakes.items():
            monkeypatch.setattr(torch.cuda, name, value)


def replaying(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[Replays, Cuda]:
    """The engine's step as CUDA would run it."""
    cuda = Cuda(engine._advance)
    cuda.patch(monkeypatch)
    replays = Replays(engine.slots.state, engine.slots.shape)
    capture = replays._capture

    def remembered(step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        assert step == engine._advance
        graph, result = capture(cuda.counted)
        graph.result = result
        return graph, result

    replays._capture = remembered
    engine.replays = replays
    return replays, cuda


def test_replayed_steps_give_what_computed_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(i, length, 2, [70 + i, 5 + i]) for i, length in enumerate([30, 70, 20, 140, 10, 63, 64])]
    decoding = Decoding(80, -1)
    plain = dict(Engine(StandIn(), decoding, group=2, rows=4, fixed=True).run(requests))
    engine = Engine(StandIn(), decoding, group=2, rows=4, fixed=True)
    replays, cuda = replaying(engine, monkeypatch)
    results = dict(engine.run(requests))
    assert results.keys() == plain.keys()
    for number, sampled in results.items():
        assert [t.tolist() for t in sampled.tokens] == [t.tolist() for t in plain[number].tokens]
        check(StandIn(), decoding, requests[number], sampled)
    captures = cuda.calls.count("capture")
    assert captures == len(replays.graphs) > 2
    assert cuda.calls.count("step") == 4 * captures  # three to warm up, one captured
    first = cuda.calls.index("capture")
    assert cuda.calls[: first + 3] == ["wait", "step", "step", "step", "wait", "capture", "step", "captured"][: first + 3]
    list(engine.run(requests))
    assert cuda.calls.count("capture") <= captures + 3  # widths it had not seen while the buffers were narrower
    settled = len(replays.graphs)
    list(engine.run(requests))
    assert len(replays.graphs) == settled


def test_an_engine_that_is_let_go_leaves_nothing_to_the_collector() -> None:
    """Its buffers are gigabytes on a GPU: no cycle may hold them."""
    engine = Engine(StandIn(), Decoding(3, -1), group=1, rows=2, fixed=True)
    list(engine.run([request(0, 5, 1)]))
    gone = weakref.ref(engine.slots)
    gc.disable()
    try:
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_prompts_are_read_a_few_at_a_time() -> None:
    """What a prompt needs while it is read is far more than what stays of it."""
    speaker = StandIn()
    together: list[int] = []
    read = speaker.read
    speaker.read = lambda prompts, *rest: together.append(len(prompts)) or read(prompts, *rest)
    assert len(list(Engine(speaker, Decoding(2, -1), group=1, rows=50, fixed=False).run([request(i, 3, 1) for i in range(50)]))) == 50
    assert max(together) == 16 and sum(together) == 50


def test_a_capture_leaves_the_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    state = [torch.arange(3.0), torch.ones(2)]
    width = [1]

    def step() -> Tensor:
        state[0].add_(1)
        state[1].mul_(2)
        return state[0].clone()

    cuda = Cuda(step)
    cuda.patch(monkeypatch)
    replays = Replays(state, lambda: tuple(width))
    _, result = replays._capture(step)
    assert state[0].tolist() == [0, 1, 2] and state[1].tolist() == [1, 1]
    assert result.tolist() == [4, 5, 6]
    assert not replays.graphs


def test_rows_are_at_least_one_group() -> None:
    speaker = StandIn()
    requests = [replace(request(i, 10, 3), max_tokens_G=None) for i in range(2)]
    assert len(list(Engine(speaker, Decoding(4, -1), group=3, rows=1, fixed=False).run(requests))) == 2
    assert {b for (b,), _ in speaker.spoken} == {3}
