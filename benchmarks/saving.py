"""What checkpoints cost training: steps with one after every step beside steps without any, block after block of one run of our trainer.

    python benchmarks/saving.py --json benchmarks/results

Three figures, each by a step without checkpoints: `blocked`, the seconds that `Checkpoints.save` keeps the loop (a copy of the tensors, and the wait
for the checkpoint before it, if that is not yet written); `slowdown`, what the step that follows takes longer while a thread writes; and `ratio`,
both together: what a step costs with a checkpoint after every one. With checkpoint.every=N a run pays an N-th of what is above 1. The must: blocked
below 10 %. The files go into $TMPDIR and are synced to the disk. The process is warm after one block of each kind.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import _measure as measure
from _scale import Size, clock, markdown, steps, trainer, write, written
from _workloads import STANDARD, TINY

from visual_rft.checkpoint import CheckpointOptions, Checkpoints
from visual_rft.distributed import ALONE
from visual_rft.models import loading
from visual_rft.trainer import GrpoStep, Trainer

SIZES = {
    "standard": Size(STANDARD, hidden=192, mlp=1024, layers=4, tower=128, blocks=4),
    "tiny": Size(TINY, hidden=96, mlp=64, layers=2, tower=32, blocks=2),
}
MUST = 0.1  # of a step, at most, that a checkpoint may block the loop
Block = dict[str, list[float]]


def block(run: Iterator[GrpoStep], length: int, save: Callable[[], None] | None) -> Block:
    """The seconds of so many steps, and of the checkpoint before each."""
    found: Block = {"blocked": [], "seconds": []}
    for _ in range(length):
        started = clock()
        if save:
            save()
        found["blocked"].append(clock(started)[0])
        started = clock()
        next(run)
        found["seconds"].append(clock(started)[0])
    return found


def blocks(size: Size, folder: Path, length: int, repeats: int) -> tuple[list[Block], list[Block], int]:
    """Blocks with checkpoints and blocks without, by turns; and the bytes of a checkpoint."""
    here = trainer(size, folder, {}, ALONE)
    tensors = here.tensors()
    options = CheckpointOptions(every=1, keep_last=2, keep_best=0)
    checkpoints = Checkpoints(folder / "checkpoints", options, ALONE, loading.beside_weights(str(folder)))
    run = steps(size, here, 2 * length * (repeats + 1))
    saved, plain = [], []
    for _ in range(repeats + 1):
        plain.append(block(run, length, None))
        saved.append(block(run, length, partial(_save, checkpoints, here)))
        warning = checkpoints.settle(wait=True)
        assert not warning, warning
    return saved[1:], plain[1:], sum(tensor.nbytes for tensor in tensors.values())


def _save(checkpoints: Checkpoints, of: Trainer) -> None:
    checkpoints.save(of.progress.steps, of.tensors(), {"trainer": of.note()}, None)


def figure(saved: Sequence[Block], plain: Sequence[Block]) -> dict[str, Any]:
    """What a turn's checkpoints cost by a step of the same turn without."""
    found: dict[str, list[float]] = {"ratio": [], "blocked": [], "slowdown": []}
    for with_them, without in zip(saved, plain, strict=True):
        step = median(without["seconds"])
        found["blocked"].append(median(with_them["blocked"]) / step)
        found["slowdown"].append(median(with_them["seconds"]) / step - 1)
        found["ratio"].append(sum(chain(with_them["blocked"], with_them["seconds"])) / sum(without["seconds"]))

    def every(sides: Sequence[Block], key: str) -> dict[str, float]:
        return measure.spread([value for side in sides for value in side[key]])

    sides = {"ours": {key: every(saved, key) for key in ("seconds", "blocked")}, "peer": {"seconds": every(plain, "seconds")}}
    return {name: measure.spread(values) for name, values in found.items()} | sides | {"machine": measure.machine()}


def show(found: dict[str, Any], gigabytes: float) -> None:
    """One line, and whether the must is met."""

    def text(key: str) -> str:
        return f"{found[key]['median']:.3f} ({found[key]['min']:.3f}–{found[key]['max']:.3f})"

    plain, blocked = found["peer"]["seconds"]["median"], found["ours"]["blocked"]["median"]
    head = ("checkpoint GB", "step without, s", "blocked, s", "blocked ÷ step", "slowdown", "step with ÷ without")
    markdown(head, [[f"{gigabytes:.3f}", f"{plain:.3f}", f"{blocked:.4f}", text("blocked"), text("slowdown"), text("ratio")]])
    print(f"blocked below {MUST:.0%} of a step: {'yes' if found['blocked']['median'] < MUST else 'NO'}")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="standard", help="of the model and the workload (standard)")
    parser.add_argument("--steps", type=int, default=4, help="of a block (4)")
    options = parser.parse_args(arguments)
    measure.pin()
    size = SIZES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        model = write(size, Path(folder))
        saved, plain, nbytes = blocks(size, Path(folder), options.steps, options.repeats)
    found = figure(saved, plain)
    show(found, nbytes / 1e9)
    extra = {"must": f"blocked below {MUST:.0%} of a step", "checkpoint_bytes": nbytes, "model": model, "workload": size.workload.title}
    return written(found | extra | {"steps": options.steps}, options.json, "saving", f"random-{model['parameters'] / 1e6:.0f}m")


if __name__ == "__main__":
    main()
    sys.exit()
