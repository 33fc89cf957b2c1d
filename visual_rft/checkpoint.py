"""The points that a run can go on from: written beside the training, whole or not at all, and so many kept as are asked for.

`step_000040/` holds the tensors in the shards of the ranks (`storage`), `run.json`, and what else makes it a model folder: configuration, tokenizer,
image processor. While it is written it is `.step_000040.partial`, while it is removed `.step_000040.old.partial`: a kill leaves nothing half
under its name.
"""

import errno
import json
import os
import shutil
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_saver import async_save

from visual_rft.distributed import WAIT, World
from visual_rft.storage import Writer
from visual_rft.tracking.runfolder import saved_steps

RUN = "run.json"  # the step, its score, and what else was noted; its last file, so that a checkpoint with it is whole
TRAINER = "trainer"  # the key in it without which a checkpoint is weights alone


@dataclass
class CheckpointOptions:
    """How often the run is saved so that it can go on, and how many of the points are kept."""

    every: int  # steps between two; 0: only the weights, at the end
    keep_last: int  # the newest ones
    keep_best: int  # beside them those with the best score; 0: none

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every={self.every}: must be 0 (only at the end) or a number of steps")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last={self.keep_last}: must be at least 1")
        if self.keep_best < 0:
            raise ValueError(f"checkpoint.keep_best={self.keep_best}: must be 0 (none) or a number of checkpoints")


