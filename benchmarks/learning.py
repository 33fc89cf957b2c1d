"""Does GRPO learn on the digit scenes, and for the right reason? Three arms over several seeds, the same base, images and test questions:

    grpo         python -m visual_rft.train
    control      the same with the rewards shuffled inside each group: it must not learn
    supervised   benchmarks/supervised.py: the labels as answers, at the cost of the GRPO run

    python benchmarks/learning.py --json benchmarks/results/fsod-digits_tiny_cpu_DATE.json

Runs that have finished under --out are not run again. Overrides for all arms may follow `--`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ARMS = {
    "grpo": ["-m", "visual_rft.train"],
    "control": ["-m", "visual_rft.train", "experiment=digits_control"],
    "supervised": [str(Path(__file__).with_name("supervised.py"))],
}
SCORES = ("AP", "mean IoU", "well-formed")


def summary(arm: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """What one run's summary says; runs it first if it has not finished."""
    folder = out / arm / f"seed_{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, *ARMS[arm], f"seed={seed}", f"hydra.run.dir={folder}", "hardware.threads=1", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "summary.json").read_text()))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student's t)."""
    spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(spread)


def main() -> None:
    """Runs the arms, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("outputs/learning"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("overrides", nargs="*", help="after --: overrides for all arms")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = arguments.out / "overrides.json"
    if asked.exists() and json.loads(asked.read_text()) != arguments.overrides:
        parser.error(f"{arguments.out} holds runs with other overrides ({asked}); choose another --out")
    asked.write_text(json.dumps(arguments.overrides))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        keys = [(arm, seed) for seed in arguments.seeds for arm in ARMS]
        summaries = dict(zip(keys, pool.map(lambda key: summary(*key, arguments.out, arguments.overrides), keys), strict=True))
    result: dict[str, Any] = {"seeds": arguments.seeds, "overrides": arguments.overrides, "machine": platform.platform(), "cores": os.cpu_count()}
    print(f"{'arm':12}{'score':13}{'before':>8}{'after':>8}{'change, mean ± 95 %':>24}{'seconds':>9}")
    for arm in ARMS:
        runs = [summaries[arm, seed] for seed in arguments.seeds]
        seconds = float(np.mean([run["seconds"] for run in runs]))
        result[arm] = {"seconds": seconds, "runs": runs}
        for score in SCORES:
            before, after = ([run[f"evaluation_{when}"][score] for run in runs] for when in ("before", "after"))
            mean, half = interval([b - a for a, b in zip(before, after, strict=True)])
            result[arm][score] = {"before": float(np.mean(before)), "after": float(np.mean(after)), "change": mean, "half_interval_95": half}
            print(f"{arm:12}{score:13}{np.mean(before):8.2f}{np.mean(after):8.2f}{f'{mean:+.2f} ± {half:.2f}':>24}{seconds:9.0f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
