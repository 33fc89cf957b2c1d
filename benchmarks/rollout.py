"""Sampling: ours beside Hugging Face's `generate`, on the same weights, prompts, images and lengths.

    python benchmarks/rollout.py --json benchmarks/results

Peer: every prompt and image G times in one batch, as TRL asks for it. `encode` is the images alone; `rollout` is encode, prefill and decode;
`decode` is the rest of the same runs, once the first distribution is there. Uneven lengths are uniform from 8 to 64; a row of the peer's that is
done is computed on.
"""

import sys
from collections.abc import Sequence
from typing import Any

import _measure as measure
import _workloads as workloads
from _ours import Ours
from _peer import Repeated
from _workloads import Workload


def figures(workload: Workload, repeats: int) -> dict[str, dict[str, Any]]:
    """Every figure of a workload, by its name."""
    ours, peer = Ours(workload), Repeated(workload)
    found = {"encode": measure.figure(ours.encode, peer.encode, repeats)}
    for kind, lengths in {"": workloads.even_lengths(workload), ", uneven lengths": workloads.uneven_lengths(workload)}.items():
        rollout = measure.figure(lambda lengths=lengths: ours.generate(lengths)[1], lambda lengths=lengths: peer.generate(lengths)[1], repeats)
        found |= {f"rollout{kind}": rollout, f"decode{kind}": rollout.part("decode")}
    return {f"{workload.name}: {name}": figure.plain() for name, figure in found.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    options = measure.workload_parser(__doc__).parse_args(arguments)
    measure.pin()
    found = {name: value for one in options.workloads for name, value in figures(one, options.repeats).items()}
    extra = {"workloads": [one.title for one in options.workloads]}
    return measure.report("rollout", found, f"{options.workloads[0].name}: rollout", extra, options.json)


if __name__ == "__main__":
    main()
    sys.exit()
