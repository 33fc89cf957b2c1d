"""The loggers never stop a run, and show what the run folder holds: `pytest tests/test_loggers.py`. TensorBoard: tests/test_tensorboard.py.

A fake stands for wandb where it must fail in a chosen way; the real one writes offline into the test's own folder. No network.
"""

import errno
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import wandb
from omegaconf import OmegaConf
from PIL import Image

from visual_rft.boxes import iou_matrix
from visual_rft.config import conf_folder
from visual_rft.frames import Resized
from visual_rft.images import StoredImage
from visual_rft.journal import Draft, Watch, Written
from visual_rft.loop import Step
from visual_rft.tracking import wandb_logger, wandb_media
from visual_rft.tracking.console import Console
from visual_rft.tracking.loggers import Logger, LoggerOptions, NoLogger, Shown, TensorBoardOptions, WandbOptions, open_logger
from visual_rft.tracking.pictures import Picture, group_pictures
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.tracking.signs import Sign
from visual_rft.vocabulary import (
    ClassAnswer,
    ClassTruth,
    Completion,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    Example,
    GroundingAnswer,
    Group,
    Reason,
    Refusal,
    Reward,
)

METRICS = {"reward/mean": 0.1 + 0.2, "loss/kl": 1e-17, "refused/no_think": 0.0}
RECORDS = [
    {
        "step": 1,
        "example": f"question {i}",
        "completion": f"a\nb\ud800{i}",
        "answer": None,
        "refused": refused,
        "rewards": {"iou": i + 0.5, "confidence": i + 0.25, "format": i + 0.125},
        "reward": i / 4,
        "advantage": -float(i),
        "finished": True,
        "tokens": 3,
    }
    for i, refused in enumerate([None, "no_think"])
]
TRUTH = ((100.0, 200.0, 500.0, 1000.0), (600.0, 0.0, 1000.0, 100.0))
FOUND = DetectionAnswer((Detection((100.0, 200.0, 500.0, 600.0), 0.75), Detection((0.0, 0.0, 1.0, 1.0), 0.5)))
PICTURES = [
    Picture(Image.new("RGB", (64, 48)), "where?\ud800", DetectionTruth(TRUTH), {"before": Refusal(Reason.NO_THINK), "after": FOUND}, {}),
    Picture(Image.new("RGB", (32, 16)), "what?", ClassTruth("seven"), {"before": ClassAnswer("six"), "after": DetectionAnswer(())}, {}),
]
ASKED = [Example("1", (), "seven", "where?\ud800", DetectionTruth(TRUTH))]  # of the one group
SUMMARY = {
    "metric": "AP", "before": 1.0, "after": 2.0, "steps": 2,
    "evaluation_before": {"AP": 1.0, "by category": {"six": 1.0}, "refused": {}},
    "evaluation_after": {"AP": 2.0, "by category": {"six": 1.5, "seven": 2.5}, "refused": {}},
}  # fmt: skip
SHOWN = Shown("name", "grpo", None, {"steps": 2, "environment": {"git": {"revision": "1a2b"}, "data": {"train": "3c4d"}}})
FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
DEAD_NETWORK = ConnectionError("connection refused\nand a second line")


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's wandb is read, nothing is written outside the test's folder, and each test starts a new session."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    wandb.teardown()
    yield
    wandb.teardown()


def options(rollouts_every: int = 1, group: str | None = "group", rollout_images: int = 1) -> WandbOptions:
    return WandbOptions(report_images=2, project="project", group=group, rollouts_every=rollouts_every, rollout_images=rollout_images)


def opened(folder: Path, rollouts_every: int = 1) -> Logger:
    return open_logger(options(rollouts_every), folder=folder, shown=SHOWN)


def pictures(count: int) -> list[Picture]:
    return PICTURES[:count]


