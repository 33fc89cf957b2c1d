"""Rollouts draw from the model and nothing else. Run: .venv/bin/python -m pytest tests/test_rollout.py

Axes: P prompts, G completions of one, B rows decoded together, S prompt tokens, T completion tokens, V vocabulary.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import ALLOWED, Family, RaggedBatch, build, ragged_batch
from padded import stock
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from visual_rft.inference import answer, ask, completions, prepare, sample_groups
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.rollout.engine import Decoding, Engine, Finish, Request, Sampled
from visual_rft.vocabulary import Completion, Example

CLOSE = 1e-5
NEAR = 1e-4  # of a boundary: where another order of the same sums may draw the neighbour

Untrained = tuple[Policy, Processor]


@pytest.fixture(scope="module")
def twin(untrained: Untrained) -> PreTrainedModel:
    """The same weights in Hugging Face's hands."""
    return stock(untrained[0].model)


@pytest.fixture
def asked(untrained: Untrained, ragged: list[Example]) -> Callable[..., list[Request]]:
    """The ragged questions with their images: requests for groups of this size, each completion with a stream of its own."""
    policy, processor = untrained
    prepared = ask(policy, prepare(processor, ragged))
    with torch.no_grad():
        features = policy.encode(prepared.pixels)

    def requests(group: int, caps: Sequence[int] = (), seed: int = 0) -> list[Request]:
        """`caps` are given to the completions in turn."""
        each = [[caps[(p * group + g) % len(caps)] for g in range(group)] if caps else None for p in range(len(prepared.prompts))]
        return [
            Request(prompt, [features[i] for i in prompt.images], [(seed, p, g) for g in range(group)], each[p])
            for p, prompt in enumerate(prepared.prompts)
        ]

    return requests


def words(untrained: Untrained, chance: random.Random, length: int, group: int, caps: tuple[int, int]) -> Request:
    """A question of random words alone, its completions with random seeds and random limits."""
    policy, processor = untrained
    tokens_S = torch.tensor([chance.choice(processor.allowed_ids) for _ in range(length)])
    prompt = policy.prompt(tokens_S, (), torch.empty(0, 3, dtype=torch.int64))
    return Request(prompt, [], [(chance.randrange(10**9), g) for g in range(group)], [chance.randint(*caps) for _ in range(group)])


def run(policy: Policy, decoding: Decoding, requests: Sequence[Request], *, rows: int, fixed: bool) -> list[Sampled]:
    """What the requests got, in their order."""
    engine = Engine(policy, decoding, group=len(requests[0].seeds_G), rows=rows, fixed=fixed)
    results = list(engine.run(iter(requests)))
    assert sorted(p for p, _ in results) == list(range(len(requests)))
    return [sampled for _, sampled in sorted(results, key=lambda result: result[0])]


def same(one: Sampled, other: Sampled) -> bool:
    """Bit for bit."""
    pairs = [*zip(one.tokens, other.tokens, strict=True), *zip(one.logprobs, other.logprobs, strict=True)]
    return one.reasons == other.reasons and all(torch.equal(a, b) for a, b in pairs)


def lies_at_a_boundary(probabilities_V: Tensor, uniform: float, tokens: tuple[int, int]) -> bool:
    """Whether the draw is near all that separates two tokens, so that it may fall on either side."""
    first, last = sorted(tokens)
    return bool(((probabilities_V.double().cumsum(0)[first:last] - uniform).abs() <= NEAR).all())


