"""docs/reproduce.md: every cell of the paper's tables has a command, and what it composes is the paper's. Run: pytest tests/test_reproduce.py"""

import importlib
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from visual_rft import workload
from visual_rft.config import _refuse_unread as refuse_unread
from visual_rft.config import conf_folder, keys, register
from visual_rft.config.jobs import key, typed
from visual_rft.tracking import loggers

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import reproduce
from reproduce import hours

ROOT = Path(__file__).parents[1]
PAPER: dict[str, Any] = json.loads((ROOT / "docs/paper_tables.json").read_text())
PAGE = (ROOT / "docs/reproduce.md").read_text()
SCHEMAS = workload.SCHEMAS | loggers.SCHEMAS
ENTRIES = {"train": "TrainConfig", "sft": "SftConfig", "evaluate": "EvaluateConfig"}
GROUPS = [folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()]
EXPERIMENTS = sorted(path for path in (ROOT / "conf/experiment").glob("table*.yaml"))
TASKS = {3: "fsod_coco", 4: "fsod_lvis", 5: "fsod_mg", 6: "grounding_lisa", 7: "ovd_coco", 8: "ovd_lvis"}


class Shown(NamedTuple):
    """A line of the page: what it says about itself, the figures by column, its command."""

    table: int
    about: Mapping[str, str]
    figures: Mapping[str, float]
    command: str

    @property
    def entry(self) -> str:
        return self.command.split()[0]

    @property
    def row(self) -> str:
        return {"base": "base", "SFT": "sft", "Visual-RFT": "rft"}[self.about["row"]]


def shown() -> Iterator[Shown]:
    """All lines of all tables, as a reader finds them."""
    for section in PAGE.split("\n## Table ")[1:]:
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
        head, _, *rest = rows
        about = {"model", "row", "k", "set", "command", "1 GPU", "8 GPUs"}
        for row in rest:
            line = dict(zip(head, row, strict=True))
            figures = {name: float(value) for name, value in line.items() if name not in about and value != "–"}
            yield Shown(int(section.split(":")[0]), line, figures, line["command"].strip("`"))


LINES = list(shown())


def jobs(line: Shown) -> list[tuple[str, ...]]:
    """The overrides of each job of its command."""
    words = [word for word in shlex.split(line.command)[1:] if word != "-m"]
    return list(product(*([f"{one}={value}" for value in values.split(",")] for one, values in (word.split("=", 1) for word in words))))


JOBS = [(line, job) for line in LINES for job in jobs(line)]


@cache
def composed(entry: str, choices: Sequence[str]) -> DictConfig:
    """What an entry makes of choices of groups; Hydra is started once, and each configuration composed once."""
    if not GlobalHydra.instance().is_initialized():
        hydra.initialize_config_dir(str(conf_folder("train")), version_base="1.3")
    module = importlib.import_module(f"visual_rft.{entry}")
    register(getattr(module, ENTRIES[entry]), entry, SCHEMAS)
    return hydra.compose(entry, list(choices))


@pytest.fixture(scope="module", autouse=True)
def _hydra_ends() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def config(entry: str, overrides: Sequence[str]) -> Any:
    """The checked configuration. Keys are set in what the choices of groups compose, as Hydra sets them."""
    schema = getattr(importlib.import_module(f"visual_rft.{entry}"), ENTRIES[entry])
    refuse_unread(schema, overrides)
    choices = tuple(one for one in overrides if key(one) in GROUPS)
    values = [one for one in overrides if key(one) not in GROUPS and not one.startswith("hydra.")]
    given = OmegaConf.merge(composed(entry, choices), OmegaConf.from_dotlist(values))
    assert isinstance(given, DictConfig)
    return typed(schema, given, list(keys(schema, SCHEMAS)))


def label(value: Any) -> str:
    return shlex.join(value) if isinstance(value, tuple) and not isinstance(value, Shown) else f"{value.table} {value.entry}"


def test_the_page_is_what_the_script_makes() -> None:
    assert reproduce.made(PAGE) == PAGE
    assert len(LINES) == len(list(reproduce.lines())) == len({line.command for line in LINES})


