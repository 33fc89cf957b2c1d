"""How every `python -m visual_rft.<name>` starts: Hydra composes conf/, dataclasses check it, and what is wrong is said in one line.

    argv ─ Hydra composes conf/<name>.yaml ─▶ config ─ typed ─▶ every job is right ─ Hydra makes its folder ─▶ run(Job)

Exit codes: 0 done · 1 a bug, with its traceback · 2 refused, in one line on stderr · 130 interrupted.
"""

import errno
import logging
import re
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar, cast, get_args, get_type_hints

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visual_rft.config.refusals import WRITABLE, describe, folded, no_such_key, one_line

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what no program can foresee
HYDRA_VERSION = "1.3"  # whose defaults hold: no change of the working directory

NO_SCHEMAS: Mapping[str, type] = MappingProxyType({})

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Job(Generic[Schema]):
    """What one run is given: its checked config, the same resolved in plain values and as YAML, its folder (made, absolute), and the keys that
    were typed on the command line."""

    config: Schema
    plain: dict[str, Any]
    yaml: str
    folder: Path
    typed: tuple[str, ...]


def start(
    schema: type[Schema],
    name: str,
    run: Callable[[Job[Schema]], Path | None],
    argv: Sequence[str] | None = None,
    schemas: Mapping[str, type] = NO_SCHEMAS,
    conclude: Callable[[list[Path], bool], None] = lambda *_: None,
) -> int:
    """Compose conf/<name>.yaml with `argv` (default: the command line), check every job, run each; returns the exit code.

    `schema` is a plain dataclass, in Hydra's store as `<name>_schema`; `schemas` are those that a YAML of a group may begin with, as
    `<group>/<name>_schema`. A ValueError, of a `__post_init__` or of `run`, is a refusal: its text is the line. Nothing is written before all jobs
    of a sweep have passed; one that fails later does not stop the others. At the end `conclude` is given the folders of the jobs that succeeded:
    those that `run` returns, else the jobs' own; and whether they are of a sweep.
    """
    register(schema, name, schemas)
    OmegaConf.register_new_resolver("started", datetime.now().strftime, replace=True)
    OmegaConf.register_new_resolver("file_name", _file_name, replace=True)
    arguments = list(sys.argv[1:] if argv is None else argv)
    codes: list[int] = []
    done: list[Path] = []
    begun = time.time()

    def job(composed: DictConfig) -> None:
        # An exception would end a batch of the sweep, and make Hydra print two more lines.
        folder = Path(HydraConfig.get().runtime.output_dir)
        codes.append(_exit_code(lambda: done.append(run(_job(schema, composed)) or folder), _label(), folder))
        if codes[-1] == 2:
            _remove_if_ours(folder, begun)

    def hydra_main() -> None:
        conf = conf_folder(name)
        known = _known(schema, schemas, conf)
        args = _parse(arguments)
        _check_jobs(schema, known, name, conf, args)
        with one_line(known, arguments), _command_line(arguments):
            hydra.main(version_base=HYDRA_VERSION, config_path=str(conf), config_name=name)(job)()
        if done:
            conclude(done, args.multirun)

    try:
        codes.append(_exit_code(hydra_main))
    except SystemExit as stop:  # --version, --help
        codes.append(int(stop.code or 0))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        codes.append(130)
    return max(codes)


def conf_folder(name: str) -> Path:
    """The folder that holds <name>.yaml: conf/ of the checkout, else the copy that an installed package carries."""
    package = Path(__file__).resolve().parents[1]
    checkout, installed = package.parent / "conf", package / "conf"
    return checkout if (checkout / f"{name}.yaml").is_file() else installed


def keys(schema: type, schemas: Mapping[str, type] = NO_SCHEMAS, prefix: str = "") -> dict[str, type]:
    """Every dotted key of a schema, those of its groups' own `schemas` included, and the dataclass that declares it."""
    found: dict[str, type] = {}
    hints = get_type_hints(schema)
    for field in fields(schema):
        found[prefix + field.name] = schema
        declared = [hints[field.name], *get_args(hints[field.name])]
        chosen = [] if prefix else [given for name, given in schemas.items() if name.partition("/")[0] == field.name]
        for inner in (*declared, *chosen):
            if is_dataclass(inner):
                found |= keys(cast(type, inner), NO_SCHEMAS, f"{prefix}{field.name}.")
    return found


def register(schema: type, name: str, schemas: Mapping[str, type]) -> None:
    """Puts the schemas of an entry into Hydra's store, where the files of conf/ find them."""
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=schema)
    for option, node in schemas.items():
        group, _, kind = option.partition("/")
        store.store(group=group, name=f"{kind}_schema", node=node)


