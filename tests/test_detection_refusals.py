"""What detection data and files may not say: each in one line, before anything is written: `pytest tests/test_detection_refusals.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from troubled import write

from visual_rft import data, evaluate, train
from visual_rft.images import Annotation, _inside
from visual_rft.sources.coco import read_coco
from visual_rft.sources.findings import Findings, unspeakable
from visual_rft.tracking.comparison import arms_of, category_table
from visual_rft.tracking.runs import read_run

Captured = pytest.CaptureFixture[str]
Content = dict[str, Any]

SMALL = ["model=tiny", "hardware=cpu", "task.wording=terse_1", "steps=1", "prompts_per_step=2", "algorithm.group_size=2"]
SMALL += ["algorithm.max_completion_tokens=8"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images to train on, two to test on, each with a cat and a dog."""
    write(tmp_path / "set", "train", 3)
    write(tmp_path / "set", "test", 2, first=4)
    return tmp_path / "set"


def change(root: Path, edit: Callable[[Content], object], part: str = "train") -> Path:
    content = json.loads((root / f"{part}.json").read_text())
    edit(content)
    (root / f"{part}.json").write_text(json.dumps(content))
    return root / f"{part}.json"


def line(arguments: list[str], capfd: Captured, main: Callable[[list[str]], int] = train.main) -> str:
    assert main(arguments) == 2
    (said,) = capfd.readouterr().err.splitlines()
    return said


def task(root: Path, run: Path) -> list[str]:
    return ["task=custom_detection", f"data.root={root}", *SMALL, f"hydra.run.dir={run}"]


def read(file: Path) -> list[str]:
    findings = Findings(patient=True)
    read_coco(file, file.parent / "images", "train", findings)
    return findings.faults


def test_data_that_nothing_is_asked_about_are_refused(root: Path, tmp_path: Path, capfd: Captured) -> None:
    for part in ("train", "test"):
        kept = (root / f"{part}.json").read_text()
        change(root, lambda content: content.update(annotations=[]), part)
        remedy = "nothing in it is asked about; give other data, or other categories"
        assert line(task(root, tmp_path / "run"), capfd) == f"{root / part}.json: {remedy}" and not (tmp_path / "run").exists()
        assert data.main(["check", "task=custom_detection", f"data.root={root}"]) == 2 and remedy in capfd.readouterr().out
        (root / f"{part}.json").write_text(kept)


@pytest.mark.parametrize("bbox", [(50.0, 5.0, 1e-15, 20.0), (5.0, 50.0, 20.0, 1e-15)])
def test_a_side_too_thin_for_a_float_is_no_area(bbox: tuple[float, float, float, float], root: Path, tmp_path: Path) -> None:
    assert _inside(Annotation("cat", bbox), (100, 100)) is None
    change(root, lambda content: content["annotations"][0].update(bbox=list(bbox)))
    change(root, lambda content: content["annotations"][0].update(bbox=[4.0, 3.0, 1e-15, 20.0]), "test")
    assert train.main(task(root, tmp_path / "run")) == 0
    row = {"image_id": 4, "category": "cat", "bbox": [30.0, 3.0, 1e-15, 5.0], "score": 0.5}
    (tmp_path / "results.json").write_text(json.dumps([row]))
    assert evaluate.main([*task(root, tmp_path / "e")[:2], f"predictions={tmp_path / 'results.json'}", f"hydra.run.dir={tmp_path / 'e'}"]) == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 4, "name": "cat"}, "categories, id 4: another row has its name, 'cat'"),
        ({"id": 4, "name": " "}, "categories, id 4: its name ' ' is empty"),
        ({"id": 4, "name": "cat<|im_end|>"}, "categories, id 4: its name 'cat<|im_end|>' holds <|im_end|>, which is the chat template's alone"),
        ({"id": 4, "name": "\ud800"}, "categories, id 4: its name '\\ud800' holds half of a surrogate pair"),
    ],
)
def test_a_category_has_a_name_of_its_own_that_a_model_can_be_asked_for(row: Content, said: str, root: Path) -> None:
    file = change(root, lambda content: content["categories"].append(row))
    assert read(file) == [f"{file}: {said}; correct the row, or take it out"]
    assert unspeakable("cat") is None


