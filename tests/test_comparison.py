"""Laws of runs side by side: chance alone makes no second arm, the order of runs changes nothing, what is broken is named.

pytest tests/test_comparison.py
"""

import json
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_charts import points
from test_report import HOSTILE, Page

from visual_rft.tracking._charts import curve_svg, curves_svg
from visual_rft.tracking._curves import POINTS
from visual_rft.tracking.comparison import (
    Arm,
    arms_of,
    change,
    mean_curve,
    mean_interval,
    repeated_seeds,
    score_names,
    summary_table,
    write_json,
    write_page,
)
from visual_rft.tracking.runs import Run, find_runs, patterns, read_run

CONFIG = {
    "algorithm": {"max_completion_tokens": 96, "advantage": "group", "kl": {"coefficient": 0.04}},
    "task": {"name": "fsod_digits", "split_seed": 0},
    "model": {"name": "tiny"},
    "rewards": {"weights": {}},
    "hardware": {"threads": 1},
    "logger": {"report_images": 24},
    "checkpoint": {"every": 0},
    "seed": 0,
    "steps": 3,
}
METRICS = [
    {"step": step, "reward/iou": 0.5, "reward/mean": step / 2, "loss/kl": None if step == 2 else 0.1, "policy/lr": 1e-4, "time/step": 1.0}
    for step in (1, 2, 3)
]


def config(**changes: Any) -> dict[str, Any]:
    """CONFIG with dotted keys changed: `task__name="cls"`."""
    made = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *groups, leaf = key.split("__")
        node = made
        for group in groups:
            node = node[group]
        node[leaf] = value
    return made


def write_run(folder: Path, before: float | None = 10.0, after: float | None = 20.0, summary: dict | None = None, **changes: Any) -> Path:
    """A finished run by hand. JSON is YAML."""
    made = config(**changes)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(made))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    metric = "AP" if made["task"]["name"].startswith("fsod") else "accuracy"
    outcome = {"task": made["task"]["name"], "model": made["model"]["name"], "metric": metric, "before": before, "after": after}
    for when, value, formed in (("before", before, 90.0), ("after", after, 99.0)):
        outcome[f"evaluation_{when}"] = {metric: value, "well-formed": formed, f"{metric} by category": {"one": 1.0}, "refused": {"bad_box": 3}}
    outcome |= {"steps": made["steps"], "seed": made["seed"], "seconds": 100.0 + made["seed"]}
    (folder / "summary.json").write_text(json.dumps(outcome | (summary or {})))
    return folder


GAINS = {("fsod_digits", "group"): 12, ("fsod_digits", "shuffled"): 0, ("cls_digits", "group"): 30, ("cls_digits", "shuffled"): -1}


def write_study(folder: Path) -> Path:
    """Two tasks, each with its own length of answers, two arms, three seeds."""
    for (task, advantage), gain in GAINS.items():
        for seed in range(3):
            keys = {
                "task__name": task,
                "algorithm__max_completion_tokens": len(task),
                "algorithm__advantage": advantage,
                "seed": seed,
                "task__split_seed": seed,
            }
            write_run(folder / f"{task}_{advantage}_{seed}", 10 + seed, 10 + seed + gain + seed, hardware__threads=seed + 1, **keys)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def read(folder: Path) -> list[Run]:
    return [read_run(found) for found in find_runs([str(folder)])[0]]


def run(setting: dict[str, str] | None = None, seed: int = 0, **scores: float) -> Run:
    """A run that was never on disk."""
    changes = {name: (0.0, value) for name, value in (scores or {"AP": 1.0}).items()}
    return Run(Path(f"run{seed}"), "t", "m", "AP", seed, 1.0, changes, setting or {}, [], {})


numbers = st.lists(st.integers(-10_000, 10_000).map(lambda n: n / 100), min_size=2, max_size=12)  # a score's two decimals


@given(numbers)
def test_the_interval_is_students(values: list[float]) -> None:
    mean, half = mean_interval(values)
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-9)


