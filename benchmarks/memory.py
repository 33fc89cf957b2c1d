"""The ladder out of "out of memory": what each switch takes from the peak of a step, and what it costs in time. One switch a rung.

    python benchmarks/memory.py --json benchmarks/results
    python benchmarks/memory.py --device cuda          (in bfloat16, and the rungs that need a GPU)

Every rung is a process of its own, so that no peak hides in another's, and loads a folder of random weights as a run does; the rungs take turns. The
first of its two steps is for the memory, the second for the seconds.

Memory on the CPU is anonymous memory (RssAnon, looked at every 3 ms) above what interpreter and libraries hold before the model is loaded; mapped
files, which the system may drop, are not in it. Malloc is told to give back what is freed, so this is tensors that are alive, as on a GPU, and not
what the heap hoards; that costs time, so it is told the contrary for the second step. On a GPU it is torch.cuda.max_memory_allocated. `held` is what
is there before the first step: weights, reference, optimizer. Of two ranks it is the greater. Ratios are a rung's peak, and its seconds, by those of
the rung that it stands beside in the same turn, the first one but where its name says another; below 1 is less.
"""

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _measure as measure
import torch
from _scale import Peak, Size, as_rank, clock, markdown, on_ranks, steps, trainer, write, written
from _workloads import PATCH, TINY, Workload

from visual_rft.distributed import World
from visual_rft.hardware import ActivationCheckpointing, Precision
from visual_rft.models.loading import Part

LADDER = Workload("ladder", cells=(10, 10), text_tokens=42, vocabulary=16384, tokens=16)
SIZES = {
    "ladder": Size(LADDER, hidden=384, mlp=768, layers=16, tower=256, blocks=8),
    "tiny": Size(TINY, hidden=96, mlp=64, layers=2, tower=32, blocks=2),
}
HEADLINE = "hardware.activation_checkpointing=full"
BASE, ROUNDED = "everything trained, one pass", "bfloat16, float32 masters"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True)
class Rung:
    """What is changed, the rung that it stands beside, and what it needs."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    beside: str = BASE
    ranks: int = 1
    needs_gpu: bool = False


def ladder(size: Size) -> dict[str, Rung]:
    """Every rung by its name, the two that others stand beside first."""
    whole, area, rounded = size.tokens, size.pixels, {"hardware.precision": Precision.bfloat16}
    return {
        BASE: Rung(),
        ROUNDED: Rung(rounded),
        "hardware.tokens_per_micro_batch, half": Rung({"hardware.tokens_per_micro_batch": whole // 2}),
        "hardware.tokens_per_micro_batch, a quarter": Rung({"hardware.tokens_per_micro_batch": whole // 4}),
        "hardware.activation_checkpointing=selective": Rung({"hardware.activation_checkpointing": ActivationCheckpointing.selective}),
        HEADLINE: Rung({"hardware.activation_checkpointing": ActivationCheckpointing.full}),
        "model.max_pixels, half": Rung({"model.max_pixels": area // 2}),
        "model.max_pixels, a quarter": Rung({"model.max_pixels": area // 4}),
        "model.frozen=[vision,merger]": Rung({"model.frozen": [Part.vision, Part.merger]}),
        "model.frozen=[language]": Rung({"model.frozen": [Part.language]}),
        "algorithm.group_size, half": Rung({"algorithm.group_size": max(2, size.workload.group // 2)}),
        "algorithm.kl.coefficient=0": Rung({"algorithm.kl.coefficient": 0.0}),
        "hardware.master_weights=false, beside bfloat16": Rung(rounded | {"hardware.master_weights": False}, ROUNDED),
        "2 ranks": Rung(ranks=2),
        "hardware.offload_reference=true": Rung({"hardware.offload_reference": True}, needs_gpu=True),
        "hardware.offload=true": Rung({"hardware.offload": True}, needs_gpu=True),
    }


def give_back(*, everything: bool) -> None:
    """Malloc returns each freed tensor of 128 kB or more to the system at once, or keeps what is below 32 MB, as it learns to by itself."""
    malloc = ctypes.CDLL(None)
    for option, kept in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**26)):
        assert malloc.mallopt(option, 2**17 if everything else kept) == 1


def child(size: Size, folder: Path, rung: Rung, device: str, world: World) -> dict[str, Any]:
    """What the steps of one rung need in this process, and in the others of its run."""
    on_gpu = device == "cuda"
    changes = {"hardware.device": device} | ({"hardware.precision": Precision.bfloat16} if on_gpu else {}) | rung.changes
    give_back(everything=True)
    with Peak() as memory:
        here = trainer(size, folder, changes, world)
        held = torch.cuda.memory_allocated() if on_gpu else memory.look()
        torch.cuda.reset_peak_memory_stats() if on_gpu else memory.forget()
        run = steps(size, here, 2)
        first = next(run)
    give_back(everything=False)
    started = clock()
    second = next(run)
    seconds, cpu = clock(started)
    assert first.skipped is second.skipped is None
    peak = torch.cuda.max_memory_allocated() if on_gpu else memory.anonymous
    found = world.gather({"peak_gb": peak / 1e9, "held_gb": held / 1e9, "seconds": seconds, "cpu_seconds": cpu})
    return {name: max(of_rank[name] for of_rank in found) for name in found[0]}


def turn(size: Size, name: str, folder: Path, device: str) -> dict[str, dict[str, Any]]:
    """Every rung once."""
    found = {}
    for number, (rung, what) in enumerate(ladder(size).items()):
        if what.needs_gpu and device == "cpu":
            found[rung] = {"not measured": "needs a GPU"}
        elif what.ranks > 1 and device == "cuda" and torch.cuda.device_count() < what.ranks:
            found[rung] = {"not measured": f"needs {what.ranks} GPUs"}
        else:
            child = ("--size", name, "--device", device, "--folder", str(folder), "--rung", str(number))
            found[rung] = on_ranks(what.ranks, __file__, *child)
        print(f"{rung}: {found[rung]}", file=sys.stderr)
    return found


def figures(size: Size, turns: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each rung beside its own: `ratio` of the peaks, `seconds_ratio`, and both sides."""

    def side(rung: str) -> dict[str, Any]:
        return {key: measure.spread([one[rung][key] for one in turns]) for key in turns[0][rung]}

    def ratio(rung: str, beside: str, key: str) -> dict[str, float]:
        return measure.spread([one[rung][key] / one[beside][key] for one in turns])

    found: dict[str, dict[str, Any]] = {}
    for rung, what in ladder(size).items():
        if "not measured" in turns[0][rung]:
            found[rung] = turns[0][rung]
            continue
        keys = {"ratio": "peak_gb", "seconds_ratio": "seconds", "cpu_seconds_ratio": "cpu_seconds"}
        ratios = {name: ratio(rung, what.beside, key) for name, key in keys.items()}
        found[rung] = ratios | {"beside": what.beside, "ours": side(rung), "peer": side(what.beside), "machine": measure.machine()}
    return found


