"""Which run `resume=auto` goes on with, and from which of its checkpoints."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

STATE = "trainer.pt"  # beside the weights of a checkpoint that a run can go on from


class Resume(StrEnum):
    """What a run does with one that was interrupted."""

    never = "never"
    auto = "auto"  # goes on with it, and with nothing new begins where there is none


def find_run(folder: Path, config_yaml: str) -> Path | None:
    """The run in `folder`, else the newest one beside it with the same configuration, unfinished ones first; None where there is none.

    Raises ValueError when `folder` holds a run of another configuration.
    """
    wanted = _configuration(config_yaml)
    if (folder / "config.yaml").exists():
        held = _configuration((folder / "config.yaml").read_text())
        differing = [key for key in wanted if held.get(key) != wanted[key]] + [key for key in held if key not in wanted]
        if differing:
            remedy = "resume with the configuration it began with, or choose another hydra.run.dir"
            raise ValueError(f"{folder} holds a run of another configuration ({', '.join(differing)}); {remedy}")
        return folder
    beside = [path for path in folder.parent.iterdir() if path != folder and (path / "config.yaml").is_file()]
    same = [path for path in beside if _configuration((path / "config.yaml").read_text()) == wanted]
    return max(same, key=lambda path: (not is_finished(path), (path / "config.yaml").stat().st_mtime), default=None)


def is_finished(folder: Path) -> bool:
    """Whether a run has written its outcome."""
    return (folder / "summary.json").exists()


def newest_state(folder: Path) -> Path | None:
    """The latest checkpoint of a run that it can go on from."""
    return max((path.parent for path in (folder / "checkpoints").glob(f"step_*/{STATE}")), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The steps that were done when a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step_"))


def _configuration(text: str) -> dict[str, Any]:
    """A resolved configuration by its top-level keys, `resume` apart; empty for what is none."""
    try:
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError):
        return {}
    return {str(key): value for key, value in config.items() if key != "resume"} if isinstance(config, dict) else {}
