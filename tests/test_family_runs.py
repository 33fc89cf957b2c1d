"""The whole way with a model that speaks pixels, and with several images a row: `pytest tests/test_family_runs.py`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from families import Family
from hub_folders import Layout, write
from PIL import Image

from visual_rft import evaluate, train, workload
from visual_rft.boxes import convert
from visual_rft.frames import Norm1000, Original, Resized
from visual_rft.inference import prepare
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.models.processor import IMAGE_PAD, Processor
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.digits import CATEGORIES, DigitOptions
from visual_rft.sources.rows import RowOptions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Wording, completion, detection_answer
from visual_rft.vocabulary import Detection

SMALL = ["hardware=cpu", "steps=1", "prompts_per_step=2", "algorithm.group_size=2", "algorithm.max_completion_tokens=4"]
ROWS = ["task=custom_detection", "data=rows"]


def options(shots: int | None = 1) -> DetectionOptions:
    categories = list(CATEGORIES) if shots else None
    return DetectionOptions("t", shots, False, 0, None, Wording.full_1, True, categories, None, 0.0, Present.ground_truth, None, 0.5)


@pytest.mark.parametrize("family", list(Family))
def test_a_run_speaks_the_frame_of_its_model(family: Family, tmp_path: Path) -> None:
    """Question, truth, reward and exam: a right answer, written as this model would, earns all, and is drawn on the right place."""
    path = write(Layout(family), tmp_path / "model")
    model = ModelOptions("m", str(path), 28 * 28 * 4, 28 * 28 * 9, 1e-6)
    speaks, data, frame = loading.speaks(model), DigitOptions(60, 4, 1, 3), Resized if family is Family.qwen2_5_vl else Norm1000
    examples, exam = workload.train_examples(options(), data, speaks), workload.test_exam(options(), data, speaks)
    task = workload.task(options(), RewardOptions())
    for example in (*examples, *exam.questions):
        spoken = example.contract.frame
        assert type(spoken) is frame
        assert (f"{spoken.width:.0f} wide and {spoken.height:.0f} high" in example.question) == (frame is Resized)
        assert ("thousandths" in example.question) == (frame is Norm1000)
        right = completion("", detection_answer([Detection(box, 1.0) for box in example.truth.boxes]))
        assert dict(task.reward(right, example.truth, example.contract).parts) == {"iou": 1.0, "confidence": 1.0, "format": 1.0}
    answers = [task.parse(completion("", detection_answer([Detection(b, 1.0) for b in e.truth.boxes])), e.contract) for e in exam.questions]
    scores = exam.measure(answers).values
    assert scores["AP50"] > 99 and scores["mean IoU"] > (99 if frame is Norm1000 else 90)  # whole numbers of a coarse frame
    assert exam.boxes is not None
    question = exam.questions[0]
    drawn = [one.bbox_xywh for one in exam.boxes.of(answers) if (one.image_id, one.category) == (question.asked_about.id, question.subject)]
    corners = convert(question.truth.boxes, of=question.contract.frame, to=Original(*question.asked_about.size)).tolist()
    assert drawn == [pytest.approx((x1, y1, x2 - x1, y2 - y1)) for x1, y1, x2, y2 in corners]
    run = [f"model.path={path}", "model.name=m", "model.min_pixels=3136", "model.max_pixels=7056", *SMALL]
    assert (
        train.main([*run, "task.wording=full_1", "data.train_images=60", "data.test_images=4", "task.shots=1", f"hydra.run.dir={tmp_path / 'r'}"])
        == 0
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two images a row, the first of which is an example of what to find in the second; and a row of one."""
    for name, colour, size in (("a.png", "red", (64, 48)), ("b.png", "blue", (64, 64)), ("c.png", "green", (48, 64))):
        Image.new("RGB", size, colour).save(tmp_path / name)
    solution = "<answer>[{'Position': [0, 0, 500, 500], 'Confidence': 1}]</answer>"
    first = {"image": ["a.png", "b.png"], "problem": "Like this: <image> Find it here: <image>", "solution": solution, "category": "it"}
    second = {"image": ["b.png", "c.png"], "problem": "Find what is in both.", "solution": "No Objects", "category": "both"}
    third = {"image": "a.png", "problem": "Find it.", "solution": solution, "category": "it"}
    (tmp_path / "rows.json").write_text(json.dumps([first, second, third]))
    return tmp_path / "rows.json"


def test_several_images_a_row_are_asked_where_the_problem_says_and_the_last_is_scored(rows: Path) -> None:
    model = ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)
    exam = workload.test_exam(options(None), RowOptions(test=str(rows)), loading.speaks(model))
    assert [question.asked_about.name for question in exam.questions] == ["b.png", "c.png", "a.png"]
    processor = Processor.load(loading.folder(model.path), min_pixels=4096, max_pixels=4096)
    prepared = prepare(processor, exam.questions)
    assert [len(images) for images in prepared.images] == [2, 2, 1]
    texts = [re.sub(rf"(?:{re.escape(IMAGE_PAD)})+", "▢", processor.decode(tokens)) for tokens in prepared.tokens]
    assert "Like this: <|vision_start|>▢<|vision_end|> Find it here: <|vision_start|>▢<|vision_end|>" in texts[0]
    assert "<|vision_start|>▢<|vision_end|><|vision_start|>▢<|vision_end|>Find what" in texts[1]
    right = [completion("", detection_answer([Detection(box, 1.0) for box in e.truth.boxes])) for e in exam.questions]
    task = workload.task(options(None), RewardOptions())
    answers: list[Any] = [task.parse(text, question.contract) for text, question in zip(right, exam.questions, strict=True)]
    scores = exam.measure(answers)
    assert scores.values["AP50"] > 99.9 and scores.values["rightly empty"] == 100 and set(scores.by_category) == {"it"}


def test_rows_of_several_images_train_and_evaluate(rows: Path, tmp_path: Path) -> None:
    files = [f"data.train={rows}", f"data.test={rows}"]
    assert train.main([*ROWS, *files, "model=tiny", *SMALL, f"hydra.run.dir={tmp_path / 'r'}"]) == 0
    tested = [*ROWS, files[1], "hardware=cpu", "algorithm.max_completion_tokens=4", f"run={tmp_path / 'r'}", f"hydra.run.dir={tmp_path / 'e'}"]
    assert evaluate.main(tested) == 0
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("r", "e")]
    assert summaries[0]["evaluation_after"] == summaries[1]["evaluation"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["task.shots=4"], "task.shots=4: rows of image, problem and solution are a split already; set task.shots=null"),
        (["task.negatives=0.5"], "task.negatives=0.5: rows of image, problem and solution are a split already; set task.negatives=0"),
        (["task.present=all"], "task.present=all: rows of image, problem and solution ask what they ask; leave it at ground_truth"),
        (["data.test=null"], "data.test: must be given, a path or a name on the hub, data.test=…"),
    ],
)
def test_what_rows_do_not_read_is_refused(more: list[str], line: str, rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = [*ROWS, f"data.train={rows}", f"data.test={rows}", "model=tiny", *SMALL, f"hydra.run.dir={tmp_path / 'r'}", *more]
    if more[0].startswith("data.test"):
        run.remove(f"data.test={rows}")
    assert train.main(run) == 2
    assert capfd.readouterr().err.strip() == line and not (tmp_path / "r").exists()
