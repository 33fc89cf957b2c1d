"""TensorBoard as a `Logger`: event files in the run's own folder."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, Protocol

import numpy as np
from omegaconf import OmegaConf
from PIL.Image import Image
from PIL.Image import new as new_image

from visual_rft.boxes import convert
from visual_rft.frames import Box, Frame
from visual_rft.tracking._format import difference, number
from visual_rft.tracking._guard import Guard, encodable, reason, say
from visual_rft.tracking.console import score_rows
from visual_rft.tracking.drawing import draw_answer
from visual_rft.tracking.pictures import Picture, labels
from visual_rft.vocabulary import Example, Refusal

COLUMNS = 120  # of text
GAP = 8  # pixels between two drawings of an image
LONGEST_SIDE = 512  # pixels of an image in the gallery: event files hold every one as a PNG


class Writer(Protocol):
    """What is used of torch's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_image(self, tag: str, img_tensor: np.ndarray, global_step: int, *, dataformats: str) -> None: ...

    def add_text(self, tag: str, text_string: str, global_step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def open_tensorboard(folder: Path, first: int, config: Mapping[str, Any]) -> "TensorBoardLogger | None":
    """Event files in `<folder>/tensorboard/`; None, with one line on stderr, where they cannot be written.

    `first` is the step that comes next: what the files of an interrupted run hold from there on is not shown.
    """
    from torch.utils.tensorboard import SummaryWriter

    events = folder / "tensorboard"
    if not isinstance(threading.excepthook, _QuietThread):
        threading.excepthook = _QuietThread(threading.excepthook)
    try:
        writer: Writer = SummaryWriter(str(events), purge_step=first if events.exists() else None)
    except Exception as error:  # noqa: BLE001  # as in Guard
        say("tensorboard", f"cannot start ({reason(error)}), so nothing is logged to it; {folder} holds all the same")
        return None
    logger = TensorBoardLogger(writer, folder)
    logger.log_text("config", _as_it_is(OmegaConf.to_yaml(OmegaConf.create(dict(config)))), first)
    return logger


class _QuietThread:
    """The thread that writes the files ends with a traceback where it cannot; the next call raises the same, which the guard says in a line."""

    def __init__(self, hook: Callable[[Any], object]) -> None:
        self._hook = hook

    def __call__(self, ended: Any) -> None:
        if not type(ended.thread).__module__.startswith("tensorboard."):
            self._hook(ended)


class TensorBoardLogger:
    """Scalars by the names of the metrics, the gallery with boxes drawn, and words. What a step tells is on the disk when the next one begins."""

    def __init__(self, writer: Writer, folder: Path) -> None:
        self._writer, self._guarded = writer, Guard("tensorboard", folder)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._guarded(lambda: self._add_scalars(step, metrics))

    def log_rollouts(
        self, step: int, records: Sequence[Mapping[str, Any]], asked: Sequence[Example], pictures: Callable[[int], Sequence[Picture]]
    ) -> None:
        """It has no tables: report.html and rollouts.jsonl show them."""

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        for place, picture in enumerate(pictures):
            self._guarded(partial(self._add_picture, step, f"gallery/{place:03d}", picture))
        if pictures:
            words = (line for place, picture in enumerate(pictures) for line in (f"{place:03d}", *picture.words(), ""))
            self.log_text("gallery/words", _as_it_is("\n".join(words)), step)

    def log_sign(self, step: int, name: str, text: str) -> None:
        self.log_text(f"signs/{name}", _as_it_is(text), step)

    def log_text(self, name: str, markdown: str, step: int) -> None:
        """A page of the text tab."""
        self._guarded(lambda: self._writer.add_text(name, encodable(markdown), step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.log_text("summary", summary_markdown(summary), summary["steps"])
        self._guarded(self._writer.close)
        self._guarded.end()

    def _add_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _add_picture(self, step: int, name: str, picture: Picture) -> None:
        self._writer.add_image(name, np.asarray(side_by_side(picture)), step, dataformats="HWC")


def side_by_side(picture: Picture) -> Image:
    """The image once with its true boxes and once with those of each answer, from left to right."""
    small = picture.image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    truth = picture.truth

    def drawn(boxes: Sequence[Box], beside: Sequence[str], caption: str) -> Image:
        pixels = convert(boxes, of=picture.frame, to=Frame(*small.size))
        return draw_answer(small, [(x1, y1, x2, y2) for x1, y1, x2, y2 in pixels.tolist()], beside, caption)

    columns = [drawn(truth.boxes, [""] * len(truth.boxes), f"truth: {truth}".rstrip(": "))]
    for name, answer in picture.answers.items():
        if isinstance(answer, Refusal):
            columns.append(drawn((), (), f"{name}: refused, {answer.reason}"))
        else:
            columns.append(drawn(answer.boxes, labels(answer, truth.boxes), f"{name}: {answer}".rstrip(": ")))
    row = new_image("RGB", (sum(column.width for column in columns) + GAP * (len(columns) - 1), columns[0].height), "white")
    for place, column in enumerate(columns):
        row.paste(column, (place * (column.width + GAP), 0))
    return row


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """What `summary.json` says: the scores, the task's metric by class, and the rest as it is."""
    before, after = (summary[f"evaluation_{when}"]["by category"] for when in ("before", "after"))
    classes = [(name, number(before.get(name)), number(value), number(difference(before.get(name), value), "+.2f")) for name, value in after.items()]
    rest = {key: value for key, value in summary.items() if not isinstance(value, Mapping)}
    tables = [_table("score", score_rows(summary)), _table(f"{summary['metric']} of", classes) if classes else ""]
    return "\n\n".join(filter(None, [*tables, _as_it_is(json.dumps(rest, indent=2))]))


def _table(first: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [(first, "before", "after", "change"), ("---", "---:", "---:", "---:"), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _as_it_is(text: str) -> str:
    """Lines that Markdown leaves alone: model text is no Markdown, and no HTML. Long ones are broken, since the page does not."""
    lines = (part for line in text.splitlines() for part in wrap(line, COLUMNS, subsequent_indent="  ", drop_whitespace=False) or [""])
    return "\n".join(f"    {line}".rstrip() for line in lines)
