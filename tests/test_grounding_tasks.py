"""Every grounding task on folders in the published formats, from the first file to the last figure: `pytest tests/test_grounding_tasks.py`.

The folders are made by docs/stand_in_grounding.py, as the walk through docs/grounding.md makes them; who answers is the embedded model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grounding_data import stand_in

from visual_rft import data as data_entry
from visual_rft import evaluate, train
from visual_rft.boxes import convert
from visual_rft.frames import NORM1000, Original
from visual_rft.metrics.masks import mask_scores, paint
from visual_rft.models import segmenter
from visual_rft.parsing import parse_grounding
from visual_rft.sources.findings import Findings
from visual_rft.sources.lisa import read_lisa
from visual_rft.sources.rows import read_rows
from visual_rft.vocabulary import Refusal

ASKED = ["model=tiny", "hardware=cpu", "task.wording=terse_1", "algorithm.max_completion_tokens=64"]
SMALL = [*ASKED, "steps=2", "prompts_per_step=2", "algorithm.group_size=2"]
BOXES, MASKS = {"mIoU", "accuracy@0.5", "well-formed"}, {"gIoU", "cIoU"}

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grounding") / "data"
    stand_in().write(root)
    return root


def of(task: str, data: Path) -> list[str]:
    """Where a task finds its data."""
    root = {"grounding_lisa": "ReasonSeg", "grounding_refcoco": "refcoco", "custom_grounding": ""}[task]
    return [f"task={task}", *([f"data.root={data / root}"] if root else [])]


def scores(summary: dict[str, Any]) -> set[str]:
    return {name for name, value in summary.items() if isinstance(value, float)}


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def answers(folder: Path, name: str) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / f"answers_{name}.jsonl").read_text().splitlines()]
    return {row["example"]: row["completion"] for row in rows}


@pytest.fixture(scope="module")
def lisa(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on ReasonSeg, masks and all."""
    run = tmp_path_factory.mktemp("lisa") / "run"
    assert train.main([*of("grounding_lisa", data), *SMALL, f"task.segmenter={data / 'sam'}", f"hydra.run.dir={run}"]) == 0
    return run


def test_reason_seg_trains_and_evaluates_boxes_and_masks(lisa: Path) -> None:
    run = summary(lisa)
    assert (run["task"], run["steps"], run["metric"], run["questions"]) == ("grounding_lisa", 2, "mIoU", 8)
    for when in ("before", "after"):
        assert scores(run[f"evaluation_{when}"]) == BOXES | MASKS and 0 < run[f"evaluation_{when}"]["gIoU"] < 100
    drawn = json.loads((lisa / "split.json").read_text())["examples"]
    assert len({row["file"] for row in drawn}) == len(drawn) == 24
    assert [name for name in json.loads((lisa / "metrics.jsonl").read_text().splitlines()[0]) if name in ("eval/gIoU", "eval/cIoU")]


def test_the_masks_of_a_run_are_those_of_its_answers_by_hand(lisa: Path, data: Path) -> None:
    """Each answer through parser, SAM and painting, one after the other; what was refused covers nothing."""
    said, images = answers(lisa, "after"), read_lisa(data / "ReasonSeg/test", Findings(), most=1).images
    pairs = []
    with segmenter.opened(str(data / "sam"), torch.device("cpu")) as segment:
        for image in images:
            answer = parse_grounding(said[f"{image.id}/{image.instructions[0].text}"])
            truth = paint(image.instructions[0].outline, image.stored.size)
            found = np.zeros(truth.shape, dtype=np.bool_)
            if not isinstance(answer, Refusal):
                found = segment(image.stored, tuple(convert([answer.box], of=NORM1000, to=Original(*image.stored.size))[0].tolist()))
            pairs.append((truth, found))
    after = summary(lisa)["evaluation_after"]
    assert {name: after[name] for name in MASKS} == pytest.approx(mask_scores(pairs))


