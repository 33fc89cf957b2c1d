"""Checkpoints are whole or not there, whatever happens while they are written. Run: .venv/bin/python -m pytest tests/test_checkpoint.py"""

import errno
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from test_storage import SPAWN, parts, together, whole
from torch import Tensor

from visual_rft import storage
from visual_rft.checkpoint import CheckpointOptions, Checkpoints, check_room, kept, newest, note, step_of
from visual_rft.distributed import World

OPTIONS = CheckpointOptions(every=1, keep_last=2, keep_best=1)
TRAINER = {"trainer": {"steps": 1}}


FILES = {"config.json": b"{}", "template.jinja": b"hello"}


def checkpoints(folder: Path, options: CheckpointOptions = OPTIONS, world: World | None = None) -> Checkpoints:
    return Checkpoints(folder, options, world or World(), FILES)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def filled(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((40, 50), value), "b": torch.full((7,), value).bfloat16(), "count": torch.tensor(int(value))}


def assert_holds(checkpoint: Path, value: float) -> None:
    tensors = filled(-1)
    storage.read(checkpoint, tensors)
    assert all(tensor.eq(value).all() for tensor in tensors.values()), checkpoint


@contextmanager
def refusing(number: int) -> Iterator[None]:
    """A disk that takes no file of tensors."""

    def refuse(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "save_file", refuse)
        yield


@contextmanager
def slow() -> Iterator[Event]:
    """A disk that waits for the event before it takes a file of tensors."""
    go, plain = Event(), storage.save_file

    def wait(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        assert go.wait(60)
        plain(tensors, file, metadata)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "save_file", wait)
        try:
            yield go
        finally:
            go.set()


def test_what_was_saved_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    held, tensors = checkpoints(tmp_path / "c"), whole()
    check_room(tmp_path / "c", OPTIONS, tensors)
    held.save(40, tensors, TRAINER, score=0.5)
    assert held.settle(wait=True) is None
    (path,) = (tmp_path / "c").iterdir()
    assert path.name == "step_000040" and newest(tmp_path / "c") == path and step_of(path) == 40
    assert note(path) == {"step": 40, "score": 0.5, "trainer": {"steps": 1}}
    read = {name: torch.full_like(tensor, 9) for name, tensor in tensors.items()}
    storage.read(path, read)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    found = {file for file in path.rglob("*") if file.is_file()}
    assert {file.suffix for file in found} == {".safetensors", ".json", ".jinja"}, "nothing that is executed when it is read"
    assert path / "template.jinja" in found
    assert capfd.readouterr() == ("", "")


def test_training_goes_on_while_it_is_written_and_does_not_change_it(tmp_path: Path) -> None:
    held, tensors = checkpoints(tmp_path / "c"), filled(1)
    with slow() as go:
        held.save(1, tensors, TRAINER, score=None)
        for tensor in tensors.values():
            tensor.fill_(2)
        assert held.settle() is None and newest(tmp_path / "c") is None, "it is under way"
        go.set()
        held.settle(wait=True)
    assert_holds(tmp_path / "c/step_000001", 1)


def test_one_waits_for_the_one_before_it(tmp_path: Path) -> None:
    held = checkpoints(tmp_path / "c")
    with slow() as go:
        held.save(1, filled(1), TRAINER, score=None)
        second = Thread(target=held.save, args=(2, filled(2), TRAINER, None))
        second.start()
        time.sleep(0.1)
        assert second.is_alive()
        go.set()
        second.join()
    held.settle(wait=True)
    assert names(tmp_path / "c") == ["step_000001", "step_000002"]


def test_it_settles_by_itself_between_steps(tmp_path: Path) -> None:
    held = checkpoints(tmp_path / "c")
    held.save(1, filled(1), TRAINER, score=None)
    deadline = time.monotonic() + 60
    while not (tmp_path / "c/step_000001").exists():
        assert held.settle() is None and time.monotonic() < deadline
    assert held.settle() is None


