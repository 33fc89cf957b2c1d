"""Model folders for the tests: what they hold, and how the hub and transformers 5 name and cut it."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from visual_rft.models.loading import folder


class Naming(StrEnum):
    """Who has named the tensors of a folder."""

    hub = "hub"  # Qwen2-VL and Qwen2.5-VL as they are published; Qwen3-VL is published in the names of transformers 5
    five = "transformers 5"


def tensors_in(place: Path) -> dict[str, Tensor]:
    """Every tensor in the files of a folder that one process wrote."""
    found: dict[str, Tensor] = {}
    for file in sorted(place.glob("*.safetensors")):
        held = load_file(file)
        assert found.keys().isdisjoint(held), "one process writes every tensor whole, once"
        found |= held
    return found


def named(model: PreTrainedModel, naming: Naming) -> dict[str, Tensor]:
    """The model's tensors as a file of it names them; a head that is tied is the embedding, and in no file."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    if naming is Naming.five or model.config.model_type == "qwen3_vl":
        return tensors
    return {re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.visual\.", "visual.", name)): t for name, t in tensors.items()}


def write(model: PreTrainedModel, place: Path, naming: Naming, *, parts: int, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Path:
    """A folder of the model in so many files, with the embedded model's tokenizer, which it must have room for."""
    shutil.copytree(folder("embedded:tiny"), place, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.config.save_pretrained(place)
    vision, file = model.config.vision_config, place / "preprocessor_config.json"
    patches = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size, "temporal_patch_size": vision.temporal_patch_size}
    file.write_text(json.dumps(json.loads(file.read_text()) | patches))
    write_tensors({name: change(tensor) for name, tensor in named(model, naming).items()}, place, parts)
    return place


def write_tensors(tensors: Mapping[str, Tensor], place: Path, parts: int) -> None:
    """Into a folder, made if need be, as published: `model.safetensors`, or several files, neighbours apart, and the index of them."""
    place.mkdir(exist_ok=True)
    if parts == 1:
        save_file(dict(tensors), place / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{part + 1:05d}-of-{parts:05d}.safetensors" for part in range(parts)]
    index = {name: files[i % parts] for i, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensors[name] for name in index if index[name] == file}, place / file, metadata={"format": "pt"})
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
