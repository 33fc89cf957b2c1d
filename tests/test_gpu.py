"""What only a GPU can show, and the benchmark that is for one.

    .venv/bin/python -m pytest tests/test_gpu.py             what needs none: the benchmark's arithmetic, and its code at a tiny size
    .venv/bin/python -m pytest -m gpu tests/test_gpu.py      on a machine with CUDA

Where a package is missing that only other tests want, add --noconftest: nothing here needs what tests/conftest.py offers.
Axes: P prompts, G completions of one, B completions of all, T their tokens, C the tokens of all completions one after the other.
"""

import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _gpu
import gpu_step
from families import ALLOWED, IMAGE, VIDEO, VISION_END, VISION_START, VOCABULARY, RaggedBatch, ragged_batch

from visual_rft.algorithm import AlgorithmOptions
from visual_rft.frames import Contract
from visual_rft.hardware import Attention, HardwareOptions, Precision, prepare
from visual_rft.images import StoredImage
from visual_rft.models.loading import ModelOptions, Part, load
from visual_rft.models.policy import Policy
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Engine, Request, Sampled
from visual_rft.rollout.graphs import Replays
from visual_rft.tasks.task import Task
from visual_rft.trainer import Trainer
from visual_rft.vocabulary import ClassTruth, Example, Prompt, Reward

DEVICE = torch.device("cuda")
SPECIAL = (VISION_START, VISION_END, IMAGE, VIDEO)
SMALL = replace(_gpu.TINY, vocabulary=VOCABULARY, special=SPECIAL, speakable=ALLOWED.stop, layers=3)  # for the batches of families
NEVER = -1  # no token: completions end by their lengths alone


def needs_gpu(test: object) -> object:
    """Deselected unless asked for, and skipped where there is no GPU. Torch says in warnings what has no deterministic kernel."""
    for mark in (
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        pytest.mark.filterwarnings("ignore:.*determini:UserWarning"),
    ):
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Torch's settings are the process's, and `prepare` changes them."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


# --- without a GPU ---


@pytest.mark.parametrize("options", [["--peer", "--peer-rows", "4"], ["--train-tower", "--tokens-per-micro-batch", "30"]])
def test_the_benchmark_runs_at_a_tiny_size_on_a_cpu(options: list[str], tmp_path: Path) -> None:
    written = tmp_path / "step.json"
    found = gpu_step.main(["--tiny", "--device", "cpu", "--steps", "1", "--json", str(written), *options])
    assert json.loads(written.read_text()) == found
    assert {"ratio", "ours", "peer", "machine"} <= found.keys()
    assert (found["ratio"] is not None) == (found["peer"] is not None) == ("--peer" in options)
    for variant in found["variants"].values():
        stages = {name: seconds["median"] for name, seconds in variant["stages"].items()}
        parts = sum(stages[name] for name in ("encode", "prefill", "decode", "reference", "forward and backward", "optimizer"))
        assert 0 < parts <= stages["step"]
        assert variant["logprob_gap"] < 1e-5
        assert variant["floors"].keys() <= stages.keys() == variant["stages"].keys()


def test_the_benchmark_refuses_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no GPU"):
        gpu_step.main(["--tiny"])


def test_the_model_of_the_benchmark_is_the_published_one() -> None:
    """Qwen2-VL-2B's index says 4,417,971,200 bytes of bfloat16."""
    model = _gpu.model(_gpu.QWEN2_VL_2B, torch.device("meta"), torch.bfloat16)
    assert sum(parameter.nbytes for parameter in model.parameters()) == 4_417_971_200
    assert {buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name} == {torch.float32}
    weights = sum(p.numel() for p in model.model.language_model.layers.parameters() if p.ndim > 1)
    assert weights == _gpu.Work(_gpu.QWEN2_VL_2B).layer_weights
    assert _gpu.QWEN2_VL_2B.prompt_tokens == 1000 and _gpu.QWEN2_VL_2B.rows == 128