def test_a_step_saved_again_replaces_what_is_there(tmp_path: Path) -> None:
    held = checkpoints(tmp_path / "c")
    for value in (1, 2):
        held.save(5, filled(value), TRAINER, score=None)
    held.settle(wait=True)
    assert names(tmp_path / "c") == ["step_000005"]
    assert_holds(tmp_path / "c/step_000005", 2)


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path: Path) -> None:
    for name in (".step_000003.partial", ".step_000002.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard").touch()
    (tmp_path / "mine").touch()
    checkpoints(tmp_path)
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_a_score_that_is_no_number_is_none(score: float | None, tmp_path: Path) -> None:
    held = checkpoints(tmp_path)
    held.save(1, filled(1), {}, score)
    held.settle(wait=True)
    assert note(tmp_path / "step_000001") == {"step": 1, "score": None}


SCORES = st.lists(st.tuples(st.none() | st.integers(0, 5).map(float), st.booleans()), min_size=1, max_size=30)


@given(history=SCORES, last=st.integers(1, 4), best=st.integers(0, 4))
def test_pruned_as_one_goes_the_newest_and_the_best_of_all_ever_saved_are_there(
    history: list[tuple[float | None, bool]], last: int, best: int
) -> None:
    options, there = CheckpointOptions(1, last, best), dict[int, tuple[float | None, bool]]()
    for step, saved in enumerate(history, start=1):
        there[step] = saved
        stay = kept({s: score for s, (score, _) in there.items()}, [s for s, (_, resumable) in there.items() if resumable], options)
        there = {s: saved for s, saved in there.items() if s in stay}
        ever = dict(enumerate(history[:step], start=1))
        ranked = sorted((s for s in ever if ever[s][0] is not None), key=lambda s: (ever[s][0], s), reverse=True)
        resumable = [s for s in ever if ever[s][1]]
        assert set(there) == {*sorted(ever)[-last:], *ranked[:best], *resumable[-1:]}
        assert len(there) <= last + best + 1, "which is what check_room counts"


def test_what_is_kept_on_the_disk_is_what_kept_says(tmp_path: Path) -> None:
    held = checkpoints(tmp_path)
    for step, score in enumerate([1.0, 3.0, None, 2.0, 0.0], start=1):
        held.save(step, filled(step), TRAINER, score)
    held.save(6, filled(6), {}, None)
    held.settle(wait=True)
    assert names(tmp_path) == ["step_000002", "step_000005", "step_000006"]
    assert newest(tmp_path) == tmp_path / "step_000005", "weights alone are nothing to go on from"
    held.save(7, filled(7), {}, None)
    held.settle(wait=True)
    assert newest(tmp_path) == tmp_path / "step_000005" and len(names(tmp_path)) == 4, "nor are they a reason to remove what is"


def test_what_is_no_checkpoint_is_neither_read_nor_removed(tmp_path: Path) -> None:
    for name in ("step_000009", "step_x", "steps", ".step_000010.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_best").mkdir()
    (tmp_path / "step_best/run.json").write_text("{}")
    assert newest(tmp_path) is None and newest(tmp_path / "nowhere") is None
    held = checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        held.save(step, filled(step), TRAINER, None)
    held.settle(wait=True)
    assert names(tmp_path) == ["step_000003", "step_000004", "step_000009", "step_best", "step_x", "steps"]


