"""Where a run is shown beside its folder: one small interface, and what `logger=none`, `logger=wandb` and `logger=tensorboard` choose behind it.

A logger never stops a run: what it cannot write or send it loses, with one line of warning. The run folder holds the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from visual_rft.tracking.pictures import Picture
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.vocabulary import Example

NOT_IN_A_PROJECT = r"/\#?%:"


@dataclass
class LoggerOptions:
    """`report_images` test questions are drawn in the report and shown in the logger's gallery."""

    report_images: int

    def __post_init__(self) -> None:
        if self.report_images < 0:
            raise ValueError(f"logger.report_images={self.report_images}: must be 0 or a number of images")


@dataclass
class WandbOptions(LoggerOptions):
    """The run appears in `project`, beside those of the same `group` (null: of its sweep, if it is of one), with its rollouts every `rollouts_every`
    steps (0: never): all of them in a table, `rollout_images` groups of them on their images."""

    project: str
    group: str | None
    rollouts_every: int
    rollout_images: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.project) <= 128 or set(self.project) & set(NOT_IN_A_PROJECT):
            raise ValueError(f"logger.project={self.project}: must be a name of 1..128 characters, none of them one of {NOT_IN_A_PROJECT}")
        if self.rollouts_every < 0:
            raise ValueError(f"logger.rollouts_every={self.rollouts_every}: must be 0 (never) or a number of steps")
        if self.rollout_images < 0:
            raise ValueError(f"logger.rollout_images={self.rollout_images}: must be 0 or a number of images")


@dataclass
class TensorBoardOptions(LoggerOptions):
    """The run's files for TensorBoard lie in its folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not find_spec("tensorboard"):
            raise ValueError("logger=tensorboard: tensorboard is not installed; install the tensorboard extra, or pip install tensorboard")


# What a YAML of conf/logger may begin with, beside LoggerOptions itself.
SCHEMAS: dict[str, type] = {"logger/wandb": WandbOptions, "logger/tensorboard": TensorBoardOptions}


@dataclass(frozen=True)
class Shown:
    """A run as a logger shows it: its name, how it learns, the folder's name of the sweep that it is a job of (None: of none), and what it was
    started with: the resolved configuration, and the environment with the fingerprints of the data and the revision of the code."""

    name: str
    method: str
    sweep: str | None
    config: Mapping[str, Any]


class Logger(Protocol):
    """What a run tells a logger. Steps count from 0, before the first update, and never go back."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step's numbers, by their names in the run folder."""

    def log_rollouts(
        self, step: int, records: Sequence[Mapping[str, Any]], asked: Sequence[Example], pictures: Callable[[int], Sequence[Picture]]
    ) -> None:
        """The step's completions, as `runfolder.rollout_records` makes them; what each group was asked; and so many of the groups on their images,
        which are opened when they are asked for."""

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        """The same questions in the same order each time, so that a picture can be followed over steps."""

    def log_sign(self, step: int, name: str, text: str) -> None:
        """What looks wrong since this step, and what to do about it."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over: what `summary.json` says. Nothing may be logged after it."""


class NoLogger:
    """Shows nothing: the console and the run folder are enough."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def log_rollouts(
        self, step: int, records: Sequence[Mapping[str, Any]], asked: Sequence[Example], pictures: Callable[[int], Sequence[Picture]]
    ) -> None:
        pass

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        pass

    def log_sign(self, step: int, name: str, text: str) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


class Unbroken:
    """Hands all on to another logger. A reason to refuse that a step does not have is 0 from the step that first had it: else its curve would end
    there, or be drawn straight to where it comes again. `earlier` are the steps that the run has taken before."""

    def __init__(self, logger: Logger, earlier: Sequence[Mapping[str, float]]) -> None:
        self._logger, self._zeros = logger, dict.fromkeys([name for line in earlier for name in line if name.startswith("refused/")], 0.0)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._logger.log_metrics(step, {**self._zeros, **metrics})
        self._zeros |= {name: 0.0 for name in metrics if name.startswith("refused/")}

    def log_rollouts(
        self, step: int, records: Sequence[Mapping[str, Any]], asked: Sequence[Example], pictures: Callable[[int], Sequence[Picture]]
    ) -> None:
        self._logger.log_rollouts(step, records, asked, pictures)

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        self._logger.log_gallery(step, pictures)

    def log_sign(self, step: int, name: str, text: str) -> None:
        self._logger.log_sign(step, name, text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._logger.finish(summary)


def open_logger(options: LoggerOptions, *, folder: Path, shown: Shown) -> Logger:
    """The logger that the options ask for. It writes its files under the run's `folder`, and goes on where the run is gone on with."""
    earlier = RunFolder(folder).metrics()
    logger: Logger | None = None
    # Imported here: each takes a second, and only who asks for it waits.
    if isinstance(options, WandbOptions):
        from visual_rft.tracking import wandb_logger

        where = wandb_logger.Where(options.project, options.group or shown.sweep, shown.name, shown.method)
        logger = wandb_logger.open_wandb(where, options.rollouts_every, options.rollout_images, folder=folder, config=shown.config)
    elif isinstance(options, TensorBoardOptions):
        from visual_rft.tracking import tensorboard_logger

        logger = tensorboard_logger.open_tensorboard(folder, earlier[-1]["step"] + 1 if earlier else 0, shown.config)
    return Unbroken(logger, earlier) if logger else NoLogger()
