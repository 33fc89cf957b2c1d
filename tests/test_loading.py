"""A model folder in, a policy out, and a plain folder again. Run: .venv/bin/python -m pytest tests/test_loading.py

What is read of it, and that it is refused when it is damaged, is in tests/test_reading.py.
"""

import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
import transformers
from families import Family, build
from folders import tensors_in
from safetensors.torch import load_file
from torch import Tensor, nn

from visual_rft import train
from visual_rft.hardware import Attention, HardwareOptions, Machine, Precision, prepare
from visual_rft.models.loading import ModelOptions, Part, beside_weights, folder, load, part_of, save
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.vocabulary import Example

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
TINY = ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)
SMALL = ["steps=2", "prompts_per_step=2", "algorithm.group_size=4", "task.shots=1", "data.test_images=4", "logger.report_images=0"]

Captured = pytest.CaptureFixture[str]


def of_parts(model: nn.Module, *parts: Part) -> set[str]:
    """The names of the parameters of these parts, by where they hang in the model."""
    owners = {"model.visual.merger": Part.merger, "model.visual.deepstack_merger_list": Part.merger, "model.visual": Part.vision}
    return {name for name, _ in model.named_parameters() if next((p for o, p in owners.items() if name.startswith(f"{o}.")), Part.language) in parts}


@pytest.mark.parametrize("family", Family)
def test_every_parameter_belongs_to_one_part(family: Family) -> None:
    model = build(family)
    for part in Part:
        assert {name for name, _ in model.named_parameters() if part_of(name) is part} == of_parts(model, part) != set()


@pytest.mark.parametrize("frozen", [list(parts) for count in range(3) for parts in combinations(Part, count)])
def test_frozen_parts_have_no_gradient_and_the_others_have(frozen: list[Part]) -> None:
    policy, _ = load(ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4, frozen), CPU)
    held = {name for name, parameter in policy.model.named_parameters() if not parameter.requires_grad}
    assert held == of_parts(policy.model, *frozen)
    assert policy.tower_is_frozen == ({Part.vision, Part.merger} <= set(frozen))


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.frozen: all parts; leave one to be trained"):
        ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4, [*Part, Part.vision])


@pytest.mark.parametrize("frozen", ["vision,merger", "language"])
def test_a_run_trains_all_but_the_frozen_parts(frozen: str, tmp_path: Path) -> None:
    assert train.main([*SMALL, f"model.frozen=[{frozen}]", f"hydra.run.dir={tmp_path}"]) == 0
    before, after = dict(load(TINY, CPU)[0].model.named_parameters()), tensors_in(tmp_path / "checkpoints/step_000002")
    assert before.keys() == after.keys()
    moved = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(Part) - {Part(part) for part in frozen.split(",")}


def changed_config(target: Path, **text: object) -> Path:
    """The embedded model with other values in its config's text part."""
    shutil.copytree(folder("embedded:tiny"), target)
    config = json.loads((target / "config.json").read_text())
    config["text_config"] |= text
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_layers_that_attend_in_a_sliding_window_are_refused_in_one_line(tmp_path: Path, capfd: Captured) -> None:
    model = changed_config(tmp_path / "model", use_sliding_window=True, sliding_window=8, max_window_layers=2)
    assert train.main([*SMALL, f"model.path={model}", f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"model.path={model}: its layers attend in a sliding window") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    load(ModelOptions("tiny", str(changed_config(tmp_path / "other", use_sliding_window=False, sliding_window=8)), 4096, 4096, 1e-4), CPU)


@pytest.mark.parametrize("attention", [Attention.varlen, Attention.flash_attention_2])
@pytest.mark.parametrize("where", [{"device": "cpu", "precision": Precision.bfloat16}, {"device": "cuda", "precision": Precision.float32}])
def test_ragged_kernels_want_a_gpu_and_bfloat16(where: dict[str, str], attention: Attention) -> None:
    with pytest.raises(ValueError, match=rf"hardware\.attention={attention}: needs CUDA and hardware\.precision=bfloat16; use sdpa"):
        HardwareOptions(attention=attention, **where)  # type: ignore[arg-type]


def test_a_machine_is_what_the_options_say() -> None:
    assert prepare(HardwareOptions(), 0) == CPU
    assert prepare(HardwareOptions(precision=Precision.bfloat16), 0) == Machine(torch.device("cpu"), torch.bfloat16, Attention.sdpa)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_have_the_precision_of_the_machine_whatever_the_file_has(dtype: torch.dtype) -> None:
    policy, _ = load(TINY, Machine(torch.device("cpu"), dtype, Attention.sdpa))
    assert {parameter.dtype for parameter in policy.parameters()} == {dtype}
    held = load_file(folder("embedded:tiny") / "model.safetensors")
    loaded = policy.model.state_dict()
    assert all(torch.equal(loaded[f"model.{name.removeprefix('model.')}"].float(), value.float()) for name, value in held.items() if "visual" in name)


def greedy_logits(model: nn.Module, processor: Processor, example: Example) -> Tensor:
    """logits_SV of a stock model's own forward."""
    pixels = processor.pixels([example.image])
    ids = processor.prompt(example.question, pixels.grid_I3)[None]
    types = (ids == model.config.image_token_id).int()  # type: ignore[union-attr,operator]
    out = model(input_ids=ids, pixel_values=pixels.patches_RD, image_grid_thw=pixels.grid_I3, mm_token_type_ids=types, use_cache=False)
    return out.logits[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Policy, Processor, Path]]:
    """A policy, and the folder that it was saved in."""
    policy, processor = load(TINY, CPU)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.01)
    target = tmp_path_factory.mktemp("kept") / "step_000001"
    save(policy, processor, target)
    yield policy, processor, target


