"""The tables of docs/reproduce.md: the command of every cell of the paper's tables 2 to 8, from docs/paper_tables.json.

    python docs/reproduce.py

It makes each table anew, between its marks; the words around them are written by hand.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import hours

HERE = Path(__file__).parent
PAPER: dict[str, Any] = json.loads((HERE / "paper_tables.json").read_text())
PAGE = HERE / "reproduce.md"
MARKED = re.compile(r"(<!-- made by docs/reproduce.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
ROWS = {"base": "base", "sft": "SFT", "rft": "Visual-RFT"}
SETS = ("flowers102", "pets37", "aircraft", "cars196")
TESTS = PAPER["tests"] | {"flowers102": 6149}  # images: of the flowers the paper tests another part than the published one


@dataclass(frozen=True)
class Table:
    """A table of the paper: the steps of a training run; a test asks `first` questions for a Yes or No, then `drawn` others (None: nobody knows)."""

    experiment: str
    steps: int
    first: int
    drawn: int | None


# Questions of the tests: those of the sets are as published, of LISA too, and 1,608 is what the paper's 2B model had left of 40,000.
# Assumed are 3 categories an image of COCO, and that of a rare category of LVIS 120 images are labelled, 40 of them to be drawn.
TABLES = {
    2: Table("table2_cls", 200, 0, sum(TESTS.values())),
    3: Table("table3_coco", 200, 40_000, 1_608),
    4: Table("table4_lvis", 200, 720, 240),
    5: Table("table5_mg", 200, 0, None),
    6: Table("table6_lisa", 500, 0, 779),
    7: Table("table7_ov_coco", 200, 400_000, 15_000),
    8: Table("table8_ov_lvis", 0, 1_560, 520),
}
VALIDATION = 200  # images of LISA


@dataclass(frozen=True)
class Line:
    """The cells of one command, in the order of its columns."""

    table: int
    model: str
    row: str
    k: int | None
    part: str
    cells: tuple[dict[str, Any], ...]

    @property
    def experiment(self) -> str:
        return f"{TABLES[self.table].experiment}_{self.model}"


def lines() -> Iterator[Line]:
    """All of them, in the order of the tables."""

    def key(cell: dict[str, Any]) -> tuple[Any, ...]:
        part = cell["set"] if cell["table"] == 6 else ""
        return cell["table"], cell["model"], list(ROWS).index(cell["row"]), cell["k"] or 0, part

    for (table, model, row, k, part), cells in groupby(sorted(PAPER["cells"], key=key), key=key):
        yield Line(table, model, list(ROWS)[row], k or None, part, tuple(cells))


def command(line: Line) -> str:
    """What gives the cells, without `python -m visual_rft.`."""
    runs, tested = f"runs/table{line.table}_{line.model}", line.row == "base" or line.part == "val" or line.table == 8
    entry = "evaluate" if tested else {"sft": "sft", "rft": "train"}[line.row]
    words = [entry, f"experiment={line.experiment}"]
    if line.table == 2:
        words[1:] = ["-m", words[1], f"task={','.join(f'cls_{name}' for name in SETS)}"]
    if line.k:
        words.append(f"task.shots={line.k}")
    if line.table == 5:
        words.append("data.root=data/monsters")
    if line.part == "val":
        words.append("data.test_split=val")
    if tested and line.row != "base":
        words.append(f"run={runs.replace('table8', 'table7')}_{line.row}")
    if line.table == 8 and line.row != "base":
        words.append(f"task.presence={runs}_base/answers_presence.jsonl")
    if line.row == "sft":
        words += ["task.thinking=false"] if tested else ["reasoning=none"]
        words += ["confidence=1"] if line.table in (3, 4, 5, 7) and not tested else []
    if (line.table, line.row) == (8, "base") or (line.table in (6, 7) and not tested):
        words.append(f"hydra.run.dir={runs}_{line.row}")
    return " ".join(words)


def seconds(line: Line, gpus: int) -> float:
    """Estimated: the training, and the test before and after it, of which only the first asks what is there. A sweep's runs follow each other."""
    table, size = TABLES[line.table], hours.SIZES[line.model]
    trains = table.steps and line.row != "base" and line.part != "val"
    once = hours.asked(size, VALIDATION if line.part == "val" else table.drawn or 0, gpus)
    first = hours.asked(size, table.first, gpus, hours.WORD_TOKENS) if trains or line.row == "base" else 0
    work = {"sft": hours.supervised, "rft": hours.grpo}
    training = work[line.row](size, table.steps, gpus) * (len(SETS) if line.table == 2 else 1) if trains else 0
    return first + once * (2 if trains else 1) + training