def test_an_evaluation_of_the_run_and_of_its_answers_is_the_same(lisa: Path, data: Path, tmp_path: Path) -> None:
    sam, task = f"task.segmenter={data / 'sam'}", of("grounding_lisa", data)
    assert evaluate.main([*task, *ASKED[1:], sam, f"run={lisa}", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    file = f"predictions={lisa / 'answers_after.jsonl'}"
    assert evaluate.main([*task, sam, file, "hardware=cpu", f"hydra.run.dir={tmp_path / 'file'}"]) == 0
    assert evaluate.main([*task, file, f"hydra.run.dir={tmp_path / 'boxes'}"]) == 0  # where no GPU is, too
    after = summary(lisa)["evaluation_after"]
    assert summary(tmp_path / "run")["evaluation"] == summary(tmp_path / "file")["evaluation"] == after
    boxes = summary(tmp_path / "boxes")["evaluation"]
    assert scores(boxes) == BOXES and all(boxes[name] == after[name] for name in BOXES)


def test_the_validation_images_are_another_test(lisa: Path, data: Path, tmp_path: Path) -> None:
    arguments = [*of("grounding_lisa", data), *ASKED[1:], f"run={lisa}", "data.test_split=val"]
    assert evaluate.main([*arguments, f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    assert summary(tmp_path / "e")["questions"] == 6 and scores(summary(tmp_path / "e")["evaluation"]) == BOXES


def test_refcoco_trains_on_three_files_and_evaluates_on_one(data: Path, tmp_path: Path) -> None:
    assert train.main([*of("grounding_refcoco", data), *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    run = summary(tmp_path / "run")
    assert (run["task"], run["metric"], run["questions"]) == ("grounding_refcoco", "mIoU", 18) and run["after"] > 10
    assert scores(run["evaluation_after"]) == BOXES
    split = json.loads((tmp_path / "run/split.json").read_text())["examples"]
    assert len(split) == 72 and len({row["file"] for row in split}) == 24


def test_your_own_rows_and_your_own_conversations_ask_the_same(data: Path, tmp_path: Path) -> None:
    """Rows made of them by `data build`, beside what they were made of."""
    parts = {part: tmp_path / f"{part}.parquet" for part in ("train", "test")}
    for part, file in parts.items():
        arguments = [*of("grounding_refcoco", data), "task.wording=terse_1", f"part={part}", f"out={file}"]
        assert data_entry.main(["build", *arguments]) == 0
    rows = ["data=rows", *(f"data.{part}={file}" for part, file in parts.items())]
    folder = data / "refcoco/rec_jsons_processed"
    own = ["data=conversations", f"data.root={data / 'refcoco'}", f"data.test={folder}/refcoco_val.json"]
    assert train.main(["task=custom_grounding", *rows, *SMALL, f"hydra.run.dir={tmp_path / 'rows'}"]) == 0
    assert evaluate.main(["task=custom_grounding", *own, *ASKED, f"hydra.run.dir={tmp_path / 'own'}"]) == 0
    assert summary(tmp_path / "rows")["task"] == "custom_grounding"
    rounded, exact = summary(tmp_path / "rows")["evaluation_before"], summary(tmp_path / "own")["evaluation"]
    assert rounded["mIoU"] != exact["mIoU"], "truths of the data are scored as the data have them; rows that were built are in whole thousandths"
    assert rounded["mIoU"] == pytest.approx(exact["mIoU"], abs=0.2) and rounded["well-formed"] == exact["well-formed"]
    assert answers(tmp_path / "rows", "before") == answers(tmp_path / "own", "evaluation")


def test_a_check_counts_what_there_is(data: Path, capsys: Captured) -> None:
    assert data_entry.main(["check", *of("grounding_lisa", data)]) == 0
    shown = capsys.readouterr().out
    assert "train: 24 images, 24 objects, 24 questions;" in shown and "test: 8 images, 8 objects, 8 questions;" in shown
    assert "4 × instructions that are a phrase" in shown and "8 × images with several shapes of what is meant" in shown
    assert data_entry.main(["check", *of("grounding_refcoco", data)]) == 0
    assert "train: 24 images, 72 objects, 72 questions;" in capsys.readouterr().out


def test_samples_are_shown_with_their_very_prompts(data: Path, tmp_path: Path, capsys: Captured) -> None:
    for task, meant in (("grounding_lisa", "these words mean: "), ("grounding_refcoco", "these words mean: the ")):
        out = tmp_path / f"{task}.html"
        assert data_entry.main(["show", *of(task, data), "model=tiny", "count=2", f"out={out}"]) == 0
        assert meant in capsys.readouterr().out and out.stat().st_size > 1000


def test_a_split_is_given_back(data: Path, tmp_path: Path) -> None:
    out, arguments = tmp_path / "split.json", [*of("grounding_lisa", data), "task.shots=4"]
    assert data_entry.main(["split", *arguments, "seed=3", f"out={out}"]) == 0
    given = json.loads(out.read_text())
    assert len(given["examples"]) == 8
    built = tmp_path / "rows.parquet"
    assert data_entry.main(["build", *of("grounding_lisa", data), f"task.split={out}", f"out={built}"]) == 0
    rows = read_rows(str(built), images=None, split="train", findings=Findings())
    assert [row.category for row in rows] == [row["subject"] for row in given["examples"]]


REFUSED = {
    "no outlines": (
        ["task=grounding_digits", "task.segmenter=sam", "data.test_images=4", "task.shots=2"],
        "these data have no outlines to score masks",
    ),
    "no SAM": (["task=grounding_lisa", "data.root={data}/ReasonSeg", "task.segmenter={data}/no", *ASKED[:2]], "no config.json in"),
    "no ReasonSeg": (["task=grounding_lisa", "data.root=nowhere"], "nowhere/train: No such folder; take train.zip, val.zip and test.zip"),
    "no RefCOCO": (["task=grounding_refcoco", "data.root=nowhere"], "data.train: nowhere/rec_jsons_processed/refcoco_train.jsonl: No such file"),
    "no rows": (["task=custom_grounding"], "data.train: must be given"),
    "shots of lines": (["task=grounding_refcoco", "data.root={data}/refcoco", "task.shots=4", "model=tiny"], "task.shots=4: rows of image"),
    "for boxes alone": (["task=fsod_digits", "task.segmenter=sam"], "task.segmenter: this choice of task has no segmenter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_line(case: str, data: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = REFUSED[case]
    assert train.main([one.format(data=data) for one in arguments]) == 2
    line = capfd.readouterr().err
    assert said in line and line.count("\n") == 1


def test_who_does_not_look_at_masks_takes_no_segmenter(capfd: Captured) -> None:
    for entry in ("check", "split"):
        assert data_entry.main([entry, "task=grounding_lisa", "task.segmenter=sam", "out=x.json"]) == 2
        assert "task.segmenter=sam: nothing here reads task.segmenter; leave it out" in capfd.readouterr().err