def distributions(policy: Policy, request: Request, tokens_T: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities [T, V] from which each token of a completion is drawn, its prompt read anew with all before it."""
    prompt = request.prompt
    rows = []
    for t in range(len(tokens_T)):
        positions_3T = (prompt.next_position + torch.arange(t)).expand(3, -1)
        longer = replace(
            prompt,
            tokens_S=torch.cat([prompt.tokens_S, tokens_T[:t]]),
            positions_3S=torch.cat([prompt.positions_3S, positions_3T], dim=1),
            images=tuple(range(len(request.features))),
        )
        rows.append(policy.logits(policy.read([longer], request.features, lambda *_: None), decoding.temperature)[0].softmax(-1))
    return torch.stack(rows)


def assert_alike(policy: Policy, request: Request, decoding: Decoding, one: Sampled, other: Sampled) -> None:
    """Logprobs within 1e-5 and the same tokens, up to a draw at a boundary."""
    for g, (a_T, b_T) in enumerate(zip(one.tokens, other.tokens, strict=True)):
        common = min(len(a_T), len(b_T))
        differ = torch.nonzero(a_T[:common] != b_T[:common])[:, 0].tolist()
        agree = differ[0] if differ else common
        torch.testing.assert_close(one.logprobs[g][:agree], other.logprobs[g][:agree], atol=CLOSE, rtol=0)
        if differ:
            uniform = np.random.default_rng(request.seeds_G[g]).random(decoding.max_tokens)[agree]
            probabilities_V = distributions(policy, request, a_T[: agree + 1], decoding)[agree]
            assert lies_at_a_boundary(probabilities_V, float(uniform), (int(a_T[agree]), int(b_T[agree])))
        else:
            assert len(a_T) == len(b_T)


def generated(model: PreTrainedModel, policy: Policy, tokens_S: Tensor, pixels: dict[str, Tensor], *, end: int, limit: int) -> list[int]:
    """What Hugging Face's own greedy search says to one prompt."""
    out = model.generate(
        input_ids=tokens_S[None],
        attention_mask=torch.ones_like(tokens_S)[None],
        mm_token_type_ids=(tokens_S == model.config.image_token_id).int()[None],
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=model.config.get_text_config().pad_token_id,
        suppress_tokens=policy.banned.tolist(),
        **pixels,
    )
    return out[0, len(tokens_S) :].tolist()


def an_end_that_comes(answers: Sequence[list[int]]) -> int:
    """A token that some answers hold midway."""
    return answers[0][next(t for t in range(2, len(answers[0])) if answers[0][t] not in answers[0][:t])]


@torch.no_grad()
@pytest.mark.parametrize(("rows", "fixed"), [(5, False), (2, False), (3, True)])
def test_greedy_agrees_with_generate_token_for_token(
    untrained: Untrained, twin: PreTrainedModel, ragged: list[Example], asked: Callable[..., list[Request]], rows: int, fixed: bool
) -> None:
    policy, processor = untrained

    def theirs(end: int) -> list[list[int]]:
        answers = []
        for example in ragged:
            pixels = processor.pixels([example.image])
            tokens_S = processor.prompt(example.question, pixels.grid_I3)
            given = {"pixel_values": pixels.patches_RD, "image_grid_thw": pixels.grid_I3}
            answers.append(generated(twin, policy, tokens_S, given, end=end, limit=24))
        return answers

    for end in (processor.end_id, an_end_that_comes(theirs(processor.end_id))):
        ours = run(policy, Decoding(24, end, greedy=True), asked(1), rows=rows, fixed=fixed)
        assert [sampled.tokens[0].tolist() for sampled in ours] == theirs(end)
        assert [sampled.reasons[0] for sampled in ours] == [Finish.END if s.tokens[0][-1] == end else Finish.LENGTH for s in ours]
    assert Finish.END in {sampled.reasons[0] for sampled in ours}


@torch.no_grad()
@pytest.mark.parametrize("family", list(Family))
def test_greedy_agrees_with_generate_on_every_family(family: Family) -> None:
    """With no, one, two and three images a prompt."""
    model = build(family)
    policy, oracle = Policy(deepcopy(model), ALLOWED), stock(model)
    batch = ragged_batch(0)
    features = policy.encode(batch.pixels)
    prompts = [policy.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]
    requests = [Request(prompt, [features[i] for i in prompt.images]) for prompt in prompts]

    def theirs(end: int) -> list[list[int]]:
        return [
            generated(oracle, policy, tokens, shown(batch, images), end=end, limit=12)
            for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)
        ]

    for end in (1, an_end_that_comes(theirs(1))):
        for rows, fixed in ((5, False), (2, True)):
            ours = run(policy, Decoding(12, end, greedy=True), requests, rows=rows, fixed=fixed)
            assert [sampled.tokens[0].tolist() for sampled in ours] == theirs(end)


