"""The benchmarks of scale measure what they say and write it. Nothing here looks at a time.

pytest tests/test_benchmarks_scale.py
"""

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _scale as scale
import loading
import memory
import saving

from visual_rft.distributed import ALONE
from visual_rft.hardware import HardwareOptions, prepare
from visual_rft.models.loading import ModelOptions, load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def here(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children are run in this process, those of several ranks as one. Its heap has room for such small models: peaks are made up, 1, 2, …"""
    peaks = count(1)
    monkeypatch.setattr(module, "on_ranks", lambda _, __, *arguments: module.main(arguments) | {"peak_gb": float(next(peaks))})


def check(spread: dict[str, float]) -> None:
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def written(folder: Path, name: str) -> dict[str, Any]:
    (file,) = folder.glob("*.json")
    assert file.name.startswith(f"{name}_random-0m_")
    result: dict[str, Any] = json.loads(file.read_text())
    assert {"ratio", "ours", "peer", "machine", "model"} <= result.keys()
    return result


def test_a_peak_is_what_a_block_held_and_no_more() -> None:
    held = [torch.ones(10_000_000)]
    with scale.Peak() as peak:
        for _ in range(3):
            held.clear()
            held.append(torch.ones(10_000_000))
    assert 0 <= peak.anonymous < 50e6
    with scale.Peak() as peak:
        most = torch.ones(40_000_000)
        peak.look()
        del most
    assert 150e6 < peak.anonymous < 200e6
    peak.forget()
    assert peak.look() < 50e6


def test_the_folder_is_as_the_hub_has_it(tmp_path: Path) -> None:
    size = loading.SIZES["tiny"]
    about = scale.write(size, tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) == about["files"] > 1
    assert {name.split(".")[0] for name in index} == {"model", "visual"}
    theirs = dict(AutoModelForImageTextToText.from_pretrained(tmp_path).named_parameters())
    options = ModelOptions("random", str(tmp_path), min_pixels=784, max_pixels=size.pixels, learning_rate=1e-6)
    ours = dict(load(options, prepare(HardwareOptions(), 0))[0].model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].float()) for name in ours)
    assert about["parameters"] == sum(weight.numel() for weight in ours.values())


def test_a_rung_changes_one_switch() -> None:
    size = memory.SIZES["ladder"]
    rungs = memory.ladder(size)
    for name, rung in rungs.items():
        beside = rungs[rung.beside]
        changed = [key for key, value in rung.changes.items() if beside.changes.get(key) != value]
        assert len(changed) + (rung.ranks > 1) == (name != memory.BASE), name
        device = {"hardware.device": "cuda"} if rung.needs_gpu else {}
        model, machinery, algorithm = scale.options(size, Path(), rung.changes | device)
        parts = {"model": model, "hardware": machinery, "algorithm": algorithm, "algorithm.kl": algorithm.kl}
        for key, value in rung.changes.items():
            part, _, option = key.rpartition(".")
            assert getattr(parts[part], option) == value


def test_a_step_of_the_ladder_is_of_the_workload(tmp_path: Path) -> None:
    size = memory.SIZES["tiny"]
    scale.write(size, tmp_path)
    trainer = scale.trainer(size, tmp_path, {}, ALONE)
    (step,) = scale.steps(size, trainer, 1)
    workload = size.workload
    assert [[len(c.tokens_T) for c in group.completions] for group in step.groups] == [[workload.tokens] * workload.group] * workload.prompts
    assert trainer.processor.end_id in trainer.speaker.banned
    assert step.metrics["loss/kl"] >= 0
    assert trainer.learner.budget == size.tokens
    assert len(trainer.learner.optimizer.trained) == len(list(trainer.models.policy.parameters()))


def test_the_ladder_is_written_rung_by_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(memory, monkeypatch)
    every = memory.ladder(memory.SIZES["tiny"])
    rungs = {name: every[name] for name in (memory.BASE, memory.HEADLINE, "algorithm.kl.coefficient=0", "hardware.offload=true")}
    monkeypatch.setattr(memory, "ladder", lambda _: rungs)
    memory.main(["--size", "tiny", "--repeats", "1", "--json", str(tmp_path)])
    result = written(tmp_path, "memory")
    assert result["figures"].keys() == rungs.keys()
    for name, figure in result["figures"].items():
        assert ("not measured" in figure) == rungs[name].needs_gpu
        for key in ("seconds_ratio", "cpu_seconds_ratio") if "ratio" in figure else ():
            check(figure[key])
    assert [figure["ratio"]["median"] for figure in result["figures"].values() if "ratio" in figure] == [1, 2, 3]
    assert result["ratio"] == result["figures"][result["headline"]]["ratio"]


def test_loading_writes_both_sides_for_both_dtypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(loading, monkeypatch)
    loading.main(["--size", "tiny", "--repeats", "1", "--json", str(tmp_path)])
    result = written(tmp_path, "loading")
    assert result["figures"].keys() == {"bfloat16", "float32"}
    for figure in result["figures"].values():
        for side in ("ours", "peer"):
            assert {"peak_gb", "share", "resident_gb", "seconds"} <= figure[side].keys()
            check(figure[side]["seconds"])
    assert [figure["ratio"]["median"] for figure in result["figures"].values()] == [3 / 4, 7 / 8]  # the first turn is not counted
    assert result["figures"]["float32"]["weights_gb"] == 2 * result["figures"]["bfloat16"]["weights_gb"]


def test_saving_writes_what_a_checkpoint_costs(tmp_path: Path) -> None:
    saving.main(["--size", "tiny", "--repeats", "1", "--steps", "2", "--json", str(tmp_path)])
    result = written(tmp_path, "saving")
    for figure in (result["ratio"], result["blocked"], result["ours"]["seconds"], result["ours"]["blocked"], result["peer"]["seconds"]):
        check(figure)
    assert result["checkpoint_bytes"] > 3 * 4 * result["model"]["parameters"]


def test_the_whole_cost_is_what_blocks_and_what_slows() -> None:
    figure = saving.figure([{"blocked": [1.0, 1.0], "seconds": [12.0, 12.0]}], [{"blocked": [0.0, 0.0], "seconds": [10.0, 10.0]}])
    assert [figure[key]["median"] for key in ("blocked", "slowdown", "ratio")] == pytest.approx([0.1, 0.2, 1.3])


@pytest.mark.slow
def test_ranks_of_their_own_say_what_they_hold(tmp_path: Path) -> None:
    scale.write(memory.SIZES["tiny"], tmp_path)
    rung = list(memory.ladder(memory.SIZES["tiny"])).index("2 ranks")
    found = scale.on_ranks(2, memory.__file__, "--size", "tiny", "--folder", str(tmp_path), "--rung", str(rung))
    assert 0 < found["held_gb"] <= found["peak_gb"]
    found = scale.on_ranks(2, loading.__file__, "--size", "tiny", "--folder", str(tmp_path), "--child", "ours", "--kept", "float32")
    assert 0 < found["peak_gb"] <= found["resident_gb"]