def test_a_saved_folder_is_plain_and_says_nothing_of_how_it_was_computed(kept: tuple[Policy, Processor, Path]) -> None:
    _, _, target = kept
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    texts = {path.name: path.read_text() for path in target.iterdir() if path.suffix in (".json", ".jinja", ".txt")}
    assert "config.json" in texts and not [name for name, text in texts.items() if "visual_rft" in text.lower()]
    config = json.loads(texts["config.json"])
    assert not [key for part in (config, config["text_config"], config["vision_config"]) for key in part if "attn_implementation" in key]


@torch.no_grad()
def test_a_saved_folder_loads_with_stock_classes_and_answers_alike(kept: tuple[Policy, Processor, Path], digit_questions: list[Example]) -> None:
    policy, processor, target = kept
    stock, info = transformers.AutoModelForImageTextToText.from_pretrained(target, output_loading_info=True)
    assert type(stock).__name__ == "Qwen2VLForConditionalGeneration" and stock.config._attn_implementation == "sdpa"
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert transformers.AutoTokenizer.from_pretrained(target).get_vocab() == processor.tokenizer.get_vocab()
    example = digit_questions[0]
    logits_SV = greedy_logits(stock.eval(), processor, example)
    pixels = processor.pixels([example.image])
    prompt = policy.prompt(processor.prompt(example.question, pixels.grid_I3), (0,), pixels.grid_I3)
    hidden_PH = policy.read([prompt], policy.encode(pixels), lambda *_: None)
    ours_V, theirs_V = policy.logits(hidden_PH, 1.0)[0], logits_SV[-1].float()
    torch.testing.assert_close(ours_V[ours_V.isfinite()], theirs_V[ours_V.isfinite()], atol=1e-4, rtol=0)


@torch.no_grad()
def test_what_is_saved_is_what_is_loaded(kept: tuple[Policy, Processor, Path]) -> None:
    policy, processor, target = kept
    again, its_processor = load(ModelOptions("tiny", str(target), 4096, 4096, 1e-4), CPU)
    assert policy.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(policy.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(policy.banned, again.banned) and processor.tokenizer.get_vocab() == its_processor.tokenizer.get_vocab()


def test_saving_takes_nothing_from_the_policy(kept: tuple[Policy, Processor, Path], digit_questions: list[Example], tmp_path: Path) -> None:
    policy, processor, _ = kept
    pixels = processor.pixels([digit_questions[0].image])
    prompt = policy.prompt(processor.prompt(digit_questions[0].question, pixels.grid_I3), (0,), pixels.grid_I3)

    def logprobs() -> Tensor:
        return policy([prompt], policy.encode(pixels), [[processor.encode("No Objects")]], 1.0).logprobs_BT.detach()

    before = logprobs()
    save(policy, processor, tmp_path / "again")
    assert torch.equal(before, logprobs())


def test_a_folder_that_cannot_be_written_leaves_nothing_and_names_itself(kept: tuple[Policy, Processor, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path / 'taken'}: the model cannot be written \(.*\); make room on the disk"):
        save(*kept[:2], tmp_path / "taken")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine"]


def test_beside_the_weights_of_a_checkpoint_lies_all_else_that_a_model_folder_has(kept: tuple[Policy, Processor, Path]) -> None:
    _, _, whole = kept
    assert beside_weights(str(whole)) == {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix != ".safetensors"}
