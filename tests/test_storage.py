"""Tensors in folders of safetensors files, by one rank or several. Run: .venv/bin/python -m pytest tests/test_storage.py"""

import json
import multiprocessing
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from visual_rft import storage
from visual_rft.distributed import World, join

SPAWN = multiprocessing.get_context("forkserver")  # one process imports torch, the ranks are its forks
SPAWN.set_forkserver_preload(["visual_rft.checkpoint", "torch.distributed.tensor", "torch.distributed.device_mesh"])


def together(size: int, action: Callable[..., None], *arguments: Any, seconds: float = 120) -> None:
    """Runs `action(world, *arguments)` on so many ranks; an error of one, or no end in time, fails the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [SPAWN.Process(target=_rank, args=(rank, size, port, action, arguments)) for rank in range(size)]
    deadline = time.monotonic() + seconds
    try:
        for process in ranks:
            process.start()
        while any(process.exitcode is None for process in ranks) and not any(process.exitcode for process in ranks):
            assert time.monotonic() < deadline, "the ranks hang"
            time.sleep(0.01)
        assert [process.exitcode for process in ranks] == [0] * size
    finally:
        for process in ranks:
            process.kill()


def _rank(rank: int, size: int, port: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join() as world:
        action(world, *arguments)
        if size > 1:
            dist.barrier()


def whole() -> dict[str, Tensor]:
    """Sizes that two and three ranks cannot share evenly, fewer rows than ranks, no dimension, none of a kind."""
    draw = torch.Generator().manual_seed(0)
    sharded = {"w": torch.randn(7, 3, generator=draw), "row": torch.randn(1, 4, generator=draw), "half": torch.randn(5, 2, generator=draw).bfloat16()}
    plain = {"scalar": torch.tensor(2.5), "count": torch.tensor(7), "ints": torch.arange(9), "none": torch.zeros(0, 3)}
    return sharded | {"v": torch.randn(11, generator=draw)} | plain


def parts(tensors: dict[str, Tensor], world: World, dimension: int = 0) -> dict[str, Tensor]:
    """Where there are several ranks, each one's part of those that have a dimension, as trained parameters; the others whole."""
    if world.size == 1:
        return tensors
    mesh = init_device_mesh("cpu", (world.size,))

    def part(tensor: Tensor) -> Tensor:
        return torch.nn.Parameter(distribute_tensor(tensor, mesh, [Shard(min(dimension, tensor.dim() - 1))]))

    return {name: part(tensor) if tensor.dim() and tensor.is_floating_point() and tensor.numel() else tensor for name, tensor in tensors.items()}


