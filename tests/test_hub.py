"""A model by its name on the hub: from the cache, and only if it must be from the network, which no test reaches.

.venv/bin/python -m pytest tests/test_hub.py
"""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from families import Family
from hub_folders import Layout, write
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from visual_rft.frames import Resized
from visual_rft.hardware import Attention, Machine
from visual_rft.models import hub
from visual_rft.models.loading import ModelOptions, beside_weights, empty, folder, load, speaks

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
NAME = "Somebody/Qwen2.5-VL-0B"
REVISION = "0123456789abcdef0123456789abcdef01234567"
OPTIONS = ModelOptions("small", NAME, 3136, 20000, 1e-6)
REMEDY = f"hf download {NAME} --local-dir {NAME}, or give a folder"

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty cache, a folder to work in, and a network that fails the test."""

    def reached(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", reached)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


def cached(cache: Path, *, without: str = "") -> Path:
    """A snapshot in the hub's layout: links to blobs."""
    published = cache / ("models--" + NAME.replace("/", "--"))
    whole, snapshot = write(Layout(Family.qwen2_5_vl), cache / "made"), published / "snapshots" / REVISION
    (published / "refs").mkdir(parents=True)
    (published / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    (published / "refs/main").write_text(REVISION)
    for number, file in enumerate(sorted(whole.iterdir())):
        if not (without and file.match(without)):
            file.rename(published / f"blobs/{number}")
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    shutil.rmtree(whole)
    return snapshot


def online(monkeypatch: Patch, download: Callable[..., str]) -> list[dict[str, Any]]:
    """A hub that is allowed: what it is asked for, while `download` answers for the network."""
    asked: list[dict[str, Any]] = []
    real = huggingface_hub.snapshot_download

    def snapshot_download(name: str, **options: Any) -> str:
        if options["local_files_only"]:
            return real(name, **options)
        asked.append({"name": name, **options})
        return download(name, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("offline", [True, False])
def test_a_name_in_the_cache_is_a_folder_like_any_other(offline: bool, cache: Path, monkeypatch: Patch, capfd: Captured) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    snapshot = cached(cache)
    assert folder(NAME) == snapshot
    policy, processor = load(OPTIONS, CPU)
    same, _ = load(ModelOptions("small", str(snapshot), 3136, 20000, 1e-6), CPU)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), same.parameters(), strict=True))
    assert empty(OPTIONS, CPU).model.config.to_dict() == policy.model.config.to_dict()
    assert speaks(OPTIONS)((150, 90)) == Resized(140, 84)
    assert beside_weights(NAME) == beside_weights(str(snapshot)) != {}
    assert processor.images.size["longest_edge"] == 20000
    assert capfd.readouterr().err == ""


def test_a_folder_goes_before_the_hub_which_is_not_even_imported(cache: Path, tmp_path: Path) -> None:
    cached(cache)
    place = write(Layout(Family.qwen2_vl), Path(NAME))
    assert folder(NAME) == Path(NAME)
    code = f"""
import sys
from visual_rft.models import hub, loading
hub.snapshot = None
before = "huggingface_hub" in sys.modules
sys.modules["huggingface_hub"] = None
print(loading.folder({NAME!r}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, str(place)), ran.stderr


def test_a_folder_without_a_model_is_no_name_on_the_hub(cache: Path) -> None:
    cached(cache)
    Path(NAME).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"model.path={NAME}: no config.json in {NAME}; give a Hugging Face model folder"):
        folder(NAME)


@pytest.mark.parametrize("path", ["/not/there", "not_there", "a/b/c", "../there", "./there", "~/there", "a/", "embedded:a/b", "a b/c"])
def test_what_is_no_name_is_not_looked_up(path: str, cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(hub, "snapshot", None)
    with pytest.raises(ValueError, match=r"no config\.json in"):
        folder(path)


@pytest.mark.parametrize("how", ["empty cache", "no config.json"])
def test_offline_a_name_that_is_not_in_the_cache_is_refused_in_one_line(how: str, cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if how != "empty cache":
        cached(cache, without="config.json")
    for asks in (lambda: folder(NAME), lambda: load(OPTIONS, CPU), lambda: speaks(OPTIONS), lambda: beside_weights(NAME)):
        with pytest.raises(ValueError) as refused:
            asks()
        line = str(refused.value)
        assert line.startswith(f"model.path={NAME}: no such folder, nor to be had from the hub (") and line.endswith(REMEDY) and "\n" not in line


def test_offline_a_cached_folder_that_lacks_weights_says_which(cache: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(cache, without="*-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=f"model.path={NAME}: .*model-00002-of-00002.safetensors is missing"):
        load(OPTIONS, CPU)


@pytest.mark.parametrize("lacks", ["everything", "*.safetensors", "*-00002-of-00002.safetensors", "model*", "config.json"])
def test_what_the_cache_lacks_is_downloaded_and_nothing_that_could_run(lacks: str, cache: Path, monkeypatch: Patch, capfd: Captured) -> None:
    if lacks != "everything":
        cached(cache, without=lacks)

    def download(*_: object, **__: object) -> str:
        shutil.rmtree(cache, ignore_errors=True)
        return str(cached(cache))

    asked = online(monkeypatch, download)
    assert folder(NAME).name == REVISION
    (one,) = asked
    assert one["name"] == NAME and one["allow_patterns"] == ["*.json", "*.jinja", "*.txt", "*.safetensors"] and one["ignore_patterns"] == ["*/*"]
    out, err = capfd.readouterr()
    assert out == "" and err == f"model.path={NAME}: no such folder here; downloading it from the hub into {cache}\n"
    load(OPTIONS, CPU)
    assert len(asked) == 1


def test_what_cannot_be_downloaded_is_refused_in_one_line(cache: Path, monkeypatch: Patch) -> None:
    def refuse(error: Exception) -> Callable[..., str]:
        def download(*_: object, **__: object) -> str:
            raise error

        return download

    for error in (LocalEntryNotFoundError("Got: ConnectError\nAn error"), OSError(28, "No space left on device"), RuntimeError("")):
        online(monkeypatch, refuse(error))
        with pytest.raises(ValueError) as refused:
            folder(NAME)
        assert str(refused.value).endswith(REMEDY) and "\n" not in str(refused.value)


def test_patterns_let_only_the_files_of_a_model_through() -> None:
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    files = ["config.json", "chat_template.jinja", "merges.txt", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["pytorch_model.bin", "modeling.py", "weights.pt", "weights.pth", "a.pickle", "onnx/model.json", "original/model.safetensors", "x.gguf"]
    assert list(filter_repo_objects(files + others, allow_patterns=hub.WANTED, ignore_patterns=hub.UNWANTED)) == files
