"""One job: its checked configuration, its folder, and how it is run, in this process or in those that a launcher of Hydra starts for it."""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast, get_args, get_type_hints

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visual_rft.config.ranks import GO_ON, REFUSED, Ending, attempt, final, leave, leave_at_exit, say
from visual_rft.config.refusals import WRITABLE, describe, no_such_key
from visual_rft.distributed import World, join

OWN_GROUPS = ("command-line", "hydra.searchpath in command-line")  # how Hydra calls what --config-dir adds, to a run and to a sweep

NO_SCHEMAS: Mapping[str, type] = MappingProxyType({})

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Job(Generic[Schema]):
    """What one run is given: its checked config, the same resolved in plain values and as YAML, its folder (made, absolute), the keys that were
    typed on the command line, the ranks that run it, the folder's name of the sweep that it is a job of (None: of none), and the command line that
    makes the same elsewhere."""

    config: Schema
    plain: dict[str, Any]
    yaml: str
    folder: Path
    typed: tuple[str, ...]
    world: World = field(default_factory=World)
    sweep: str | None = None
    command: str = ""


@dataclass
class Task(Generic[Schema]):
    """What Hydra calls for every job, in this process or, unpickled, in those of a launcher; `known` are the keys of `schema`.

    An exception would end a batch of the sweep, and make Hydra print two more lines: how the job ended is what the call returns.
    """

    schema: type[Schema]
    known: Sequence[str]
    run: Callable[[Job[Schema]], Path | None]
    started: datetime
    world: World
    endings: list[Ending] = field(default_factory=list)  # of the jobs that ran in this process
    begun: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        started, resolve = self.started, OmegaConf.register_new_resolver
        resolve("started", lambda pattern: started.strftime(pattern), replace=True)  # one time for all ranks and jobs
        resolve("file_name", _file_name, replace=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Away, (self.schema, self.known, self.run, self.started, World())

    def __call__(self, composed: DictConfig) -> Ending:
        ending = self.end(composed, self.world)
        self.endings.append(ending)
        if not ending.in_step:
            leave(final(ending.code, in_step=False))
        if ending.code == GO_ON and _is_swept():
            raise SystemExit(GO_ON)  # Hydra would begin the next job
        return ending

    def end(self, composed: DictConfig, world: World) -> Ending:
        """Runs a job, and says what there is to say of its end."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        ending = attempt(lambda: self.run(self._job(composed, folder, world)) or folder, world, _label(folder), folder)
        say(ending)
        if ending.code == REFUSED and world.is_first:
            self._remove_if_ours(folder)
        return ending

    def _job(self, composed: DictConfig, folder: Path, world: World) -> Job[Schema]:
        context = HydraConfig.get()
        if folder != Path(context.runtime.cwd):  # an entry whose hydra.run.dir is `.` writes nothing
            _try_to_write(folder)
        config = typed(self.schema, composed, self.known)
        node = OmegaConf.structured(config)
        plain = cast(dict[str, Any], OmegaConf.to_container(node, enum_to_str=True))
        keys_typed = tuple(key(override) for override in context.overrides.task)
        sweep = Path(context.sweep.dir).name if _is_swept() else None
        return Job(config, plain, OmegaConf.to_yaml(node), folder, keys_typed, world, sweep, _command(context))

    def _remove_if_ours(self, folder: Path) -> None:
        """Hydra makes the folder before the job can refuse; an empty one that is younger than this process goes again."""
        with suppress(OSError):
            if folder != Path.cwd() and folder.stat().st_mtime >= self.begun - 0.01:  # file systems keep coarser clocks
                folder.rmdir()


class _Away(Task[Schema]):
    """The same in a process that submitit started, where the ranks of a job meet. What is said goes to that process's log, and home in the ending."""

    def __call__(self, composed: DictConfig) -> Ending:
        ended: list[Ending] = []

        def meet() -> None:
            _name_ranks()
            with join() as world:
                tell = leave_at_exit()  # when submitit has sent the ending home
                ended.append(self.end(composed, world))
                tell(0 if ended[0].in_step else ended[0].code)
                if not ended[0].in_step:
                    raise _OutOfStepError

        with suppress(_OutOfStepError):
            met = attempt(meet, World())
            say(met)
            ended.append(met)
        return ended[0]


class _OutOfStepError(BaseException):
    """Leaves `join` without a farewell to ranks that no longer answer."""


def _name_ranks() -> None:
    """torchrun's variables, of what submitit says: it gives every rank all devices of its machine, as torchrun does."""
    from submitit.helpers import TorchDistributedEnvironment  # there, since it has started this process

    if "RANK" not in os.environ:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def keys(schema: type, schemas: Mapping[str, type] = NO_SCHEMAS, prefix: str = "") -> dict[str, type]:
    """Every dotted key of a schema, those of its groups' own `schemas` included, and the dataclass that declares it."""
    found: dict[str, type] = {}
    hints = get_type_hints(schema)
    for part in fields(schema):
        found[prefix + part.name] = schema
        declared = [hints[part.name], *get_args(hints[part.name])]
        chosen = [] if prefix else [given for name, given in schemas.items() if name.partition("/")[0] == part.name]
        for inner in (*declared, *chosen):
            if is_dataclass(inner):
                found |= keys(cast(type, inner), NO_SCHEMAS, f"{prefix}{part.name}.")
    return found


def key(override: str) -> str:
    """What stands left of `=`."""
    return re.split(r"[=@]", override.lstrip("+~"))[0]


def typed(schema: type[Schema], composed: DictConfig, known: Sequence[str]) -> Schema:
    """The dataclass instance, with its own `__post_init__` checks done."""
    try:
        for stranger in _strangers(composed):
            raise ValueError(no_such_key(stranger, known))
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        if isinstance(error, TypeError):  # OmegaConf's wrapping of one that a `__post_init__` raised: a bug of ours
            raise
        raise ValueError(describe(error, known)) from error
    assert isinstance(config, schema), f"the defaults list must begin with the schema of {schema.__name__}"
    return config


def _strangers(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted keys that no dataclass declares. `+key=value` adds them to a typed node without a word."""
    schema = OmegaConf.get_type(node)
    declared = {field.name for field in fields(schema)} if is_dataclass(schema) else set(node)
    for key in map(str, node):
        if key not in declared:
            yield prefix + key
        elif not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
            yield from _strangers(node[key], f"{prefix}{key}.")


def _command(context: HydraConf) -> str:
    """What to type to do this job again, in a folder of its own: a job of a sweep alone, one that was gone on with from its beginning."""
    own = [f"--config-dir={source.path}" for source in context.runtime.config_sources if source.provider in OWN_GROUPS]
    said = [override for override in context.overrides.task if key(override) != "resume"]
    return shlex.join(["python", "-m", f"visual_rft.{context.job.config_name}", *own, *said])


def _try_to_write(folder: Path) -> None:
    """Hydra only makes the folder; one that was there may be read-only, which should not come out after the first hour."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; {WRITABLE}") from error


def _label(folder: Path) -> str:
    """Which job of a sweep a line is about."""
    return f"{folder.name}: " if _is_swept() else ""


def _is_swept() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _file_name(text: str) -> str:
    """Overrides as part of a folder's name that can be typed: `model.path=/a/b,seed=1` is one folder, without `=` and `,`, which Hydra would read."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"))[:120]
