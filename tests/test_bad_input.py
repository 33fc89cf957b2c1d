"""What goes wrong though every key is right: a checkpoint, a folder, a disk, a loss. Run: .venv/bin/python -m pytest tests/test_bad_input.py

Wrong keys, values, rows and input files are refused in the tests of the entry that reads them.
"""

import json
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from visual_rft import policies, predict, train
from visual_rft.models.loading import folder
from visual_rft.models.policy import Policy, TokenScores

PROMPTS, GROUP = 2, 2
SMALL = [f"prompts_per_step={PROMPTS}", f"algorithm.group_size={GROUP}", "algorithm.max_completion_tokens=12", "task.shots=1"]
SMALL += ["task=cls_digits", "data.train_images=60", "data.test_images=4", "logger.report_images=0"]

Captured = pytest.CaptureFixture[str]
Entry = Callable[[Sequence[str]], int]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# A checkpoint


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("entry", [train.main, predict.main], ids=["train", "predict"])
def test_a_truncated_checkpoint_is_one_line_and_leaves_nothing(entry: Entry, share: float, tmp_path: Path, capfd: Captured) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder("embedded:tiny"), model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: int(share * len(weights))])
    more = [*SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    if entry is predict.main:
        shutil.copy(Path(__file__).parents[1] / "docs" / "scene.png", tmp_path)
        more = [f"image={tmp_path / 'scene.png'}", "category=one", f"out={tmp_path / 'answer.png'}"]
    before = sorted(tmp_path.rglob("*"))
    assert entry([f"model.path={model}", *more]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"model.path={model}: {model}/model.safetensors: damaged (") and err.count("\n") == 1
    assert err.endswith("; copy it again, whole\n") and sorted(tmp_path.rglob("*")) == before


# A folder that cannot be written


@pytest.mark.parametrize("target", ["file", "file/run", "/proc", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_one_line_before_any_work(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(policies, "load", lambda *_: pytest.fail("loaded a model"))
    assert train.main([*SMALL, f"hydra.run.dir={tmp_path / target}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(str(tmp_path / target)) and err.count("\n") == 1
    assert "name a folder that can be written, hydra.run.dir=…" in err
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("room", [600, 3500], ids=["no room for the first file", "room for a few steps"])
def test_a_full_disk_stops_the_run_in_one_line_and_leaves_whole_lines(room: int, tmp_path: Path, capfd: Captured) -> None:
    """No file may grow beyond `room` bytes; what was written before stays, and can be read."""
    run, (soft, hard) = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        code = train.main([*SMALL, "steps=20", f"hydra.run.dir={run}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out, err = capfd.readouterr()
    assert code == 2 and out == "" and "Traceback" not in err and str(run) in err.splitlines()[-1]
    steps = [line["step"] for log in run.glob("*s.jsonl") for line in lines(log) if "step" in line]
    assert not (run / "summary.json").exists() and (room == 600) == (steps == [])


# A loss that is not a number


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, set[int]], None]:
    """Makes every logprob of the trainer NaN in the given steps of the run in a folder, which shows itself how far it is."""
    sound = Policy.forward

    def spoil(run: Path, bad: set[int]) -> None:
        def forward(*arguments: Any) -> TokenScores:
            scores, metrics = sound(*arguments), run / "metrics.jsonl"
            step = len(lines(metrics)) if metrics.exists() else 0
            return scores._replace(logprobs_BT=scores.logprobs_BT * torch.nan) if step in bad else scores

        monkeypatch.setattr(Policy, "forward", forward)

    return spoil


@pytest.mark.parametrize("steps", [8, 3])
def test_a_loss_that_stays_nan_stops_the_run_and_nothing_is_lost(
    steps: int, spoil: Callable[[Path, set[int]], None], tmp_path: Path, capfd: Captured
) -> None:
    spoil(tmp_path, {2, 3, 4})
    assert train.main([*SMALL, f"steps={steps}", "algorithm.max_bad_steps=2", f"hydra.run.dir={tmp_path}"]) == 2
    out, err = capfd.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and "Traceback" not in err
    assert last.startswith("algorithm.max_bad_steps=2: as many steps in a row were skipped, up to step 3: the loss of ")
    assert last.endswith("ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient")
    metrics, rollouts = lines(tmp_path / "metrics.jsonl"), lines(tmp_path / "rollouts.jsonl")
    assert [(m["step"], m.get("policy/skipped_steps")) for m in metrics] == [(0, None), (1, 0), (2, 1), (3, 2)]
    assert [r["step"] for r in rollouts] == [step for step in (1, 2, 3) for _ in range(PROMPTS * GROUP)]
    saved = sorted((tmp_path / "skipped").iterdir())
    assert [p.name for p in saved] == ["step_000002.pt", "step_000003.pt"] and not (tmp_path / "summary.json").exists()
    for step, file in zip((2, 3), saved, strict=True):
        batch, sampled = torch.load(file, weights_only=True), [r for r in rollouts if r["step"] == step]
        assert [name for name in batch["examples"] for _ in range(GROUP)] == [r["example"] for r in sampled]
        assert [len(tokens_T) for group in batch["tokens_PG_T"] for tokens_T in group] == [r["tokens"] for r in sampled]
        assert batch["advantages_PG"].flatten().tolist() == pytest.approx([r["advantage"] for r in sampled])


def test_one_nan_step_is_told_and_the_run_goes_on(spoil: Callable[[Path, set[int]], None], tmp_path: Path, capfd: Captured) -> None:
    spoil(tmp_path, {2})
    assert train.main([*SMALL, "steps=4", "algorithm.max_bad_steps=2", f"hydra.run.dir={tmp_path}"]) == 0
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [m.get("policy/skipped_steps") for m in metrics] == [None, 0, 1, 1, 1]
    assert [p.name for p in (tmp_path / "skipped").iterdir()] == ["step_000002.pt"]
    assert metrics[2]["loss/policy"] is None  # JSON has no NaN
    assert "<dt>skipped steps</dt><dd>1, in skipped/</dd>" in (tmp_path / "report.html").read_text()
    (told,) = [line for line in capfd.readouterr().err.splitlines() if "skipped" in line]
    assert told.startswith("step 2: the update is skipped, since the loss of ") and str(tmp_path / "skipped" / "step_000002.pt") in told
