"""Tensors in a folder of safetensors files: a published one, in one file or several, or the shards that the ranks of a run wrote side by side.

torch.distributed.checkpoint reads and writes them. Nothing is pickled, so that loading a folder runs no code from it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

SHARDS = "shards.json"  # the files that the ranks wrote, without any of which the folder is not whole
PUBLISHED = "model.safetensors.index.json"  # the same, of a published folder in several files


def shapes(folder: Path) -> dict[str, torch.Size]:
    """The whole size of every tensor in a folder. Raises ValueError when a file is missing or damaged."""
    return {name: stored.size for name, stored in _tensors(_metadata(HuggingFaceStorageReader(str(folder)), folder)).items()}


@torch.no_grad()
def read(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, by their names, in place and in their own dtype. Of a DTensor each rank reads its own part; no rank waits for another.

    Raises ValueError when a file is missing or damaged, or holds a tensor not at all or in another shape.
    """
    reader, planner = HuggingFaceStorageReader(str(folder)), DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    metadata = _metadata(reader, folder)
    stored = _tensors(metadata)
    broken = [name for name, tensor in tensors.items() if name not in stored or stored[name].size != tensor.size()]
    if broken:
        raise ValueError(f"{folder}: {len(broken)} tensors are missing or of another shape, {broken[0]} first; take the folder of the same model")
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(reader.prepare_local_plan(planner.create_local_plan()), planner)


class Writer(HuggingFaceStorageWriter):
    """Where torch.distributed.checkpoint writes tensors: each rank its own part into a file of its own, and then the first one their list.

    Written from where the tensors lie: the base class would first make a copy of them all, for which every other thread waits.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder = folder

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Names the file of each rank."""
        return [replace(plan, storage_data=f"shard-{number:05d}-of-{len(plans):05d}.safetensors") for number, plan in enumerate(plans, start=1)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the part of this rank, if it has one. Raises OSError when the disk does not take it."""
        parts, places, results = {}, {}, []
        for item in plan.items:
            tensor, name = planner.resolve_data(item), item.index.fqn
            assert isinstance(tensor, Tensor) and item.tensor_data
            parts[name] = tensor.detach().cpu().contiguous()
            places[name] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
            results.append(WriteResult(item.index, parts[name].nbytes, plan.storage_data))
        if parts:
            _save(self.folder / plan.storage_data, parts, {"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"})
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Runs on the first rank, when all have written."""
        super().finish(metadata, results)
        files = sorted({result.storage_data for results_of_rank in results for result in results_of_rank})
        (self.folder / SHARDS).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def _save(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if not refused:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1]))) from error
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _metadata(reader: HuggingFaceStorageReader, folder: Path) -> Metadata:
    """What the files of a folder hold, when all of them are there and whole."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no *.safetensors in it; give a folder of weights")
    missing = sorted(_listed(folder) - {file.name for file in files})
    if missing:
        raise ValueError(f"{folder / missing[0]} is missing; copy the folder again, whole")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: damaged ({error}); copy it again, whole") from error
    try:
        metadata = reader.read_metadata()
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # what the files say of their shards
        raise ValueError(f"{folder}: damaged ({error}); copy it again, whole") from error
    for name, stored in _tensors(metadata).items():
        if sum(prod(chunk.sizes) for chunk in stored.chunks) != prod(stored.size):
            raise ValueError(f"{folder}: parts of {name} are missing, or there twice; copy the folder again, whole")
    return metadata


def _listed(folder: Path) -> set[str]:
    """The names of the files that a folder must have, as far as it says so."""
    names: set[str] = set()
    for index in (folder / SHARDS, folder / PUBLISHED):
        if index.exists():
            try:
                said = json.loads(index.read_text(encoding="utf-8"))
                names |= {str(name) for name in (said["weight_map"].values() if index.name == PUBLISHED else said)}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{index}: damaged; copy it again, whole") from error
    return names


def _tensors(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    return {name: stored for name, stored in metadata.state_dict_metadata.items() if isinstance(stored, TensorStorageMetadata)}