def test_every_cell_of_the_paper_is_listed_with_its_figure() -> None:
    def listed(line: Shown, column: str) -> tuple[Any, ...]:
        k = line.about.get("k", "–")
        of, metric = (column, "accuracy") if line.table == 2 else (line.about.get("set"), column)
        return line.table, line.about["model"].lower(), line.row, None if k == "–" else int(k), of, metric, line.figures[column]

    def cell(one: Mapping[str, Any]) -> tuple[Any, ...]:
        of = one["set"] if one["table"] in (2, 6) else None
        return one["table"], one["model"], one["row"], one["k"], of, one["metric"], one["value"]

    found = Counter(listed(line, column) for line in LINES for column in line.figures)
    assert found == Counter(map(cell, PAPER["cells"])) and set(found.values()) == {1}
    assert Counter(one["table"] for one in PAPER["cells"]) == {2: 55, 3: 14, 4: 6, 5: 5, 6: 18, 7: 18, 8: 6}


def test_the_papers_averages_are_those_of_their_cells() -> None:
    """Table 2's over the four sets; table 7's over the categories, novel and base: to the rounding of their parts."""
    for line in LINES:
        if line.table == 2:
            assert line.figures["average"] == pytest.approx(fmean(line.figures[name] for name in reproduce.SETS), abs=0.051)
        if line.table == 7:
            assert line.figures["AP"] == pytest.approx((15 * line.figures["AP novel"] + 65 * line.figures["AP base"]) / 80, abs=0.11)


FIRST = {(line.entry, line.table): number for number, (line, _) in reversed(list(enumerate(JOBS)))}
LATER = [pytest.param(*one, marks=[pytest.mark.slow] * (number not in FIRST.values())) for number, one in enumerate(JOBS)]


@pytest.mark.parametrize(("line", "job"), LATER, ids=label)
def test_a_command_composes_what_the_paper_says(line: Shown, job: tuple[str, ...]) -> None:
    c, settings, model = config(line.entry, job), PAPER["settings"], line.about["model"].lower()
    assert (c.model.name, c.model.path) == (f"qwen2_vl_{model}", f"Qwen/Qwen2-VL-{model.upper()}-Instruct")
    assert c.model.max_pixels == settings["max_pixels"] and c.task.name == (TASKS.get(line.table) or task_of(job))
    assert c.algorithm.max_completion_tokens == settings["max_completion_tokens"]
    check_shots(c, line)
    check_categories(c, line)
    if line.entry != "evaluate":
        check_training(c, line)
    assert c.task.thinking == (line.row != "sft")
    assert c.hardware.device == "cuda" and c.hardware.precision.value == "bfloat16"


def task_of(job: Sequence[str]) -> str:
    return next(one for one in job if key(one) == "task").partition("=")[2]


def check_shots(c: Any, line: Shown) -> None:
    if (k := line.about.get("k", "–")) != "–":
        assert (c.task.shots, c.task.at_most) == (int(k), False)
    elif line.table != 2 and line.row != "base":
        assert (c.task.shots, c.task.at_most) == {4: (10, True), 6: (None, False), 7: (92, True), 8: (92, True)}[line.table]
    assert c.task.split is None


def check_categories(c: Any, line: Shown) -> None:
    if line.table == 2:
        assert len(c.task.known().names) == PAPER["classes"][c.task.name.removeprefix("cls_")] and c.task.categories is None
    if line.table in (3, 4, 5):
        assert c.task.categories == PAPER["categories"][str(line.table)] and c.task.trained is None
    if line.table == 8:
        assert c.task.categories == PAPER["categories"]["8"]
    if line.table in (7, 8):
        assert len(set(c.task.trained)) == PAPER["base_categories"] and not set(c.task.trained) & set(PAPER["categories"]["7 novel"])
    if line.table == 7:
        assert sorted(c.task.categories) == sorted([*c.task.trained, *PAPER["categories"]["7 novel"]])
    if line.table in (3, 4, 5, 7, 8):
        assert (c.task.present.value, c.task.iou_threshold, c.task.negatives) == ("predicted", 0.5, 0.0)
        assert bool(c.task.presence) == (line.table == 8 and line.row != "base")
    if line.table == 6:
        assert c.data.test_split == line.about["set"] and c.task.segmenter
    if line.entry == "evaluate":
        assert (c.run is None) == (line.row == "base")


