"""Weights read shard by shard are those that Hugging Face reads, bit for bit. Run: .venv/bin/python -m pytest tests/test_reading.py"""

import copy
from itertools import chain
from pathlib import Path

import pytest
import torch
import transformers
from families import Family, build
from folders import Naming, named, tensors_in, write
from torch import Tensor, nn
from transformers import PreTrainedModel

from visual_rft.hardware import Attention, Machine
from visual_rft.models.loading import ModelOptions, empty, folder, load
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
BF16 = Machine(torch.device("cpu"), torch.bfloat16, Attention.sdpa)


def options(place: Path) -> ModelOptions:
    return ModelOptions("small", str(place), 4096, 4096, 1e-4)


def held(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those too that no file holds."""
    return {name: tensor.detach() for name, tensor in chain(module.named_parameters(), module.named_buffers())}


def model_of(family: Family, *, tied: bool) -> PreTrainedModel:
    """With room for the embedded model's tokenizer."""
    model = build(family)
    if tied != model.config.tie_word_embeddings:
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = tied
        weights = model.state_dict()
        model = type(model)(config)
        model.load_state_dict(weights | {"lm_head.weight": weights["model.language_model.embed_tokens.weight"].flip(0)}, strict=False)
    processor = Processor.load(folder("embedded:tiny"), min_pixels=4096, max_pixels=4096)
    model.resize_token_embeddings(len(processor.tokenizer) + 3)
    model.tie_weights()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    return model.eval()


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    mine, other = held(ours), held(theirs)
    assert mine.keys() == other.keys() and any("inv_freq" in name for name in mine)
    for name, tensor in other.items():
        assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name


def stock(place: Path, machine: Machine) -> PreTrainedModel:
    return transformers.AutoModelForImageTextToText.from_pretrained(place, dtype=machine.dtype)  # type: ignore[no-any-return]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("naming", Naming)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", Family)
def test_weights_and_buffers_are_those_that_stock_classes_read(family: Family, tied: bool, naming: Naming, parts: int, tmp_path: Path) -> None:
    model = model_of(family, tied=tied)
    place = write(model, tmp_path / "model", naming, parts=parts)
    assert len(list(place.glob("*.safetensors"))) == parts
    policy, _ = load(options(place), CPU)
    assert_equal(policy.model, stock(place, CPU))
    assert all(torch.equal(tensor, held(model)[name]) for name, tensor in policy.model.named_parameters())
    head, words = policy.model.get_output_embeddings().weight, policy.model.get_input_embeddings().weight
    assert (head is words) == tied == torch.equal(head, words)


@pytest.mark.parametrize("stored, machine", [(torch.bfloat16, CPU), (torch.float32, BF16), (torch.float16, CPU)])
@pytest.mark.parametrize("family", Family)
def test_so_in_another_precision_than_the_file_s(family: Family, stored: torch.dtype, machine: Machine, tmp_path: Path) -> None:
    model = model_of(family, tied=True)
    place = write(model, tmp_path / "model", Naming.hub, parts=1, change=lambda tensor: tensor.to(stored))
    policy, _ = load(options(place), machine)
    assert_equal(policy.model, stock(place, machine))
    for name, tensor in policy.model.named_parameters():
        assert tensor.dtype == machine.dtype and torch.equal(tensor, held(model)[name].to(stored).to(machine.dtype)), name


def test_a_head_in_the_file_of_a_model_that_is_tied_is_not_read(tmp_path: Path) -> None:
    """Old versions of transformers wrote it twice."""
    model = model_of(Family.qwen2_vl, tied=True)
    place = write(model, tmp_path / "model", Naming.five, parts=1)
    twice = tensors_in(place)
    from folders import write_tensors

    write_tensors(twice | {"lm_head.weight": twice["model.language_model.embed_tokens.weight"].clone()}, place, 1)
    assert_equal(load(options(place), CPU)[0].model, stock(place, CPU))


@pytest.mark.parametrize("family", Family)
def test_an_empty_policy_is_the_same_but_for_its_weights(family: Family, tmp_path: Path) -> None:
    place = write(model_of(family, tied=False), tmp_path / "model", Naming.five, parts=1)
    policy, blank = load(options(place), CPU)[0], empty(options(place), CPU)
    assert {name: (t.shape, t.dtype) for name, t in held(policy).items()} == {name: (t.shape, t.dtype) for name, t in held(blank).items()}
    assert not any(parameter.requires_grad for parameter in blank.parameters())
    assert all(torch.equal(buffer, dict(blank.named_buffers())[name]) for name, buffer in policy.named_buffers())
    assert torch.equal(policy.banned, blank.banned) and len(policy.banned) > 3
