"""Finished runs on disk: which folders hold one, and what a comparison reads of it: configuration, curves, outcome."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

FILES = ("config.yaml", "metrics.jsonl", "summary.json")  # any of them makes a folder a run's; the last says that it finished
CHANCE = ("seed", "task.split_seed")
DRAWN = ("task.shots", "task.at_most", "task.negatives")  # what a given split leaves unread
DIGITS = 12  # of a fingerprint
NOT_MATHEMATICS = ("hardware.", "logger.", "checkpoint.", "resume")
# What a program made of its configuration: two programs (GRPO, supervised tuning) may be given the same one.
OUTCOME = ("task", "model", "metric", "steps")
BY_CATEGORY = "by category"
REMEDY = "run it again, or leave its folder out of runs=…"


@dataclass(frozen=True)
class Judged:
    """The completion to a test question, and what it is worth, 0..1."""

    text: str
    worth: float


@dataclass(frozen=True)
class Run:
    """A finished run. NaN stands where it has no number.

    scores: before and after by name, the task's metric first; setting: dotted key -> value, as text, of all that runs of one arm share;
    metrics: the lines of `metrics.jsonl`; environment: `environment.json`, empty where there is none; categories: the metric of each, before and
    after; answers: those of `answers_after.jsonl` that say what they are worth, by question.
    """

    folder: Path
    task: str
    model: str
    metric: str
    seed: int
    seconds: float
    scores: Mapping[str, tuple[float, float]]
    setting: Mapping[str, str]
    metrics: Sequence[Mapping[str, float]]
    environment: Mapping[str, Any]
    categories: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    answers: Mapping[str, "Judged"] = field(default_factory=dict)


def find_runs(patterns: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The folders of finished training runs, and of what is none, each once: pattern after pattern, sorted within one.

    A pattern is a folder or a glob (`**`: any depth); a folder that holds run folders stands for them. ValueError for one that matches no folder.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        folders = [path for path in _matches(pattern) if path.is_dir()]
        if not folders:
            raise ValueError(f"runs={pattern}: no such folder; name run folders, or a quoted pattern such as 'outputs/study/*'")
        for folder in (run for path in folders for run in _runs_in(path)):
            found.setdefault(folder.resolve(), folder)
    outermost = [folder for place, folder in found.items() if found.keys().isdisjoint(place.parents)]  # `**` matches checkpoints/ too
    finished = [folder for folder in outermost if (folder / FILES[-1]).is_file() and not _is_evaluation(folder / FILES[-1])]
    return finished, [folder for folder in outermost if folder not in finished]


def _is_evaluation(summary: Path) -> bool:
    """Whether `visual_rft.evaluate` wrote this: one value, nothing before it."""
    try:
        values = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # `read_run` says what is wrong with it
    return isinstance(values, dict) and "value" in values and "before" not in values


def patterns(text: str) -> list[str]:
    """A pattern, or several with commas between them; the folders of a sweep have commas in their names."""
    return [text] if _matches(text) else text.split(",")


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.exists():  # a sweep's folders may be named with brackets
        return [path]
    return [Path(match) for match in sorted(glob(str(path), recursive=True))]


def _runs_in(folder: Path) -> list[Path]:
    if any((folder / name).exists() for name in FILES):
        return [folder]
    return sorted({file.parent for name in FILES for file in folder.rglob(name)}) or [folder]


def read_run(folder: Path) -> Run:
    """The run in `folder`. ValueError, naming the file (and line), when a file of it is missing or is not what a run writes."""
    file = folder / "summary.json"
    summary = _object(_text(file), str(file))
    try:
        task, model, metric = (_word(summary, key) for key in ("task", "model", "metric"))
        shared, categories = _shared(summary)
        scores = {metric: (_number(summary, "before"), _number(summary, "after"))} | shared
        seed, seconds = int(_number(summary, "seed")), _number(summary, "seconds")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file}: {error}, so this is not the summary of a training run; {REMEDY}") from error
    outcome = {f"summary.{key}": _plain(summary[key]) for key in OUTCOME if key in summary}
    outcome["method"] = _plain(summary.get("method", "grpo"))  # of a run from before there was another
    setting = {key: value for key, value in _config(folder / "config.yaml") if key not in CHANCE and not key.startswith(NOT_MATHEMATICS)}
    if setting.get("task.split", "null") != "null":
        setting = {key: value for key, value in setting.items() if key not in DRAWN}
    machine = folder / "environment.json"
    environment = _object(_text(machine), str(machine)) if machine.exists() else {}
    data = environment.get("data")
    if isinstance(data, dict) and "test" in data:  # what was asked; the seed draws what was trained on
        outcome["data.test"] = _plain(data["test"])[:DIGITS]
    metrics, answers = list(_metrics(folder / "metrics.jsonl")), dict(_answers(folder / "answers_after.jsonl"))
    return Run(folder, task, model, metric, seed, seconds, scores, setting | outcome, metrics, environment, categories, answers)


def _answers(file: Path) -> Iterator[tuple[str, Judged]]:
    """None of a run that did not say what each is worth: it was made before that was written."""
    for row, text in enumerate(_text(file).splitlines() if file.exists() else [], start=1):
        line = _object(text, f"{file}, line {row}")
        if "worth" not in line:
            continue
        try:
            yield str(line["example"]), Judged(str(line["completion"]), _number(line, "worth"))
        except (KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"{file}, line {row}: {error}; {REMEDY}") from error


def _shared(summary: Mapping[str, Any]) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """The scores that both evaluations hold, refusals not among them; and those by category."""
    before, after = (_inner(summary, key) for key in ("evaluation_before", "evaluation_after"))
    return _in_both(before, after), _in_both(_inner(before, BY_CATEGORY), _inner(after, BY_CATEGORY))


def _inner(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    inner = {} if values.get(key) is None else values[key]
    if not isinstance(inner, dict):
        raise ValueError(f"`{key}` is not an object")
    return inner


def _in_both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    names = [name for name in before if name in after and not isinstance(before[name], dict) and not isinstance(after[name], dict)]
    return {name: (_number(before, name), _number(after, name)) for name in names}


def _metrics(file: Path) -> Iterator[dict[str, float]]:
    for row, text in enumerate(_text(file).splitlines(), start=1):
        line = _object(text, f"{file}, line {row}")
        try:
            numbers = {"step": int(_number(line, "step"))} | {key: _number(line, key) for key in line if key != "step"}
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{file}, line {row}: {error}; {REMEDY}") from error
        yield numbers


def _config(file: Path) -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of every leaf of a YAML file."""
    _text(file)  # says what is wrong with the file itself
    try:
        config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # resolved when it was written: nothing of ours is looked up here
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not YAML ({error}); {REMEDY}") from error
    if not isinstance(config, dict) or not config:
        raise ValueError(f"{file}: holds no keys; {REMEDY}")
    yield from _leaves(config, "")


def _leaves(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + _plain(key), _plain(value)


def _plain(value: Any) -> str:
    """A value on one line that a terminal can print."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{file}: {reason}; {REMEDY}") from error


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=lambda _: None)  # NaN is no JSON: a run writes null
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: not a JSON object; {REMEDY}")
    return value


def _word(values: Mapping[str, Any], key: str) -> str:
    if not isinstance(values.get(key), str):
        raise ValueError(f"`{key}` is not a text")
    return _plain(values[key])


def _number(values: Mapping[str, Any], key: str) -> float:
    """A number that must be there; null is NaN."""
    value = values.get(key, "")
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"`{key}` is not a number")
    return float(value)
