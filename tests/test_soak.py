"""A run of 2,000 steps holds no more memory than its first hundred: ten minutes. Run: .venv/bin/python -m pytest -m slow tests/test_soak.py"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

STEPS = 2000
SMALL = [
    "task=cls_digits",
    "prompts_per_step=1",
    "algorithm.group_size=2",
    "algorithm.max_completion_tokens=12",  # a right answer takes 12: no later step is larger than the first, and a growth is a leak
    "task.shots=1",
    "data.train_images=100",
    "data.test_images=4",
    "logger.report_images=0",
]


def resident_bytes(pid: int) -> int:
    """What a process holds now; `memory/peak_gb` of the metrics can only rise."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watched(command: list[str], metrics: Path, log: Path) -> dict[int, list[int]]:
    """Runs the command to its end; samples of its resident bytes, by the number of steps that were done."""
    samples: dict[int, list[int]] = {}
    with open(log, "wb") as err, subprocess.Popen(command, stdout=err, stderr=err) as process:
        while process.poll() is None:
            done = metrics.read_bytes().count(b"\n") - 1 if metrics.exists() else -1
            samples.setdefault(done, []).append(resident_bytes(process.pid))
            time.sleep(0.1)
    assert process.returncode == 0, log.read_text()[-2000:]
    return samples


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of another process is read where Linux shows it")
def test_memory_grows_less_than_one_percent_after_the_first_hundred_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "visual_rft.train", *SMALL, f"steps={STEPS}", f"hydra.run.dir={folder}"]
    samples = watched(command, folder / "metrics.jsonl", tmp_path / "log")

    def held(first: int, last: int) -> float:
        return median(size for step, sizes in samples.items() if first <= step < last for size in sizes)

    early, late = held(100, 200), held(STEPS - 100, STEPS)
    assert late < 1.01 * early, f"{early / 1e6:.1f} MB in steps 100 to 200, {late / 1e6:.1f} MB in the last hundred"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == STEPS + 1 and any(line.get("loss/kl", 0) > 0 for line in metrics)
    assert sum(line.get("reward/std", 0) > 0 for line in metrics) > STEPS / 50  # something was learned from, all along
    assert (folder / "rollouts.jsonl").read_bytes().count(b"\n") == 2 * STEPS
