"""Weights & Biases as a `Logger`: offline by itself where no key is configured, and never a reason for a run to stop or to wait long.

Axes: N boxes of one layer.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import wandb

from visual_rft.boxes import convert
from visual_rft.frames import Box, Frame
from visual_rft.tracking.pictures import Picture, ious, labels
from visual_rft.vocabulary import Answer, Refusal

INIT_SECONDS = 20.0  # to reach the server when the run starts; after it the run is offline
FINISH_SECONDS = 120.0  # to send what is left when the run ends; after it the rest stays on disk


def open_wandb(project: str, group: str | None, rollouts_every: int, *, folder: Path, name: str, config: Mapping[str, Any]) -> "WandbLogger | None":
    """A run in `<folder>/wandb/`: online if a key is configured and the server answers, else offline, else None; one line on stderr says which.

    One that was interrupted goes on under its id. The user's own choice, WANDB_MODE or `wandb offline`, comes first.
    """
    logging.raiseExceptions = False  # on a full disk every line of wandb's own log would print a traceback
    settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True)

    earlier = _earlier_id(folder)

    def begin(mode: Literal["offline"] | None) -> WandbLogger:
        run = wandb.init(
            project=project,
            group=group,
            name=name[:128],
            config=dict(config),
            dir=str(folder),
            id=earlier,
            resume="allow" if earlier and not mode else None,  # offline, the id alone does it when the run is sent
            mode=mode,
            settings=settings,
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return WandbLogger(run, folder, rollouts_every)

    try:
        why_offline = _why_offline(settings)
        logger = begin("offline" if why_offline else None)
    except Exception as error:  # noqa: BLE001  # whatever wandb, its service or the network raises, the run must start
        why_offline = _reason(error)
        try:
            logger = begin("offline")
        except Exception as worse:  # noqa: BLE001  # as above
            _say(f"cannot start ({_reason(worse)}), so nothing is logged to it; {folder} holds all the same")
            return None
    if why_offline:
        _say(f"{why_offline}: this run is logged offline; send it later with: {logger.sync}")
    elif logger.url:
        _say(f"this run is shown at {logger.url}")
    return logger


def _earlier_id(folder: Path) -> str | None:
    """The id that a run in this folder had before it was interrupted: wandb's folders end with it."""
    made = sorted((folder / "wandb").glob("*run-*-*"), key=lambda path: path.stat().st_mtime)
    return made[-1].name.rpartition("-")[2] if made else None


def _why_offline(settings: wandb.Settings) -> str:
    """Empty unless wandb, asked to be online, would have to prompt for a key: a run waits for nobody."""
    if wandb.run is not None:  # a job of a sweep that stopped half-way left it open
        wandb.finish(exit_code=1)
    # In order: login refuses to look for a key where the user has chosen to be offline.
    if wandb.setup(settings).settings.mode != "online" or wandb.login(prompt=False, verify=False):
        return ""
    return "no API key is configured (wandb login, or WANDB_API_KEY)"


class WandbLogger:
    """Guards every call into `run`: the first that fails prints one line, the others are counted, `finish` prints the count."""

    def __init__(self, run: wandb.Run, folder: Path, rollouts_every: int) -> None:
        self.url, self.sync = run.url, f"wandb sync {quote(str(Path(run.dir).parent))}"
        self._run, self._folder, self._rollouts_every = run, folder, rollouts_every
        self._calls = self._lost = 0

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._guarded(lambda: self._run.log({"step": step, **metrics}))

    def log_rollouts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        if records and self._rollouts_every and step % self._rollouts_every == 0:
            self._guarded(lambda: self._run.log({"step": step, "rollouts": _rollouts_table(step, records)}))

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        # A panel a picture: a list of images under one key is shown wrongly where their sizes differ.
        self._guarded(lambda: self._run.log({"step": step} | {f"gallery/{i:03d}": _image(picture) for i, picture in enumerate(pictures)}))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._guarded(lambda: self._run.summary.update(dict(summary)))
        self._guarded(self._run.finish)
        if self._lost:
            # At least: what its background process cannot write, wandb tells nobody.
            _say(f"at least {self._lost} of {self._calls} entries were lost; {self._folder} holds all of them")

    def _guarded(self, call: Callable[[], None]) -> None:
        self._calls += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001  # a full disk, a dead network or a bug of wandb must not end days of training
            self._lost += 1
            if self._lost == 1:
                _say(f"{_reason(error)}; the run goes on and {self._folder} holds all the same; with disk and network in order: {self.sync}")


def _rollouts_table(step: int, records: Sequence[Mapping[str, Any]]) -> wandb.Table:
    parts = list(records[0]["rewards"])
    return wandb.Table(
        columns=["step", "example", "completion", "refused", *(f"reward/{part}" for part in parts), "reward", "advantage"],
        data=[
            [step, r["example"], _text(r["completion"]), r["refused"] or "", *(r["rewards"][part] for part in parts), r["reward"], r["advantage"]]
            for r in records
        ],
    )


def _image(picture: Picture) -> wandb.Image:
    """The image under its layers of boxes, `truth` and one an answer; the words are in the caption."""
    truth = picture.truth
    layers = {"truth": _layer(0, "truth", _shares(truth.boxes, picture.frame), [{"box_caption": "truth"} for _ in truth.boxes])}
    words = [picture.question, f"truth: {truth}" if str(truth) else ""]
    for number, (name, answer) in enumerate(picture.answers.items(), start=1):
        if isinstance(answer, Refusal):
            words.append(f"{name}: refused, {answer.reason}")
            continue
        layers[name] = _layer(number, name, _shares(answer.boxes, picture.frame), _labelled(answer, truth.boxes))
        words.append(f"{name}: {answer}" if str(answer) else "")
    return wandb.Image(picture.image, caption=_text("\n".join(filter(None, words))), boxes=layers)


def _labelled(answer: Answer, truth: Sequence[Box]) -> list[dict[str, Any]]:
    """Of each predicted box: what is written beside it, and the IoU by which the page can hide it."""
    return [{"box_caption": label, "scores": {"IoU": iou}} for label, iou in zip(labels(answer, truth), ious(answer, truth), strict=True)]


def _shares(boxes_N: Sequence[Box], of: Frame) -> list[list[float]]:
    """Corners as shares of the image, as wandb wants them."""
    shares: list[list[float]] = convert(boxes_N, of=of, to=Frame(1, 1)).tolist()
    return shares


def _layer(number: int, name: str, shares_N: Sequence[Sequence[float]], labels_N: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Boxes under one switch and in one colour."""
    data = [
        {"position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}, "class_id": number, **label}
        for (x1, y1, x2, y2), label in zip(shares_N, labels_N, strict=True)
    ]
    return {"box_data": data, "class_labels": {number: name}}


def _text(text: str) -> str:
    """Half a surrogate pair, which a model can write, is no UTF-8."""
    return text.encode("utf-8", errors="xmlcharrefreplace").decode("utf-8")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _say(line: str) -> None:
    print(f"wandb: {line}", file=sys.stderr, flush=True)