@pytest.mark.parametrize("text", ["", '{"step": 3', "[]", "\xff"])
def test_a_damaged_note_is_named_and_the_one_before_it_stays(text: str, tmp_path: Path) -> None:
    held = checkpoints(tmp_path)
    held.save(1, filled(1), TRAINER, None)
    held.settle(wait=True)
    damaged = Path(shutil.copytree(tmp_path / "step_000001", tmp_path / "step_000002"))
    (damaged / "run.json").write_text(text, encoding="latin-1")
    for find in (lambda: note(damaged), lambda: newest(tmp_path)):
        with pytest.raises(ValueError, match=f"^{damaged}: damaged; delete it to go on from the one before it$"):
            find()
    shutil.rmtree(damaged)
    assert newest(tmp_path) == tmp_path / "step_000001"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_run_outlives_a_disk_that_takes_nothing(number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    held = checkpoints(tmp_path)
    held.save(1, filled(1), TRAINER, None)
    held.settle(wait=True)
    with refusing(number):
        held.save(2, filled(2), TRAINER, None)
        held.save(3, filled(3), TRAINER, None)
        with pytest.raises(ValueError, match=f"^{tmp_path}: the checkpoint cannot be written \\({os.strerror(number)}\\); make room on the disk$"):
            held.settle(wait=True)
    warning = held.settle()
    assert warning and f"step_000003: the checkpoint cannot be written ({os.strerror(number)})" in warning and "\n" not in warning
    assert held.settle() is None, "told once"
    assert names(tmp_path) == ["step_000001"]
    held.save(4, filled(4), TRAINER, None)
    assert held.settle(wait=True) is None
    assert newest(tmp_path) == tmp_path / "step_000004"
    assert capfd.readouterr() == ("", "")


def test_a_disk_full_at_the_last_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, plain = checkpoints(tmp_path), Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if self.name == "run.json":
            raise OSError(errno.ENOSPC, "full")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    held.save(1, filled(1), TRAINER, None)
    with pytest.raises(ValueError, match="full"):
        held.settle(wait=True)
    assert names(tmp_path) == []


def test_one_that_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = checkpoints(tmp_path, CheckpointOptions(1, 1, 0))
    held.save(1, filled(1), TRAINER, None)
    held.settle(wait=True)

    def refuse(self: Path, target: Path) -> Path:
        if ".old." in target.name:
            raise PermissionError(errno.EPERM, "no")
        return plain(self, target)

    plain = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)
    held.save(2, filled(2), TRAINER, None)
    assert held.settle(wait=True) == f"{tmp_path / 'step_000001'}: the checkpoint cannot be removed (no); remove it by hand"
    assert names(tmp_path) == ["step_000001", "step_000002"]


def test_a_defect_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = checkpoints(tmp_path)
    monkeypatch.setattr(storage, "save_file", None)
    held.save(1, filled(1), TRAINER, None)
    with pytest.raises(RuntimeError, match="a checkpoint cannot be written"):
        held.settle(wait=True)


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file/checkpoints"  # permissions would not stop root
    with pytest.raises(ValueError, match=f"^{folder}: cannot be written \\(Not a directory\\); choose another hydra.run.dir$"):
        check_room(folder, OPTIONS, filled(1))
    held = checkpoints(folder)
    held.save(1, filled(1), TRAINER, None)
    with pytest.raises(ValueError, match="Not a directory"):
        held.settle(wait=True)


@pytest.mark.parametrize(("every", "count"), [(5, 4), (0, 1)])
def test_a_disk_too_small_is_told_at_the_start(every: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, tensors = CheckpointOptions(every, keep_last=2, keep_best=1), {"a": torch.empty(10**9, device="meta")}

    def check(free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, int(free)))
        check_room(tmp_path / "c", options, tensors)

    check(count * 4e9)
    with pytest.raises(ValueError) as refused:
        check(count * 4e9 - 1e9)
    assert f"{count} checkpoints need {count * 4}.0 GB, and {count * 4 - 1}.0 GB are free; make room" in str(refused.value)
    assert not (tmp_path / "c").exists()
    (tmp_path / "c/step_000001").mkdir(parents=True)
    with (tmp_path / "c/step_000001/shard").open("wb") as file:
        file.truncate(10**9)
    check(count * 4e9 - 1e9)


@pytest.mark.parametrize(("numbers", "key"), [((-1, 1, 0), "every=-1"), ((0, 0, 0), "keep_last=0"), ((0, 1, -1), "keep_best=-1")])
def test_options_out_of_range_are_refused(numbers: tuple[int, int, int], key: str) -> None:
    with pytest.raises(ValueError, match=f"checkpoint.{key}: must be"):
        CheckpointOptions(*numbers)


