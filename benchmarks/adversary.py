"""What each reward pays for cheating: every family of hostile completions (`_hostile.py`) under every YAML of conf/rewards.

    python benchmarks/adversary.py            prints the table
    python benchmarks/adversary.py --write    puts it into docs/rewards.md

A figure is the greatest share of the honest answer's reward, in the same scene, that any completion of the family earns. Nothing is random.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import _hostile_answers
import _hostile_form
import hydra
from _hostile import CLASSIFICATION, DETECTION, FAMILIES, GROUNDING, Case, Family, Scene
from omegaconf import OmegaConf

from visual_rft import workload
from visual_rft.config import conf_folder, register
from visual_rft.score import ScoreConfig
from visual_rft.tasks.task import Task
from visual_rft.vocabulary import Reward

assert _hostile_form and _hostile_answers, "importing them fills FAMILIES"

DOCUMENT = Path(__file__).parents[1] / "docs" / "rewards.md"
BEGIN, END = "<!-- python benchmarks/adversary.py --write -->\n", "<!-- end -->"
TASKS = {DETECTION: "fsod_digits", CLASSIFICATION: "cls_digits", GROUNDING: "grounding_digits"}
LONGEST = "algorithm.max_completion_tokens=256"  # the paper's; the digit tasks have short answers


@dataclass(frozen=True)
class Rewards:
    """A column: what is typed to choose the rewards, and the share of the training that is done."""

    name: str
    typed: tuple[str, ...]
    progress: float = 0.0


STRICT, PAPER = Rewards("strict", ("rewards=strict",)), Rewards("paper", ("rewards=paper",))
COLUMNS = (
    STRICT,
    PAPER,
    Rewards("giou", ("rewards=giou",)),
    Rewards("dynamic_iou, first step", ("rewards=dynamic_iou",)),
    Rewards("dynamic_iou, last step", ("rewards=dynamic_iou",), progress=1.0),
    Rewards("average_precision", ("rewards=average_precision",)),
    Rewards("the same, count_penalty: false", ("rewards=average_precision", "rewards.parts.average_precision.count_penalty=false")),
    Rewards("brief", ("rewards=brief",)),
)


@cache
def task_of(kind: str, typed: Sequence[str]) -> Task | None:
    """The task of this kind with these rewards, as an entry composes it; None where the rewards are not for it."""
    register(ScoreConfig, "score", workload.SCHEMAS)
    with hydra.initialize_config_dir(str(conf_folder("score")), version_base="1.3"):
        config: Any = OmegaConf.to_object(hydra.compose("score", [f"task={TASKS[kind]}", LONGEST, "completions=-", *typed]))
    try:
        return workload.task(config.task, config.rewards)
    except ValueError:
        return None


def earned(task: Task, scene: Scene, text: str, progress: float = 0.0) -> tuple[float, Reward]:
    """The weighted total that a completion earns, and its parts."""
    reward = task.reward(text, scene.truth, scene.contract, tokens=tokens(text), progress=progress)
    return task.total(reward), reward


def tokens(text: str) -> int:
    """About as many as Qwen2-VL's tokenizer makes of a text: one for each four letters, digit, mark; counted so that no tokenizer is needed."""
    words = "".join(one if one.isalpha() else " " for one in text).split()
    return sum(-(-len(word) // 4) for word in words) + sum(not one.isalpha() and not one.isspace() for one in text)


def share(rewards: Rewards, case: Case) -> float | None:
    """What a completion earns, as a share of what the honest answer to the same question does; None where the rewards are not for it."""
    scene, text = case
    task = task_of(scene.kind, rewards.typed)
    if task is None:
        return None
    return earned(task, scene, text, rewards.progress)[0] / earned(task, scene, scene.honest, rewards.progress)[0]


def greatest(rewards: Rewards, family: Family) -> float | None:
    """The greatest share of any completion of a family."""
    return max((one for case in family.cases if (one := share(rewards, case)) is not None), default=None)


def bound(family: Family) -> float:
    """The most that the family may earn under strict in any of its scenes, as a share."""
    return max(family.bound(scene) for scene, _ in family.cases)


def shown(value: float | None) -> str:
    """A cell; what reaches the honest answer stands out."""
    if value is None:
        return "–"
    return f"**{value:.1%}**" if value > 1 - 1e-6 else f"{value:.1%}"


def table() -> str:
    """Both tables, in Markdown: what is earned, and what the families are."""
    lines = [
        f"{len(FAMILIES)} families, {sum(len(family.cases) for family in FAMILIES)} completions.\n",
        "| family | " + " | ".join(["strict", "its bound", *(column.name for column in COLUMNS[1:])]) + " |",
        "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for family in FAMILIES:
        cells = [shown(greatest(column, family)) for column in COLUMNS]
        lines.append(" | ".join([f"| {family.name}", cells[0], f"{bound(family):.1%}", *cells[1:]]) + " |")
    lines += ["", "| family | completions | what it does | why strict pays no more than its bound |", "|---|---:|---|---|"]
    lines += [f"| {family.name} | {len(family.cases)} | {family.what} | {family.because} |" for family in FAMILIES]
    return "\n".join(lines) + "\n"


def written(document: str) -> str:
    """The document with the table of now between its markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{DOCUMENT.name} lacks {BEGIN.strip()} … {END}"
    return before + begin + "\n" + table() + "\n" + end + after


def main() -> None:
    """Prints, or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/rewards.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