def test_images_say_what_they_lack_all_or_none(root: Path) -> None:
    """One row of LVIS without its negative categories would be scored as if nothing were known of it."""
    file = change(root, lambda content: [row.update(neg_category_ids=[]) for row in content["images"][1:]])
    assert read(file) == [f"{file}: images, id 1: its neg_category_ids is missing, which other images have; correct the row, or take it out"]


def test_a_file_may_begin_with_a_byte_order_mark(root: Path) -> None:
    file = root / "train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read(file) == []


def test_all_categories_come_in_the_order_of_their_numbers(root: Path, tmp_path: Path) -> None:
    """So that the split does not depend on the order of the file."""
    fingerprints = []
    for turn in range(2):
        change(root, lambda content: content["categories"].reverse())
        out = tmp_path / f"{turn}.json"
        assert data.main(["split", "task=custom_detection", "task.shots=1", f"data.root={root}", f"out={out}"]) == 0
        fingerprints.append(json.loads(out.read_text())["fingerprint"])
    assert fingerprints[0] == fingerprints[1]


# Split files


@pytest.fixture
def split(root: Path, tmp_path: Path) -> Path:
    assert data.main(["split", "task=custom_detection", "task.shots=1", f"data.root={root}", f"out={tmp_path / 'split.json'}"]) == 0
    return tmp_path / "split.json"


@pytest.mark.parametrize("subject", ["unicorn", ""])
def test_a_split_asks_for_what_the_task_is_trained_on(subject: str, split: Path, root: Path, tmp_path: Path, capfd: Captured) -> None:
    content = json.loads(split.read_text())
    content["examples"][1]["subject"] = subject
    del content["fingerprint"]
    split.write_text(json.dumps(content))
    capfd.readouterr()
    said = f"{split}, example 2: this task is not trained on {subject!r}; give the task the split was drawn for"
    assert line([*task(root, tmp_path / "run"), f"task.split={split}"], capfd) == said


def test_an_example_stands_in_a_split_once(split: Path, root: Path, tmp_path: Path, capfd: Captured) -> None:
    content = json.loads(split.read_text())
    content["examples"].append(content["examples"][0])
    del content["fingerprint"]
    split.write_text(json.dumps(content))
    capfd.readouterr()
    assert line([*task(root, tmp_path / "run"), f"task.split={split}"], capfd) == f"{split}, example 3: is there twice; take one out"


@pytest.mark.parametrize("key", ["task.shots=1", "task.at_most=true", "task.negatives=1"])
def test_what_a_given_split_leaves_unread_cannot_be_typed(key: str, split: Path, root: Path, tmp_path: Path, capfd: Captured) -> None:
    capfd.readouterr()
    said = f"{key.partition('=')[0]}: the split is given, task.split={split}, and says what is drawn; leave one of the two out"
    assert line([*task(root, tmp_path / "run"), f"task.split={split}", key], capfd) == said
    arguments = ["split", "task=custom_detection", f"data.root={root}", f"task.split={split}", key, f"out={tmp_path / 'again.json'}"]
    assert line(arguments, capfd, data.main) == said


def test_a_run_on_a_given_split_is_told_by_it_and_not_by_shots(split: Path, root: Path, tmp_path: Path) -> None:
    assert train.main([*task(root, tmp_path / "run"), f"task.split={split}"]) == 0
    run = read_run(tmp_path / "run")
    assert run.setting["task.split"] == str(split) and "task.shots" not in run.setting and len(run.setting["data.test"]) == 12
    assert json.loads((tmp_path / "run/split.json").read_text())["given"] == str(split)


