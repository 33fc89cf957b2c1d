"""What the benchmarks of scale share: Qwen2-VL folders with random weights of several sizes, our trainer on one, the memory that a process holds."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import _measure as measure
import _ours as ours
import _workloads as workloads
import torch
from _workloads import MERGE, PATCH, Workload
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2VLConfig

from visual_rft import hardware, policies
from visual_rft.algorithm import AlgorithmOptions
from visual_rft.config.ranks import leave_at_exit
from visual_rft.distributed import World, join
from visual_rft.hardware import HardwareOptions
from visual_rft.losses import KlOptions
from visual_rft.models.loading import ModelOptions
from visual_rft.trainer import GrpoStep, Trainer

HEAD = 32  # width of a head; three heads share keys and values
RATE = 1e-6
LOOK = 0.003  # seconds between two looks at the memory


@dataclass(frozen=True)
class Size:
    """A model (`hidden` a multiple of 96) and what it is asked; the files of its folder are of `file_bytes` at most, or of one tensor."""

    workload: Workload
    hidden: int
    mlp: int
    layers: int
    tower: int
    blocks: int
    file_bytes: int = 200_000_000

    @property
    def pixels(self) -> int:
        """Area of the workload's images."""
        return self.workload.cells[0] * self.workload.cells[1] * (PATCH * MERGE) ** 2

    @property
    def tokens(self) -> int:
        """Of a step's streams: each prompt once, and its completions."""
        return self.workload.prompts * (self.workload.prompt_tokens + self.workload.group * self.workload.tokens)

    def config(self) -> Qwen2VLConfig:
        """The workload's, of this size."""
        config = workloads.model(self.workload, workloads.tokenizer(self.workload)).config.to_dict()
        heads = self.hidden // HEAD
        config["text_config"] |= {"hidden_size": self.hidden, "intermediate_size": self.mlp, "num_hidden_layers": self.layers, "layer_types": None}
        config["text_config"] |= {"num_attention_heads": heads, "num_key_value_heads": heads // 3}
        config["vision_config"] |= {"hidden_size": self.hidden, "embed_dim": self.tower, "depth": self.blocks, "num_heads": self.tower // HEAD}
        return Qwen2VLConfig(**config)


def write(size: Size, folder: Path) -> dict[str, int]:
    """The model as the hub has it: in bfloat16, in several files with an index, under the hub's names. Holds one file's tensors at a time. Returns
    how many parameters and bytes it has."""
    config = size.config()
    config.save_pretrained(folder)
    workloads.tokenizer(size.workload).save_pretrained(folder)
    workloads.image_processor(size.workload).save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForImageTextToText.from_config(config).named_parameters()}
    torch.manual_seed(workloads.SEED)
    files: dict[str, str] = {}
    held: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        held[_on_the_hub(name)] = _random(name, shape)
        if sum(tensor.nbytes for tensor in held.values()) >= size.file_bytes or name == list(shapes)[-1]:
            file = f"model-{len(set(files.values())) + 1:05d}.safetensors"
            save_file(held, folder / file, metadata={"format": "pt"})
            files |= dict.fromkeys(held, file)
            held = {}
    parameters = sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return {"parameters": parameters, "bytes": 2 * parameters, "files": len(set(files.values()))}


def _on_the_hub(name: str) -> str:
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def _random(name: str, shape: torch.Size) -> Tensor:
    if "norm" in name or name.endswith("bias") or "ln_q" in name:
        return (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def options(size: Size, folder: Path, changes: Mapping[str, Any]) -> tuple[ModelOptions, HardwareOptions, AlgorithmOptions]:
    """Of a run on a folder of this size: all parts are trained, beside a reference, a step's streams in one pass; then what is changed, by the names
    of conf/."""
    named: dict[str, dict[str, Any]] = {
        "model": {"name": "random", "path": str(folder), "min_pixels": (PATCH * MERGE) ** 2, "max_pixels": size.pixels, "learning_rate": RATE},
        "hardware": {"tokens_per_micro_batch": size.tokens},
        "algorithm": {"group_size": size.workload.group, "max_completion_tokens": size.workload.tokens, "kl.coefficient": workloads.KL},
    }
    for name, value in changes.items():
        part, _, key = name.partition(".")
        named[part][key] = value
    kl = KlOptions(named["algorithm"].pop("kl.coefficient"))
    return ModelOptions(**named["model"]), HardwareOptions(**named["hardware"]), AlgorithmOptions(kl=kl, **named["algorithm"])


def trainer(size: Size, folder: Path, changes: Mapping[str, Any], world: World) -> Trainer:
    """Our trainer with these options, as a run makes it; completions do not end before they are as long as they may be."""
    model, machinery, algorithm = options(size, folder, changes)
    machine = hardware.prepare(machinery, workloads.SEED, world)
    models = policies.load(model, machinery, machine, world, with_reference=algorithm.kl.coefficient > 0)
    for policy in {models.policy, models.reference, models.speaker} - {None}:
        policy.banned = torch.cat([policy.banned, torch.tensor([models.processor.end_id], device=policy.device)])
    return Trainer(models, ours._task(), algorithm, machinery, world)


def steps(size: Size, of: Trainer, count: int) -> Iterator[GrpoStep]:
    """`count` steps on the workload's prompts, the same ones every time."""
    examples = ours.examples(size.workload)
    return of.run(examples, steps=count, prompts_per_step=size.workload.prompts, learning_rate=RATE, seed=workloads.SEED)


def resident() -> tuple[int, int]:
    """Bytes of memory that belong to this process alone (RssAnon: tensors, heap, interpreter), and with files that it has mapped (VmRSS)."""
    text = Path("/proc/self/status").read_text()
    anonymous, everything = (re.search(rf"{key}:\s*(\d+) kB", text) for key in ("RssAnon", "VmRSS"))
    assert anonymous and everything
    return int(anonymous.group(1)) * 1024, int(everything.group(1)) * 1024


class Peak:
    """The most memory that a block of this process holds at a time, looked at every few milliseconds by a thread: bytes above those that were held
    when this was made."""

    def __init__(self) -> None:
        self.before, self.anonymous, self.everything = resident(), 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            self.look()

    def look(self) -> int:
        """What is held now."""
        now = [value - before for value, before in zip(resident(), self.before, strict=True)]
        self.anonymous, self.everything = max(self.anonymous, now[0]), max(self.everything, now[1])
        return now[0]

    def forget(self) -> None:
        """The peak is what comes from now on."""
        self.anonymous = self.everything = 0


def clock(started: tuple[float, float] | None = None) -> tuple[float, float]:
    """The wall's seconds and the processor's, since `started`."""
    wall, cpu = started or (0.0, 0.0)
    return time.perf_counter() - wall, time.process_time() - cpu


def on_ranks(ranks: int, script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints as its last line, in JSON, in a process of its own or in several that torchrun starts."""
    if ranks == 1:
        return measure.child(script, *arguments)
    return measure.child("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), script, *arguments)


def as_rank(measured: Callable[[World], dict[str, Any]]) -> dict[str, Any]:
    """The other end of `on_ranks`: what all ranks have measured together, which the first prints."""
    with join() as world:
        found = measured(world)
        if world.is_first:
            print(json.dumps(found))
    if world.size > 1:
        leave_at_exit()(0)
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def written(result: Mapping[str, Any], json_file: Path | None, name: str, model: str) -> dict[str, Any]:
    """The result, which is written as well where a file or a folder is given."""
    if json_file:
        file = measure.target(json_file, name)
        file = file.with_name(file.name.replace("random-6m", model))
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {file}")
    return dict(result)
