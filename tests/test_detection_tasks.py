"""Every detection task on folders in the published formats, from the first file to the last figure: `pytest tests/test_detection_tasks.py`.

The folders are made by docs/stand_in.py, as the walk through docs/detection.md makes them; who answers is the embedded model.
"""

import contextlib
import importlib.util
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visual_rft import evaluate, train

ROOT = Path(__file__).parents[1]
SMALL = ["model=tiny", "hardware=cpu", "task.wording=terse_1", "steps=2", "prompts_per_step=2", "algorithm.group_size=2"]
SMALL += ["algorithm.max_completion_tokens=64"]
ASKED = [*SMALL[:3], "algorithm.max_completion_tokens=64"]
OWN = [f"data.{part}_{key}" for part in ("train", "test") for key in ("annotations", "images")]

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("stand_in", ROOT / "docs/stand_in.py")
    assert spec is not None and spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    root = tmp_path_factory.mktemp("data") / "coco"
    stand_in.write(root)
    return root


def of(task: str, data: Path) -> list[str]:
    """Where a task finds its data: a set of one's own names its files."""
    if task not in ("fsod_mg", "custom_detection"):
        return [f"task={task}", f"data.root={data}"]
    files = ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017")
    return [f"task={task}", f"data.root={data}", *(f"{key}={file}" for key, file in zip(OWN, files, strict=True))]


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


TASKS = {
    "fsod_coco": ([], {"bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet"}),
    "fsod_lvis": ([], {"horse_buggy", "die", "kitchen_table", "omelet", "papaya", "stepladder"}),
    "fsod_mg": (["task.categories=[cat,dog]", "task.shots=2"], {"cat", "dog"}),
    "ovd_coco": ([], {"bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet", "mouse", "toaster"}),
    "ovd_lvis": ([], {"casserole", "die", "futon", "kitchen_table", "mallet", "omelet", "stepladder", "sugar_bowl"}),
    "custom_detection": ([], {"bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet", "mouse", "toaster"}),
}


QUICK = ("fsod_coco", "ovd_lvis")  # a file of COCO's and one of LVIS's, with and without categories that are not trained