def assert_read(folder: Path, world: World, dimension: int = 0) -> None:
    tensors = parts({name: torch.full_like(tensor, 9) for name, tensor in whole().items()}, world, dimension)
    held = {name: tensor.data_ptr() for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
    storage.read(folder, tensors)
    assert all(tensors[name].data_ptr() == place for name, place in held.items()), "in place"
    for name, expected in whole().items():
        found = tensors[name]
        assert torch.equal(found.full_tensor() if isinstance(found, DTensor) else found, expected), name


def write(world: World, folder: Path) -> None:
    tensors = parts(whole(), world)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    save(dict(tensors), storage_writer=storage.Writer(folder), planner=planner)


def read_both_ways(world: World, folder: Path) -> None:
    assert_read(folder, world, 0)
    assert_read(folder, world, 1)
    assert storage.shapes(folder) == {name: tensor.shape for name, tensor in whole().items()}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of two ranks."""
    folder = tmp_path_factory.mktemp("ranks") / "two"
    together(2, write, folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files and their index."""
    folder, tensors = tmp_path_factory.mktemp("published"), whole()
    halves = {"model-00001-of-00002.safetensors": sorted(tensors)[:4], "model-00002-of-00002.safetensors": sorted(tensors)[4:]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / storage.PUBLISHED).write_text(json.dumps(index))
    return folder


def test_a_published_folder_is_read(published: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    read_both_ways(World(), published)
    assert capfd.readouterr() == ("", "") and not recwarn.list


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_keeps_its_own_dtype(stored: torch.dtype, held: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(3, 5).to(stored)
    save_file({"a": values}, tmp_path / "model.safetensors")
    tensor = torch.empty(3, 5, dtype=held)
    storage.read(tmp_path, {"a": tensor})
    assert torch.equal(tensor, values.to(held)) and tensor.dtype == held


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shards_of_two_ranks_are_read_by_any_number(size: int, of_two: Path) -> None:
    assert len(list(of_two.glob("*.safetensors"))) == 2
    together(size, read_both_ways, of_two)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def refusal(folder: Path) -> str:
    """Which both refuse with."""
    with pytest.raises(ValueError) as read:
        storage.read(folder, {})
    with pytest.raises(ValueError) as shapes:
        storage.shapes(folder)
    assert str(read.value) == str(shapes.value) and "\n" not in str(read.value)
    return str(read.value)


def test_a_missing_file_is_named(of_two: Path, published: Path, tmp_path: Path) -> None:
    for folder in (of_two, published):
        for file in folder.glob("*.safetensors"):
            gap = copied(folder, tmp_path / f"without {file.name}")
            (gap / file.name).unlink()
            assert refusal(gap) == f"{gap / file.name} is missing; copy the folder again, whole"


def test_a_gap_is_noticed_without_a_list_and_so_is_what_is_there_twice(of_two: Path, tmp_path: Path) -> None:
    gap = copied(of_two, tmp_path / "gap")
    (gap / storage.SHARDS).unlink()
    first, last = sorted(gap.glob("*.safetensors"))
    bytes_ = first.read_bytes()
    first.unlink()
    assert "are missing, or there twice" in refusal(gap)
    first.write_bytes(bytes_)
    assert_read(gap, World())
    (gap / "copy.safetensors").write_bytes(last.read_bytes())
    assert "are missing, or there twice" in refusal(gap)


@pytest.mark.parametrize("left", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_named(left: int, of_two: Path, published: Path, tmp_path: Path) -> None:
    for number, folder in enumerate((of_two, published)):
        for file in folder.glob("*.safetensors"):
            cut = copied(folder, tmp_path / f"{number} {file.name}")
            (cut / file.name).write_bytes(file.read_bytes()[:left])
            assert refusal(cut).startswith(f"{cut / file.name}: damaged (")


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "null", "7", '{"weight_map": 3}'])
def test_a_damaged_list_is_named(text: str, of_two: Path, published: Path, tmp_path: Path) -> None:
    for folder, name in ((of_two, storage.SHARDS), (published, storage.PUBLISHED)):
        if name == storage.SHARDS and "weight_map" in text:
            continue
        spoiled = copied(folder, tmp_path / name)
        (spoiled / name).write_text(text)
        assert refusal(spoiled) == f"{spoiled / name}: damaged; copy it again, whole"


@pytest.mark.parametrize("said", ["{}", "null", "{", '{"a": {"saved_offsets": 3}}', '{"a": {"saved_offsets": ["x"]}}'])
def test_shards_that_say_nonsense_are_refused(said: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "model.safetensors", metadata={"DCP_SHARDING_INFO": said})
    assert str(tmp_path) in refusal(tmp_path) if said != "null" else storage.shapes(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no *.safetensors in it; give a folder of weights"
    assert "no *.safetensors in it" in refusal(tmp_path / "nowhere")


def test_missing_and_wrongly_shaped_tensors_are_counted(published: Path) -> None:
    right = torch.zeros(7, 3)
    with pytest.raises(ValueError, match=r"2 tensors are missing or of another shape, nowhere first"):
        storage.read(published, {"w": right, "nowhere": torch.zeros(2), "v": torch.zeros(12)})
    assert not right.any(), "nothing is read"


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_no_pickle_is_read_or_written(of_two: Path, tmp_path: Path) -> None:
    assert {path.suffix for path in of_two.iterdir()} == {".safetensors", ".json"}
    hostile, marker = copied(of_two, tmp_path / "hostile"), tmp_path / "ran"
    for name in (".metadata", "__0_0.distcp", "pytorch_model.bin", "trainer.pt"):
        (hostile / name).write_bytes(pickle.dumps(_Hostile(marker)))
    assert_read(hostile, World())
    assert not marker.exists()
    pickle.loads((hostile / ".metadata").read_bytes())
    assert marker.exists(), "and it would have"


MEGABYTE = 2**20
ROWS = 48


def peak_while(action: Callable[[], None]) -> int:
    """By how many bytes the process's own memory grew at most; mapped files are not its own."""
    done, seen = Event(), []

    def own() -> int:
        return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

    def watch() -> None:
        while not done.is_set():
            seen.append(own())

    before, watcher = own(), Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return max(seen) - before


def read_a_part(world: World, folder: Path) -> None:
    (tensor,) = parts({"big": torch.zeros(ROWS, MEGABYTE)}, world).values()
    grown = peak_while(lambda: storage.read(folder, {"big": tensor}))
    assert isinstance(tensor, DTensor) and tensor.to_local().eq(1).all()
    assert grown < 0.75 * ROWS * MEGABYTE * 2 / world.size + 8 * MEGABYTE, f"rank {world.rank} held {grown / MEGABYTE:.0f} MiB"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much memory is a process's own")
def test_a_rank_reads_its_own_part_only(tmp_path: Path) -> None:
    save_file({"big": torch.ones(ROWS, MEGABYTE, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    together(2, read_a_part, tmp_path)
