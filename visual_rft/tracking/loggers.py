"""Where a run is shown beside its folder: one small interface, and what `logger=none` and `logger=wandb` choose behind it.

A logger never stops a run: what it cannot write or send it loses, with one line of warning. The run folder holds the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from visual_rft.tracking.pictures import Picture

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
    """The run appears in `project`, beside those of the same `group` (null: alone), with its rollouts every `rollouts_every` steps (0: never)."""

    project: str
    group: str | None
    rollouts_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.project) <= 128 or set(self.project) & set(NOT_IN_A_PROJECT):
            raise ValueError(f"logger.project={self.project}: must be a name of 1..128 characters, none of them one of {NOT_IN_A_PROJECT}")
        if self.rollouts_every < 0:
            raise ValueError(f"logger.rollouts_every={self.rollouts_every}: must be 0 (never) or a number of steps")


SCHEMAS: dict[str, type] = {"logger/wandb": WandbOptions}  # what a YAML of conf/logger may begin with, beside LoggerOptions itself


class Logger(Protocol):
    """What a run tells a logger. Steps count from 0, before the first update, and never go back."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step's numbers, by their names in the run folder."""

    def log_rollouts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """The step's completions, as `runfolder.rollout_records` makes them."""

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        """The same questions in the same order each time, so that a picture can be followed over steps."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over: what `summary.json` says. Nothing may be logged after it."""


class NoLogger:
    """Shows nothing: the console and the run folder are enough."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def log_rollouts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        pass

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


def open_logger(options: LoggerOptions, *, folder: Path, name: str, config: Mapping[str, Any]) -> Logger:
    """The logger that the options ask for. It shows the run as `name` with its resolved `config`, and writes its files under the run's `folder`."""
    if isinstance(options, WandbOptions):
        from visual_rft.tracking import wandb_logger  # takes a second: only who asks for it waits

        shown = (options.project, options.group, options.rollouts_every)
        return wandb_logger.open_wandb(*shown, folder=folder, name=name, config=config) or NoLogger()
    return NoLogger()