def _check_jobs(schema: type[Schema], known: Sequence[str], name: str, conf: Path, args: Namespace) -> None:
    """Refuse what is wrong while nothing is written yet: Hydra makes the run folder before it hands us the config."""
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return
    mine = [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []
    with hydra.initialize_config_dir(str(conf), job_name=name, version_base=HYDRA_VERSION):
        with one_line(known, args.overrides):
            jobs = _combinations(args.overrides) if args.multirun else [args.overrides]
        for overrides in jobs:
            _refuse_unread(schema, overrides)
            with one_line(known, overrides):
                composed = hydra.compose(name, overrides + mine)
            _typed(schema, composed, known)


def _refuse_unread(schema: type, overrides: Sequence[str]) -> None:
    """Nobody may type a key that the entry takes in only because files of conf/ name it: such fields are marked `unread`, and a schema lists
    in `unread_keys` what it does not read inside the others."""
    unread = {field.name for field in fields(schema) if field.metadata.get("unread")} | set(getattr(schema, "unread_keys", ()))
    for override in overrides:
        key = _key(override)
        for name in (key.partition(".")[0], key):
            if name in unread:
                raise ValueError(f"{override}: nothing here reads {name}; leave it out")


def _key(override: str) -> str:
    """What stands left of `=`."""
    return re.split(r"[=@]", override.lstrip("+~"))[0]


def _combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep. Continuous ranges are left out: only a sweeper can draw from them."""
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_discrete_sweep() else [str(o.input_line)]
        for o in parsed
        if o.is_discrete_sweep() or not o.is_sweep_override()
    ]
    return [list(job) for job in product(*choices)]


def _job(schema: type[Schema], composed: DictConfig) -> Job[Schema]:
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    if folder != Path(context.runtime.cwd):  # an entry whose hydra.run.dir is `.` writes nothing
        _try_to_write(folder)
    config = _typed(schema, composed, list(keys(schema)))
    node = OmegaConf.structured(config)
    plain = cast(dict[str, Any], OmegaConf.to_container(node, enum_to_str=True))
    return Job(config, plain, OmegaConf.to_yaml(node), folder, tuple(_key(override) for override in context.overrides.task))


def _try_to_write(folder: Path) -> None:
    """Hydra only makes the folder; one that was there may be read-only, which should not come out after the first hour."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; {WRITABLE}") from error


def _typed(schema: type[Schema], composed: DictConfig, known: Sequence[str]) -> Schema:
    """The dataclass instance, with its own `__post_init__` checks done."""
    try:
        for key in _strangers(composed):
            raise ValueError(no_such_key(key, known))
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


def _parse(arguments: list[str]) -> Namespace:
    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message}; write overrides as key=value, flags before them; --help shows the keys")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args(arguments)
    if args.config_path or args.config_name:
        raise ValueError("--config-path and --config-name are not for use here; --config-dir adds a folder with groups of your own")
    return args


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """hydra.main reads nothing but sys.argv, and prints errors itself unless asked for all of them."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        with env_override({"HYDRA_FULL_ERROR": "1"}):
            yield
    finally:
        sys.argv = before


def _exit_code(action: Callable[[], None], label: str = "", folder: Path = Path()) -> int:
    try:
        action()
    except ValueError as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true: the place is wanted too
            traceback.print_exc()
        print(label + folded(str(error)), file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001  # the traceback is printed, and the other jobs of a sweep go on
        if not isinstance(error, OSError) or error.errno not in DISK:
            print(label + traceback.format_exc(), file=sys.stderr)
            return 1
        print(f"{label}{error.filename or folder}: {error.strerror}; make room, or {WRITABLE}; what was written is kept", file=sys.stderr)
        return 2
    return 0


def _remove_if_ours(folder: Path, begun: float) -> None:
    """Hydra makes the folder before the job can refuse; an empty one that is younger than this process goes again."""
    with suppress(OSError):
        if folder != Path.cwd() and folder.stat().st_mtime >= begun - 0.01:  # file systems keep coarser clocks
            folder.rmdir()


def _label() -> str:
    """Which job of a sweep a line is about."""
    context = HydraConfig.get()
    return f"{Path(context.runtime.output_dir).name}: " if context.mode == RunMode.MULTIRUN else ""


def _known(schema: type, schemas: Mapping[str, type], conf: Path) -> list[str]:
    """What may stand left of `=`: the keys of the schema, the groups of conf/, the two folders of Hydra that are ours to document."""
    return [*keys(schema, schemas), *(folder.name for folder in conf.iterdir() if folder.is_dir()), "hydra.run.dir", "hydra.sweep.dir"]


def _file_name(text: str) -> str:
    """Overrides as part of a folder's name that can be typed: `model.path=/a/b,seed=1` is one folder, without `=` and `,`, which Hydra would read."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"))[:120]
