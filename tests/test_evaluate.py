"""Evaluating a model, or a file of predictions: `pytest tests/test_evaluate.py`."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from knobs import unread_keys
from omegaconf import OmegaConf

from visual_rft import train, workload
from visual_rft.config import keys
from visual_rft.evaluate import EvaluateConfig, main
from visual_rft.frames import NORM1000
from visual_rft.metrics.average_precision import FoundBox
from visual_rft.models.loading import folder
from visual_rft.policies import newest_checkpoint
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.digits import CATEGORIES, DigitOptions, Split, scenes
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.predictions import are_coco_results, coco_results, completions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import Exam
from visual_rft.tasks.wording import Wording
from visual_rft.vocabulary import Example
from visual_rft.workload import SCHEMAS

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[1]
IMAGES = 6
SMALL = f"data.test_images={IMAGES}"
OPTIONS = DetectionOptions(
    name="fsod_digits",
    shots=1,
    at_most=False,
    split_seed=0,
    split=None,
    wording=Wording.terse_1,
    thinking=True,
    categories=list(CATEGORIES),
    trained=None,
    negatives=0.0,
    present=Present.ground_truth,
    presence=None,
    iou_threshold=0.5,
)
TASK = workload.task(OPTIONS, RewardOptions())
TRAIN = [SMALL, "steps=2", "prompts_per_step=2", "algorithm.group_size=4", "task.shots=1", "checkpoint.every=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    assert train.main([*TRAIN, f"hydra.run.dir={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def exam() -> Exam:
    """What `SMALL` asks."""
    return workload.test_exam(OPTIONS, DigitOptions(1, IMAGES, 1, 3), lambda _: NORM1000)


@pytest.fixture(scope="module")
def asked(exam: Exam) -> list[Example]:
    return list(exam.questions)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, content: list[Any]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in content) if file.suffix == ".jsonl" else json.dumps(content))
    return file


def test_a_checkpoint_is_worth_what_its_run_says(trained: Path, tmp_path: Path, capfd: Captured) -> None:
    assert main([SMALL, f"model.path={trained}/checkpoints/step_000002", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    out, err = capfd.readouterr()
    run, evaluation = summary(trained), summary(tmp_path / "e")
    assert evaluation["value"] == run["after"] and evaluation["evaluation"] == run["evaluation_after"]
    assert (tmp_path / "e/answers_evaluation.jsonl").read_bytes() == (trained / "answers_after.jsonl").read_bytes()
    assert {file.name for file in (tmp_path / "e").iterdir()} == {
        "config.yaml",
        "environment.json",
        "answers_evaluation.jsonl",
        "coco_results.json",
        "summary.json",
        "report.html",
    }
    assert (evaluation["task"], evaluation["model"], evaluation["metric"]) == ("fsod_digits", "tiny", "AP")
    assert OmegaConf.load(tmp_path / "e/config.yaml").data.test_images == IMAGES
    here, there = (json.loads((path / "environment.json").read_text())["data"] for path in (tmp_path / "e", trained))
    assert here["test"] == there["test"]
    assert [row.split()[0] for row in out.splitlines()] == ["fsod_digits,", "score", "AP", "AP50", "AP75", "mean", "well-formed", "run"]
    assert "evaluate" in err and "evaluate" not in out.rpartition("run folder")[0]


def test_the_embedded_model_is_worth_what_a_run_says_of_it_before(trained: Path, tmp_path: Path) -> None:
    assert main([SMALL, f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    assert summary(tmp_path / "e")["evaluation"] == summary(trained)["evaluation_before"]


def test_a_run_brings_its_own_model_setting_and_is_not_asked_another_task_by_default(tmp_path: Path, capfd: Captured) -> None:
    run, check = tmp_path / "run", f"hydra.run.dir={tmp_path / 'e'}"
    assert train.main([*TRAIN, "task=cls_digits", "model.min_pixels=9216", "model.max_pixels=9216", f"hydra.run.dir={run}"]) == 0
    capfd.readouterr()
    assert main([SMALL, f"run={run}", check]) == 2
    line = f"run={run}: it was trained for cls_digits, and fsod_digits is only the default; give task=cls_digits, or task=fsod_digits\n"
    assert capfd.readouterr().err == line and not (tmp_path / "e").exists()
    assert main([SMALL, f"run={run}", "task=cls_digits", check]) == 0
    assert (tmp_path / "e/answers_evaluation.jsonl").read_bytes() == (run / "answers_after.jsonl").read_bytes()
    assert main([SMALL, f"run={run}", "task=ovd_digits", f"hydra.run.dir={tmp_path / 'other'}"]) == 0


def test_an_experiment_names_the_task_as_if_it_were_typed_and_brings_nothing_else(trained: Path, tmp_path: Path) -> None:
    """Its rewards and its group size are taken in, and not read."""
    conf = tmp_path / "conf/experiment"
    conf.mkdir(parents=True)
    overrides = "[override /task: ovd_digits, override /model: tiny, override /rewards: paper, _self_]"
    (conf / "ours.yaml").write_text(f"# @package _global_\ndefaults: {overrides}\nalgorithm: {{group_size: 4}}\ndata: {{test_images: {IMAGES}}}\n")
    chosen = ["--config-dir", str(tmp_path / "conf"), "experiment=ours", f"run={trained}", f"hydra.run.dir={tmp_path / 'e'}"]
    assert main(chosen) == 0
    assert main([SMALL, "task=ovd_digits", f"run={trained}", f"hydra.run.dir={tmp_path / 'typed'}"]) == 0
    assert summary(tmp_path / "e")["evaluation"] == summary(tmp_path / "typed")["evaluation"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["run=somewhere", "model.path=other"], "model.path: not read with run=…; leave it out"),
        (["predictions=p.json", "model=tiny"], "model: not read with predictions=…; leave it out"),  # boxes are in pixels, whoever found them
        (["predictions=p.jsonl", "hardware.device=cuda"], "hardware.device: not read with predictions=…; leave it out"),
        (["task.shots=3"], "task.shots=3: nothing here reads task.shots; leave it out"),
        (["rewards=paper"], "rewards=paper: nothing here reads rewards; leave it out"),
        (["algorithm.group_size=3"], "algorithm.group_size=3: nothing here reads algorithm.group_size; leave it out"),
        (["data.train_images=3"], "data.train_images=3: nothing here reads data.train_images; leave it out"),
        (["model.learning_rate=1"], "model.learning_rate=1: nothing here reads model.learning_rate; leave it out"),
    ],
)
def test_what_is_not_read_cannot_be_typed(overrides: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.json").write_text("[]")
    Path("p.jsonl").write_text("{}")
    assert main([SMALL, *overrides, f"hydra.run.dir={tmp_path / 'e'}"]) == 2
    assert capfd.readouterr().err == f"{line}\n" and not (tmp_path / "e").exists()


def test_a_run_stands_for_its_newest_checkpoint(trained: Path, tmp_path: Path) -> None:
    assert newest_checkpoint(trained).name == "step_000002"
    assert main([SMALL, f"run={trained}", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    assert summary(tmp_path / "e")["path"] == str(trained / "checkpoints/step_000002")
    for step in (999_999, 1_000_000):
        (tmp_path / f"checkpoints/step_{step:06d}").mkdir(parents=True)
    assert newest_checkpoint(tmp_path).name == "step_1000000"


def test_answers_in_a_file_are_worth_the_same_in_any_order(trained: Path, tmp_path: Path) -> None:
    answers = lines(trained / "answers_after.jsonl")
    shuffled = write(tmp_path / "shuffled.jsonl", random.Random(0).sample(answers, len(answers)))
    for name, file in (("as written", trained / "answers_after.jsonl"), ("shuffled", shuffled)):
        assert main([SMALL, f"predictions={file}", f"hydra.run.dir={tmp_path / name}"]) == 0
        assert summary(tmp_path / name)["evaluation"] == summary(trained)["evaluation_after"]
        assert (tmp_path / name / "answers_evaluation.jsonl").read_bytes() == (trained / "answers_after.jsonl").read_bytes()
        assert (tmp_path / name / "report.html").stat().st_size > 1000


def as_coco(questions: list[Example], boxes: dict[str, list[tuple[tuple[float, ...], float]]], by_name: bool) -> list[dict[str, Any]]:
    """COCO results, by hand: norm1000 corners to x, y, width, height in pixels."""
    rows = []
    for question in questions:
        for (x1, y1, x2, y2), score in boxes[question.id]:
            width, height = (side / 1000 for side in question.image.size)
            what = {"category": question.subject} if by_name else {"category_id": CATEGORIES.index(question.subject) + 1}
            bbox = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            rows.append({"image_id": question.asked_about.id, **what, "bbox": bbox, "score": score})
    return rows


@pytest.mark.parametrize("by_name", [True, False])
def test_the_boxes_of_answers_are_worth_the_same_as_coco_results(by_name: bool, trained: Path, asked: list[Example], tmp_path: Path) -> None:
    said = {line["example"]: TASK.parse(line["completion"]) for line in lines(trained / "answers_after.jsonl")}
    boxes = {name: [(found.box, found.confidence) for found in answer.detections] for name, answer in said.items()}  # type: ignore[union-attr]
    rows = as_coco(random.Random(0).sample(asked, len(asked)), boxes, by_name)  # but equally sure boxes of one question in their order
    file = write(tmp_path / "results.json", rows)
    assert main([SMALL, f"predictions={file}", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    ours, theirs = summary(tmp_path / "e")["evaluation"], summary(trained)["evaluation_after"]
    assert {name: ours[name] for name in ours if isinstance(ours[name], float)} == pytest.approx(
        {name: theirs[name] for name in theirs if isinstance(theirs[name], float) and name != "well-formed"}  # boxes are no texts
    )
    assert not (tmp_path / "e/answers_evaluation.jsonl").exists()


def test_an_evaluation_writes_the_boxes_of_its_answers_as_coco_results(trained: Path, tmp_path: Path) -> None:
    """Which any other tool can score, and this one: to the same."""
    first = [SMALL, f"predictions={trained / 'answers_after.jsonl'}", f"hydra.run.dir={tmp_path / 'answers'}"]
    again = [SMALL, f"predictions={tmp_path / 'answers/coco_results.json'}", f"hydra.run.dir={tmp_path / 'boxes'}"]
    assert main(first) == main(again) == 0
    ours, theirs = summary(tmp_path / "boxes")["evaluation"], summary(tmp_path / "answers")["evaluation"]
    assert theirs.pop("well-formed") <= 100 and ours | {"refused": {}} == theirs | {"refused": {}}
    rows = json.loads((tmp_path / "answers/coco_results.json").read_text())
    assert rows and all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in rows)
    assert all(1 <= row["category_id"] <= 10 and 0 <= row["image_id"] < IMAGES for row in rows)


def truth_rows(categories: Sequence[str] = CATEGORIES) -> list[dict[str, Any]]:
    return [
        {"image_id": image.id, "category": one.category, "bbox": list(one.bbox_xywh), "score": 1.0}
        for image in scenes(Split.TEST, IMAGES, seed=workload.TEST_SEED)
        for one in image.annotations
        if one.category in categories
    ]


def test_the_truth_as_predictions_is_perfect_and_none_is_worth_nothing(tmp_path: Path) -> None:
    for name, rows, score in (("truth", truth_rows(), 100), ("none", [], 0)):
        file = write(tmp_path / f"{name}.json", rows)
        assert main([SMALL, "task.present=all", f"predictions={file}", f"hydra.run.dir={tmp_path / name}"]) == 0
        assert summary(tmp_path / name)["value"] == pytest.approx(score)
        assert summary(tmp_path / name)["questions"] == IMAGES * len(CATEGORIES)


def test_boxes_are_scored_over_all_images_whatever_would_be_asked(tmp_path: Path) -> None:
    """A box of a category that is not there counts against them as in COCO's own evaluation, under every protocol."""
    first = truth_rows()[0]
    absent = next(name for name in CATEGORIES if name not in {row["category"] for row in truth_rows() if row["image_id"] == first["image_id"]})
    shown = next(row["category"] for row in truth_rows() if row["category"] != absent)
    wrong = [{"image_id": first["image_id"], "category": name, "bbox": [0, 0, 9, 9], "score": 1.0} for name in (absent, shown)]
    file = write(tmp_path / "p.json", wrong + [row | {"score": 0.5} for row in truth_rows()])
    for present in Present:
        assert main([SMALL, f"task.present={present}", f"predictions={file}", f"hydra.run.dir={tmp_path / present}"]) == 0
    values = [summary(tmp_path / present)["evaluation"] for present in Present]
    assert values[0] == values[1] == values[2] and values[0]["AP"] < 100 - 1e-6


