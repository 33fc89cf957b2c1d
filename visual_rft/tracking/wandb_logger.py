"""Weights & Biases as a `Logger`: offline by itself where no key is configured, and never a reason for a run to stop or to wait long.

A workspace makes a section of all that has the same word before the slash: the names of the metrics are the layout, the same for every run and
project. A saved workspace or report would need a library of its own (wandb-workspaces) and a server to be saved on, for no more than that.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import wandb

from visual_rft.tracking import wandb_media
from visual_rft.tracking._guard import Guard, reason, say
from visual_rft.tracking.pictures import Picture
from visual_rft.vocabulary import Example

INIT_SECONDS = 20.0  # to reach the server when the run starts; after it the run is offline
FINISH_SECONDS = 120.0  # to send what is left when the run ends; after it the rest stays on disk
# Worth a column in the table of runs beside the last value; the others have that alone.
LAST_AND_MAX = ("eval/", "reward/mean", "rollout/trainer_logprob_gap", "policy/grad_norm", "memory/peak_gb")


@dataclass(frozen=True)
class Where:
    """Where a run appears: in its project, among those of its group, under its name; `job_type` is how it learns."""

    project: str
    group: str | None
    name: str
    job_type: str


def open_wandb(where: Where, rollouts_every: int, rollout_images: int, *, folder: Path, config: Mapping[str, Any]) -> "WandbLogger | None":
    """A run in `<folder>/wandb/`: online if a key is configured and the server answers, else offline, else None; one line on stderr says which.

    One that was interrupted goes on under its id. The user's own choice, WANDB_MODE or `wandb offline`, comes first.
    """
    logging.raiseExceptions = False  # on a full disk every line of wandb's own log would print a traceback
    settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True)

    earlier = _earlier_id(folder)

    def begin(mode: Literal["offline"] | None) -> WandbLogger:
        run = wandb.init(
            project=where.project,
            group=where.group and where.group[:128],
            job_type=where.job_type,
            name=where.name[:128],
            config=dict(config),
            dir=str(folder),
            id=earlier,
            resume="allow" if earlier and not mode else None,  # offline, the id alone does it when the run is sent
            mode=mode,
            settings=settings,
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return WandbLogger(run, folder, rollouts_every, rollout_images)

    try:
        why_offline = _why_offline(settings)
        logger = begin("offline" if why_offline else None)
    except Exception as error:  # noqa: BLE001  # whatever wandb, its service or the network raises, the run must start
        why_offline = reason(error)
        try:
            logger = begin("offline")
        except Exception as worse:  # noqa: BLE001  # as above
            say("wandb", f"cannot start ({reason(worse)}), so nothing is logged to it; {folder} holds all the same")
            return None
    if why_offline:
        say("wandb", f"{why_offline}: this run is logged offline; send it later with: {logger.sync}")
    elif logger.url:
        say("wandb", f"this run is shown at {logger.url}")
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
    """Shows a run as a section a metric's first word, all over `step`."""

    def __init__(self, run: wandb.Run, folder: Path, rollouts_every: int, rollout_images: int) -> None:
        mine = Path(run.dir).parent
        # Offline, each interruption leaves a part of the run in a folder of its own: all of them are sent, in order.
        self.url, self.sync = run.url, f"wandb sync {quote(str(mine if run.url else mine.parent))}"
        self._run, self._rollouts_every, self._rollout_images = run, rollouts_every, rollout_images
        self._begins = run.starting_step  # of what the server has of a run that was interrupted
        self._defined: set[str] = set()
        self._guarded = Guard("wandb", folder, f"; with disk and network in order: {self.sync}")

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._guarded(lambda: self._log_step(step, metrics, is_last=True))

    def log_rollouts(
        self, step: int, records: Sequence[Mapping[str, Any]], asked: Sequence[Example], pictures: Callable[[int], Sequence[Picture]]
    ) -> None:
        if records and self._rollouts_every and step % self._rollouts_every == 0:
            self._guarded(lambda: self._log_step(step, {"rollouts/table": wandb_media.rollouts_table(step, records, asked)}))
            self._guarded(lambda: self._log_step(step, _panels("rollouts/group", pictures(self._rollout_images))))

    def log_gallery(self, step: int, pictures: Sequence[Picture]) -> None:
        self._guarded(lambda: self._run.log({"step": step} | _panels("gallery/", pictures)))

    def log_sign(self, step: int, name: str, text: str) -> None:
        """An alert, which goes where the user has told wandb to send them; and, for the table of runs, a line of the summary."""
        self._guarded(lambda: self._run.alert(f"{name} at step {step}", text, level="WARN"))
        self._guarded(lambda: self._run.summary.update({f"signs/{name}": f"step {step}: {text}"}))

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._guarded(lambda: self._log_classes(summary))
        self._guarded(lambda: self._run.summary.update(dict(summary)))
        self._guarded(self._run.finish)
        self._guarded.end()

    def _log_step(self, step: int, row: Mapping[str, Any], *, is_last: bool = False) -> None:
        """One row a step, whole with what is logged of it last. Those that the server has of a run that is gone on with, wandb would refuse, each
        with a line of warning."""
        if step < self._begins:
            return
        for name in row:
            # By name: for a pattern wandb reduces the tables that it fits as well, which then cannot be shown.
            if name.startswith(LAST_AND_MAX) and name not in self._defined:
                self._run.define_metric(name, step_metric="step", summary="last,max")
                self._defined.add(name)
        self._run.log({"step": step, **row}, step=step, commit=is_last)

    def _log_classes(self, summary: Mapping[str, Any]) -> None:
        table, metric = wandb_media.classes_table(summary), summary["metric"]
        if table:
            bars = wandb.plot.bar(table, "class", "after", title=f"{metric} by class, after {summary['steps']} steps")
            self._run.log({"step": summary["steps"], "classes/table": table, "classes/bars": bars})


def _panels(name: str, pictures: Sequence[Picture]) -> dict[str, wandb.Image]:
    """A panel a picture: a list of images under one key is shown wrongly where their sizes differ."""
    return {f"{name}{number:03d}": wandb_media.image(picture) for number, picture in enumerate(pictures)}
