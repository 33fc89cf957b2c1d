"""A whole step, from prompts and images to the optimizer's: ours beside TRL's GRPOTrainer, each as it trains, by turns in one process.

    python benchmarks/whole_step.py --json benchmarks/results

Frozen tower and no KL term unless the figure's name says so. The process is warm after a step of each side. Peak memory is that of processes of
their own, libraries included.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import _measure as measure
import _ours as ours
from _workloads import Workload

VARIANTS = {"step": {}, "step with KL": {"kl": True}, "step, tower trained": {"train_tower": True}}
MEMORY_STEPS = 2


def figure(workload: Workload, repeats: int, *, warm_up: bool, **variant: bool) -> measure.Figure:
    """Our steps and TRL's by turns: ours are taken inside TRL's loop, between two of its steps."""
    import _trl as trl

    mine, theirs = [], []
    count = repeats + warm_up
    steps = ours.steps(workload, count=count, **variant)

    def between(sample: measure.Sample) -> None:
        theirs.append(sample)
        mine.append(next(steps))

    trl.steps(workload, between, count=count, **variant)
    return measure.Figure(mine[warm_up:], theirs[warm_up:])


def memory(workload: Workload) -> dict[str, Any]:
    """Peak GB of a process of each side, libraries and model included."""
    mine, theirs = (measure.child(__file__, "--child", side, "--workloads", workload.name) for side in ("ours", "peer"))
    return {"ratio": mine["peak_gb"] / theirs["peak_gb"], "ours": mine, "peer": theirs}


def child(side: str, workload: Workload) -> dict[str, float]:
    """What this process needs for the steps of one side."""
    if side == "ours":
        for _ in ours.steps(workload, count=MEMORY_STEPS):
            pass
    else:
        import _trl as trl

        trl.steps(workload, lambda _: None, count=MEMORY_STEPS)
    return {"peak_gb": measure.peak_gb()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.workload_parser(__doc__)
    parser.add_argument("--child", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    measure.pin()
    first = options.workloads[0]
    if options.child:
        found = child(options.child, first)
        print(json.dumps(found))
        return found
    cases = [(first, *variant) for variant in VARIANTS.items()] + [(other, "step", {}) for other in options.workloads[1:]]
    figures = {}
    for one, name, variant in cases:
        figures[f"{one.name}: {name}"] = figure(one, options.repeats, warm_up=not figures, **variant).plain()
    extra = {"memory": memory(first), "workloads": [one.title for one in options.workloads]}
    return measure.report("whole_step", figures, f"{first.name}: step", extra, options.json)


if __name__ == "__main__":
    main()
    sys.exit()
