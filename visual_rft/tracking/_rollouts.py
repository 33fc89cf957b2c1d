"""What of `rollouts.jsonl` a page can hold: some of the steps, of each the groups that fit, of each completion as much text as fits.

Axes: G completions of a group.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

STEPS = 24  # of a run; a slider of more is no easier to read
BYTES = 1_600_000  # of what is kept, as it stands in the file

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Rollouts:
    """By step, in order, the groups that are kept, as lists of records; how many steps, groups and completions there were."""

    kept: Mapping[int, Sequence[Sequence[Record]]] = field(default_factory=dict)
    steps: int = 0
    groups: int = 0
    completions: int = 0

    @property
    def told(self) -> str:
        """How much of all this is, in words."""
        groups = [group for of_step in self.kept.values() for group in of_step]
        shown = (len(self.kept), len(groups), sum(map(len, groups)))
        counts = zip(shown, (self.steps, self.groups, self.completions), ("steps", "groups", "completions"), strict=True)
        return ", ".join(f"{some} of {every} {what}" if some < every else f"{every} {what}" for some, every, what in counts)


def read_rollouts(file: Path, wanted: Collection[int] = ()) -> Rollouts:
    """A sample of the file that is the same whenever it is read: the first and the last step, those `wanted`, and others evenly between. Never more
    than one step of it in memory, beside what is kept. Nothing where there is no file."""
    if not file.exists():
        return Rollouts()
    places, completions, groups, last = dict[int, list[int]](), 0, 0, None
    with file.open("rb") as lines:
        start = 0
        for line in lines:
            record = json.loads(line)
            places.setdefault(record["step"], []).append(start)
            start, completions = start + len(line), completions + 1
            groups, last = groups + ((record["step"], record["example"]) != last), (record["step"], record["example"])
        chosen = spread(sorted(places), STEPS, wanted)
        kept = {}
        for step in chosen:
            records = []
            for place in places[step]:
                lines.seek(place)
                records.append(json.loads(lines.readline()))
            kept[step] = fitting(_groups(records), BYTES // len(chosen))
    return Rollouts(kept, len(places), groups, completions)


def spread(steps: Sequence[int], most: int, wanted: Collection[int]) -> list[int]:
    """At most so many of these steps: the first and the last, of those `wanted` the first ones up to the half, the others evenly between."""
    if len(steps) <= most:
        return list(steps)
    chosen = {steps[0], steps[-1], *sorted(set(wanted) & set(steps))[: min(most // 2, most - 2)]}
    others = [step for step in steps if step not in chosen]
    free = most - len(chosen)
    return sorted(chosen | {others[(2 * i + 1) * len(others) // (2 * free)] for i in range(free)})


def fitting(groups: Sequence[Sequence[Record]], room: int) -> list[Sequence[Record]]:
    """Those of a step's groups that fit into so many bytes, from the first on. The first is always kept, its texts cut to what fits."""
    sizes = [len(json.dumps(group)) for group in groups]
    kept = next((count for count in range(len(groups), 0, -1) if sum(sizes[:count]) <= room), 0)
    return list(groups[:kept]) if kept else [[_cut(record, room / sizes[0]) for record in groups[0]]]


def _cut(record: Record, share: float) -> Record:
    text = record["completion"]
    left = int(len(text) * share)
    return {**record, "completion": f"{text[:left]} … and {len(text) - left} characters more, in rollouts.jsonl"}


def _groups(records: Sequence[Record]) -> list[Sequence[Record]]:
    return [list(group) for _, group in groupby(records, key=lambda record: record["example"])]
