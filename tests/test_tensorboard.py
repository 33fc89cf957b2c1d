"""What TensorBoard shows is what the run folder holds, and it never stops a run: `pytest tests/test_tensorboard.py`.

Its own reader reads what was written; a fake writer fails where it must. No server is started.
"""

import errno
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.utils.tensorboard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visual_rft.frames import Resized
from visual_rft.tracking import loggers
from visual_rft.tracking.loggers import Logger, NoLogger, Shown, TensorBoardOptions, open_logger
from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.tensorboard_logger import COLUMNS, GAP, side_by_side, summary_markdown
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Detection, DetectionAnswer, DetectionTruth, Reason, Refusal

METRICS = {"reward/mean": 0.25, "loss/kl": 1e-17, "refused/no_think": 0.5}
BOX = (0.0, 0.0, 500.0, 1000.0)
PICTURE = Picture(
    Image.new("RGB", (64, 32), "white"), "where? *\ud800*", DetectionTruth((BOX,)),
    {"before": Refusal(Reason.NO_THINK), "after": DetectionAnswer((Detection(BOX, 0.75),))}, {},
)  # fmt: skip
SUMMARY = {
    "task": "a_task", "metric": "AP", "before": 1.0, "after": 2.0, "steps": 2,
    "evaluation_before": {"AP": 1.0, "by category": {"six": 1.0}, "refused": {}},
    "evaluation_after": {"AP": 2.0, "by category": {"six": 1.5, "a|b": 2.5}, "refused": {}},
}  # fmt: skip
SHOWN = Shown("name", "grpo", None, {"steps": 2, "environment": {"git": {"revision": "1a2b"}, "data": {"train": "3c4d"}}})


@pytest.fixture(autouse=True)
def _own_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


def opened(folder: Path) -> Logger:
    return open_logger(TensorBoardOptions(report_images=2), folder=folder, shown=SHOWN)


def a_whole_run(logger: Logger) -> None:
    for step in (1, 2):
        logger.log_metrics(step, METRICS)
        logger.log_rollouts(step, [], [], lambda _: [])
    logger.log_gallery(2, [PICTURE, PICTURE])
    logger.log_sign(2, "stuck", "<b>what</b> to do")
    logger.finish(SUMMARY)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    return found


