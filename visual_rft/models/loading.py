"""A model folder in, a policy and its processor out. Loading never runs code from the folder: safetensors only, no remote code."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib.resources import files
from math import inf
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedConfig, PreTrainedModel

from visual_rft import storage
from visual_rft.frames import Speaks
from visual_rft.hardware import Machine
from visual_rft.models import hub
from visual_rft.models.frames import resized, thousandths
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor, image_processor
from visual_rft.models.sharding import Sharding, own_part, shard

EMBEDDED = "embedded:"


@dataclass(frozen=True)
class Kin:
    """The name of a model type's stock processor, and whether it speaks of pixels of the image as it is resized, or of thousandths."""

    processor: str
    speaks_pixels: bool


FAMILY = {
    "qwen2_vl": Kin("Qwen2VLProcessor", speaks_pixels=False),
    "qwen2_5_vl": Kin("Qwen2_5_VLProcessor", speaks_pixels=True),
    "qwen3_vl": Kin("Qwen3VLProcessor", speaks_pixels=False),
}


class Unsuitable(ValueError):
    """A folder that can be read, with a model that is not for us."""


class Part(StrEnum):
    """What a model of the family is made of."""

    vision = "vision"  # the tower, up to the merger
    merger = "merger"  # from the tower's width to the language model's
    language = "language"  # embeddings, layers and head


@dataclass
class PartRates:
    """The learning rate of a part that has one of its own."""

    vision: float | None = None
    merger: float | None = None
    language: float | None = None


@dataclass
class ModelOptions:
    """`path` is a Hugging Face folder, a model's name on the hub, or `embedded:NAME` for a checkpoint that ships with the package. Pixel limits are
    areas.

    `learning_rate` is AdamW's at the first step: what is right for it depends on the model above all; a part may have one of its own in
    `learning_rates`. Parts in `frozen` are not trained; with both vision and merger among them an image is encoded once a step, whatever reads it.
    """

    name: str
    path: str
    min_pixels: int
    max_pixels: int
    learning_rate: float
    frozen: list[Part] = field(default_factory=list)
    learning_rates: PartRates = field(default_factory=PartRates)

    def __post_init__(self) -> None:
        if set(self.frozen) == set(Part):
            raise ValueError("model.frozen: all parts; leave one to be trained")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"model.min_pixels={self.min_pixels}: must be positive and at most model.max_pixels={self.max_pixels}")
        if not 0 < self.learning_rate < inf:
            raise ValueError(f"model.learning_rate={self.learning_rate}: must be a positive number")
        for part in Part:
            rate = getattr(self.learning_rates, part)
            if rate is None:
                continue
            if not 0 < rate < inf:
                raise ValueError(f"model.learning_rates.{part}={rate}: must be a positive number; model.frozen is for parts that are not trained")
            if part in self.frozen:
                raise ValueError(f"model.learning_rates.{part}={rate}: that part is in model.frozen; leave one of the two out")

    def pace(self, parameter: str) -> float:
        """How fast the parameters of this name move, as a multiple of the learning rate."""
        own: float | None = getattr(self.learning_rates, part_of(parameter))
        return 1.0 if own is None else own / self.learning_rate


def folder(path: str) -> Path:
    """Where a model's files lie. The hub is asked only for a name to which no folder answers. Raises ValueError when they are not to be had."""
    found = Path(str(files("visual_rft") / "assets" / path.removeprefix(EMBEDDED))) if path.startswith(EMBEDDED) else Path(path).expanduser()
    if (found / "config.json").is_file():
        return found
    if not found.exists() and hub.NAME.fullmatch(path):
        return hub.snapshot(path)
    raise ValueError(f"model.path={path}: no config.json in {found}; give a Hugging Face model folder, or embedded:tiny")


def speaks(options: ModelOptions) -> Speaks:
    """The frame in which the model speaks of an image of (width, height). Of its folder only the configuration is read.

    Raises ValueError when the folder is absent or damaged or holds no model of the family; what is returned, for an image that is too long.
    """
    source = folder(options.path)
    with _readable(options.path, source):
        if not _kin(options.path, source).speaks_pixels:
            return thousandths
        images = image_processor(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        factor = images.patch_size * images.merge_size
    return partial(resized, factor=factor, min_pixels=options.min_pixels, max_pixels=options.max_pixels)


def load(options: ModelOptions, machine: Machine, sharding: Sharding | None = None) -> tuple[Policy, Processor]:
    """The policy on a machine, whole or spread over ranks, its frozen parts without gradients, and its processor.

    It is built without memory, and each rank reads only what it keeps. Raises ValueError when the folder is absent, damaged or incomplete, or the
    model attends in a way that a packed stream cannot.
    """
    policy, processor = _build(options, machine)
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(part_of(name) not in options.frozen)
        if sharding and parameter.requires_grad:
            parameter.data = parameter.data.to(sharding.kept_in)
    if sharding:
        shard(policy, sharding, machine.dtype)
    _give_memory(policy, machine.device, torch.device("cpu") if sharding and sharding.offload else machine.device)
    _fill(policy, folder(options.path), options.path)
    return policy, processor


def empty(options: ModelOptions, machine: Machine) -> Policy:
    """The same policy, whole and without gradients, before its weights are read."""
    policy = _build(options, machine)[0].requires_grad_(False)
    _give_memory(policy, machine.device, machine.device)
    return policy


def _build(options: ModelOptions, machine: Machine) -> tuple[Policy, Processor]:
    """The policy without memory for its weights, and its processor."""
    source = folder(options.path)
    transformers.utils.logging.disable_progress_bar()  # ours is the console's one line
    with _readable(options.path, source):
        _kin(options.path, source)
        processor = Processor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        config = AutoConfig.from_pretrained(source)
        _check(options.path, config, processor)
        model = _without_memory(source, config, machine.dtype)
    return Policy(model, processor.allowed_ids, machine.attention).eval(), processor


@contextmanager
def _readable(path: str, source: Path) -> Iterator[None]:
    """What goes wrong while a folder's configuration is read, in one line."""
    try:
        yield
    except Unsuitable:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"model.path={path}: {source} is no readable Qwen2-VL folder ({reason}); copy it again, whole") from error


