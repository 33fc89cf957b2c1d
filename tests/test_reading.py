"""The tensors of a model folder are those that stock classes read, or it is refused. Run: .venv/bin/python -m pytest tests/test_reading.py"""

import copy
import json
import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import torch
import transformers
from families import Family, build
from folders import Naming, tensors_in, write, write_tensors
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from visual_rft.hardware import Attention, Machine
from visual_rft.models.loading import ModelOptions, empty, folder, load

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)


def options(place: Path) -> ModelOptions:
    return ModelOptions("small", str(place), 4096, 4096, 1e-4)


def held(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those too that no file holds."""
    return {name: tensor.detach() for name, tensor in chain(module.named_parameters(), module.named_buffers())}


@cache
def model_of(family: Family, *, tied: bool) -> PreTrainedModel:
    """With room for the embedded model's tokenizer; the head of its own is another than the embedding."""
    config = copy.deepcopy(build(family).config)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = tied
    config.get_text_config().vocab_size = json.loads((folder("embedded:tiny") / "config.json").read_text())["text_config"]["vocab_size"]
    torch.manual_seed(0)
    model = type(build(family))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    return model


def stock(place: Path, machine: Machine) -> PreTrainedModel:
    return transformers.AutoModelForImageTextToText.from_pretrained(place, dtype=machine.dtype)  # type: ignore[no-any-return]


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    mine, other = held(ours), held(theirs)
    assert mine.keys() == other.keys() and any("inv_freq" in name for name in mine)
    for name, tensor in other.items():
        assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", Family)
def test_weights_and_buffers_are_those_that_stock_classes_read(family: Family, tied: bool, tmp_path: Path) -> None:
    """In the names of the hub and of transformers 5, from one file and from several with an index."""
    model = model_of(family, tied=tied)
    for naming, parts in [(Naming.hub, 1), (Naming.hub, 3), (Naming.five, 1), (Naming.five, 2)]:
        place = write(model, tmp_path / f"{naming} {parts}", naming, parts=parts)
        assert len(list(place.glob("*.safetensors"))) == parts
        policy, _ = load(options(place), CPU)
        assert_equal(policy.model, stock(place, CPU))
        assert all(torch.equal(tensor, held(model)[name]) for name, tensor in policy.model.named_parameters())
        head, words = policy.model.get_output_embeddings().weight, policy.model.get_input_embeddings().weight
        assert (head is words) == tied == torch.equal(head, words)


@pytest.mark.parametrize("stored, dtype", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)])
@pytest.mark.parametrize("family", Family)
def test_so_in_another_precision_than_the_file_s(family: Family, stored: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    model, machine = model_of(family, tied=True), Machine(torch.device("cpu"), dtype, Attention.sdpa)
    place = write(model, tmp_path / "model", Naming.hub, parts=1, change=lambda tensor: tensor.to(stored))
    policy, _ = load(options(place), machine)
    assert_equal(policy.model, stock(place, machine))
    for name, tensor in policy.model.named_parameters():
        assert tensor.dtype == dtype and torch.equal(tensor, held(model)[name].to(stored).to(dtype)), name


def test_a_head_in_the_file_of_a_model_whose_head_is_tied_is_not_read(tmp_path: Path) -> None:
    place = write(model_of(Family.qwen2_vl, tied=True), tmp_path / "model", Naming.five, parts=1)
    tensors = tensors_in(place)
    write_tensors(tensors | {"lm_head.weight": tensors["model.language_model.embed_tokens.weight"].clone()}, place, 1)
    assert_equal(load(options(place), CPU)[0].model, stock(place, CPU))


@pytest.mark.parametrize("family", Family)
def test_an_empty_policy_is_the_same_but_for_its_weights(family: Family, tmp_path: Path) -> None:
    place = write(model_of(family, tied=False), tmp_path / "model", Naming.five, parts=1)
    policy, blank = load(options(place), CPU)[0], empty(options(place), CPU)
    assert {name: (t.shape, t.dtype) for name, t in held(policy).items()} == {name: (t.shape, t.dtype) for name, t in held(blank).items()}
    assert not any(parameter.requires_grad for parameter in blank.parameters())
    assert all(torch.equal(buffer, dict(blank.named_buffers())[name]) for name, buffer in policy.named_buffers())
    assert torch.equal(policy.banned, blank.banned) and len(policy.banned)


# What is refused


def damage(place: Path, how: str) -> None:
    """Spoils a folder in several files."""
    file = next(iter(sorted(place.glob("*-00002-of-*.safetensors"))))
    tensors = load_file(file)
    name = next(name for name in tensors if "mlp" in name and tensors[name].ndim == 2)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif how == "no tensors":
        file.write_bytes(b"no tensors")
    elif how == "a file less":
        file.unlink()
    elif how == "no index that can be read":
        (place / "model.safetensors.index.json").write_text("{")
    elif how == "no file":
        for held_by in place.glob("model*"):
            held_by.unlink()
    else:
        changes = {
            "a tensor less": {},
            "another shape": {name: tensors[name][:1].clone()},
            "NaN": {name: tensors[name] * torch.nan},
            "infinity": {name: tensors[name] * torch.inf},
        }
        write_tensors({key: tensor for key, tensor in tensors.items() if key != name} | changes[how], place / "again", 1)
        (place / "again/model.safetensors").replace(file)


REFUSED = {
    "cut": r"{place}/model-00002-of-00003\.safetensors: damaged \(.*\); copy it again, whole",
    "no tensors": r"{place}/model-00002-of-00003\.safetensors: damaged \(.*\); copy it again, whole",
    "a file less": r"{place}/model-00002-of-00003\.safetensors is missing; copy the folder again, whole",
    "no index that can be read": r"{place}/model\.safetensors\.index\.json: damaged; copy it again, whole",
    "no file": r"{place}: no \*\.safetensors in it; give a folder of weights",
    "a tensor less": r"1 tensors are missing or of another shape, .*mlp.* first; copy the folder again, whole",
    "another shape": r"1 tensors are missing or of another shape, .*mlp.* first; copy the folder again, whole",
    "NaN": r"the tensor .*mlp.* holds NaN or infinity; take an earlier checkpoint",
    "infinity": r"the tensor .*mlp.* holds NaN or infinity; take an earlier checkpoint",
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_folder_that_is_damaged_is_refused_in_one_line_by_what_is_wrong(how: str, tmp_path: Path) -> None:
    place = write(model_of(Family.qwen2_5_vl, tied=False), tmp_path / "model", Naming.hub, parts=3)
    load(options(place), CPU)
    damage(place, how)
    with pytest.raises(ValueError) as refused:
        load(options(place), CPU)
    line = REFUSED[how].format(place=re.escape(str(place)))
    assert re.fullmatch(rf"model\.path={re.escape(str(place))}: {line}", str(refused.value))


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    place = write(model_of(Family.qwen2_vl, tied=True), tmp_path / "model", Naming.hub, parts=1)
    transformers.Qwen2Config(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=2).save_pretrained(place)
    with pytest.raises(ValueError, match=rf"model\.path={place}: a qwen2 model; give one of the family: qwen2_vl, qwen2_5_vl, qwen3_vl"):
        load(options(place), CPU)
