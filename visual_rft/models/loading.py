"""A model folder in, a policy and its processor out. Loading never runs code from the folder: safetensors only, no remote code."""

import os
import shutil
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from visual_rft.hardware import Machine
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor

EMBEDDED = "embedded:"
FAMILY = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class Part(StrEnum):
    """What a model of the family is made of."""

    vision = "vision"  # the tower, up to the merger
    merger = "merger"  # from the tower's width to the language model's
    language = "language"  # embeddings, layers and head


@dataclass
class ModelOptions:
    """`path` is a Hugging Face folder, or `embedded:NAME` for a checkpoint that ships with the package. Pixel limits are areas.

    `learning_rate` is AdamW's at the first step: what is right for it depends on the model above all. Parts in `frozen` are not trained; with
    both vision and merger among them an image is encoded once a step, whatever reads it.
    """

    name: str
    path: str
    min_pixels: int
    max_pixels: int
    learning_rate: float
    frozen: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        if set(self.frozen) == set(Part):
            raise ValueError("model.frozen: all parts; leave one to be trained")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"model.min_pixels={self.min_pixels}: must be positive and at most model.max_pixels={self.max_pixels}")
        if not 0 < self.learning_rate < inf:
            raise ValueError(f"model.learning_rate={self.learning_rate}: must be a positive number")


def folder(path: str) -> Path:
    """Where a model's files lie. Raises ValueError when they are not there."""
    found = Path(str(files("visual_rft") / "assets" / path.removeprefix(EMBEDDED))) if path.startswith(EMBEDDED) else Path(path).expanduser()
    if not (found / "config.json").is_file():
        raise ValueError(f"model.path={path}: no config.json in {found}; give a Hugging Face model folder, or embedded:tiny")
    return found


def load(options: ModelOptions, machine: Machine) -> tuple[Policy, Processor]:
    """The policy on a machine, its frozen parts without gradients, and its processor.

    Raises ValueError when the folder is absent, damaged or incomplete, or the model attends in a way that a packed stream cannot.
    """
    source = folder(options.path)
    transformers.utils.logging.disable_progress_bar()  # ours is the console's one line
    try:
        processor = Processor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        model, info = AutoModelForImageTextToText.from_pretrained(
            source, dtype=machine.dtype, use_safetensors=True, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"model.path={options.path}: {source} is no readable Qwen2-VL folder ({reason}); copy it again, whole") from error
    broken = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if broken:  # transformers would go on with random weights in their place
        raise ValueError(
            f"model.path={options.path}: {len(broken)} tensors are missing or of another shape, {broken[0]} first; copy the folder again, whole"
        )
    spoiled = next((name for name, weights in model.named_parameters() if not weights.isfinite().all()), None)
    if spoiled:
        raise ValueError(f"model.path={options.path}: the tensor {spoiled} holds NaN or infinity; take an earlier checkpoint")
    if model.config.model_type not in FAMILY:
        raise ValueError(f"model.path={options.path}: a {model.config.model_type} model; give one of the family: {', '.join(FAMILY)}")
    vision, images = model.config.vision_config, processor.images
    if (images.patch_size, images.merge_size) != (vision.patch_size, vision.spatial_merge_size):
        raise ValueError(f"model.path={options.path}: preprocessor_config.json and config.json differ in the size of a patch; copy the folder again")
    if getattr(model.config.get_text_config(), "use_sliding_window", False):
        raise ValueError(f"model.path={options.path}: its layers attend in a sliding window, which a packed stream has not; take another model")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in options.frozen)
    return Policy(model, processor.allowed_ids, machine.attention).to(machine.device), processor


def part_of(parameter: str) -> Part:
    """The part to which a parameter of this name belongs."""
    if "visual." not in parameter:
        return Part.language
    return Part.merger if "merger" in parameter else Part.vision


def save(policy: Policy, processor: Processor, target: Path, **states: Any) -> None:
    """A plain Hugging Face folder with the policy as it is now, and each of `states` beside it as <name>.pt, for torch.load(weights_only=True).

    An interrupt leaves no half of it under its name. Raises ValueError when it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        policy.model.save_pretrained(partial)
        processor.save(partial)
        for name, state in states.items():
            torch.save(state, partial / f"{name}.pt")
        os.replace(partial, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors say a full disk in their own way
        shutil.rmtree(partial, ignore_errors=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{target}: the checkpoint cannot be written ({reason}); make room on the disk") from error