def check_training(c: Any, line: Shown) -> None:
    settings = PAPER["settings"]
    assert c.steps == settings["steps"]["lisa" if line.table == 6 else "few-shot"] and c.prompts_per_step == settings["prompts_per_step"]
    assert (c.model.learning_rate, c.model.frozen, set(astuple(c.model.learning_rates))) == (settings["learning_rate"], [], {None})
    if line.entry == "train":
        a = c.algorithm
        assert (a.group_size, a.kl.coefficient) == (settings["group_size"][line.about["model"].lower()], settings["kl"])
        assert (a.temperature, a.top_p, a.updates_per_batch) == (settings["temperature"], 1.0, settings["updates_per_batch"])
        assert (a.aggregation.value, a.advantage.value, a.weight_decay) == ("sequence", "group", 0.0)
        assert (c.rewards.family.value, c.rewards.weights, c.rewards.parts) == ("paper", {}, {})


def test_a_run_is_made_before_it_is_evaluated() -> None:
    """And so is a file of answers: each folder that a command reads is that of one further up, with the same model and row."""
    made: dict[str, Shown] = {}
    for line, job in JOBS:
        given = dict(one.split("=", 1) for one in job)
        if "run" in given:
            assert (made[given["run"]].row, made[given["run"]].about["model"]) == (line.row, line.about["model"])
        if "task.presence" in given:
            assert made[str(Path(given["task.presence"]).parent)].command.startswith(f"evaluate experiment={given['experiment']} ")
        if "hydra.run.dir" in given:
            made[given["hydra.run.dir"]] = line


def dotted(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a nested mapping with its value."""
    for name, value in node.items():
        yield from dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_only_what_is_not_so_without_it(file: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(content, dict) and file.read_text().startswith("# @package _global_\n# Table ")
    chosen = {name.removeprefix("override /"): option for one in content.pop("defaults") for name, option in one.items()}
    assert {"task", "model", "rewards"} <= chosen.keys() and chosen["rewards"] == "paper"
    without = composed("train", tuple(f"{group}={option}" for group, option in chosen.items()))
    for name, value in dotted(content):
        assert OmegaConf.select(without, name, throw_on_missing=True) != value, f"{name}={value} is so without it"
        assert name in keys(type(config("train", [f"experiment={file.stem}"])), SCHEMAS)


def test_there_is_an_experiment_for_every_table_and_model() -> None:
    named = {(int(path.stem[5]), path.stem.rpartition("_")[2]) for path in EXPERIMENTS}
    assert named == {(one["table"], one["model"]) for one in PAPER["cells"]} and len(named) == len(EXPERIMENTS)


@pytest.mark.parametrize(
    ("typed_beside", "holds"),
    [
        (["task=fsod_lvis"], lambda c: c.task.name == "fsod_lvis" and c.task.present.value == "predicted"),
        (["rewards=strict"], lambda c: c.rewards.family.value == "strict" and c.task.name == "fsod_coco"),
        (["model=qwen2_5_vl_3b", "hardware=cpu"], lambda c: c.model.name == "qwen2_5_vl_3b" and c.hardware.device == "cpu"),
        (["algorithm.group_size=2", "steps=3"], lambda c: c.algorithm.group_size == 2 and c.steps == 3),
    ],
)
def test_what_is_typed_beside_an_experiment_wins(typed_beside: list[str], holds: Callable[[Any], bool]) -> None:
    assert holds(config("train", ["experiment=table3_coco_7b", *typed_beside]))
    assert holds(config("train", [*typed_beside, "experiment=table3_coco_7b"]))


def test_an_estimate_grows_with_the_work_and_shrinks_with_the_cards() -> None:
    for size in hours.SIZES.values():
        for work in (hours.grpo, hours.supervised, hours.asked):
            assert work(size, 200, 1) == pytest.approx(200 * work(size, 1, 1))
            assert work(size, 200, 1) / 8 <= work(size, 200, 8) * 1.001 < work(size, 200, 1)
        assert hours.supervised(size, 1, 1) < hours.grpo(size, 1, 1)
        assert hours.asked(size, 1, 1, hours.WORD_TOKENS) < hours.asked(size, 1, 1)
    assert all(hours.grpo(hours.SIZES["7b"], 1, gpus) > hours.grpo(hours.SIZES["2b"], 1, gpus) for gpus in (1, 8))


def test_names_in_the_text_are_those_of_the_paper() -> None:
    """The hub's rows and the categories that the words around the tables name."""
    for name in PAPER["rows"].values():
        assert name.removeprefix("laolao77/ViRFT") in PAGE
    for number in ("3", "4"):
        section = PAGE.split(f"\n## Table {number}:")[1].split("\n## ")[0]
        assert all(re.search(rf"\b{name}\b", section) for name in PAPER["categories"][number])