class Checkpoints:
    """The folder of a run's checkpoints. Every rank makes the same calls; the first one decides, names and removes."""

    def __init__(self, folder: Path, options: CheckpointOptions, world: World, files: Mapping[str, bytes]) -> None:
        """`files`: what each checkpoint holds beside its tensors, by name."""
        self.folder, self.options, self.world = folder, options, world
        self._group = dist.new_group(backend="gloo", timeout=WAIT) if world.size > 1 else None  # the training's own would mix up who waits for what
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[str | None] | None = None
        self._failure: str | None = None  # why the newest one could not be written
        self._warning: str | None = None  # what nobody has been told yet
        self._files = files
        world.first(self._begin)
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # what async_save says, in its thread, in a run of one process

    def _begin(self) -> None:
        for leftover in self.folder.glob(".step_*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], note: Mapping[str, Any], score: float | None) -> None:
        """Begin to write a checkpoint; returns as soon as the tensors are copied and may change. Waits for the one before it to be written.

        `tensors`: the same names on every rank, plain ones with the same values, of a DTensor each rank its part. `note` goes into run.json.
        """
        self._collect()
        partial = self.folder / f".step_{step:06d}.partial"
        text = json.dumps({"step": step, "score": score if score is not None and isfinite(score) else None, **note}, indent=1) + "\n"
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        writer, alone = Writer(partial), self.world.size == 1
        written = async_save(dict(tensors), storage_writer=writer, planner=planner, process_group=self._group, no_dist=alone)
        assert isinstance(written, Future)
        self._pending = self._thread.submit(self._complete, written, self.folder / f"step_{step:06d}", partial, text)

    def settle(self, *, wait: bool = False) -> str | None:
        """A line to be shown, on the first rank, when a checkpoint that was under way has failed: the run goes on without it.

        With `wait` it is the end: waits until the newest one is written, and raises ValueError on every rank when that failed.
        """
        if wait or (self._pending and self._pending.done()):
            self._collect()
        if wait:
            self.world.first(self._insist)
        warning, self._warning = self._warning, None
        return warning

    def _insist(self) -> None:
        if self._failure:
            raise ValueError(f"{self.folder}: the checkpoint cannot be written ({self._failure}); make room on the disk")

    def _collect(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, None
            self._warning = pending.result() or self._warning

    def _complete(self, written: Future[Any], target: Path, partial: Path, text: str) -> str | None:
        """In the thread: gives the checkpoint its name when all ranks have written, as the first one's future says for all. Returns the warning."""
        error = _disk_error(written.exception())
        if not self.world.is_first:
            return None
        try:
            if error:
                raise error
            self._publish(target, partial, text)
            self._failure = None
        except OSError as failed:
            shutil.rmtree(partial, ignore_errors=True)
            self._failure = failed.strerror or str(failed)
            return f"{target}: the checkpoint cannot be written ({self._failure}); the run goes on without it: make room on the disk"
        return self._prune()

    def _publish(self, target: Path, partial: Path, text: str) -> None:
        for name, content in self._files.items():
            (partial / name).write_bytes(content)
        (partial / RUN).write_text(text, encoding="utf-8")
        for path in (partial, *partial.rglob("*")):
            _sync(path)
        old = _aside(target) if target.exists() else None  # of a run that goes on from a point before it
        partial.rename(target)
        _sync(self.folder)
        if old:
            shutil.rmtree(old)

    def _prune(self) -> str | None:
        notes = {}
        for path in _steps(self.folder):
            try:
                notes[step_of(path)] = note(path)
            except ValueError:  # it is for the user to look at
                continue
        stay = kept(
            {step: held.get("score") for step, held in notes.items()}, [step for step, held in notes.items() if TRAINER in held], self.options
        )
        for path in _steps(self.folder):
            if step_of(path) in notes.keys() - stay:
                try:
                    shutil.rmtree(_aside(path))
                except OSError as error:
                    return f"{path}: the checkpoint cannot be removed ({error.strerror}); remove it by hand"
        return None


def check_room(folder: Path, options: CheckpointOptions, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError when the folder, which need not be there yet, cannot be written to, or the disk has no room for all checkpoints of these
    tensors that are held at a time."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        TemporaryFile(dir=place).close()
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another hydra.run.dir") from error
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())  # by a run that goes on
    count = options.keep_last + options.keep_best + 1 if options.every else 1
    size = sum(tensor.nbytes for tensor in tensors.values())
    if count * size > free + held:
        need, have = (f"{bytes_ / 1e9:.1f} GB" for bytes_ in (count * size, free + held))
        remedy = "make room, ask for fewer by checkpoint.keep_last and checkpoint.keep_best, or choose another hydra.run.dir"
        raise ValueError(f"{folder}: {count} checkpoints need {need}, and {have} are free; {remedy}")


def kept(scores: Mapping[int, float | None], resumable: Collection[int], options: CheckpointOptions) -> set[int]:
    """The steps whose checkpoints stay: the newest, those with the best score (of equals the newer), and the newest that a run can go on from."""
    newest_first = sorted(scores, reverse=True)
    scored = {step: score for step in newest_first if (score := scores[step]) is not None}
    best = sorted(scored, key=lambda step: -scored[step])  # stable
    return {*newest_first[: options.keep_last], *best[: options.keep_best], *sorted(resumable)[-1:]}


def newest(folder: Path) -> Path | None:
    """The latest checkpoint in a folder that a run can go on from. Raises ValueError when one that may be it is damaged."""
    return next((path for path in _steps(folder) if TRAINER in note(path)), None)


def note(path: Path) -> dict[str, Any]:
    """What was noted with a checkpoint. Raises ValueError when that is damaged."""
    try:
        noted = json.loads((path / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged; delete it to go on from the one before it") from error
    if not isinstance(noted, dict):
        raise ValueError(f"{path}: damaged; delete it to go on from the one before it")
    return noted


def step_of(checkpoint: Path) -> int:
    """The steps that were done when a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step_"))


def _steps(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, the newest first."""
    return [path for path in saved_steps(folder).values() if (path / RUN).exists()]


def _aside(path: Path) -> Path:
    """A checkpoint under the name of one that is being removed."""
    aside = path.with_name(f".{path.name}.old.partial")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def _disk_error(error: BaseException | None) -> OSError | None:
    """What the disk refused a rank, if that is all that went wrong; whatever else is a defect, or a rank that died, and is raised."""
    if error is None:
        return None
    failures = [failure for failure, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    refused = [failure for failure in failures if isinstance(failure, OSError)]
    if len(refused) < len(failures):
        raise RuntimeError("a checkpoint cannot be written") from error
    return refused[0]


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this with a folder
            raise
    finally:
        os.close(handle)