def shown(batch: RaggedBatch, images: Sequence[int]) -> dict[str, Tensor]:
    if not images:
        return {}
    pixels = batch.pixels.of(images)
    return {"pixel_values": pixels.patches_RD, "image_grid_thw": pixels.grid_I3}


@torch.no_grad()
def test_a_completion_depends_on_its_own_seed_alone(untrained: Untrained, ragged: list[Example]) -> None:
    policy, processor = untrained

    def texts(examples: list[Example], group: int, seed: tuple[int, ...]) -> list[list[str]]:
        prepared = ask(policy, prepare(processor, examples))
        engine = Engine(policy, Decoding(12, processor.end_id), group=group, rows=20, fixed=False)
        groups = dict(sample_groups(engine, processor, prepared, policy.encode(prepared.pixels), range(len(examples)), seed))
        return [[completion.text for completion in groups[p]] for p in range(len(examples))]

    whole = texts(ragged, 4, (3, 5))
    assert whole == texts(ragged, 4, (3, 5))
    assert texts(ragged[:1], 2, (3, 5))[0] == whole[0][:2]
    assert len({text for group in whole for text in group}) == 20
    assert whole != texts(ragged, 4, (3, 6))


@torch.no_grad()
@pytest.mark.parametrize(("rows", "fixed"), [(15, False), (6, False), (6, True)])
def test_rollout_logprobs_are_the_trainers(untrained: Untrained, asked: Callable[..., list[Request]], rows: int, fixed: bool) -> None:
    policy, processor = untrained
    requests = asked(3, caps=[1, 10, 4, 17, 2])
    groups = run(policy, Decoding(17, processor.end_id, 1.3), requests, rows=rows, fixed=fixed)
    features = [feature for request in requests for feature in request.features]
    scores = policy([request.prompt for request in requests], features, [sampled.tokens for sampled in groups], 1.3)
    ours_C = torch.cat([logprobs_T for sampled in groups for logprobs_T in sampled.logprobs])
    torch.testing.assert_close(scores.logprobs_BT[scores.mask_BT], ours_C, atol=CLOSE, rtol=0)


@torch.no_grad()
def test_each_token_is_what_its_stream_draws_from_the_stock_models_distribution(
    untrained: Untrained, twin: PreTrainedModel, ragged: list[Example], asked: Callable[..., list[Request]]
) -> None:
    policy, processor = untrained
    requests, decoding = asked(2, caps=[9, 3, 6]), Decoding(9, processor.end_id, 0.7)
    for example, request, sampled in zip(ragged, requests, run(policy, decoding, requests, rows=4, fixed=False), strict=True):
        pixels = processor.pixels([example.image])
        for seed, tokens_T in zip(request.seeds_G, sampled.tokens, strict=True):
            ids_1S = torch.cat([request.prompt.tokens_S, tokens_T])[None]
            types_1S = (ids_1S == twin.config.image_token_id).int()
            out = twin(
                input_ids=ids_1S,
                attention_mask=torch.ones_like(ids_1S),
                mm_token_type_ids=types_1S,
                pixel_values=pixels.patches_RD,
                image_grid_thw=pixels.grid_I3,
            )
            logits_TV = out.logits[0, len(request.prompt.tokens_S) - 1 : -1].double().index_fill(-1, policy.banned, float("-inf"))
            cumulative_TV = (logits_TV / 0.7).softmax(-1).cumsum(-1)
            uniforms_T = torch.from_numpy(np.random.default_rng(seed).random(9))[: len(tokens_T)]
            until_T = cumulative_TV.gather(1, tokens_T[:, None])[:, 0]
            before_T = torch.nn.functional.pad(cumulative_TV, (1, 0)).gather(1, tokens_T[:, None])[:, 0]
            assert (before_T - NEAR <= uniforms_T).all() and (uniforms_T <= until_T + NEAR).all()