@given(numbers, st.randoms())
def test_the_order_of_runs_does_not_matter(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    assert mean_interval(shuffled) == mean_interval(values)


@given(st.floats(-1e6, 1e6), st.integers(2, 12))
def test_equal_runs_have_no_spread(value: float, count: int) -> None:
    assert mean_interval([value] * count) == (value, 0.0)


def test_the_interval_scales_with_the_values_and_ignores_their_offset() -> None:
    mean, half = mean_interval([1.0, 2.0, 4.0])
    assert mean_interval([7 - 10.0, 7 - 20.0, 7 - 40.0]) == pytest.approx((7 - 10 * mean, 10 * half))


def test_one_run_has_no_interval_and_what_is_no_number_no_mean() -> None:
    assert mean_interval([3.0])[0] == 3.0 and math.isnan(mean_interval([3.0])[1])
    for values in ([], [1.0, math.nan], [math.inf, 1.0]):
        assert all(map(math.isnan, mean_interval(values)))


def test_chance_and_hardware_make_no_second_arm(tmp_path: Path) -> None:
    same: list[dict[str, Any]] = [{}, {"seed": 1, "task__split_seed": 1}, {"hardware__threads": 8}, {"logger__report_images": 0}]
    same += [{"checkpoint__every": 5}, {"hardware__device": "cuda"}]
    for index, keys in enumerate(same):
        write_run(tmp_path / f"{index}", **keys)
    (arm,) = arms_of(read(tmp_path))
    assert (arm.label, len(arm.runs)) == ("fsod_digits, tiny", len(same))


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        ({"algorithm__kl__coefficient": 0.0}, ["algorithm.kl.coefficient=0.04", "algorithm.kl.coefficient=0.0"]),
        ({"algorithm__clip": None}, ["algorithm.clip=-", "algorithm.clip=null"]),
        ({"rewards__weights": {"iou": 2.0}}, ["rewards.weights={}", "rewards.weights=-"]),
        ({"task__name": "cls", "algorithm__max_completion_tokens": 4, "steps": 9}, ["task.name=fsod_digits", "task.name=cls"]),
        ({"summary": {"steps": 800}}, ["summary.steps=3", "summary.steps=800"]),
    ],
)
def test_any_other_key_makes_an_arm_and_the_least_is_named(tmp_path: Path, keys: dict, labels: list[str]) -> None:
    arms = arms_of([read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", **keys))])
    assert [arm.label for arm in arms] == labels


def test_tasks_and_arms_are_told_apart_by_two_keys(study: Path) -> None:
    arms = arms_of(read(study))
    assert {arm.label for arm in arms} == {f"task.name={task} algorithm.advantage={advantage}" for task, advantage in GAINS}
    assert all([r.seed for r in arm.runs] == [0, 1, 2] for arm in arms)
    for arm in arms:
        gain = GAINS[arm.runs[0].task, arm.runs[0].setting["algorithm.advantage"]]
        c = change(arm, arm.metric)
        assert (c.before, c.change, c.after) == pytest.approx((11, gain + 1, 12 + gain))
        assert c.half_interval_95 == pytest.approx(stats.t.ppf(0.975, 2) / math.sqrt(3))


settings = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")), min_size=1, max_size=8)


@given(settings, st.randoms())
def test_arms_are_the_distinct_settings_in_any_order_and_have_distinct_labels(found: list[dict[str, str]], random: Any) -> None:
    runs = [run(setting, seed) for seed, setting in enumerate(found)]
    arms = arms_of(runs)
    assert len({arm.label for arm in arms}) == len(arms) == len({tuple(sorted(setting.items())) for setting in found})
    assert all(r.setting == arm.runs[0].setting for arm in arms for r in arm.runs)
    shuffled = arms_of(random.sample(runs, len(runs)))
    assert {frozenset(r.seed for r in arm.runs) for arm in arms} == {frozenset(r.seed for r in arm.runs) for arm in shuffled}


def test_a_seed_that_is_there_twice_is_found() -> None:
    arm = Arm("", (run(seed=1), run(seed=2), run(seed=1)))
    assert {seed: len(runs) for seed, runs in repeated_seeds(arm).items()} == {1: 2}


def test_a_score_that_one_run_lacks_has_no_mean() -> None:
    arm = Arm("", (run(AP=1.0, other=2.0), run(AP=3.0)))
    assert score_names(arm) == ["AP", "other"]
    assert change(arm, "AP").after == 2.0
    assert all(map(math.isnan, vars(change(arm, "other")).values()))


def test_only_the_numbers_that_both_evaluations_have_are_scores(tmp_path: Path) -> None:
    more = {
        "evaluation_before": {"AP": 10.0, "old": 1.0, "map": {}, "none": None},
        "evaluation_after": {"AP": 20.0, "new": 1.0, "map": {}, "none": 5},
    }
    scores = read_run(write_run(tmp_path / "a", summary=more)).scores
    assert list(scores) == ["AP", "none"] and math.isnan(scores["none"][0]) and scores["AP"] == (10.0, 20.0)
    assert list(read_run(write_run(tmp_path / "b", summary={"evaluation_before": None})).scores) == ["AP"]


def test_every_way_to_name_the_runs_finds_the_same_ones(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "cls_digits_group_0/checkpoints/step_000003").mkdir(parents=True)
    (study / "notes.txt").touch()
    expected = sorted(folder.name for folder in study.iterdir() if folder.is_dir())
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("HOME", str(study.parent))
    for given_ in (["study"], ["."], ["study/*"], ["**"], ["study/**"], ["~/study"], ["*/*_?"], [str(study)], ["study", "study/*", str(study)]):
        finished, unfinished = find_runs(given_)
        assert ([folder.name for folder in finished], unfinished) == (expected, []), given_
    assert [folder.name for folder in find_runs(["study/f*_2", "study/c*_0"])[0]] == [
        *(f"fsod_digits_{a}_2" for a in ("group", "shuffled")),
        *(f"cls_digits_{a}_0" for a in ("group", "shuffled")),
    ], "pattern after pattern"


def test_what_has_not_finished_is_left_out_by_name(tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    (write_run(tmp_path / "running") / "summary.json").unlink()
    (tmp_path / "empty").mkdir()
    assert find_runs([f"{tmp_path}/*"]) == ([tmp_path / "done"], [tmp_path / "empty", tmp_path / "running"])
    assert find_runs([str(tmp_path)]) == ([tmp_path / "done"], [tmp_path / "running"])
    with pytest.raises(ValueError, match=r"runs=.*/gone\*: no such folder"):
        find_runs([str(tmp_path), f"{tmp_path}/gone*"])


def test_commas_separate_patterns_and_may_stand_in_a_folders_name(tmp_path: Path) -> None:
    odd = write_run(tmp_path / "0_seed=0,x=[1]")
    assert patterns("a*,b") == ["a*", "b"]
    for text in (str(odd), f"{tmp_path}/*seed=0,*"):
        assert find_runs(patterns(text)) == ([odd], [])


SUMMARY = {"task": "t", "model": "m", "metric": "AP", "before": 1.0, "after": 2.0, "seed": 0, "seconds": 1.0}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("summary.json", b"{", "not JSON"),
        ("summary.json", b"[1]", "not a JSON object"),
        ("summary.json", b"\xff", "not UTF-8"),
        ("summary.json", b"[" * 100_000, "not JSON"),
        *(("summary.json", json.dumps({k: v for k, v in SUMMARY.items() if k != gone}).encode(), f"`{gone}`") for gone in SUMMARY),
        *(("summary.json", json.dumps(SUMMARY | {"before": value}).encode(), "") for value in ("1", True, [1], 10**400)),
        ("summary.json", json.dumps(SUMMARY | {"seed": None}).encode(), "NaN"),
        ("summary.json", json.dumps(SUMMARY | {"evaluation_before": [1], "evaluation_after": {}}).encode(), "`evaluation_before`"),
        ("summary.json", json.dumps(SUMMARY | {"evaluation_before": {"AP": "x"}, "evaluation_after": {"AP": 1}}).encode(), "`AP`"),
        ("metrics.jsonl", b'{"step": 1}\n{"step": 2', "line 2: not JSON"),
        ("metrics.jsonl", b'{"step": 1}\n\n', "line 2: not JSON"),
        ("metrics.jsonl", b'{"step": 1}\n{"reward/mean": 2}\n', "line 2: `step` is not a number"),
        ("metrics.jsonl", b'{"step": null}\n', "line 1:"),
        ("metrics.jsonl", b'{"step": 1, "x": "high"}\n', "line 1: `x` is not a number"),
        ("metrics.jsonl", None, "No such file"),
        ("config.yaml", b"a: [1", "not YAML"),
        ("config.yaml", b"a: 1\na: 2", "not YAML"),
        ("config.yaml", b"a: !!python/object/apply:os.getcwd []", "not YAML"),
        ("config.yaml", b"a: ${", "not YAML"),
        ("config.yaml", b"- a", "holds no keys"),
        ("config.yaml", b"", "holds no keys"),
        ("config.yaml", b"a: \xff", "not UTF-8"),
        ("config.yaml", None, "No such file"),
        ("environment.json", b"{", "not JSON"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, text: bytes | None, told: str) -> None:
    file = write_run(tmp_path / "a") / name
    file.unlink(missing_ok=True)
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ValueError) as error:
        read_run(file.parent)
    assert str(error.value).startswith(str(file)) and told in str(error.value) and "leave its folder out" in str(error.value)


def test_a_file_that_was_cut_is_never_half_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for name, whole in [(file.name, file.read_bytes()) for file in (folder / "summary.json", folder / "metrics.jsonl")]:
        whole_lines = {match.end() + shift for match in re.finditer(rb"}\n", whole) for shift in (-1, 0)}
        for cut in {*range(1, len(whole), 5), *whole_lines} - {len(whole)}:
            (folder / name).write_bytes(whole[:cut])
            if cut in whole_lines:
                assert len(read_run(folder).metrics) == whole[:cut].count(b"}")
            else:
                with pytest.raises(ValueError, match=re.escape(str(folder / name))):
                    read_run(folder)
        (folder / name).write_bytes(whole)


def test_nothing_in_a_config_is_looked_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text("a: ${oc.env:HOME}\nb: {1: x, c: [1, {d: 2}]}\ne: 'two\n\n  lines'\n")
    assert dict(list(read_run(folder).setting.items())[:4]) == {"a": "${oc.env:HOME}", "b.1": "x", "b.c": '[1, {"d": 2}]', "e": '"two\\nlines"'}


curves = st.lists(st.dictionaries(st.integers(0, 5), st.floats(-10, 10) | st.just(math.nan)), min_size=1, max_size=4)


@given(curves, st.randoms())
def test_the_mean_curve_lies_between_the_runs_in_any_order(found: list[dict[int, float]], random: Any) -> None:
    mean = mean_curve(found)
    assert mean == pytest.approx(mean_curve(random.sample(found, len(found))), nan_ok=True)
    assert mean_curve([mean, mean]) == pytest.approx(mean, nan_ok=True)
    for step, value in mean.items():
        there = [curve[step] for curve in found if not math.isnan(curve.get(step, math.nan))]
        assert min(there) - 1e-9 <= value <= max(there) + 1e-9 if there else math.isnan(value)


def test_series_share_their_axes_and_one_alone_is_a_curve() -> None:
    low, high = [(1, 0.0), (2, 1.0), (3, None), (4, 1.0)], [(0, 4.0), (8, 2.0)]
    together = points(curves_svg("a", [("x", low), ("y", high)]))
    assert together[2:] + together[:2] == points(curves_svg("a", [("y", high), ("x", low)]))
    xs, ys = zip(*(point for line in together for point in line), strict=True)
    assert (xs[0] - min(xs)) / (max(xs) - min(xs)) == pytest.approx(1 / 8) and ys[0] == max(ys), "over the axes of both"
    assert curves_svg("a", [("", low)]) == curve_svg("a", low)
    assert re.findall(r'<polyline class="(\w)"', curves_svg("a", [("x", low), ("y", high)])) == ["x", "x", "y"]


def page(path: Path, arms: list[Arm]) -> Page:
    write_page(path / "comparison.html", arms)
    return Page((path / "comparison.html").read_text())


def test_the_page_draws_every_curve_of_every_run_in_its_arms_colour(study: Path) -> None:
    found = page(study, arms_of(read(study)))
    assert [svg["aria-label"] for svg in found.all("svg")] == ["reward/mean", "reward/iou", "loss/kl"], "times and the learning rate are not results"
    for index in range(4):
        spans = 4  # one of each reward, two of loss/kl: step 2 has no number
        assert len(found.all("polyline", **{"class": f"a{index} d0 run"})) == 3 * spans
        assert len(found.all("polyline", **{"class": f"a{index} d0"})) == spans
        assert len(found.all("i", **{"class": f"a{index} d0"})) == 1
    assert all(text in found.text for text in ("12 runs in 4 groups", "well-formed", "seed 2", "fsod_digits_group_2", "10.00 → 22.00"))
    raw = (study / "comparison.html").read_text()
    assert not re.search(r"https?://|@import|url\(| src=", raw.replace("http://www.w3.org/2000/svg", "")) and len(found.all("script")) == 1


def test_a_reason_of_refusal_that_a_step_does_not_name_did_not_occur(tmp_path: Path) -> None:
    lines = [{"step": 1.0, "reward/mean": 0.0, "refused/bad_box": 4.0}, {"step": 2.0, "reward/mean": 0.0}, {"step": 3.0}]
    _, refused = page(tmp_path, [Arm("a", (replace(run(), metrics=lines),))]).all("polyline")
    high, low = (float(point.split(",")[1]) for point in refused["points"].split())
    assert high < low, "4, then 0, then nothing: up is more"


def test_no_two_of_24_arms_look_alike(tmp_path: Path) -> None:
    arms = [Arm(f"arm{n}", (run(seed=n),)) for n in range(24)]
    arms = [replace(arm, runs=(replace(arm.runs[0], metrics=[{"step": 1.0, "reward/mean": 1.0}]),)) for arm in arms]
    looks = [line["class"] for line in page(tmp_path, arms).all("polyline")]
    assert all(a != b for a, b in combinations(looks, 2)) and len(looks) == 24


@pytest.mark.parametrize("steps", [1, POINTS, POINTS + 1, 10 * POINTS + 7])
def test_a_long_curve_keeps_its_end_and_its_mean_in_few_points(tmp_path: Path, steps: int) -> None:
    metrics = [{"step": float(step), "reward/mean": float(step)} for step in range(1, steps + 1)]
    page_ = page(tmp_path, [Arm("a", (replace(run(), metrics=metrics),))])
    (drawn,) = [line["points"].split() for line in page_.all("polyline")]
    assert len(set(drawn)) <= POINTS and f"to {steps}" in page_.text
    ys = [float(point.split(",")[1]) for point in drawn]
    assert ys == sorted(ys, reverse=True)


def test_hostile_text_is_shown_and_never_becomes_an_element(tmp_path: Path) -> None:
    hostile = replace(run({"x": HOSTILE}, AP=1.0), task=HOSTILE, model=HOSTILE, folder=Path("a<script>b"), metrics=[{"step": 1.0, HOSTILE: 1.0}])
    other = replace(hostile, setting={"x": "2"}, scores={HOSTILE: (1.0, 2.0)}, metric=HOSTILE)
    found = page(tmp_path, arms_of([hostile, other]))
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe"}) and len(found.all("script")) == 1
    assert found.text.count("<script") >= 8


def test_the_json_says_what_the_table_says(study: Path) -> None:
    arms = arms_of([*read(study), read_run(write_run(study / "lone", None, 5.0, task__name="fsod_other"))])
    write_json(study / "out.json", arms)
    groups = json.loads((study / "out.json").read_text())["groups"]
    rows = summary_table(arms, every_score=True)[1:]
    told = [(g["label"], name, str(len(g["runs"])), s["change"], s["half_interval_95"]) for g in groups for name, s in g["scores"].items()]
    assert [(*row[:3], row[5], row[6]) for row in rows] == [
        (label, name, runs, "-" if gain is None else f"{gain:+.2f}", "-" if half is None else f"{half:.2f}") for label, name, runs, gain, half in told
    ]
    assert [group["seeds"] for group in groups] == [[0, 1, 2]] * 4 + [[0]]
    assert groups[-1]["scores"]["AP"] == {"before": None, "after": 5.0, "change": None, "half_interval_95": None}
    assert all(Path(run["folder"]).is_dir() for group in groups for run in group["runs"])