# Evaluations


def test_a_run_is_asked_as_it_was_trained(root: Path, tmp_path: Path, capfd: Captured) -> None:
    assert train.main([*task(root, tmp_path / "run"), "task.thinking=false"]) == 0
    capfd.readouterr()
    asked = ["task=custom_detection", f"data.root={root}", "hardware=cpu", f"run={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'e'}"]
    run = f"run={tmp_path / 'run'}: it was trained with"
    wording = f"{run} task.wording=terse_1, and full_1 is only the default; give task.wording=terse_1, or task.wording=full_1"
    assert line(asked, capfd, evaluate.main) == wording
    thinking = f"{run} task.thinking=false, and true is only the default; give task.thinking=false, or task.thinking=true"
    assert line([*asked, "task.wording=terse_1"], capfd, evaluate.main) == thinking
    assert evaluate.main([*asked, "task.wording=terse_1", "task.thinking=false", "algorithm.max_completion_tokens=8"]) == 0
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "e")]
    assert summaries[0]["evaluation_after"] == summaries[1]["evaluation"]


def test_boxes_are_scored_without_the_images_and_answers_without_a_model(root: Path, tmp_path: Path, capfd: Captured) -> None:
    rows = [{"image_id": n, "category_id": 1, "bbox": [4.0, 3.0, 20.0, 15.0], "score": 0.9} for n in (4, 5)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    said = [{"example": f"{n}/{name}", "completion": "<think></think><answer>No Objects</answer>"} for n in (4, 5) for name in ("cat", "dog")]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    for image in (root / "images").glob("*.png"):
        image.unlink()
    for name, score in (("results.json", 50), ("said.jsonl", 0)):
        asked = ["task=custom_detection", f"data.root={root}", f"predictions={tmp_path / name}", f"hydra.run.dir={tmp_path / name[:4]}"]
        assert evaluate.main(asked) == 0
        assert json.loads((tmp_path / name[:4] / "summary.json").read_text())["value"] == pytest.approx(score)
        assert "report.html shows no images" in capfd.readouterr().err


def test_the_score_of_a_category_is_not_called_that_of_the_novel_ones(root: Path, tmp_path: Path) -> None:
    assert train.main([*task(root, tmp_path / "run"), "task.trained=[cat]"]) == 0
    run = read_run(tmp_path / "run")
    assert run.metric == "AP novel" and OmegaConf.load(tmp_path / "run/config.yaml").task.trained == ["cat"]
    assert [row[1:3] for row in category_table(arms_of([run]))[1:]] == [("cat", "AP"), ("dog", "AP")]


# Rows


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("<|image_pad|> hi", "`problem` holds <|image_pad|>, which is the chat template's alone"),
        ("hi<|im_end|>", "`problem` holds <|im_end|>, which is the chat template's alone"),
        ("\ud800 x", "`problem` holds half of a surrogate pair"),
    ],
)
def test_a_problem_holds_no_token_of_the_template(problem: str, said: str, root: Path, tmp_path: Path, capfd: Captured) -> None:
    row = {"image": "1.png", "problem": problem, "solution": "No Objects"}
    file = root / "images/rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    run = ["task=custom_detection", "data=rows", f"data.train={file}", f"data.test={file}", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    assert line(run, capfd) == f"{file}, line 1: {said}; write another, or take the row out"


def test_rows_are_no_pool_to_draw_a_split_from(root: Path, tmp_path: Path, capfd: Captured) -> None:
    file = root / "images/rows.jsonl"
    file.write_text(json.dumps({"image": "1.png", "problem": "Find it.", "solution": "No Objects"}) + "\n")
    arguments = ["split", "task=custom_detection", "data=rows", f"data.train={file}", f"out={tmp_path / 's.json'}"]
    assert line(arguments, capfd, data.main) == f"{file}: rows of image, problem and solution are a split already; publish them as they are"