def test_boxes_of_categories_that_are_not_tested_are_left_out_in_a_line(tmp_path: Path, capfd: Captured) -> None:
    names = [row["category"] for row in truth_rows()]
    tested = names[0]
    others = len(names) - names.count(tested)
    file = write(tmp_path / "p.json", truth_rows())
    few = [SMALL, f"task.categories=[{tested}]"]
    assert main([*few, f"predictions={file}", f"hydra.run.dir={tmp_path / 'all'}"]) == 0
    line = f"{file}: {others} boxes of {len(set(names)) - 1} categories that fsod_digits does not test do not count\n"
    assert capfd.readouterr().err.count(line) == 1
    alone = write(tmp_path / "alone.json", truth_rows([tested]))
    assert main([*few, f"predictions={alone}", f"hydra.run.dir={tmp_path / 'alone'}"]) == 0
    assert "do not count" not in capfd.readouterr().err
    assert summary(tmp_path / "all")["evaluation"] == summary(tmp_path / "alone")["evaluation"]
    assert summary(tmp_path / "all")["value"] == pytest.approx(100)


def test_coco_results_keep_their_fractions_and_what_lies_outside_the_image(exam: Exam) -> None:
    assert exam.boxes
    row = {"image_id": 0, "category": "five", "bbox": [-6.4, 0.064, 12.8, 70], "score": 1}
    (found,), others = coco_results("f", json.dumps([row]), exam.boxes.images, exam.boxes.category_ids, CATEGORIES)
    assert found == FoundBox(0, "five", (-6.4, 0.064, 12.8, 70.0), 1.0) and not others
    for none in ([], [name for name in CATEGORIES if name != "five"]):  # all are kept, since LVIS's limit of boxes an image is over all categories
        assert coco_results("f", json.dumps([row, row]), exam.boxes.images, exam.boxes.category_ids, none) == ([found, found], {"five": 2})


