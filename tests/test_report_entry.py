"""`python -m visual_rft.report` as a user meets it: pytest tests/test_report_entry.py"""

import json
import os
import re
from pathlib import Path

import pytest
from test_comparison import write_run, write_study

from visual_rft.report import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def study(here: Path) -> Path:
    return write_study(here / "study")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_tasks_two_arms_three_seeds(study: Path, capfd: Capture) -> None:
    before = files(study.parent)
    assert main(["runs=study/*"]) == 0
    out, err = capfd.readouterr()
    head, *rows = (re.split(r"\s{2,}", line) for line in out.splitlines())
    assert head == ["", "score", "runs", "before", "after", "change", "± 95 %", "well-formed", "seconds"]
    assert rows == [
        ["task.name=cls_digits algorithm.advantage=group", "accuracy", "3", "11.00", "42.00", "+31.00", "2.48", "99.00", "101"],
        ["task.name=cls_digits algorithm.advantage=shuffled", "accuracy", "3", "11.00", "11.00", "+0.00", "2.48", "99.00", "101"],
        ["task.name=fsod_digits algorithm.advantage=group", "AP", "3", "11.00", "24.00", "+13.00", "2.48", "99.00", "101"],
        ["task.name=fsod_digits algorithm.advantage=shuffled", "AP", "3", "11.00", "12.00", "+1.00", "2.48", "99.00", "101"],
    ]
    assert err == "out=comparison.html draws the curves over each other\n"
    assert files(study.parent) == before and "\x1b" not in out


@pytest.mark.parametrize(
    "runs", ["study/f*", "[study/fsod_digits_group_*,study/fsod_digits_shuffled_*]", "'study/fsod_digits_g*,study/fsod_digits_s*'"]
)
def test_patterns_lists_and_commas_say_the_same(study: Path, runs: str, capfd: Capture) -> None:
    assert main([f"runs={runs}"]) == 0
    out = capfd.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["algorithm.advantage=group", "algorithm.advantage=shuffled"]


def test_all_scores_are_rows_when_asked(study: Path, capfd: Capture) -> None:
    assert main(["runs=study/cls_digits_group_*", "scores=all"]) == 0
    _, *rows = capfd.readouterr().out.splitlines()
    assert [re.split(r"\s{2,}", row)[:4] for row in rows] == [
        ["cls_digits, tiny", "accuracy", "3", "11.00"],
        ["cls_digits, tiny", "well-formed", "3", "90.00"],
    ]


def test_the_files_that_were_asked_for_are_written_and_replaced(study: Path, here: Path, capfd: Capture) -> None:
    (here / "page.html").write_text("old")
    assert main(["runs=study", "out=page.html", f"json={here}/numbers.json"]) == 0
    assert capfd.readouterr().out.endswith(f"written: page.html\nwritten: {here}/numbers.json\n")
    assert "reward/mean" in (here / "page.html").read_text()
    assert len(json.loads((here / "numbers.json").read_text())["groups"]) == 4
    assert sorted(os.listdir(here)) == ["numbers.json", "page.html", "study"]


def test_an_evaluation_is_left_out_and_another_test_set_is_another_group(here: Path, capfd: Capture) -> None:
    for name, data in (("a", "x"), ("b", "x"), ("c", "y")):
        (write_run(here / name, seed=ord(name)) / "environment.json").write_text(json.dumps({"data": {"train": name, "test": data}}))
    (here / "e").mkdir()
    (here / "e/summary.json").write_text('{"task": "fsod_digits", "model": "tiny", "metric": "AP", "value": 1.0, "evaluation": {"AP": 1.0}}')
    assert main(["runs=*"]) == 0
    out, err = capfd.readouterr()
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["data.test=x", "AP", "2"], ["data.test=y", "AP", "1"]]
    assert err.splitlines()[0] == "e: no finished training run, left out"


def test_one_run_has_no_interval(here: Path, capfd: Capture) -> None:
    write_run(here / "a")
    assert main(["runs=a"]) == 0
    assert capfd.readouterr().out.splitlines()[1].split() == ["fsod_digits,", "tiny", "AP", "1", "10.00", "20.00", "+10.00", "-", "99.00", "100"]


def test_a_repeated_seed_and_an_unfinished_run_are_told(here: Path, capfd: Capture) -> None:
    write_run(here / "a")
    write_run(here / "b")
    (write_run(here / "c", seed=1) / "summary.json").unlink()
    assert main(["runs=*"]) == 0
    out, err = capfd.readouterr()
    assert " 2 " in out.splitlines()[1]
    assert err.startswith("c: no finished training run, left out\nwarning: fsod_digits, tiny: seed 0 more than once, and all count: a, b\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runs=gone/*"], "runs=gone/*: no such folder"),
        (["runs=[study,gone]"], "runs=gone: no such folder"),
        (["runs=empty"], "runs=empty: no finished run"),
        (["runs=7"], "runs=7: must be a folder"),
        (["runs=[]"], "runs=[]: must be a folder"),
        (["runs=''"], "runs=['']: must be a folder"),
        (["runs=null"], "runs=None: must be a folder"),
        ([], "runs"),
        (["runs=study", "scores=some"], "metric, all"),
        (["runs=study", "out=gone/page.html"], "out=gone/page.html: must be a file in a folder that exists"),
        (["runs=study", "json=study"], "json=study: must be a file"),
        (["runs=study", "out=/proc/page.html"], "/proc/page.html: "),
        (["run=study"], "did you mean runs?"),
        (["runs=study", "json=study/fsod_digits_group_0/summary.json"], "json=study/fsod_digits_group_0/summary.json: lies in the folder of a run"),
        (["runs=study", "out=study/fsod_digits_group_0/more.html"], "out=study/fsod_digits_group_0/more.html: lies in the folder of a run"),
    ],
)
def test_what_is_wrong_is_one_line(study: Path, here: Path, arguments: list[str], told: str, capfd: Capture) -> None:
    (here / "empty").mkdir()
    before = files(here)
    assert main(arguments) == 2
    *notes, line = capfd.readouterr().err.splitlines()
    assert told in line and notes in ([], ["empty: no finished training run, left out"])
    assert files(here) == before


BROKEN = [("summary.json", "{", ""), ("config.yaml", "a: [", ""), ("metrics.jsonl", '{"step": 1}\n{', ", line 2")]


@pytest.mark.parametrize(("name", "text", "told"), BROKEN)
def test_a_broken_file_is_one_line_that_names_it(study: Path, name: str, text: str, told: str, capfd: Capture) -> None:
    (study / "cls_digits_group_1" / name).write_text(text)
    assert main(["runs=study"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith(f"study/cls_digits_group_1/{name}{told}: ")
