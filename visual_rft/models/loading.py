"""A model folder in, a policy and its processor out. Loading never runs code from the folder: safetensors only, no remote code."""

from dataclasses import dataclass
from importlib.resources import files
from math import inf
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor

EMBEDDED = "embedded:"


@dataclass
class ModelOptions:
    """`path` is a Hugging Face folder, or `embedded:NAME` for a checkpoint that ships with the package. Pixel limits are areas.

    `learning_rate` is AdamW's at the first step: what is right for it depends on the model above all.
    """

    name: str
    path: str
    min_pixels: int
    max_pixels: int
    learning_rate: float

    def __post_init__(self) -> None:
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


def load(options: ModelOptions, device: torch.device) -> tuple[Policy, Processor]:
    """The policy, in float32 on `device`, and its processor. Raises ValueError when the folder is absent or its weights are damaged."""
    source = folder(options.path)
    transformers.utils.logging.disable_progress_bar()  # ours is the console's one line
    processor = Processor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa")
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"model.path={options.path}: the weights in {source} cannot be read ({str(error).splitlines()[0]}); copy them again"
        ) from error
    return Policy(model, processor.allowed_ids).to(device), processor


def save(policy: Policy, processor: Processor, target: Path) -> None:
    """A plain Hugging Face folder with the policy as it is now."""
    policy.model.save_pretrained(target)
    processor.save(target)