def a_whole_run(logger: Logger) -> None:
    for step in (1, 2):
        logger.log_metrics(step, METRICS)
        logger.log_rollouts(step, RECORDS, ASKED, pictures)
    logger.log_gallery(2, PICTURES)
    logger.log_sign(2, "a sign", "what to do")
    logger.finish(SUMMARY)


class FakeWandb:
    """What `wandb_logger` uses of wandb. `fails` maps the name of a call to what it raises."""

    def __init__(self, *, mode: str = "online", key: bool = True, fails: dict[str, BaseException] | None = None) -> None:
        self.fails, self.key = fails or {}, key
        self.modes: list[str | None] = []
        self.rows: list[dict[str, Any]] = []
        self.run: object | None = None
        self.session = SimpleNamespace(settings=SimpleNamespace(mode=mode))
        self.said: dict[str, Any] = {}
        self.metrics: list[tuple[str, dict[str, Any]]] = []
        self.alerts: list[tuple[str, str, str]] = []
        self.summary: dict[str, Any] = {}
        self.starting_step = 0
        self.plot = SimpleNamespace(bar=lambda table, *columns, title: {"bars of": (table, *columns), "title": title})

    def raise_if(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def setup(self, settings: dict[str, Any]) -> SimpleNamespace:
        return self.session

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt and not verify, "a run asks nobody, and wandb.init finds out whether the server answers"
        self.raise_if("login")
        return self.key

    def init(self, *, mode: str | None, **said: Any) -> SimpleNamespace:
        self.modes.append(mode)
        self.raise_if(f"init {mode}")
        self.said = said
        folder = Path(said["dir"]) / "wandb" / "run-1"
        return SimpleNamespace(
            url=None if mode == "offline" else "https://host/run",
            dir=str(folder / "files"),
            starting_step=self.starting_step,
            log=self.log,
            summary=SimpleNamespace(update=self.update),
            finish=lambda: self.raise_if("finish"),
            alert=lambda title, text, level: self.alerts.append((title, text, level)),
            define_metric=lambda name, **how: self.metrics.append((name, how)),
        )

    def update(self, summary: dict[str, Any]) -> None:
        self.raise_if("summary")
        self.summary |= summary

    def log(self, row: dict[str, Any], step: int | None = None, commit: bool = True) -> None:
        assert step in (None, row["step"]), "one row a step"
        self.raise_if("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.run = None

    def Table(self, **table: Any) -> dict[str, Any]:
        self.raise_if("Table")
        return table

    def Image(self, image: Image.Image, **layers: Any) -> dict[str, Any]:
        self.raise_if("Image")
        return layers


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeWandb]:
    def install(**how: Any) -> FakeWandb:
        module = FakeWandb(**how)
        for part in (wandb_logger, wandb_media):
            monkeypatch.setattr(part, "wandb", module)
        return module

    return install


# --- options ---


@pytest.mark.parametrize(("name", "schema"), [("none", LoggerOptions), ("wandb", WandbOptions), ("tensorboard", TensorBoardOptions)])
def test_conf_gives_every_option_and_no_other(name: str, schema: type[LoggerOptions]) -> None:
    given = OmegaConf.load(conf_folder("train") / "logger" / f"{name}.yaml")
    given.pop("defaults", None)
    assert set(given) == {field.name for field in fields(schema)}
    schema(**given)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"report_images": -1}, "logger.report_images=-1"),
        ({"rollouts_every": -1}, "logger.rollouts_every=-1"),
        ({"rollout_images": -1}, "logger.rollout_images=-1"),
        ({"project": ""}, "logger.project="),
        ({"project": "a/b"}, "logger.project=a/b"),
        ({"project": "a" * 129}, "logger.project=aaa"),
    ],
)
def test_an_impossible_option_is_refused_with_its_key(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        WandbOptions(**{"report_images": 0, "project": "p", "group": None, "rollouts_every": 0, "rollout_images": 0, **wrong})


# --- none ---


def test_none_says_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    logger = open_logger(LoggerOptions(report_images=2), folder=folder, shown=SHOWN)
    a_whole_run(logger)
    assert list(folder.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_none_imports_neither_wandb_nor_tensorboard() -> None:
    code = (
        "import sys; from pathlib import Path; from visual_rft.tracking.loggers import LoggerOptions, Shown, open_logger;"
        "open_logger(LoggerOptions(0), folder=Path('.'), shown=Shown('', '', None, {})).finish({});"
        "sys.exit('wandb' in sys.modules or 'tensorboard' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is shown ---


def test_metrics_keep_their_names_and_stand_over_the_step(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    logger = opened(tmp_path)
    logger.log_metrics(7, METRICS)
    assert module.rows == [{"step": 7, **METRICS}]
    assert module.metrics[:2] == [("step", {"hidden": True}), ("*", {"step_metric": "step"})]
    assert {key: module.said[key] for key in ("project", "group", "job_type", "name", "config")} == {
        "project": "project", "group": "group", "job_type": "grpo", "name": "name", "config": SHOWN.config,
    }  # fmt: skip


def test_the_table_of_runs_has_the_best_value_where_that_says_more_than_the_last(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    logger = opened(tmp_path)
    for step in (0, 1):
        logger.log_metrics(step, {**METRICS, "eval/AP": 1.0})
    assert module.metrics[2:] == [(name, {"step_metric": "step", "summary": "last,max"}) for name in ("reward/mean", "eval/AP")], "once each"


@pytest.mark.parametrize(("group", "sweep", "shown"), [(None, None, None), (None, "2026-11-27", "2026-11-27"), ("mine", "2026-11-27", "mine")])
def test_the_jobs_of_a_sweep_are_a_group(
    tmp_path: Path, fake: Callable[..., FakeWandb], group: str | None, sweep: str | None, shown: str | None
) -> None:
    module = fake()
    open_logger(options(group=group), folder=tmp_path, shown=replace(SHOWN, sweep=sweep, name="n" * 200))
    assert module.said["group"] == shown and module.said["name"] == "n" * 128


def test_a_reason_to_refuse_is_0_where_no_answer_had_it_but_not_before_the_first(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    logger = opened(tmp_path)
    for step, refused in enumerate([{}, {"refused/a": 0.5}, {"refused/b": 0.25}, {"refused/a": 1.0}]):
        logger.log_metrics(step, {"reward/mean": 1.0} | refused)
    shown = [{name: value for name, value in row.items() if name.startswith("refused/")} for row in module.rows]
    assert shown == [{}, {"refused/a": 0.5}, {"refused/a": 0.0, "refused/b": 0.25}, {"refused/a": 1.0, "refused/b": 0.0}]

    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/AP": 1.0}\n{"step": 1, "refused/c": 0.5}\n')
    opened(tmp_path).log_metrics(2, {})
    assert module.rows[-1] == {"step": 2, "refused/c": 0.0}, "a run that was gone on with remembers"


def test_classes_are_a_table_and_bars(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    opened(tmp_path).finish(SUMMARY)
    (row,) = module.rows
    table = {"columns": ["class", "before", "after", "change"], "data": [["six", 1.0, 1.5, 0.5], ["seven", None, 2.5, None]]}
    assert row == {
        "step": 2, "classes/table": table, "classes/bars": {"bars of": (table, "class", "after"), "title": "AP by class, after 2 steps"},
    }  # fmt: skip


def test_a_sign_is_an_alert_and_a_line_of_the_summary(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    opened(tmp_path).log_sign(7, "reward stuck", "nobody is paid; look at the refusals")
    assert module.alerts == [("reward stuck at step 7", "nobody is paid; look at the refusals", "WARN")]
    assert module.summary == {"signs/reward stuck": "step 7: nobody is paid; look at the refusals"}


def test_where_there_are_no_classes_there_is_no_table_of_them(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    opened(tmp_path).finish(SUMMARY | {"evaluation_before": {"by category": {}}, "evaluation_after": {"by category": {}}})
    assert module.rows == []


def test_rollouts_are_a_row_each_with_every_reward_part(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    answered = [RECORDS[0] | {"answer": [{"Position": [1.0, 2.0, 3.0, 4.0], "Confidence": 0.5}]}, RECORDS[1] | {"answer": "\ud800é"}]
    asked = [Example("1", (), "", "first?", DetectionTruth(((1, 2, 3, 4),))), Example("2", (), "", "second?\ud800", ClassTruth("\ud800six"))]
    opened(tmp_path).log_rollouts(3, [*RECORDS, *answered], asked, pictures)
    table = module.rows[0]["rollouts/table"]
    parts = ["reward/iou", "reward/confidence", "reward/format", "reward", "advantage"]
    assert table["columns"] == ["step", "example", "number", "completion", "answer", "truth", "refused", *parts, "question"]
    assert table["data"] == [
        [3, "question 0", 1, "a\nb&#55296;0", "", "[[1, 2, 3, 4]]", "", 0.5, 0.25, 0.125, 0.0, -0.0, "first?"],
        [3, "question 1", 2, "a\nb&#55296;1", "", "[[1, 2, 3, 4]]", "no_think", 1.5, 1.25, 1.125, 0.25, -1.0, "first?"],
        [
            *(3, "question 0", 1, "a\nb&#55296;0", '[{"Position": [1.0, 2.0, 3.0, 4.0], "Confidence": 0.5}]', "&#55296;six", ""),
            *(0.5, 0.25, 0.125, 0.0, -0.0, "second?&#55296;"),
        ],
        [3, "question 1", 2, "a\nb&#55296;1", '"&#55296;é"', "&#55296;six", "no_think", 1.5, 1.25, 1.125, 0.25, -1.0, "second?&#55296;"],
    ]


def test_rollouts_are_on_their_images_as_many_as_asked(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    open_logger(options(rollout_images=2), folder=tmp_path, shown=SHOWN).log_rollouts(3, RECORDS, ASKED, pictures)
    assert list(module.rows[1]) == ["step", "rollouts/group000", "rollouts/group001"]


def test_a_group_on_its_image_has_a_layer_a_completion_and_what_it_earned(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    tokens = torch.zeros(1, dtype=torch.int64)
    image = StoredImage.of(0, Image.new("RGB", (8, 8)))
    group = Group(
        Example("id", (image,), "", "where?", DetectionTruth(TRUTH)), tuple(Completion(tokens, tokens.float(), text, True) for text in "abcd")
    )
    rewards = [
        Reward({"iou": 0.75, "format": 1.0}, FOUND, None),
        Reward({"iou": 0.0, "format": 0.0}, None, Refusal(Reason.NO_THINK)),
        Reward({"iou": 0.0, "format": 1.0}, DetectionAnswer(()), None),
        Reward({"iou": 0.0, "format": 0.0}, None, None),  # which `paper` knows
    ]
    (picture,) = group_pictures([group], [rewards], [[1.75, 0.0, 1.0, 0.0]], [[1.5, -0.75, 0.25, -1.0]])
    assert list(picture.texts.values()) == ["a", "b", "c", "d"]
    opened(tmp_path).log_rollouts(1, RECORDS, ASKED, lambda _: [picture])
    drawn = module.rows[1]["rollouts/group000"]
    assert {name: len(layer["box_data"]) for name, layer in drawn["boxes"].items()} == {"truth": 2, "completion 1": 2, "completion 3": 0}
    assert drawn["caption"].splitlines() == [
        "where?",
        "completion 1: reward 1.75 (iou 0.75 format 1.00), advantage +1.50",
        "completion 2: refused, no_think, reward 0.00 (iou 0.00 format 0.00), advantage -0.75",
        "completion 3: No Objects, reward 1.00 (iou 0.00 format 1.00), advantage +0.25",
        "completion 4: reward 0.00 (iou 0.00 format 0.00), advantage -1.00",
    ]


@pytest.mark.parametrize(("every", "shown"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_rollouts_are_shown_as_often_as_asked(tmp_path: Path, fake: Callable[..., FakeWandb], every: int, shown: list[int]) -> None:
    module = fake()
    logger = opened(tmp_path, every)
    for step in range(1, 7):
        logger.log_rollouts(step, RECORDS, ASKED, pictures)
        logger.log_rollouts(step, [], [], pictures)
    assert [row["step"] for row in module.rows if "rollouts/table" in row] == shown


def test_a_picture_has_a_layer_an_answer_whose_boxes_say_iou_and_confidence(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    opened(tmp_path).log_gallery(5, PICTURES)
    (row,) = module.rows
    assert list(row) == ["step", "gallery/000", "gallery/001"]
    layers = row["gallery/000"]["boxes"]
    assert list(layers) == ["truth", "after"], "a refusal has no boxes"

    for name, boxes in (("truth", TRUTH), ("after", FOUND.boxes)):
        corners = [[box["position"][key] * 1000 for key in ("minX", "minY", "maxX", "maxY")] for box in layers[name]["box_data"]]
        assert [pytest.approx(list(box)) for box in boxes] == corners
        assert list(layers[name]["class_labels"].values()) == [name]
        assert {box["class_id"] for box in layers[name]["box_data"]} == set(layers[name]["class_labels"])
    assert layers["truth"]["class_labels"].keys().isdisjoint(layers["after"]["class_labels"]), "else both have one colour"

    best = iou_matrix(FOUND.boxes, TRUTH).max(axis=1)
    assert [box["scores"]["IoU"] for box in layers["after"]["box_data"]] == list(best) == [0.5, 0.0]
    assert [box["box_caption"] for box in layers["after"]["box_data"]] == ["0.75 IoU 0.50", "0.50 IoU 0.00"]


def test_the_words_of_a_picture_are_its_caption(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    opened(tmp_path).log_gallery(5, PICTURES)
    assert module.rows[0]["gallery/000"]["caption"] == "where?&#55296;\nbefore: refused, no_think"
    assert module.rows[0]["gallery/001"]["caption"] == "what?\ntruth: seven\nbefore: six\nafter: No Objects"


def test_boxes_are_drawn_where_they_are_whatever_their_frame(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    frames = {"thousandths": (PICTURES[0].frame, (250.0, 500.0, 500.0, 1000.0)), "pixels": (Resized(56, 28), (14.0, 14.0, 28.0, 28.0))}
    pictures = [
        Picture(Image.new("RGB", (64, 32)), name, DetectionTruth((box,)), {"answer": GroundingAnswer(box)}, {}, frame)
        for name, (frame, box) in frames.items()
    ]
    opened(tmp_path).log_gallery(0, pictures)
    drawn = [module.rows[0][f"gallery/{number:03d}"]["boxes"] for number in range(2)]
    assert drawn[0] == drawn[1] and drawn[0]["truth"]["box_data"][0]["position"] == {"minX": 0.25, "minY": 0.5, "maxX": 0.5, "maxY": 1.0}


def test_boxes_where_there_are_none_overlap_nothing(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    box = (0.0, 0.0, 9.0, 9.0)
    opened(tmp_path).log_gallery(0, [Picture(Image.new("RGB", (8, 8)), "", DetectionTruth(()), {"answer": GroundingAnswer(box)}, {})])
    (drawn,) = module.rows[0]["gallery/000"]["boxes"]["answer"]["box_data"]
    assert drawn["box_caption"] == "IoU 0.00", "a grounding answer has no confidence"


def test_the_journal_tells_a_logger_what_it_tells_the_folder(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    sign = Sign("stuck", 1, "nobody is paid", "look at the refusals")
    watch = SimpleNamespace(after=lambda step, _: [sign] if step == 1 else [])
    groups = [SimpleNamespace(example=ASKED[0])]
    step = SimpleNamespace(number=1, records=lambda: RECORDS, pictures=pictures, skipped=None, groups=groups)
    with Console(2, file=io.StringIO()) as console:
        journal = Written(RunFolder.create(tmp_path, "", {}), opened(tmp_path), console, cast(Watch, watch), Draft(RunFolder(tmp_path)))
        for number in (1, 2):
            journal.rollouts(cast(Step, SimpleNamespace(**{**vars(step), "number": number})))
            journal.metrics(number, METRICS)
    assert [(row["step"], "rollouts/table" in row) for row in module.rows] == [(1, True), (1, False), (1, False), (2, True), (2, False), (2, False)]
    assert [row[-1] for row in module.rows[0]["rollouts/table"]["data"]] == ["where?&#55296;", "where?&#55296;"]
    assert module.alerts == [("stuck at step 1", "nobody is paid; look at the refusals", "WARN")]
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == 4


# --- a run goes on whatever happens ---


@pytest.mark.parametrize("error", [FULL_DISK, DEAD_NETWORK, RuntimeError()])
@pytest.mark.parametrize(("call", "lost"), [("log", 8), ("Table", 3), ("Image", 3), ("summary", 2), ("finish", 1)])
def test_a_call_that_fails_is_one_line_and_a_count(
    tmp_path: Path, fake: Callable[..., FakeWandb], capfd: pytest.CaptureFixture[str], call: str, lost: int, error: Exception
) -> None:
    fake(fails={call: error})
    logger = opened(tmp_path)
    capfd.readouterr()
    a_whole_run(logger)
    out, err = capfd.readouterr()
    warning, count = err.splitlines()
    reason = str(error).partition("\n")[0] or "RuntimeError"
    assert out == "" and warning.startswith(f"wandb: {reason}; the run goes on") and f"wandb sync {tmp_path}/wandb/run-1" in warning
    assert count == f"wandb: at least {lost} of 12 entries were lost; {tmp_path} holds all of them"


def test_an_interruption_is_no_failure_of_wandb(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    fake(fails={"log": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).log_metrics(1, METRICS)


@pytest.mark.parametrize(
    ("how", "modes", "said"),
    [
        ({}, [None], "this run is shown at https://host/run"),
        ({"key": False}, ["offline"], "no API key is configured"),
        ({"key": False, "mode": "offline"}, [None], "this run is shown"),  # the user's own choice needs no key
        ({"mode": "disabled"}, [None], "this run is shown"),
        ({"fails": {"init None": DEAD_NETWORK}}, [None, "offline"], "connection refused: this run is logged offline"),
        ({"fails": {"login": ValueError("API key must have 40+ characters")}}, ["offline"], "40+ characters: this run is logged offline"),
        ({"fails": {"init None": DEAD_NETWORK, "init offline": FULL_DISK}}, [None, "offline"], "cannot start ([Errno 28] No space left"),
        ({"key": False, "fails": {"init offline": FULL_DISK}}, ["offline", "offline"], "cannot start ([Errno 28] No space left"),
    ],
)
def test_a_run_starts_online_else_offline_else_without_wandb_and_says_which(
    tmp_path: Path, fake: Callable[..., FakeWandb], capfd: pytest.CaptureFixture[str], how: dict[str, Any], modes: list[str | None], said: str
) -> None:
    module = fake(**how)
    logger = opened(tmp_path)
    out, err = capfd.readouterr()
    assert module.modes == modes
    assert out == "" and err.startswith("wandb: ") and err.count("\n") == 1 and said in err
    assert isinstance(logger, NoLogger) == ("cannot start" in said)
    a_whole_run(logger)
    assert capfd.readouterr() == ("", "")


def test_a_run_that_another_job_left_open_is_closed_first(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    module.run = object()
    opened(tmp_path)
    assert module.run is None


@pytest.mark.parametrize(("mode", "resume"), [("online", "allow"), ("offline", None)])
def test_a_run_that_was_interrupted_goes_on_under_its_id(mode: str, resume: str | None, tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake(key=mode == "online")
    opened(tmp_path)
    assert module.said["id"] is None and module.said["resume"] is None, "a new one has none"
    for second, (kind, name) in enumerate([("run", "first1"), ("offline-run", "second")]):
        (tmp_path / "wandb" / f"{kind}-2026112{second}_120000-{name}").mkdir(parents=True)
        os.utime(tmp_path / "wandb" / f"{kind}-2026112{second}_120000-{name}", (second, second))
    opened(tmp_path)
    assert (module.said["id"], module.said["resume"]) == ("second", resume)


def test_a_step_that_is_taken_again_is_shown_once(tmp_path: Path, fake: Callable[..., FakeWandb]) -> None:
    module = fake()
    module.starting_step = 5  # the server has 0 to 4; the run goes on from a checkpoint at 3
    logger = opened(tmp_path)
    for step in (4, 5):
        logger.log_rollouts(step, RECORDS, ASKED, pictures)
        logger.log_metrics(step, METRICS)
    logger.log_gallery(5, PICTURES)
    assert [row["step"] for row in module.rows] == [5, 5, 5, 5]


# --- the real wandb ---


def test_without_a_key_a_run_is_offline_in_its_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    for job in (1, 2):  # interrupted, and resumed a second later
        time.sleep(1.1 * (job - 1))
        a_whole_run(opened(folder))
        out, err = capfd.readouterr()
        runs = sorted((folder / "wandb").glob("offline-run-*"))
        assert out == "" and len(runs) == job
        line = "wandb: no API key is configured (wandb login, or WANDB_API_KEY): this run is logged offline; send it later with: wandb sync "
        assert err == f"{line}'{folder / 'wandb'}'\n", "every part of it"

    assert len({run.name.rpartition("-")[2] for run in runs}) == 1, "what goes on in a folder is one run"
    log = next(runs[0].glob("*.wandb")).read_bytes()
    assert all(
        word.encode() in log for word in (*METRICS, "gallery/001", "rollouts/table", "evaluation_after", "before: six", "1a2b", "3c4d", "a sign")
    )
    (table, _) = sorted((runs[0] / "files/media/table/rollouts").glob("table*.json"))
    assert [row[1] for row in json.loads(table.read_text())["data"]] == ["question 0", "question 1"]
    assert len(list((runs[0] / "files/media/images/gallery").glob("*.png"))) == 2
    drawn = [json.loads(path.read_text())["box_data"] for path in (runs[0] / "files/media/metadata/boxes2D/gallery").glob("000*.json")]
    assert sorted(map(len, drawn)) == [2, 2]


def test_a_run_that_dies_keeps_its_exit_code_its_numbers_and_its_console_to_itself(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from visual_rft.tracking.loggers import Shown, WandbOptions, open_logger;"
        f"logger = open_logger(WandbOptions(0, 'p', None, 0, 0), folder=Path({str(tmp_path)!r}), shown=Shown('', 'grpo', None, {{}}));"
        "print('a result'); logger.log_metrics(1, {'reward/mean': 0.5}); sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "a result\n")
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"reward/mean" in log.read_bytes() and b"a result" not in log.read_bytes()


def test_the_users_own_mode_wins(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    a_whole_run(opened(tmp_path))
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("key", "reason"), [("a" * 40, "connection refused"), ("short", "40+ characters")])
def test_a_server_that_cannot_be_reached_or_a_wrong_key_leaves_the_run_offline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, reason: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(wandb_logger, "INIT_SECONDS", 1.0)
    a_whole_run(opened(tmp_path))
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and reason in err and "this run is logged offline" in err
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 1
