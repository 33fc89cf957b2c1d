"""How two sides are compared: one thread, by turns in one process, the median of the ratios and their spread; what is printed and written."""

import argparse
import gc
import importlib.metadata
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from _workloads import SMALL, STANDARD, TINY
from rich.console import Console
from rich.table import Table

LIBRARIES = ("torch", "transformers", "trl")


@dataclass(frozen=True)
class Sample:
    """Seconds of one run of one side, on the wall's clock and the processor's (more than the wall's: more than one thread ran), and of its parts."""

    seconds: float
    cpu_seconds: float | None
    parts: Mapping[str, float] = field(default_factory=dict)


# One run of one side. It may return the seconds of its parts by name; anything else is not looked at.
Side = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """What both sides took, run by run: the n-th of ours is beside the n-th of the peer's."""

    ours: Sequence[Sample]
    peer: Sequence[Sample]

    def part(self, name: str) -> "Figure":
        """The figure of a part that both sides have."""
        ours, peer = ([Sample(sample.parts[name], None) for sample in side] for side in (self.ours, self.peer))
        return Figure(ours, peer)

    def plain(self) -> dict[str, Any]:
        """The schema of a result: how many times fewer seconds ours takes, and each side's seconds."""
        ratios = [peer.seconds / ours.seconds for ours, peer in zip(self.ours, self.peer, strict=True)]
        return {"ratio": spread(ratios), "ours": _side(self.ours), "peer": _side(self.peer), "machine": machine()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _side(samples: Sequence[Sample]) -> dict[str, Any]:
    side: dict[str, Any] = {"seconds": spread([s.seconds for s in samples])}
    cpu = [s.cpu_seconds for s in samples if s.cpu_seconds is not None]
    parts = {name: statistics.median(s.parts[name] for s in samples) for name in samples[0].parts}
    return side | ({"cpu_seconds": spread(cpu)} if cpu else {}) | ({"parts": parts} if parts else {})


def pin() -> None:
    """One thread."""
    torch.set_num_threads(1)


def timed(side: Side) -> Sample:
    """One run."""
    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    parts = side()
    return Sample(time.perf_counter() - started, time.process_time() - cpu, parts if isinstance(parts, dict) else {})


def by_turns(sides: Mapping[str, Side], repeats: int, *, warm_up: bool = True) -> dict[str, list[Sample]]:
    """Every side once to warm up, then `repeats` times by turns, in the other order every other time."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for turn in range(-warm_up, repeats):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            sample = timed(sides[name])
            if turn >= 0:
                samples[name].append(sample)
    return samples


def figure(ours: Side, peer: Side, repeats: int, *, warm_up: bool = True) -> Figure:
    """Both sides by turns."""
    samples = by_turns({"ours": ours, "peer": peer}, repeats, warm_up=warm_up)
    return Figure(samples["ours"], samples["peer"])


def machine() -> dict[str, Any]:
    """What it was measured on, with what, and when."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.*)", text)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    cpu = found.group(1).strip() if found else "unknown"
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions, "date": datetime.now(UTC).date().isoformat()}


def peak_gb() -> float:
    """The most memory that this process has held, in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell of the parent, too
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        assert found
        return int(found.group(1)) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def child(script: str, *arguments: str) -> dict[str, Any]:
    """What a process of its own prints as its last line, in JSON."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parser(text: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the result there; into a folder it goes by model, hardware and date")
    options.add_argument("--repeats", type=int, default=repeats, help=f"turns of each side ({repeats})")
    return options


def workload_parser(text: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark of the fixed workloads."""
    options = parser(text)
    known = {workload.name: workload for workload in (STANDARD, SMALL, TINY)}
    names = ", ".join(known)
    options.add_argument(
        "--workloads", type=lambda given: [known[name] for name in given.split(",")], default=[STANDARD, SMALL], help=f"of {names} (standard,small)"
    )
    return options


def report(name: str, figures: Mapping[str, dict[str, Any]], headline: str, extra: Mapping[str, Any], json_file: Path | None) -> dict[str, Any]:
    """Prints the figures (as `Figure.plain` has them) and writes them, the headline at the top; returns what is written."""
    table = Table(title=name, title_justify="left")
    for title in ("figure", "ours s", "peer s", "ratio", "spread", "cpu ratio"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for figure, values in figures.items():
        ratio, ours, peer = (values[key] for key in ("ratio", "ours", "peer"))
        cpu = peer["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"] if "cpu_seconds" in ours else None
        seconds = (f"{side['seconds']['median']:.3f}" for side in (ours, peer))
        table.add_row(figure, *seconds, f"{ratio['median']:.2f}", f"{ratio['min']:.2f}–{ratio['max']:.2f}", f"{cpu:.2f}" if cpu else "")
    console = Console(width=120 if not sys.stdout.isatty() else None)
    console.print(table)
    for key, value in extra.items():
        console.print(f"{key}: {_short(value)}", highlight=False)
    result = {**figures[headline], "headline": headline, "figures": dict(figures), **extra}
    if json_file:
        file = target(json_file, name)
        file.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written: {file}", highlight=False, soft_wrap=True)
    return result


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "".join(f"\n  {part}" for part in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(part)}" for key, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def target(given: Path, name: str) -> Path:
    """The file that is given, or in the folder that is: <benchmark>_<model>_<hardware>_<date>.json."""
    here = machine()
    maker = next((word for word in ("epyc", "xeon", "ryzen", "core") if word in str(here["cpu"]).lower()), "cpu")
    return given / f"{name}_random-6m_{here['cores']}-core-{maker}_{here['date']}.json" if given.is_dir() else given