@pytest.mark.parametrize("train_tower", [False, True])
def test_the_work_of_a_stage_is_what_torch_counts(train_tower: bool) -> None:
    """Torch counts a masked pair like any other, and 5.17's rotary positions as a product: a hundredth is left for it."""
    size, work = _gpu.TINY, _gpu.Work(_gpu.TINY, masked=True)
    policy = Policy(_gpu.model(size, torch.device("cpu"), torch.float32), range(size.speakable))
    policy.model.model.visual.requires_grad_(train_tower)
    prepared = _gpu.prepared(size)
    grid_I3 = prepared.pixels.grid_I3
    prompts = [policy.prompt(tokens, (i,), grid_I3) for i, tokens in enumerate(prepared.tokens)]
    completions_PG = [[torch.arange(1, size.tokens + 1)] * size.group] * size.prompts

    def counted(run: object) -> int:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run()  # type: ignore[operator]
        return counter.get_total_flops()

    with torch.no_grad():
        features = policy.encode(prepared.pixels)
        assert counted(lambda: policy.encode(prepared.pixels)) == pytest.approx(work.encode, rel=0.01)
        assert counted(lambda: policy.read(prompts, features, lambda *_: None)) == pytest.approx(work.prefill, rel=0.01)
        assert counted(lambda: policy(prompts, features, completions_PG, 1.0)) == pytest.approx(work.scores, rel=0.01)

    def trained() -> None:
        shown = policy.encode(prepared.pixels) if train_tower else features
        policy(prompts, shown, completions_PG, 1.0).logprobs_BT.sum().backward()

    assert counted(trained) == pytest.approx(work.forward_backward(train_tower=train_tower), rel=0.01)


# --- with a GPU ---