def shown(duration: float) -> str:
    """Seconds in hours or minutes; nothing as a dash."""
    if not duration:
        return "–"
    return f"{duration / 3600:.1f} h" if duration >= 3600 else f"{max(1, round(duration / 60))} min"


def fits(model: str, gpus: int) -> bool:
    """Whether its training has room on so many cards of 80 GB: 16 bytes a parameter for the weights, their gradient and the optimizer."""
    return model == "2b" or gpus > 1


def times(line: Line) -> list[str]:
    """On one GPU, where it fits, and on eight."""
    only_asks = command(line).startswith("evaluate")
    return [shown(seconds(line, gpus)) if only_asks or fits(line.model, gpus) else "–" for gpus in (1, 8)]


def columns(line: Line) -> list[str]:
    """The names of what a line's cells hold."""
    return [cell["set"] if line.table == 2 else cell["metric"] for cell in line.cells]


def table(number: int) -> str:
    """One of the paper's tables; LISA's lines have an empty place for what only the test set has."""
    chosen = [line for line in lines() if line.table == number]
    names = max((columns(line) for line in chosen), key=len)
    extra = [name for name, there in (("k", any(line.k for line in chosen)), ("set", number == 6)) if there]
    rows = [["model", "row", *extra, *names, "command", "1 GPU", "8 GPUs"]]
    for line in chosen:
        values = [f"{cell['value']:.1f}" for cell in line.cells] + ["–"] * (len(names) - len(line.cells))
        about = {"k": str(line.k or "–"), "set": line.part}
        rows.append([line.model.upper(), ROWS[line.row], *(about[name] for name in extra), *values, f"`{command(line)}`", *times(line)])
    return markdown(rows)


def counts() -> str:
    """What a test asks, table by table."""
    rows = [["table", "asked for Yes or No", "asked for an answer"]]
    for number, one in TABLES.items():
        asked = "unknown" if one.drawn is None else f"{one.drawn:,}"
        known = {2: " / ".join(f"{TESTS[name]:,}" for name in SETS), 6: f"{asked} (test), {VALIDATION} (val)"}
        rows.append([str(number), f"{one.first:,}" if one.first else "–", known.get(number, asked)])
    return markdown(rows)


def costs() -> str:
    """The estimate of a step, and of a thousand questions."""
    rows = [["model", "GPUs", "step of GRPO", "supervised step", "1,000 questions", "1,000 of Yes or No"]]
    for size, gpus in ((size, gpus) for size in hours.SIZES.values() for gpus in (1, 8)):
        training = [f"{step(size, 1, gpus):.1f} s" if fits(size.name, gpus) else "–" for step in (hours.grpo, hours.supervised)]
        questions = [f"{hours.asked(size, 1000, gpus, tokens):.0f} s" for tokens in (size.tokens, hours.WORD_TOKENS)]
        rows.append([size.name.upper(), str(gpus), *training, *questions])
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table, the first row its head."""
    head, *rest = (f"| {' | '.join(row)} |\n" for row in rows)
    return "".join([head, "|---" * len(rows[0]) + "|\n", *rest])


def made(text: str) -> str:
    """The page with its tables made anew."""
    tables = {"counts": counts, "costs": costs} | {f"table{number}": partial(table, number) for number in TABLES}
    return MARKED.sub(lambda mark: mark[1] + tables[mark[2]]() + mark[3], text)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text()))
