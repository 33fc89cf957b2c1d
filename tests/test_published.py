"""The published models themselves, in their true sizes and without memory. Run: .venv/bin/python -m pytest tests/test_published.py

That two layers of each answer as the stock model does: tests/test_hub_folders.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from families import Family
from hub_folders import Layout, preprocessor, write_json
from hub_models import PUBLISHED, config, tensor_names
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig

from visual_rft.frames import NORM1000, Resized
from visual_rft.hardware import Attention
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions, Part, part_of, speaks
from visual_rft.models.policy import Policy
from visual_rft.models.processor import image_processor
from visual_rft.models.sharding import Sharding, shard

# Bytes of bfloat16 that the index of each counts. The first is published; the others follow from the numbers of the models.
BYTES = {
    "Qwen2-VL-2B": 4_417_971_200,
    "Qwen2-VL-7B": 16_582_751_232,
    "Qwen2.5-VL-3B": 7_509_245_952,
    "Qwen2.5-VL-7B": 16_584_333_312,
    "Qwen3-VL-4B": 8_875_631_616,
}
CONF = Path(__file__).parents[1] / "conf/model"
FILES = {name: CONF / f"{name.lower().replace('-', '_').replace('.', '_')}.yaml" for name in PUBLISHED}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Policy]:
    """The name of a published model, a folder with its configuration, and its policy before loading gives it memory."""
    numbers, place = PUBLISHED[request.param], tmp_path_factory.mktemp("published")
    write_json(place)("config.json", config(numbers))
    write_json(place)("preprocessor_config.json", preprocessor(Layout(numbers.family)))
    model = loading._without_memory(place, AutoConfig.from_pretrained(place), torch.bfloat16)
    return request.param, place, Policy(model, range(numbers.ids["image_pad"]), Attention.sdpa)


def test_its_tensors_are_those_of_its_index(published: tuple[str, Path, Policy]) -> None:
    """By name, in number, in bytes, and every one belongs to a part."""
    name, _, policy = published
    weights = dict(policy.model.named_parameters())
    assert {parameter.device.type for parameter in weights.values()} == {"meta"}
    assert {loading._in_the_model(stored) for stored in tensor_names(PUBLISHED[name])} == weights.keys()
    assert sum(parameter.nbytes for parameter in weights.values()) == BYTES[name]
    assert {part_of(weight) for weight in weights} == set(Part)
    tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    assert tied == PUBLISHED[name].tied == ("lm_head.weight" not in weights)


def test_its_configuration_says_what_the_table_says(published: tuple[str, Path, Policy]) -> None:
    name, _, policy = published
    numbers, settings = PUBLISHED[name], policy.model.config
    text, vision = settings.get_text_config(), settings.vision_config
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (numbers.hidden, numbers.intermediate, numbers.layers)
    assert (text.num_attention_heads, text.num_key_value_heads, text.vocab_size) == (numbers.heads, numbers.kv_heads, numbers.vocabulary)
    assert text.max_position_embeddings == numbers.positions and text.rms_norm_eps == 1e-6 and not getattr(text, "use_sliding_window", False)
    assert text.rope_parameters["rope_theta"] == numbers.theta and tuple(text.rope_parameters["mrope_section"]) == numbers.sections
    width = vision.embed_dim if numbers.family is Family.qwen2_vl else vision.hidden_size
    assert (vision.depth, width, vision.num_heads, vision.patch_size) == (
        numbers.vision.depth,
        numbers.vision.width,
        numbers.vision.heads,
        numbers.patch,
    )
    assert (settings.image_token_id, text.eos_token_id) == (151655, 151645)
    if numbers.family is Family.qwen2_5_vl:
        assert (vision.tokens_per_second, vision.window_size, tuple(vision.fullatt_block_indexes)) == (2, 112, (7, 15, 23, 31))
    if numbers.family is Family.qwen3_vl:
        assert tuple(vision.deepstack_visual_indexes) == (5, 11, 17) and text.rope_parameters.get("mrope_interleaved")


def test_its_configuration_of_ours_reads_it(published: tuple[str, Path, Policy]) -> None:
    """With the paper's settings; the frame is that of a 640×480 photograph."""
    name, place, policy = published
    options: ModelOptions = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelOptions), OmegaConf.load(FILES[name])))  # type: ignore[assignment]
    assert options.name == FILES[name].stem and options.path == f"Qwen/{name}-Instruct"
    assert (options.learning_rate, options.max_pixels, options.frozen) == (1e-6, 401408, [])
    options.path = str(place)
    numbers = PUBLISHED[name]
    assert speaks(options)((640, 480)) == (Resized(644, 476) if numbers.family is Family.qwen2_5_vl else NORM1000)
    images, vision = image_processor(place, min_pixels=options.min_pixels, max_pixels=options.max_pixels), policy.model.config.vision_config
    assert (images.patch_size, images.merge_size) == (vision.patch_size, vision.spatial_merge_size)


@pytest.fixture
def eight_ranks() -> Iterator[dist.device_mesh.DeviceMesh]:
    """The first of eight, whose peers are only thought of."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield init_device_mesh("cpu", (8,))
    dist.destroy_process_group()


def test_its_weights_spread_over_eight_ranks(published: tuple[str, Path, Policy], eight_ranks: dist.device_mesh.DeviceMesh) -> None:
    name, place, _ = published
    whole = loading._without_memory(place, AutoConfig.from_pretrained(place), torch.bfloat16)
    policy = Policy(whole, range(1), Attention.sdpa)
    shard(policy, Sharding(eight_ranks, torch.bfloat16, offload=False), torch.bfloat16)
    weights = list(policy.model.parameters())
    assert all(isinstance(weight, DTensor) for weight in weights)
    kept = sum(weight.to_local().nbytes for weight in weights)
    assert BYTES[name] / 8 <= kept < BYTES[name] / 8 * 1.01
