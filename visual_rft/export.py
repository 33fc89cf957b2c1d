"""A run as a plain Hugging Face folder, which stock classes load, and every server and script that reads such folders.

    python -m visual_rft.export run=outputs/… out=models/seven

The newest checkpoint of the run, in the precision in which it was evaluated; what is exported answers as the run's `after` did.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING

from visual_rft.config import Job, start
from visual_rft.hardware import Attention, Machine
from visual_rft.models import loading
from visual_rft.policies import of_run


@dataclass
class ExportConfig:
    """The folder of the run, and the folder to make."""

    run: str = MISSING
    out: str = MISSING


def run(job: Job[ExportConfig]) -> None:
    """From the newest checkpoint of a run to a folder of its own."""
    source, out = Path(job.config.run).expanduser(), Path(job.config.out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={job.config.out}: there is something; name a folder that is empty, or not there yet")
    trained = of_run(source)
    machine = Machine(torch.device("cpu"), getattr(torch, trained.precision.value), Attention.sdpa)
    policy, processor = loading.load(trained.model, machine)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out}: {error.strerror}; name a folder that can be made") from error
    loading.save(policy, processor, out)
    print(f"{trained.model.path} -> {job.config.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(ExportConfig, "export", run, argv)


if __name__ == "__main__":
    sys.exit(main())
