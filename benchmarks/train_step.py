"""Forward and backward of the policy: ours beside TRL's own loss and beside plain Hugging Face, on the same weights, prompts, images and completions.

    python benchmarks/train_step.py --json benchmarks/results

The peers repeat every prompt and image G times. The tower is frozen: ours reads features that the rollout of its step has encoded already;
`encoding again` counts an encode of its own. The greatest differences to the padded Hugging Face path, of a logprob and of a
parameter's gradient relative to its largest entry, are of uneven completions; banned tokens have probability zero on both sides.
"""

import sys
from collections.abc import Sequence
from typing import Any

import _measure as measure
import _trl as trl
import _workloads as workloads
from _ours import Ours
from _peer import Repeated
from _workloads import Workload


def figures(workload: Workload, repeats: int) -> dict[str, dict[str, Any]]:
    """Every figure of a workload, by its name."""
    completions_PG = workloads.completions(workload, workloads.even_lengths(workload))
    ours, plain = Ours(workload), Repeated(workload)
    features = ours.encode()
    with trl.trainer(workload) as trainer:
        peer = trl.Training(trainer, workload)
        sides: dict[str, measure.Side] = {
            "ours": lambda: ours.forward_backward(completions_PG, features),
            "ours encoding again": lambda: ours.forward_backward(completions_PG),
            "TRL": lambda: peer.forward_backward(completions_PG),
            "plain": lambda: plain.forward_backward(completions_PG),
        }
        samples = measure.by_turns(sides, repeats)
    found = {
        "forward and backward": measure.Figure(samples["ours"], samples["TRL"]),
        "encoding again": measure.Figure(samples["ours encoding again"], samples["TRL"]),
        "beside plain Hugging Face": measure.Figure(samples["ours"], samples["plain"]),
    }
    return {f"{workload.name}: {name}": figure.plain() for name, figure in found.items()}


def differences(workload: Workload, *, train_tower: bool) -> dict[str, float]:
    """The greatest difference of a logprob (in nats) and of a gradient (relative to its tensor's largest entry) to the padded path."""
    completions_PG = workloads.completions(workload, workloads.uneven_lengths(workload))
    ours, peer = Ours(workload, train_tower=train_tower), Repeated(workload, train_tower=train_tower)
    ours.forward_backward(completions_PG)
    logprobs_BT, padded_BT = ours.logprobs(completions_PG), peer.forward_backward(completions_PG, ours.policy.banned)
    mine, theirs = ours.gradients(), peer.gradients()
    assert mine.keys() == theirs.keys(), "both sides train the same parameters"
    gradient = max(((mine[name] - wanted).abs().max() / wanted.abs().max()).item() for name, wanted in theirs.items())
    return {"logprob": (logprobs_BT - padded_BT).abs().max().item(), "gradient": gradient}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    options = measure.workload_parser(__doc__).parse_args(arguments)
    measure.pin()
    first = options.workloads[0]
    extra = {
        "difference": differences(first, train_tower=False),
        "difference, tower trained": differences(first, train_tower=True),
        "workloads": [one.title for one in options.workloads],
    }
    found = {name: value for one in options.workloads for name, value in figures(one, options.repeats).items()}
    return measure.report("train_step", found, f"{first.name}: forward and backward", extra, options.json)


if __name__ == "__main__":
    main()
    sys.exit()