def _full_disk(world: World, folder: Path) -> None:
    """The last rank's disk is full for a while."""
    held, tensors = checkpoints(folder, world=world), parts(whole(), world)
    held.save(1, tensors, TRAINER, None)
    held.settle(wait=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == world.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    held.save(2, tensors, TRAINER, None)
    try:
        held.settle(wait=True)
        raise AssertionError("it was written")
    except ValueError as error:
        assert str(error) == f"{folder}: the checkpoint cannot be written (File too large); make room on the disk"
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (held.settle() is not None) == world.is_first
    held.save(3, tensors, TRAINER, None)
    assert held.settle(wait=True) is None


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_full_disk_of_one_rank_spoils_nothing(size: int, tmp_path: Path) -> None:
    together(size, _full_disk, tmp_path)
    assert names(tmp_path) == ["step_000001", "step_000003"]


@torch.no_grad()
def _train(tensors: dict[str, Tensor]) -> None:
    for tensor in tensors.values():
        tensor.add_(1)


def _save_and_train(world: World, folder: Path) -> None:
    held, tensors = checkpoints(folder, world=world), parts(whole(), world)
    for step in (1, 2, 3):
        held.save(step, tensors, TRAINER, float(-step))
        _train(tensors)
        for _ in range(world.rank):
            held.settle()  # ranks are done at different moments
    held.settle(wait=True)


def test_ranks_save_their_parts_together(tmp_path: Path) -> None:
    together(2, _save_and_train, tmp_path)
    assert names(tmp_path) == ["step_000001", "step_000002", "step_000003"]
    expected = whole()
    for name in names(tmp_path):
        read = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        storage.read(tmp_path / name, read)
        assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
        _train(expected)


def _save_until_killed(folder: Path, world: World | None = None) -> None:
    torch.set_num_threads(1)
    held = checkpoints(folder, CheckpointOptions(1, 2, 1), world)
    start = max((step_of(path) for path in folder.glob("step_*")), default=0)
    for step in range(start + 1, 10**6):
        tensors = filled(step % 128)
        held.save(step, parts(tensors, world or World()), TRAINER, float(step % 7))
        held.settle()
        for tensor in tensors.values():
            tensor.zero_()


def _ranks_until_killed(world: World, folder: Path) -> None:
    _save_until_killed(folder, world)


def assert_only_whole_ones(folder: Path) -> int:
    """Each can be read and holds one step; returns the newest's step."""
    found = [path for path in folder.iterdir() if not path.name.endswith(".partial")]
    for path in found:
        assert_holds(path, step_of(path) % 128)
        assert note(path)["step"] == step_of(path)
        assert (path / "config.json").read_text() == "{}"
    latest = newest(folder)
    assert found == [] or latest == max(found, key=step_of)
    return step_of(latest) if latest else 0


def kill_while_saving(folder: Path, times: int, seed: int) -> None:
    moments, reached = random.Random(seed), [0]
    for _ in range(times):
        process = SPAWN.Process(target=_save_until_killed, args=(folder,))
        process.start()
        deadline = time.monotonic() + 60
        while not (folder / f"step_{reached[-1] + 2:06d}").exists():  # it is at work
            assert time.monotonic() < deadline and process.is_alive()
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        reached.append(assert_only_whole_ones(folder))
    assert all(later > before for before, later in pairwise(reached)), "it went on from where it was"


def test_a_kill_leaves_only_whole_ones(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    kill_while_saving(folder, times=4, seed=0)


@pytest.mark.slow
def test_many_kills_leave_only_whole_ones(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    kill_while_saving(folder, times=60, seed=1)


@pytest.mark.slow
def test_many_kills_of_two_ranks_leave_only_whole_ones(tmp_path: Path) -> None:
    moments = random.Random(2)
    reached = [0]
    for _ in range(20):
        with pytest.raises(AssertionError, match="the ranks hang"):
            together(2, _ranks_until_killed, tmp_path, seconds=moments.uniform(1.5, 3))
        reached.append(assert_only_whole_ones(tmp_path))
    assert reached == sorted(reached) and reached[-1] > 20


def test_run_json_is_what_makes_it_whole(tmp_path: Path) -> None:
    held = checkpoints(tmp_path)
    held.save(1, filled(1), TRAINER | {"more": [1, 2]}, 1.0)
    held.settle(wait=True)
    assert json.loads((tmp_path / "step_000001/run.json").read_text())["more"] == [1, 2]