@pytest.mark.parametrize("task", ["ovd_digits", "cls_digits", "grounding_digits"])
def test_every_task_is_evaluated(task: str, tmp_path: Path) -> None:
    assert main([f"task={task}", SMALL, f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    again = [f"task={task}", SMALL, f"predictions={tmp_path / 'e/answers_evaluation.jsonl'}", f"hydra.run.dir={tmp_path / 'again'}"]
    assert main(again) == 0
    assert summary(tmp_path / "again")["evaluation"] == summary(tmp_path / "e")["evaluation"]


def test_a_sweep_ends_in_one_table(trained: Path, tmp_path: Path, capfd: Captured) -> None:
    assert main(["-m", SMALL, "seed=0,1", f"predictions={trained / 'answers_after.jsonl'}", f"hydra.sweep.dir={tmp_path}"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].split() == ["job", "metric", "score"] and len(out) == 4


GOOD = {"image_id": 0, "category": "five", "bbox": [1, 2, 3, 4], "score": 0.5}
ANSWER = {"example": "0/five", "completion": "x"}
BAD_FILES = {
    "not JSON": ("p.json", '[{"image_id": 0', "p.json: not JSON ("),
    "a whole COCO file": ("p.json", '{"annotations": []}', "p.json, line 1: no key `example`; write {"),
    "not rows": ("p.json", [GOOD, [1]], "p.json, row 2: not an object; write [{"),
    "unknown image": ("p.json", [GOOD, GOOD | {"image_id": 99}], "p.json, row 2: image_id 99 is no image of this evaluation"),
    "image as text": ("p.json", [GOOD | {"image_id": "0"}], "p.json, row 1: image_id '0' is no image"),
    "no image": ("p.json", [{"category": "five"}], "p.json, row 1: image_id missing is no image"),
    "unknown category": ("p.json", [GOOD | {"category": "cat"}], "p.json, row 1: category 'cat': the data name zero, one, two"),
    "category of another kind": ("p.json", [GOOD | {"category": ["five"]}], "p.json, row 1: category ['five']: the data name zero, one"),
    "category number": ("p.json", [{"image_id": 0, "category_id": 11}], "row 1: category_id 11: the data number their categories 1, 2, 3, 4"),
    "category true": ("p.json", [{"image_id": 0, "category_id": True}], "row 1: category_id True: the data number their categories 1, 2"),
    "category twice": (
        "p.json",
        [GOOD | {"category_id": 6}],
        "p.json, row 1: needs one of `category_id`, a number of the data, and `category`, a name",
    ),
    "no category": ("p.json", [{"image_id": 0}], "p.json, row 1: needs one of `category_id`"),
    "three numbers": ("p.json", [GOOD | {"bbox": [1, 2, 3]}], "p.json, row 1: bbox [1, 2, 3]: must be four finite numbers"),
    "no box": ("p.json", [{"image_id": 0, "category": "five"}], "p.json, row 1: bbox missing: must be four finite numbers"),
    "a corner that is text": ("p.json", [GOOD | {"bbox": [1, 2, 3, "4"]}], "p.json, row 1: bbox [1, 2, 3, '4']: must be four"),
    "NaN": ("p.json", '[{"image_id": 0, "category": "five", "bbox": [NaN, 0, 1, 1]}]', "p.json: not JSON (NaN is no number of JSON)"),
    "infinite": ("p.json", '[{"image_id": 0, "category": "five", "bbox": [1e999, 0, 1, 1]}]', "p.json: not JSON (Out of range float"),
    "huge": ("p.json", [GOOD | {"bbox": [1e300, 0, 1e300, 1]}], "p.json, row 1: bbox [1e+300, 0, 1e+300, 1]: must be four finite numbers"),
    "no area": ("p.json", [GOOD | {"bbox": [1, 2, 0, 4]}], "p.json, row 1: bbox [1, 2, 0, 4]: has no area; its width and height must be positive"),
    "inverted": ("p.json", [GOOD | {"bbox": [9, 9, -3, -4]}], "p.json, row 1: bbox [9, 9, -3, -4]: has no area"),
    "score": ("p.json", [GOOD | {"score": 1.5}], "p.json, row 1: score 1.5: must be a number from 0 to 1"),
    "no score": ("p.json", [{k: v for k, v in GOOD.items() if k != "score"}], "p.json, row 1: score missing: must be"),
    "unknown example": ("p.jsonl", [ANSWER, ANSWER | {"example": "0/zero"}], "p.jsonl, line 2: example '0/zero' is no question of this evaluation"),
    "answered twice": ("p.jsonl", [ANSWER, ANSWER], "p.jsonl, line 2: example '0/five' is answered a second time; keep one"),
    "missing": ("p.jsonl", [ANSWER], "questions have no answer, '0/seven' first; answer every question"),
    "broken line": ("p.jsonl", json.dumps(ANSWER) + '\n{"example": "0/', "p.jsonl, line 2: not JSON ("),
    "no completion": ("p.jsonl", [{"example": "0/five"}], "p.jsonl, line 1: no key `completion`; write {"),
    "empty": ("p.jsonl", "", "p.jsonl: empty; give"),
    "not UTF-8": ("p.jsonl", "\udcff", "p.jsonl, line 1: not UTF-8 (byte 0xff)"),
}
BAD_KEYS = {
    "absent file": (["predictions=absent.json"], "absent.json: No such file or directory; name a file that can be read"),
    "both": (["predictions=x.json", "run=y"], "run and predictions: two to evaluate; give one of them"),
    "absent run": (["run=no/run"], "run=no/run: no such folder; name the folder of a run that has saved one, or a model folder, model.path=…"),
    "run without checkpoint": (["run=."], "run=.: no checkpoint in it; name the folder of a run that has saved one"),
    "absent checkpoint": (["model.path=/not/there"], "model.path=/not/there: no config.json in /not/there"),
    "a folder with a run in it": (["hydra.run.dir=taken"], "taken already holds a run (summary.json); choose another hydra.run.dir"),
    "unwritable folder": (["hydra.run.dir=/proc/x"], "/proc/x: No such file or directory; name a folder that can be written"),
    "unknown task": (["task=nope"], "task=nope: no such option; there is cls_aircraft, "),
    "unknown key": (["prediction=x"], "prediction: no such key; did you mean predictions?"),
    "pictures": (["report_images=-1"], "report_images=-1: must be 0 or a positive number"),
    "no data": (
        ["task=fsod_coco", "model=tiny", "hardware=cpu", "data.root=nowhere"],
        "data.test_annotations: nowhere/annotations/instances_val2017.json: No such",
    ),
}


def refused(said: str, capfd: Captured, *argv: str) -> None:
    """One line on stderr, nothing on stdout, nothing new in this folder."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(["data.test_images=2", "hydra.run.dir=e", *argv]) == 2
    out, err = capfd.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("case", BAD_KEYS)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/summary.json").touch()
    argv, said = BAD_KEYS[case]
    refused(said, capfd, *argv)


@pytest.mark.parametrize("case", ["unknown image", "missing"])
def test_a_bad_file_of_predictions_leaves_nothing(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, said = BAD_FILES[case]
    assert isinstance(content, list)
    refused(said, capfd, f"predictions={write(Path(name), content)}")


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_of_predictions_is_refused_by_file_and_row(case: str, exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, said = BAD_FILES[case]
    Path(name).write_bytes(content.encode("utf-8", "surrogateescape")) if isinstance(content, str) else write(Path(name), content)
    assert exam.boxes
    with pytest.raises(ValueError) as refusal:
        text = read_text(name)
        if are_coco_results(text):
            coco_results(name, text, exam.boxes.images, exam.boxes.category_ids, exam.boxes.categories)
        else:
            completions(name, text, exam.questions)
    assert said in str(refusal.value) and str(refusal.value).startswith(name)


@pytest.mark.parametrize("task", ["cls_digits", "grounding_digits"])
def test_boxes_are_no_answer_to_another_task(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    said = f"predictions=p.json: a list, as COCO results are, and {task} is no detection task; give lines"
    refused(said, capfd, f"task={task}", f"predictions={write(Path('p.json'), [])}")


def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder("embedded:tiny"), "checkpoints/step_000001")
    Path("checkpoints/step_000001/model.safetensors").write_bytes(b"cut")
    refused("run=.: config.yaml is not the configuration of a run; give the checkpoint as model.path=", capfd, "run=.")
    Path("config.yaml").write_text(
        "task: {name: fsod_digits}\nmodel: {name: tiny, path: x, min_pixels: 1, max_pixels: 1, learning_rate: 1}\nhardware: {precision: float32}\n"
    )
    refused("model.path=checkpoints/step_000001: checkpoints/step_000001/model.safetensors: damaged (", capfd, "run=.")


def test_every_knob_is_read() -> None:
    assert unread_keys(keys(EvaluateConfig, SCHEMAS), ROOT / "visual_rft") == []