def show(found: Mapping[str, dict[str, Any]]) -> None:
    """The ladder as a table."""
    rows = []
    for rung, figure in found.items():
        if "not measured" in figure:
            rows.append([f"`{rung}`", f"not measured: {figure['not measured']}", "", "", "", ""])
            continue
        held, peak = (f"{figure['ours'][key]['median']:.2f}" for key in ("held_gb", "peak_gb"))
        times = (f"{s['median']:.2f} ({s['min']:.2f}–{s['max']:.2f})" for s in (figure["ratio"], figure["seconds_ratio"]))
        rows.append([f"`{rung}`", held, peak, *times, f"{figure['ours']['seconds']['median']:.2f}"])
    markdown(("one switch", "held GB", "peak GB", "peak ×", "seconds ×", "seconds"), rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.parser(__doc__, repeats=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what is measured (cpu)")
    parser.add_argument("--size", choices=SIZES, default="ladder", help="of the model and the workload (ladder)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rung", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    measure.pin()
    size = SIZES[options.size]
    if options.rung is not None:
        return as_rank(lambda world: child(size, options.folder, list(ladder(size).values())[options.rung], options.device, world))
    with tempfile.TemporaryDirectory() as folder:
        model = write(size, Path(folder))
        turns = [turn(size, options.size, Path(folder), options.device) for _ in range(options.repeats)]
    found = figures(size, turns)
    show(found)
    asked = f"{size.workload.title}, images of {size.workload.cells[1] * 2 * PATCH} pixels a side"
    extra = {"headline": HEADLINE, "figures": found, "model": model, "workload": asked, "device": options.device, "turns": options.repeats}
    return written(found[HEADLINE] | extra, options.json, "memory", f"random-{model['parameters'] / 1e6:.0f}m")


if __name__ == "__main__":
    main()
    sys.exit()