@pytest.mark.parametrize("task", [task if task in QUICK else pytest.param(task, marks=pytest.mark.slow) for task in TASKS])
def test_a_task_trains_and_evaluates(task: str, data: Path, tmp_path: Path) -> None:
    more, shown = TASKS[task]
    assert train.main([*of(task, data), *SMALL, *more, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    run = summary(tmp_path / "run")
    assert (run["task"], run["steps"]) == (task, 2) and set(run["evaluation_after"]["by category"]) == shown
    trained = {row["subject"] for row in json.loads((tmp_path / "run/split.json").read_text())["examples"]}
    known = {"bus", "fire hydrant", "stop sign", "dog", "bed"} if task.startswith("ovd_") else shown
    assert trained == known
    assert ("AP novel" in run["evaluation_after"]) == (task == "ovd_coco") and run["metric"] == ("AP novel" if task == "ovd_coco" else "AP")
    assert ("AP rare" in run["evaluation_after"]) == ("lvis" in task)
    tested = [key for key in [*of(task, data), *more] if not key.startswith(("data.train", "task.shots"))]
    asked = evaluate.main([*tested, f"run={tmp_path / 'run'}", *ASKED[1:], f"hydra.run.dir={tmp_path / 'e'}"])
    assert asked == 0 and summary(tmp_path / "e")["evaluation"] == run["evaluation_after"]


def test_the_class_lists_are_the_papers() -> None:
    """Visual-RFT, section 4: 65 and 15 categories of COCO, which are all, 8 of them, 6 and 13 of LVIS."""
    conf = {task: OmegaConf.load(ROOT / f"conf/task/{task}.yaml").task for task in TASKS}
    assert len(conf["fsod_coco"].categories) == 8 and len(conf["fsod_lvis"].categories) == 6 and len(conf["ovd_lvis"].categories) == 13
    base, all80 = set(conf["ovd_coco"].trained), set(conf["ovd_coco"].categories)
    assert (len(base), len(all80)) == (65, 80) and base < all80
    novel = "mouse, fork, hot dog, cat, airplane, suitcase, parking meter, sandwich, train, hair drier, toilet, toaster, snowboard, frisbee, bear"
    assert all80 - base == set(novel.split(", "))
    assert list(conf["fsod_mg"].categories) == ["bird", "feline-or-canid", "serpent", "slime", "wyvern"]


# The libraries, by hand


def test_coco_ap_is_that_of_pycocotools_by_hand(data: Path, tmp_path: Path) -> None:
    assert evaluate.main([*of("fsod_coco", data), *ASKED, "task.present=all", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    ours = summary(tmp_path / "e")["evaluation"]
    by_hand = pycocotools(data / "annotations/instances_val2017.json", tmp_path / "e/coco_results.json", TASKS["fsod_coco"][1])
    names = ("AP", "AP50", "AP75", "AP small", "AP medium")
    assert [ours[name] for name in names] == [100 * value for value in by_hand.stats[:5]] and ours["AP"] > 0
    one = next(iter(TASKS["fsod_coco"][1]))
    alone = pycocotools(data / "annotations/instances_val2017.json", tmp_path / "e/coco_results.json", {one})
    assert ours["by category"][one] == 100 * alone.stats[0]


def pycocotools(annotations: Path, results: Path, names: set[str]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.params.catIds = truth.getCatIds(catNms=names)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_lvis_ap_is_that_of_the_library_by_hand(data: Path, tmp_path: Path) -> None:
    assert evaluate.main([*of("fsod_lvis", data), *ASKED, "task.present=all", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    ours, names = summary(tmp_path / "e")["evaluation"], TASKS["fsod_lvis"][1]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = FasterCOCO(str(data / "annotations/lvis_v1_val.json"))
        evaluation = COCOeval_faster(truth, truth.loadRes(str(tmp_path / "e/coco_results.json")), "bbox", lvis_style=True)
        evaluation.params.maxDets = [300]
        evaluation.params.catIds = truth.getCatIds(catNms=list(names))
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    assert ours["AP"] == 100 * precision[precision > -1].mean() > 0


def test_the_results_of_another_detector_are_scored_over_the_selected_classes(data: Path, tmp_path: Path, capfd: Captured) -> None:
    """All 80 classes in the file, in the data's own numbers, in any order; of the others it is said that they do not count."""
    file, rng = data / "annotations/instances_val2017.json", random.Random(0)
    content = json.loads(file.read_text())
    rows = []
    for label in content["annotations"]:
        x, y, w, h = label["bbox"]
        box = [x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), w * rng.uniform(0.8, 1.2), h]
        rows.append({"image_id": label["image_id"], "category_id": label["category_id"], "bbox": box, "score": rng.random()})
        rows.append(rows[-1] | {"category_id": rng.choice(content["categories"])["id"], "score": rng.random()})
    rng.shuffle(rows)
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert evaluate.main([*of("fsod_coco", data), f"predictions={tmp_path / 'results.json'}", f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    by_hand = pycocotools(file, tmp_path / "results.json", TASKS["fsod_coco"][1])
    ours = summary(tmp_path / "e")["evaluation"]
    assert ours["AP"] == 100 * by_hand.stats[0] > 20
    assert "categories that fsod_coco does not test do not count" in capfd.readouterr().err


# What a run must not depend on


@pytest.mark.slow
def test_the_order_of_files_hashes_and_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(data, turned)
    for file in (turned / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for table in ("images", "annotations", "categories"):
            random.Random(1).shuffle(content[table])
        file.write_text(json.dumps(content))
    rollouts = []
    for number, (root, seed, workers) in enumerate(((data, "0", 0), (turned, "1", 2))):
        run = tmp_path / str(number)
        arguments = [*of("fsod_coco", root), *SMALL, f"hardware.workers={workers}", f"hydra.run.dir={run}"]
        environment = os.environ | {"PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-m", "visual_rft.train", *arguments], env=environment, check=True, capture_output=True, cwd=tmp_path)
        rollouts.append((run / "rollouts.jsonl").read_bytes() + (run / "answers_before.jsonl").read_bytes() + (run / "split.json").read_bytes())
    assert rollouts[0] == rollouts[1]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Who asks for it is written down, and fails."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield asked


def test_nothing_asks_for_a_network_when_the_data_are_here(data: Path, tmp_path: Path, no_network: list[object]) -> None:
    assert train.main([*of("fsod_coco", data), *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert not no_network
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("huggingface.co", 443))
    assert no_network


def test_an_evaluation_of_the_answers_of_another_is_the_same(data: Path, tmp_path: Path) -> None:
    """Refused answers are counted by their reason, and none is dropped."""
    assert evaluate.main([*of("fsod_coco", data), *ASKED, f"hydra.run.dir={tmp_path / 'e'}"]) == 0
    said = [json.loads(line) for line in (tmp_path / "e/answers_evaluation.jsonl").read_text().splitlines()]
    said[0]["completion"], said[1]["completion"] = "<think>x</think><answer>[{</answer>", "no idea"
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    assert (
        evaluate.main([*of("fsod_coco", data), ASKED[0], ASKED[2], f"predictions={tmp_path / 'said.jsonl'}", f"hydra.run.dir={tmp_path / 'again'}"])
        == 0
    )
    before, after = (summary(tmp_path / name) for name in ("e", "again"))
    assert after["questions"] == before["questions"] == len(said)
    refused = after["evaluation"]["refused"]
    assert refused["bad_keys"] >= 1 and refused["no_think"] >= 1
    assert sum(refused.values()) == round(len(said) * (1 - after["evaluation"]["well-formed"] / 100))
