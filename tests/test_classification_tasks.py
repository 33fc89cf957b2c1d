"""Every classification task on folders in the published formats, from the first file to the last figure: `pytest tests/test_classification_tasks.py`.

The folders are made by docs/stand_in_classes.py; who answers is the embedded model.
"""

import json
from pathlib import Path
from typing import Any

import class_data
import pytest

from visual_rft import data as data_entry
from visual_rft import evaluate, score, train
from visual_rft.class_names import read_names

TINY = ["model=tiny", "hardware=cpu"]
SMALL = [*TINY, "steps=2", "prompts_per_step=2", "algorithm.group_size=2"]
ASKED = ["task.wording=terse_1", "algorithm.max_completion_tokens=32"]
TASKS = {f"cls_{name}": name for name in class_data.FOLDERS}

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_data.write(tmp_path_factory.mktemp("data"))


def of(task: str, data: Path) -> list[str]:
    if task in TASKS:
        return [f"task={task}", f"data.root={data / class_data.FOLDERS[TASKS[task]]}", "task.at_most=true"]
    return [f"task={task}", f"data.root={data / 'custom'}", "task.kind=digit"]


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


QUICK = ("cls_pets37", "custom_classification")  # lists of a published set, and folders
LONG = [pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task not in QUICK]


@pytest.mark.parametrize("task", [*QUICK, *LONG])
def test_a_task_trains_and_evaluates(task: str, data: Path, tmp_path: Path) -> None:
    assert train.main([*of(task, data), *SMALL, *ASKED, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    run = summary(tmp_path / "run")
    after, questions = run["evaluation_after"], run["questions"]
    assert (run["task"], run["steps"], run["metric"], questions) == (task, 2, "accuracy", 60 if task == "custom_classification" else 20)
    assert set(after["by category"]) == set(after["confusion"]) and (task == "custom_classification") == (run["before"] > 30)
    assert sum(times for said in after["confusion"].values() for times in said.values()) == questions
    split = json.loads((tmp_path / "run/split.json").read_text())
    assert len(split["examples"]) == (180 if task == "custom_classification" else 38)
    evaluated = [key for key in of(task, data) if key != "task.at_most=true"]
    again = [*evaluated, f"run={tmp_path / 'run'}", TINY[1], *ASKED, f"hydra.run.dir={tmp_path / 'e'}"]
    assert evaluate.main(again) == 0 and summary(tmp_path / "e")["evaluation"] == after


@pytest.mark.slow
def test_rows_train_and_test_in_place_of_images(data: Path, tmp_path: Path) -> None:
    """As the hub has them: the paper's k-shot rows, and the names in their spelling."""
    for part in ("train", "test"):
        built = data_entry.main(["build", *of("cls_cars196", data), f"part={part}", f"out={tmp_path / part}.parquet"])
        assert built == 0
    published = ["task=cls_cars196", of("cls_cars196", data)[1], f"data.train_rows={tmp_path / 'train.parquet'}", "task.shots=null"]
    assert train.main([*published, *SMALL, *ASKED, f"hydra.run.dir={tmp_path / 'hub'}"]) == 0
    own = ["task=custom_classification", "data=rows", f"data.test={tmp_path / 'test.parquet'}", f"run={tmp_path / 'hub'}", TINY[1], *ASKED]
    assert evaluate.main([*own, f"hydra.run.dir={tmp_path / 'own'}"]) == 0
    published_classes = summary(tmp_path / "hub")["evaluation_after"]["by category"].keys()
    assert summary(tmp_path / "own")["evaluation"]["by category"].keys() == published_classes


def test_a_truth_that_spells_an_alias_counts_as_its_class(data: Path, tmp_path: Path) -> None:
    image = next((data / "stanford_cars/cars_test").iterdir())
    names = ["2000 AM General Hummer SUV", "AM General Hummer SUV 2000", "am_general hummer suv 2000", "2012 Acura RL Sedan"]
    rows = [{"image": str(image), "problem": "Which car?", "solution": f"<answer>{name}</answer>"} for name in names]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ["AM General Hummer SUV 2000", "2000 AM General Hummer SUV", "Hummer", "2012 Acura RL Sedan 2012"]
    answers = [json.dumps({"example": str(n), "completion": f"<think>x</think><answer>{name}</answer>"}) for n, name in enumerate(said)]
    (tmp_path / "said.jsonl").write_text("\n".join(answers))
    asked = ["task=cls_cars196", "data=rows", f"data.test={tmp_path / 'test.jsonl'}", f"predictions={tmp_path / 'said.jsonl'}"]
    assert evaluate.main([*asked, f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    found = summary(tmp_path / "e")["evaluation"]
    assert found["accuracy"] == 50
    assert found["confusion"] == {
        "AM General Hummer SUV 2000": {"(another word)": 1, "AM General Hummer SUV 2000": 2},
        "Acura RL Sedan 2012": {"(another word)": 1},
    }


@pytest.mark.parametrize("task", TASKS)
def test_open_answers_are_matched_strictly(task: str, tmp_path: Path, capfd: Captured) -> None:
    """Its name and its aliases are right; a part of it, something around it, or two names are wrong."""
    names = read_names(f"embedded:{TASKS[task]}")
    alias, name = next(iter(names.aliases.items()))
    other = next(one for one in names.names if one != name)
    wrong = [other, f"{name} or {other}", f"{name}, {other}", f"a {name}", name[:-1], f"{name} {name}"]
    said = [name, name.upper(), alias, *wrong]
    lines = [json.dumps({"completion": f"<think>x</think><answer>{one}</answer>", "solution": name}) for one in said]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    assert score.main([f"task={task}", f"completions={tmp_path / 'said.jsonl'}"]) == 0
    earned = [json.loads(line)["rewards"]["accuracy"] for line in capfd.readouterr().out.splitlines()]
    assert earned == [1, 1, 1, *[0] * len(wrong)]


def test_explicit_aliases_win_over_those_of_the_file(tmp_path: Path, capfd: Captured) -> None:
    line = json.dumps({"completion": "<think>x</think><answer>Datura</answer>", "solution": "hibiscus"})
    (tmp_path / "said.jsonl").write_text(line)
    for more, earned in (([], 0), (["+task.aliases.datura=hibiscus"], 1)):
        assert score.main(["task=cls_flowers102", *more, f"completions={tmp_path / 'said.jsonl'}"]) == 0
        assert json.loads(capfd.readouterr().out)["rewards"]["accuracy"] == earned


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task=cls_flowers102", "data.root=nowhere"], "nowhere/imagelabels.mat: No such file or directory; take 102flowers.tgz"),
        (["task=cls_pets37", "data.root=nowhere"], "nowhere/annotations/trainval.txt: No such file or directory; take images.tar.gz"),
        (["task=cls_aircraft", "data.root=nowhere"], "nowhere/data/variants.txt: No such file or directory; take fgvc-aircraft-2013b.tar.gz"),
        (["task=cls_cars196", "data.root=nowhere"], "nowhere/devkit/cars_meta.mat: No such file or directory; take cars_train.tgz"),
        (["task=custom_classification", "data.root=nowhere"], "nowhere/train: No such file or directory; make a folder for each class"),
        (["task=cls_cars196", "task.names=nowhere.json"], "nowhere.json: No such file or directory; name a file of the form"),
        (["task=cls_pets37", "+task.aliases.moggy=cat"], "task.aliases: alias 'moggy' is given to 'cat', which is no class"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments: list[str], said: str, tmp_path: Path, capfd: Captured) -> None:
    assert train.main([*arguments, *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    printed = capfd.readouterr().err.strip().splitlines()
    assert said in printed[-1] and "Traceback" not in "".join(printed)


@pytest.mark.parametrize("task", [*QUICK, *LONG])
def test_a_set_is_checked_and_split(task: str, data: Path, tmp_path: Path, capfd: Captured) -> None:
    assert data_entry.main(["check", *of(task, data), f"out={tmp_path / 'a.json'}"]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [part["faults"] for part in found] == [[], []] and found[0]["images"] == found[0]["objects"] > found[0]["questions"] - 1
    drawn = [*of(task, data), "task.shots=2", f"out={tmp_path / 'split.json'}"]
    capfd.readouterr()
    assert data_entry.main(["split", *drawn]) == 0
    table = capfd.readouterr().out.splitlines()
    assert len(table) == 12 and all(line.split()[-1] == "2" for line in table[1:11]), "ten classes, by their names"
