"""Host memory and time of loading a folder: two ranks of ours, each with its part of the weights, beside transformers in one process.

    python benchmarks/loading.py --json benchmarks/results

The folder is a Qwen2-VL with random weights as the hub has it: bfloat16, in several files, under the hub's names; written here, into $TMPDIR. Memory
is the most anonymous memory (RssAnon, looked at every 3 ms) above what the process held before, of the fuller rank; `share` is that by the bytes of
the whole weights in the dtype they are kept in: no rank holds the whole model where it stays below 1, and a half is what two ranks must hold.
Rollouts are drawn from a whole copy on each rank, which is not part of loading.

The peer is `from_pretrained` in that dtype. In the file's own dtype it maps the files, so that its weights are not anonymous: compare `resident_gb`
(VmRSS) there. Both sides look at every weight, for NaN: ours always does. `ratio` is ours by the peer's anonymous peak.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _measure as measure
import torch
from _scale import LOOK, RATE, Peak, Size, as_rank, clock, markdown, on_ranks, write, written
from _workloads import STANDARD, TINY
from transformers import AutoModelForImageTextToText

from visual_rft import hardware
from visual_rft.distributed import World
from visual_rft.hardware import HardwareOptions, Precision
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.models.sharding import Sharding

SIZES = {
    "deep": Size(STANDARD, hidden=1152, mlp=4096, layers=28, tower=512, blocks=32),
    "tiny": Size(TINY, hidden=96, mlp=64, layers=2, tower=32, blocks=2, file_bytes=100_000),
}
KEPT = {"bfloat16": torch.bfloat16, "float32": torch.float32}
HEADLINE = "float32"  # as trained weights are kept
RANKS = 2


def ours(folder: Path, kept: str, world: World) -> dict[str, float]:
    """This rank's part of the weights, for steps in bfloat16."""
    options = HardwareOptions(precision=Precision.bfloat16)
    machine = hardware.prepare(options, 0, world)
    mesh = hardware.mesh(options, machine.device, world)
    model = ModelOptions("random", str(folder), min_pixels=1, max_pixels=1 << 20, learning_rate=RATE)
    sharding = Sharding(mesh, KEPT[kept], offload=False) if mesh else None
    started = clock()
    with Peak() as memory:
        loaded = loading.load(model, machine, sharding)
        memory.look()
    del loaded
    return _found(memory, started)


def peer(folder: Path, kept: str) -> dict[str, float]:
    """All of them, in one process."""
    started = clock()
    with Peak() as memory:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=KEPT[kept])
        assert all(weight.isfinite().all() for weight in model.parameters())
    return _found(memory, started)


def fullest(name: str, folder: Path, kept: str, world: World) -> dict[str, float]:
    """The most that any rank of a side found."""
    of_ranks = world.gather(ours(folder, kept, world) if name == "ours" else peer(folder, kept))
    return {key: max(one[key] for one in of_ranks) for key in of_ranks[0]}


def _found(memory: Peak, started: tuple[float, float]) -> dict[str, float]:
    seconds, cpu = clock(started)
    return {"peak_gb": memory.anonymous / 1e9, "resident_gb": memory.everything / 1e9, "seconds": seconds, "cpu_seconds": cpu}


def figure(folder: Path, size: str, kept: str, parameters: int, repeats: int) -> dict[str, Any]:
    """Both sides by turns, after one turn that puts the files into the system's memory."""
    weights_gb = parameters * KEPT[kept].itemsize / 1e9
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for turn in range(-1, repeats):
        for side, ranks in (("ours", RANKS), ("peer", 1)):
            found = on_ranks(ranks, __file__, "--size", size, "--folder", str(folder), "--child", side, "--kept", kept)
            print(f"{kept}, {side}: {found}", file=sys.stderr)
            if turn >= 0:
                sides[side].append(found | {"share": found["peak_gb"] / weights_gb})
    ratios = {
        name: [o[key] / p[key] for o, p in zip(*sides.values(), strict=True)] for name, key in (("ratio", "peak_gb"), ("seconds_ratio", "seconds"))
    }
    plain = {side: {key: measure.spread([one[key] for one in found]) for key in found[0]} for side, found in sides.items()}
    return {name: measure.spread(values) for name, values in ratios.items()} | plain | {"weights_gb": weights_gb, "machine": measure.machine()}


def show(found: dict[str, dict[str, Any]]) -> None:
    """A line a side."""
    rows = []
    for kept, both in found.items():
        for side, name in (("ours", f"{RANKS} ranks of ours, the fuller"), ("peer", "transformers, one process")):
            values = {key: value["median"] for key, value in both[side].items()}
            numbers = (f"{value:.2f}" for value in (both["weights_gb"], values["peak_gb"], values["share"], values["resident_gb"], values["seconds"]))
            rows.append([f"{kept}: {name}", *numbers])
    markdown(("", "weights GB", "peak GB", "share", "resident GB", "seconds"), rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.parser(__doc__, repeats=3)
    parser.add_argument("--size", choices=SIZES, default="deep", help="of the model (deep)")
    for hidden, kind in (("--folder", Path), ("--child", str), ("--kept", str)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    measure.pin()
    if options.child:
        return as_rank(lambda world: fullest(options.child, options.folder, options.kept, world))
    with tempfile.TemporaryDirectory() as folder:
        model = write(SIZES[options.size], Path(folder))
        found = {kept: figure(Path(folder), options.size, kept, model["parameters"], options.repeats) for kept in KEPT}
    show(found)
    result = {**found[HEADLINE], "headline": HEADLINE, "figures": found, "model": model, "ranks": RANKS, "looked every seconds": LOOK}
    return written(result, options.json, "loading", f"random-{model['parameters'] / 1e6:.0f}m")


if __name__ == "__main__":
    main()
    sys.exit()
