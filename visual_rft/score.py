"""Score completions by hand: what a task's rewards pay for them, before any GPU hour is spent.

    python -m visual_rft.score task=fsod_digits completions=file.jsonl > scored.jsonl
    python -m visual_rft.score rewards=paper +rewards.weights.iou=2 completions=- < file.jsonl

In: {"completion": text, "solution": text} a line; a solution is written as a right answer is, tags or not; `tokens`, the completion's length, where a
reward asks for it. Out, on stdout: the same lines, with `reward` (the weighted total), `rewards` (each part), `answer`, `refused` (null or the
reason) in place of any that were there. Nothing is printed before every line is scored. Boxes are in thousandths of each axis.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from omegaconf import MISSING

from visual_rft import workload
from visual_rft.config import Job, start
from visual_rft.frames import Contract
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.jsonl import Line, read_lines, read_text
from visual_rft.tasks.meant import ASKING, SHOTS, MeantFor
from visual_rft.tasks.task import Task, TaskOptions


@dataclass
class ScoreConfig(MeantFor):
    """`completions`: a file of JSON lines, or - for stdin. `progress`: of a training, for rewards that follow a schedule. Neither model nor data are
    read."""

    unread_keys: ClassVar = (*SHOTS, *ASKING, "task.wording")
    task: TaskOptions = MISSING
    rewards: RewardOptions = MISSING
    completions: str = MISSING
    progress: float = MISSING

    def __post_init__(self) -> None:
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress={self.progress}: must lie in 0..1, the share of the training that is done")


def run(job: Job[ScoreConfig]) -> None:
    """From a file of completions to the same lines, scored."""
    c = job.config
    task, contract = workload.task(c.task, c.rewards), Contract(thinking=c.task.thinking)
    lines = read_lines(c.completions, read_text(c.completions), ("completion", "solution"))
    scored = [line.values | score(task, line, contract, c.progress) for line in lines]
    _print([json.dumps(one, allow_nan=False) for one in scored])
    print(summary(scored), file=sys.stderr)


def score(task: Task, line: Line, contract: Contract, progress: float) -> dict[str, Any]:
    """What one completion earned, by its contract. Raises ValueError when its solution cannot be read, or a reward cannot score it."""
    try:
        truth = task.solution(line.values["solution"])
    except ValueError as error:
        raise ValueError(f"{line.place}: {error}; write `solution` as a right answer is written") from error
    tokens = line.values.get("tokens")
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0):
        raise ValueError(f"{line.place}: tokens must be the length of the completion, a whole number; it is {tokens!r}")
    try:
        reward = task.reward(line.values["completion"], truth, contract, tokens=tokens, progress=progress)
    except ValueError as error:
        raise ValueError(f"{line.place}: {error}") from error
    return {
        "reward": task.total(reward),
        "rewards": dict(reward.parts),
        "answer": reward.answer.plain if reward.answer else None,
        "refused": reward.refusal and str(reward.refusal.reason),
    }


def summary(scored: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many, the mean reward, the share that was refused, by reason."""
    refused = Counter(one["refused"] for one in scored if one["refused"])
    shares = ", ".join(f"{reason} {count / len(scored):.1%}" for reason, count in refused.most_common())
    mean = fmean(one["reward"] for one in scored)
    return f"completions {len(scored)}, mean reward {mean:.4f}, refused {refused.total() / len(scored):.1%}" + (f" ({shares})" if shares else "")


def _print(lines: Sequence[str]) -> None:
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # `… | head` has seen enough; Python would say so again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(ScoreConfig, "score", run, argv, schemas=workload.SCHEMAS)


if __name__ == "__main__":
    sys.exit(main())