@torch.no_grad()
@pytest.mark.parametrize("fixed", [True, False])
def test_a_completion_ends_with_the_end_token_or_at_its_limit(untrained: Untrained, asked: Callable[..., list[Request]], fixed: bool) -> None:
    policy, _ = untrained
    endless = run(policy, Decoding(10, -1), asked(4), rows=20, fixed=fixed)
    end, caps = int(endless[0].tokens[0][4]), [10, 1, 7, 3, 10]
    requests = asked(4, caps=caps)
    reasons = set()
    for request, long, stopped in zip(requests, endless, run(policy, Decoding(10, end), requests, rows=20, fixed=fixed), strict=True):
        for g, cap in enumerate(request.max_tokens_G or []):
            before = long.tokens[g].tolist()
            expected = before[: min(cap, before.index(end) + 1 if end in before else cap)]
            assert stopped.tokens[g].tolist() == expected
            assert len(stopped.logprobs[g]) == len(expected)
            assert stopped.reasons[g] is (Finish.END if end in expected else Finish.LENGTH)
        reasons |= set(stopped.reasons)
    assert reasons == {Finish.END, Finish.LENGTH}


@torch.no_grad()
def test_answers_do_not_depend_on_how_many_are_asked_together(untrained: Untrained, ragged: list[Example]) -> None:
    policy, processor = untrained
    one, three = ({p: c.text for p, c in answer(policy, processor, ragged, max_tokens=6, together=together, workers=0)} for together in (1, 3))
    assert one == three and sorted(one) == list(range(5))
    assert len(set(one.values())) > 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("group", "rows", "lengths", "others", "trials"),
    [
        pytest.param(2, 8, (20, 200), (20, 200), 6, id="groups"),
        pytest.param(4, 16, (20, 200), (20, 200), 3, id="wide", marks=pytest.mark.slow),
        pytest.param(1, 4, (20, 200), (200, 700), 2, id="singles-beside-long-ones", marks=pytest.mark.slow),
        pytest.param(2, 4, (150, 400), (20, 700), 2, id="long", marks=pytest.mark.slow),
    ],
)
def test_samples_are_bit_identical_whatever_else_is_in_the_batch(
    untrained: Untrained, group: int, rows: int, lengths: tuple[int, int], others: tuple[int, int], trials: int
) -> None:
    """At an equal slot count: other neighbours with other lengths, seeds and limits, before it and after it, few of them and more than fit."""
    policy, processor = untrained
    decoding, fit = Decoding(70, processor.end_id), rows // group
    for trial in range(trials):
        chance = random.Random(trial)
        limit = 24 if trial else 70
        mine = words(untrained, chance, chance.randint(*lengths), group, (limit // 2, limit))

        def sampled(before: int, after: int, among: tuple[int, int], mine: Request = mine, chance: random.Random = chance) -> Sampled:
            some, more = ([words(untrained, chance, chance.randint(*among), group, (1, 30)) for _ in range(n)] for n in (before, after))
            return run(policy, decoding, [*some, mine, *more], rows=rows, fixed=True)[before]

        reference = sampled(0, fit - 1, lengths)
        for before, after, among in ((0, 0, lengths), (fit - 1, 0, lengths), (chance.randint(1, 2 * fit), chance.randint(0, fit), others)):
            assert same(sampled(before, after, among), reference), (trial, before, after)


@torch.no_grad()
def test_images_beside_others_change_no_bit(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    policy, processor = untrained
    requests, decoding = asked(2, caps=[12, 7, 9]), Decoding(12, processor.end_id)
    forwards = run(policy, decoding, requests, rows=4, fixed=True)
    backwards = run(policy, decoding, requests[::-1], rows=4, fixed=True)[::-1]
    alone = [run(policy, decoding, [request], rows=4, fixed=True)[0] for request in requests]
    assert all(same(a, b) and same(a, c) for a, b, c in zip(forwards, backwards, alone, strict=True))


@torch.no_grad()
def test_other_rows_and_compaction_change_a_sample_only_at_a_boundary(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    policy, processor = untrained
    chance = random.Random(0)
    questions = [words(untrained, chance, chance.randint(20, 200), 4, (1, 24)) for _ in range(5)]
    for requests in (questions, asked(4, caps=[1, 20, 3, 8, 24])):
        decoding = Decoding(24, processor.end_id)
        reference = run(policy, decoding, requests, rows=20, fixed=True)
        for rows, fixed in ((20, False), (8, False), (12, True), (4, True)):
            for request, one, other in zip(requests, reference, run(policy, decoding, requests, rows=rows, fixed=fixed), strict=True):
                assert_alike(policy, request, decoding, one, other)


def test_what_lies_at_a_boundary() -> None:
    probabilities_V = torch.tensor([0.25, 0.5, 0.00001, 0.24999])
    assert lies_at_a_boundary(probabilities_V, 0.25005, (0, 1))
    assert lies_at_a_boundary(probabilities_V, 0.75005, (1, 3))
    assert not lies_at_a_boundary(probabilities_V, 0.2502, (0, 1))
    assert not lies_at_a_boundary(probabilities_V, 0.25, (0, 3))


@torch.no_grad()
def test_whoever_ends_at_once_takes_nothing_from_the_others(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    policy, processor = untrained
    decoding = Decoding(8, processor.end_id)
    for caps in ([1, 8, 8, 8, 8], [8, 8, 1, 8, 1], [1]):
        requests = asked(1, caps=caps)
        together = run(policy, decoding, requests, rows=5, fixed=False)
        for request, one in zip(requests, together, strict=True):
            assert_alike(policy, request, decoding, one, run(policy, decoding, [request], rows=1, fixed=False)[0])


@torch.no_grad()
@pytest.mark.parametrize("fixed", [True, False])
def test_each_prompt_is_read_once_and_rows_that_are_done_cost_little(
    untrained: Untrained, asked: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    policy, _ = untrained
    read, spoken = [], []
    reads, speaks = policy.read, policy.speak
    monkeypatch.setattr(policy, "read", lambda prompts, *rest: (read.extend(prompts), reads(prompts, *rest))[1])
    monkeypatch.setattr(policy, "speak", lambda tokens_B, *rest: (spoken.append(len(tokens_B)), speaks(tokens_B, *rest))[1])
    caps = [2, 3, 2, 30, 4, 2]
    requests = asked(6, caps=caps)
    run(policy, Decoding(30, -1), requests, rows=12, fixed=fixed)
    assert sorted(len(prompt.tokens_S) for prompt in read) == sorted(len(request.prompt.tokens_S) for request in requests)
    if fixed:
        assert set(spoken) == {12}
    else:
        assert max(spoken) <= 12 and sum(spoken) < 0.5 * 30 * 29  # all rows, as long as the longest
        assert len(spoken) < 1.5 * 29 * 30 / 12


@torch.no_grad()
def test_a_banned_token_is_never_sampled(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    """At a temperature that makes all tokens alike, and where the model wants nothing else."""
    policy, processor = untrained
    longing = Policy(deepcopy(policy.model), processor.allowed_ids)
    image = longing.model.config.image_token_id
    banned = set(policy.banned.tolist())
    assert image in banned
    longing.model.get_output_embeddings().weight[image] *= 1000
    for speaker, decoding in ((policy, Decoding(30, -1, 1e4)), (longing, Decoding(6, -1)), (longing, Decoding(6, -1, greedy=True))):
        group = 1 if decoding.greedy else 8
        for sampled in run(speaker, decoding, asked(group), rows=40, fixed=False):
            for tokens_T, logprobs_T in zip(sampled.tokens, sampled.logprobs, strict=True):
                assert not banned & set(tokens_T.tolist())
                assert torch.isfinite(logprobs_T).all()


@torch.no_grad()
@pytest.mark.parametrize("fixed", [True, False])
def test_runs_of_one_engine_are_equal_and_an_abandoned_one_leaves_it_usable(
    untrained: Untrained, asked: Callable[..., list[Request]], fixed: bool
) -> None:
    policy, processor = untrained
    requests = asked(2, caps=[9, 3])
    engine = Engine(policy, Decoding(9, processor.end_id), group=2, rows=4, fixed=fixed)
    first = dict(engine.run(requests))
    abandoned = engine.run(requests[::-1])
    next(abandoned)
    abandoned.close()
    second = dict(engine.run(requests))
    assert all(same(first[p], second[p]) for p in range(len(requests)))


def test_no_gradient_is_kept(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    policy, processor = untrained
    engine = Engine(policy, Decoding(3, processor.end_id), group=2, rows=4, fixed=False)
    for _, sampled in engine.run(asked(2)):
        assert torch.is_grad_enabled()
        assert not any(logprobs_T.requires_grad for logprobs_T in sampled.logprobs)
    assert not any(layer.keys.requires_grad or layer.prompt_keys.requires_grad for layer in engine.slots.layers)


def test_completions_carry_their_text_and_whether_they_finished(untrained: Untrained) -> None:
    _, processor = untrained
    said = processor.encode("No Objects")
    sampled = Sampled([said, said[:-1]], [torch.zeros(len(said)), torch.zeros(len(said) - 1)], [Finish.END, Finish.LENGTH])
    finished, cut = completions(processor, sampled)
    assert isinstance(finished, Completion) and finished.text == cut.text == "No Objects"
    assert finished.finished and not cut.finished


class Asked(TorchFunctionMode):
    """Counts the calls in which the host would wait for a device."""

    names = frozenset({"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero", "__contains__"})

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        name = getattr(func, "__name__", "")
        if name in self.names:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts the operations whose result's shape, or value, the host needs."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "is_nonzero", "equal", "repeat_interleave.Tensor")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index.") and any(isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1])  # type: ignore[index]
        if name.startswith(self.names) or by_mask:
            self.calls.append(name)
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


@torch.no_grad()
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_the_host_waits_once_a_decoded_token_at_most(untrained: Untrained, asked: Callable[..., list[Request]], fixed: bool, greedy: bool) -> None:
    """Two lengths are compared: what reading the prompts costs is in both."""
    policy, _ = untrained

    def waits(length: int) -> int:
        engine = Engine(policy, Decoding(64, -1, top_p=0.9, greedy=greedy), group=1, rows=5, fixed=fixed)
        requests = iter(asked(1, caps=[length]))
        with Asked() as by_name, Waits() as by_operation:
            assert len(list(engine.run(requests))) == 5
        return max(len(by_name.calls), len(by_operation.calls))

    assert 0 < waits(25) - waits(5) <= 20


@torch.no_grad()
def test_the_counter_of_waits_counts() -> None:
    x = torch.arange(3.0)
    with Asked() as by_name, Waits() as by_operation:
        _ = x.tolist(), x[0].item(), bool(x[0] > 1), x[x > 1]
    assert len(by_name.calls) == 3 and len(by_operation.calls) >= 1


def test_requests_may_come_from_a_generator_that_reads_images_late(untrained: Untrained, asked: Callable[..., list[Request]]) -> None:
    policy, processor = untrained
    taken: list[int] = []

    def late() -> Iterator[Request]:
        for p, request in enumerate(asked(1, caps=[2])):
            taken.append(p)
            yield request

    first = next(iter(Engine(policy, Decoding(2, processor.end_id), group=1, rows=1, fixed=False).run(late())))
    assert first[0] == 0 and len(taken) <= 2