def _kin(path: str, source: Path) -> Kin:
    """What the type of a folder's model says of it."""
    model_type = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
    if model_type not in FAMILY:
        raise Unsuitable(f"model.path={path}: a {model_type} model; give one of the family: {', '.join(FAMILY)}")
    return FAMILY[model_type]


def _without_memory(source: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder, its weights on the meta device."""
    transformers.utils.logging.set_verbosity_error()  # what it would say of settings is for other ways to use a model
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if (source / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source)
    return model


def _check(path: str, config: PreTrainedConfig, processor: Processor) -> None:
    vision, images = config.vision_config, processor.images
    if (images.patch_size, images.merge_size) != (vision.patch_size, vision.spatial_merge_size):
        raise Unsuitable(f"model.path={path}: preprocessor_config.json and config.json differ in the size of a patch; copy the folder again")
    if getattr(config.get_text_config(), "use_sliding_window", False):
        raise Unsuitable(f"model.path={path}: its layers attend in a sliding window, which a packed stream has not; take another model")


def _give_memory(policy: Policy, device: torch.device, weights_on: torch.device) -> None:
    """Room for the weights, and the buffers, which no file holds, as they should be."""
    banned = policy.banned
    policy.to_empty(device=weights_on)
    policy.model.tie_weights()
    for module in policy.model.modules():
        if module._buffers:
            policy.model._init_weights(module)
            module._buffers.update({name: buffer.to(device) for name, buffer in module._buffers.items() if buffer is not None})
    policy.banned = banned.to(device)


def _fill(policy: Policy, source: Path, path: str) -> None:
    """Reads every weight, and refuses a folder without one, or with one that is no number."""
    weights = dict(policy.model.named_parameters())
    try:
        held = {_in_the_model(name): (name, shape) for name, shape in storage.shapes(source).items()}
        broken = sorted(name for name, weight in weights.items() if name not in held or held[name][1] != weight.shape)
        if broken:
            raise ValueError(f"{len(broken)} tensors are missing or of another shape, {broken[0]} first; copy the folder again, whole")
        storage.read(source, {held[name][0]: weight for name, weight in weights.items()})
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model.path={path}: {error}") from error
    spoiled = next((name for name, weight in weights.items() if not own_part(weight).isfinite().all()), None)
    if spoiled:
        raise ValueError(f"model.path={path}: the tensor {spoiled} holds NaN or infinity; take an earlier checkpoint")


def _in_the_model(name: str) -> str:
    """What transformers 5 calls a tensor that the hub's Qwen2-VL and Qwen2.5-VL folders name otherwise; Qwen3-VL's names stay."""
    return re.sub(r"^model\.(?!visual\.|language_model\.)", "model.language_model.", re.sub(r"^visual\.", "model.visual.", name))


def part_of(parameter: str) -> Part:
    """The part to which a parameter of this name belongs."""
    if "visual." not in parameter:
        return Part.language
    return Part.merger if "merger" in parameter else Part.vision


def beside_weights(path: str) -> dict[str, bytes]:
    """What a model folder holds beside the weights, by name: configuration, tokenizer, image processor."""
    found = (file for file in folder(path).iterdir() if file.suffix in (".json", ".jinja", ".txt"))
    found = (file for file in found if file.name != storage.SHARDS and not file.name.endswith(".index.json"))  # they list files of weights
    return {file.name: file.read_bytes() for file in found}


def save(policy: Policy, processor: Processor, target: Path) -> None:
    """A plain Hugging Face folder with the policy as it is now; the policy must be whole.

    An interrupt leaves no half of it under its name. Raises ValueError when it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        policy.model.save_pretrained(partial)
        processor.save(partial, stock_class=FAMILY[policy.model.config.model_type].processor)
        os.replace(partial, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors say a full disk in their own way
        shutil.rmtree(partial, ignore_errors=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{target}: the model cannot be written ({reason}); make room on the disk") from error