def text(found: EventAccumulator, tag: str) -> str:
    (event,) = found.Tensors(f"{tag}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


def scalars(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_scalars_keep_their_names_and_steps(tmp_path: Path) -> None:
    a_whole_run(opened(tmp_path))
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == set(METRICS)
    assert scalars(found, "reward/mean") == [(1, 0.25), (2, 0.25)]


def test_a_step_is_on_the_disk_before_the_next(tmp_path: Path) -> None:
    opened(tmp_path).log_metrics(1, METRICS)
    assert scalars(read(tmp_path), "reward/mean") == [(1, 0.25)]


def test_words_are_pages_that_markdown_leaves_alone(tmp_path: Path) -> None:
    a_whole_run(opened(tmp_path))
    found = read(tmp_path)
    words = "    where? *&#55296;*\n    before: refused, no_think"
    assert text(found, "gallery/words") == f"    000\n{words}\n\n    001\n{words}"
    assert text(found, "signs/stuck") == "    <b>what</b> to do"
    assert all(line.startswith("    ") for line in text(found, "config").splitlines())
    assert text(found, "config").splitlines()[:4] == ["    steps: 2", "    environment:", "      git:", "        revision: 1a2b"]
    assert text(found, "summary") == summary_markdown(SUMMARY)


def test_long_words_are_broken_and_none_is_lost(tmp_path: Path) -> None:
    question = " ".join(["word"] * 100)
    logger = opened(tmp_path)
    logger.log_gallery(1, [replace(PICTURE, question=question)])
    logger.finish(SUMMARY)
    page = text(read(tmp_path), "gallery/words")
    assert max(map(len, page.splitlines())) <= 4 + COLUMNS and page.split()[1:101] == ["word"] * 100


def test_the_summary_is_the_scores_the_classes_and_the_rest() -> None:
    scores, classes, rest = summary_markdown(SUMMARY).split("\n\n")
    assert scores.splitlines()[2:] == ["| AP | 1.00 | 2.00 | +1.00 |"]
    assert classes.splitlines() == [
        "| AP of | before | after | change |",
        "| --- | ---: | ---: | ---: |",
        "| six | 1.00 | 1.50 | +0.50 |",
        "| a\\|b | - | 2.50 | - |",
    ]
    assert '"task": "a_task"' in rest and "evaluation" not in rest
    without = {"evaluation_before": {"AP": 1.0, "by category": {}}, "evaluation_after": {"AP": 2.0, "by category": {}}}
    assert "AP of" not in summary_markdown(SUMMARY | without)


def test_a_picture_is_truth_and_answers_from_left_to_right(tmp_path: Path) -> None:
    a_whole_run(opened(tmp_path))
    found = read(tmp_path)
    assert found.Tags()["images"] == ["gallery/000", "gallery/001"]
    drawn = side_by_side(PICTURE)
    (event,) = found.Images("gallery/000")
    assert (event.step, event.width, event.height) == (2, *drawn.size)

    pixels, column = np.asarray(drawn), (drawn.width - 2 * GAP) // 3
    edge = (column // 2, drawn.height // 4)  # half-way right: where the one box of truth and answer ends
    coloured = [len(set(pixels[edge[1], place * (column + GAP) + edge[0]].tolist())) > 1 for place in range(3)]
    assert coloured == [True, False, True], "a refusal has no boxes"


def test_a_large_image_is_made_small_and_its_boxes_with_it() -> None:
    def edge_of(size: tuple[int, int]) -> int:
        """Where, of the width, the box of the truth ends."""
        frame = Resized(*size)
        picture = Picture(Image.new("RGB", size, "white"), "", DetectionTruth(((0.0, 0.0, size[0] / 4, float(size[1])),)), {}, {}, frame)
        drawn = np.asarray(side_by_side(picture))
        assert drawn.shape[1] == 512
        return int(np.flatnonzero((drawn[drawn.shape[0] // 2] != 255).any(axis=1))[-1])

    assert edge_of((2048, 1024)) == pytest.approx(128, abs=2) == edge_of((512, 256))


def test_words_alone_are_drawn_too() -> None:
    assert side_by_side(Picture(Image.new("L", (8, 8)), "", ClassTruth("six"), {"before": ClassAnswer("\ud800")}, {})).width == 2 * 512 + GAP


# --- going on, and failing ---


@pytest.mark.parametrize("reached", [None, 0, 2])
def test_a_run_that_goes_on_shows_each_step_once_as_it_was_taken_last(tmp_path: Path, reached: int | None) -> None:
    """`reached` is the last step that a checkpoint had kept, None where there was none."""
    first = opened(tmp_path)
    for step in range(4):
        first.log_metrics(step, {"reward/mean": 0.0})
    (began,) = (tmp_path / "tensorboard").iterdir()
    began.rename(began.with_name("events.out.tfevents.1"))  # the second of its beginning is in its name, and says which is first
    lines = range(0 if reached is None else reached + 1)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "reward/mean": 0.0}}\n' for step in lines))
    again = opened(tmp_path)
    for step in range(len(lines), 4):
        again.log_metrics(step, {"reward/mean": 1.0})
    again.finish(SUMMARY)
    assert scalars(read(tmp_path), "reward/mean") == [(step, 0.0 if step < len(lines) else 1.0) for step in range(4)]


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("call", "lost"), [("add_scalar", 2), ("flush", 2), ("add_image", 2), ("add_text", 4), ("close", 1)])
def test_a_call_that_fails_is_one_line_and_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: str, lost: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FULL_DISK

    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, call, fail)
    a_whole_run(opened(tmp_path))
    out, err = capfd.readouterr()
    warning, count = err.splitlines()
    assert out == "" and warning == f"tensorboard: {FULL_DISK}; the run goes on and {tmp_path} holds all the same"
    assert count == f"tensorboard: at least {lost} of 9 entries were lost; {tmp_path} holds all of them"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_disk_is_met_by_the_writers_thread_and_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracebacks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    logger = opened(tmp_path)
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    event_file.unlink()
    event_file.symlink_to("/dev/full")
    a_whole_run(logger)
    out, err = capfd.readouterr()
    warning, count = err.splitlines()
    assert out == "" and warning.startswith("tensorboard: [Errno 28] No space left on device")
    assert count.startswith("tensorboard: at least ") and tracebacks == []
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert len(tracebacks) == 1, "those of other threads are seen"


def test_where_nothing_can_be_written_the_run_starts_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    logger = opened(tmp_path)
    assert isinstance(logger, NoLogger)
    a_whole_run(logger)
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("tensorboard: cannot start (")


def test_without_the_package_it_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^logger=tensorboard: tensorboard is not installed; .*pip install tensorboard$"):
        TensorBoardOptions(report_images=2)