def policy(precision: torch.dtype, kernel: Attention = Attention.sdpa) -> Policy:
    """The same random weights, as bfloat16 holds them, whatever the precision: large enough that attention, positions and images all matter."""
    model = _gpu.model(SMALL, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scaled = noise / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else noise * 0.1 + float(name.endswith("weight"))
            parameter.copy_(scaled.bfloat16())
            parameter.data = parameter.data.to(precision)  # parameters alone: the frequencies of the positions stay float32
    return Policy(model, ALLOWED, kernel).to(DEVICE)


def prompts_of(policy: Policy, batch: RaggedBatch) -> list[Prompt]:
    return [policy.prompt(tokens, images, batch.pixels.grid_I3) for tokens, images in zip(batch.tokens_P, batch.images_P, strict=True)]


def logprobs(policy: Policy, batch: RaggedBatch) -> Tensor:
    """logprobs_C on the CPU; with gradient."""
    scores = policy(prompts_of(policy, batch), policy.encode(batch.pixels), batch.completions_PG, 1.0)
    return scores.logprobs_BT[scores.mask_BT].float().cpu()


def gradients(policy: Policy, logprobs_C: Tensor) -> list[Tensor]:
    loss = logprobs_C @ torch.randn(len(logprobs_C), generator=torch.Generator().manual_seed(0))
    return [gradient.float().cpu() for gradient in torch.autograd.grad(loss, list(policy.model.parameters()))]


def relative_error(ones: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The mean over tensors of |one − other| / |other|, both L2."""
    return sum(float((one - other).norm() / other.norm()) for one, other in zip(ones, others, strict=True)) / len(ones)


@needs_gpu
def test_ragged_kernels_in_bfloat16_are_as_near_to_float32_as_sdpa() -> None:
    """Logprobs and gradients of the packed forward, language model and tower; of 8 batches, the median of the errors' ratio."""
    exact, plain, ragged = policy(torch.float32), policy(torch.bfloat16), policy(torch.bfloat16, Attention.varlen)
    logprob_ratios, gradient_ratios, apart = [], [], []
    for seed in range(8):
        batch = ragged_batch(seed)
        true_C, plain_C, ragged_C = (logprobs(one, batch) for one in (exact, plain, ragged))
        logprob_ratios.append(float((ragged_C - true_C).detach().abs().mean() / (plain_C - true_C).detach().abs().mean()))
        true, of_plain, of_ragged = gradients(exact, true_C), gradients(plain, plain_C), gradients(ragged, ragged_C)
        gradient_ratios.append(relative_error(of_ragged, true) / relative_error(of_plain, true))
        apart.append(relative_error(of_ragged, of_plain) / relative_error(of_plain, true))
    assert median(logprob_ratios) <= 1.2
    assert median(gradient_ratios) <= 1.2
    assert median(apart) <= 2  # two errors of the same size, at most


@needs_gpu
@torch.no_grad()
def test_float32_on_the_gpu_is_float32_on_the_cpu() -> None:
    here = policy(torch.float32)
    there = deepcopy(here).cpu()
    for seed in range(3):
        batch = ragged_batch(seed)
        torch.testing.assert_close(logprobs(here, batch), logprobs(there, batch), atol=1e-4, rtol=0)


def requests(policy: Policy, batch: RaggedBatch, seed: int, tokens: int = 40) -> list[Request]:
    """Three completions of each prompt, of different lengths up to `tokens`."""
    features = policy.encode(batch.pixels)
    limits = [tokens, max(1, tokens // 2), max(1, tokens - 3)]
    prompts = prompts_of(policy, batch)
    return [Request(p, [features[i] for i in p.images], [(seed, n, g) for g in range(3)], limits) for n, p in enumerate(prompts)]


def engine(policy: Policy, tokens: int = 80, rows: int = 9) -> Engine:
    """Room for three groups of the five that are asked for, so that places are used again."""
    return Engine(policy, Decoding(tokens, NEVER), group=3, rows=rows, fixed=True)


def run(engine: Engine, asked: Sequence[Request]) -> list[Sampled]:
    sampled = dict(engine.run(asked))
    return [sampled[n] for n in range(len(asked))]


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_replayed_step_is_the_step_bit_for_bit_run_after_run(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    speaker = policy(torch.bfloat16, Attention.varlen)
    replayed, plain = engine(speaker), engine(speaker)
    assert isinstance(replayed.replays, Replays)
    plain.replays = None
    for seed in range(4):
        asked = requests(speaker, ragged_batch(seed), seed, tokens=80)  # longer than a piece of the buffers: several graphs
        spoiled = [torch.full((size,), 7, dtype=torch.int64, device=DEVICE) for size in range(1, 200)]  # what was freed is overwritten
        del spoiled
        for one, other in zip(run(replayed, asked), run(plain, asked), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one.tokens, other.tokens, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(one.logprobs, other.logprobs, strict=True))


@needs_gpu
@torch.no_grad()
def test_what_others_say_changes_no_bit() -> None:
    """The same prompts beside it, so that every shape is the same; their completions differ."""
    speaker = policy(torch.bfloat16, Attention.varlen)
    batch = ragged_batch(0)
    first, second = (requests(speaker, batch, seed) for seed in (0, 1))
    for mine in range(len(first)):
        one, other = (run(engine(speaker, rows=15), asked)[mine] for asked in (first, [*second[:mine], first[mine], *second[mine + 1 :]]))
        assert all(torch.equal(a, b) for a, b in zip(one.tokens + one.logprobs, other.tokens + other.logprobs, strict=True))


@needs_gpu
@torch.no_grad()
def test_a_replay_reads_the_weights_as_they_are_now() -> None:
    speaker = policy(torch.bfloat16, Attention.varlen)
    replayed = engine(speaker)
    asked = requests(speaker, ragged_batch(0), 0)
    before = run(replayed, asked)
    for parameter in speaker.model.model.language_model.layers.parameters():
        parameter.mul_(1.1)
    after, fresh = run(replayed, asked), run(engine(speaker), asked)
    assert any(not torch.equal(a, b) for one, other in zip(before, after, strict=True) for a, b in zip(one.logprobs, other.logprobs, strict=True))
    assert all(torch.equal(a, b) for one, other in zip(after, fresh, strict=True) for a, b in zip(one.logprobs, other.logprobs, strict=True))


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize(("precision", "kernel", "gap"), [("float32", "sdpa", 1e-4), ("bfloat16", "varlen", 0.5)])
def test_rollout_logprobs_are_the_trainers(precision: str, kernel: str, gap: float) -> None:
    speaker = policy(getattr(torch, precision), Attention(kernel))
    batch = ragged_batch(0)
    sampled = run(engine(speaker), requests(speaker, batch, 0))
    scores = speaker(prompts_of(speaker, batch), speaker.encode(batch.pixels), [s.tokens for s in sampled], 1.0)
    drawn_C = torch.cat([logprobs_T for s in sampled for logprobs_T in s.logprobs])
    difference_C = (scores.logprobs_BT[scores.mask_BT].cpu() - drawn_C).abs()
    assert difference_C.max() <= gap
    assert difference_C.mean() <= gap / 10


def syncs(engine: Engine, asked: Sequence[Request]) -> int:
    """How often the host waited for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(engine, asked)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


@needs_gpu
@torch.no_grad()
def test_the_host_asks_once_a_token_at_most() -> None:
    speaker = policy(torch.bfloat16, Attention.varlen)
    replayed = engine(speaker, rows=15)
    batch = ragged_batch(0)
    short, long = (requests(speaker, batch, 0, tokens) for tokens in (8, 48))
    for asked in (short, long):
        run(replayed, asked)
    assert syncs(replayed, long) - syncs(replayed, short) <= 40


@needs_gpu
@torch.no_grad()
def test_a_step_itself_asks_nothing() -> None:
    speaker = policy(torch.bfloat16, Attention.varlen)
    filled = engine(speaker)
    run(filled, requests(speaker, ragged_batch(0), 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        filled._advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _vowels(text: str, truth: object, _: Contract) -> Reward:
    return Reward({"vowels": sum(letter in "aeiou" for letter in text) / max(len(text), 1)}, None, None)


def _nothing(*_: object) -> object:
    raise AssertionError("a step reads rewards alone")


def _examples(count: int) -> list[Example]:
    """Questions about images of different sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 64), (96, 48), (32, 64), (48, 80)]
    images = [Image.fromarray(torch.randint(255, (*sizes[i % 4], 3), generator=generator, dtype=torch.uint8).numpy()) for i in range(count)]
    return [Example(str(i), (StoredImage.of(i, image),), "", f"Find every thing of kind {i}.", ClassTruth("")) for i, image in enumerate(images)]


def gpu_hardware() -> HardwareOptions:
    """What hardware=gpu_80gb says."""
    said = yaml.safe_load((Path(__file__).parents[1] / "conf" / "hardware" / "gpu_80gb.yaml").read_text())
    return HardwareOptions(**said | {"precision": Precision(said["precision"]), "attention": Attention(said["attention"])})


@needs_gpu
@pytest.mark.parametrize("frozen", [[Part.vision, Part.merger], []])
def test_two_steps_of_training_with_hardware_gpu(frozen: list[Part]) -> None:
    """The embedded model; the tower frozen and trained."""
    options = gpu_hardware()
    model = ModelOptions("tiny", "embedded:tiny", 32 * 32, 96 * 96, 1e-4, frozen)
    trained, processor = load(model, prepare(options, 0))
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    reference = deepcopy(trained).requires_grad_(False)
    task = Task(_nothing, _vowels, _nothing, {"vowels": 1.0})  # type: ignore[arg-type]
    algorithm = AlgorithmOptions(group_size=4, max_completion_tokens=32)
    trainer = Trainer(Models.whole(trained, reference, processor), task, algorithm, options)
    trainer.check_rollout(_examples(2), seed=0)
    steps = list(trainer.run(_examples(12), steps=2, prompts_per_step=6, learning_rate=1e-4, seed=0))
    assert [step.number for step in steps] == [1, 2]
    assert not any(step.skipped for step in steps)
    for step in steps:
        assert all(math.isfinite(value) for value in step.metrics.values())
        assert step.metrics["policy/grad_norm"] > 0
        assert step.metrics["rollout/trainer_logprob_gap"] <= options.logprob_tolerance
    assert steps[0].metrics["loss/kl"] < 1e-3  # the policy starts as the reference
    for was, parameter in zip(before, trained.parameters(), strict=True):
        assert parameter.isfinite().all()
        assert parameter.requires_grad or torch.equal(parameter, was)
    assert any(not torch.equal(was, parameter) for was, parameter in zip(before, trained.parameters(), strict=True))
