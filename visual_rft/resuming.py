"""Which run `resume=auto` goes on with."""

import fcntl
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

GOING_ON = "its run is still going on; wait for its end, or choose another hydra.run.dir"


class Resume(StrEnum):
    """What a run does with one that was interrupted."""

    never = "never"
    auto = "auto"  # goes on with it, and with nothing new begins where there is none


def find_run(folder: Path, config_yaml: str) -> Path | None:
    """The run in `folder`, else the newest one beside it that has the same configuration and was interrupted; None where there is none.

    Raises ValueError when `folder` holds a run of another configuration, or one that is still going on.
    """
    wanted = _configuration(config_yaml)
    if _config_of(folder):
        if is_running(folder):
            raise ValueError(f"{folder}: {GOING_ON}")
        held = _configuration(_config_of(folder))
        differing = [key for key in wanted if held.get(key) != wanted[key]] + [key for key in held if key not in wanted]
        if differing:
            remedy = "resume with the configuration it began with, or choose another hydra.run.dir"
            raise ValueError(f"{folder} holds a run of another configuration ({', '.join(differing)}); {remedy}")
        return folder
    same = [path for path in folder.parent.iterdir() if path != folder and _configuration(_config_of(path)) == wanted]
    interrupted = [path for path in same if not is_finished(path) and not is_running(path)]
    return max(interrupted, key=lambda path: (path / "config.yaml").stat().st_mtime, default=None)


def is_finished(folder: Path) -> bool:
    """Whether a run has written its outcome."""
    return (folder / "summary.json").exists()


def is_running(folder: Path) -> bool:
    """Whether a living process holds the run (`hold`)."""
    with (folder / "config.yaml").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks cannot say
            return False
    return False


def hold(folder: Path) -> BinaryIO:
    """Mark the run as going on for as long as the returned file is open; the system lets go of it however the process ends.

    Raises ValueError when another process holds it.
    """
    file = (folder / "config.yaml").open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"{folder}: {GOING_ON}") from error
    except OSError:  # a file system without locks
        pass
    return file


def instead(made: Path, folder: Path) -> Path:
    """`folder`, and without the empty one that Hydra made for this job."""
    if made not in (folder, Path.cwd()):
        with suppress(OSError):  # something is in it, so it is the user's
            made.rmdir()
    return folder


def _config_of(folder: Path) -> str:
    """The text of a run's configuration; empty where there is none, or a run ended before it was written."""
    try:
        return (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _configuration(text: str) -> dict[str, Any]:
    """A resolved configuration by its top-level keys, `resume` apart; empty for what is none."""
    try:
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError, AssertionError):
        return {}
    return {str(key): value for key, value in config.items() if key != "resume"} if isinstance(config, dict) else {}
