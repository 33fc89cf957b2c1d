"""How every `python -m visual_rft.<name>` starts: Hydra composes conf/, dataclasses check it, and what is wrong is said in one line.

    argv ─ Hydra composes conf/<name>.yaml ─▶ config ─ typed ─▶ every job is right ─ Hydra makes its folder ─▶ run(Job)

A launcher may start it on several ranks, all with the same arguments: they share the folder, and the first one speaks for all.

Exit codes: 0 done · 1 a bug, with its traceback, or a rank that is gone · 2 refused, in one line on stderr · 75 stopped, and saved: the same command
goes on with resume=auto · 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override

from visual_rft.config.jobs import NO_SCHEMAS, Job, Schema, Task, key, keys, typed
from visual_rft.config.ranks import BUG, INTERRUPTED, REFUSED, Ending, attempt, final, is_settled, leave, leave_at_exit, say
from visual_rft.config.refusals import folded, one_line
from visual_rft.distributed import World, join

__all__ = ["Job", "composed", "conf_folder", "keys", "register", "start"]

HYDRA_VERSION = "1.3"  # whose defaults hold: no change of the working directory


def start(
    schema: type[Schema],
    name: str,
    run: Callable[[Job[Schema]], Path | None],
    argv: Sequence[str] | None = None,
    schemas: Mapping[str, type] = NO_SCHEMAS,
    conclude: Callable[[list[Path], bool], None] = lambda *_: None,
) -> int:
    """Compose conf/<name>.yaml with `argv` (default: the command line), check every job, run each; returns the exit code.

    `schema` is a plain dataclass, in Hydra's store as `<name>_schema`; one with `in_ranks = True` may run in several processes. `schemas` are those
    that a YAML of a group may begin with, as `<group>/<name>_schema`. A ValueError, of a `__post_init__` or of `run`, is a refusal: its text is the
    line. Nothing is written before all jobs of a sweep have passed; one that fails later does not stop the others. At the end `conclude` is given, on
    the first rank, the folders of the jobs that succeeded: those that `run` returns, else the jobs' own; and whether they are of a sweep.
    """
    register(schema, name, schemas)
    arguments = list(sys.argv[1:] if argv is None else argv)

    endings: list[Ending] = []

    def main(world: World) -> None:
        if world.size > 1 and not getattr(schema, "in_ranks", False):
            raise ValueError(f"visual_rft.{name} is for one process; start it without a launcher")
        task = Task(schema, list(keys(schema)), run, world.first(datetime.now), world, endings)
        args = _parse(arguments)
        _check_launcher(args, world)
        conf, known = conf_folder(name), _known(schema, schemas, conf_folder(name))
        if not _only_shows(args):
            _check_jobs(schema, known, name, conf, args)
        if not _only_shows(args) or world.is_first:
            with one_line(known, arguments):
                _launch(task, name, conf, args, arguments)
        if _only_shows(args):
            raise SystemExit(0)  # as Hydra does after some of what it shows
        done = [ending.folder for ending in endings if ending.folder]
        if done and world.is_first:
            conclude(done, args.multirun)

    if is_settled():
        return 0
    try:
        with join() as world:
            tell = leave_at_exit() if world.size > 1 else None
            code = final(_code(lambda: main(world), endings, world))
            if tell:
                tell(code)
    except ValueError as error:  # of `join`: everything else is said; another try may find a rank that was late
        print(folded(str(error)), file=sys.stderr)
        return REFUSED
    return code


def _code(main: Callable[[], None], endings: Sequence[Ending], world: World) -> int:
    """The exit code of `main`, and of the jobs that ended in it. Does not return where other ranks no longer answer."""
    try:
        ending = attempt(main, world)
        say(ending)
        code, in_step = ending.code, ending.in_step
    except SystemExit as stop:  # --version, --help
        code, in_step = int(stop.code or 0), True
    except KeyboardInterrupt:
        if world.is_first:
            print("interrupted", file=sys.stderr)
        code, in_step = INTERRUPTED, world.size == 1
    if not in_step:
        leave(final(code, in_step))
    return max([code, *(ending.code for ending in endings)])


def composed(schema: type[Schema], name: str, overrides: Sequence[str] = (), schemas: Mapping[str, type] = NO_SCHEMAS) -> Schema:
    """The checked configuration of conf/<name>.yaml with these keys, as `start` would hand it to a job; nothing is begun or written. Raises
    ValueError with the line that `start` would print."""
    register(schema, name, schemas)
    _refuse_unread(schema, overrides)
    conf, known = conf_folder(name), _known(schema, schemas, conf_folder(name))
    with hydra.initialize_config_dir(str(conf), job_name=name, version_base=HYDRA_VERSION), one_line(known, overrides):
        config = hydra.compose(name, list(overrides))
    return typed(schema, config, known)


def conf_folder(name: str) -> Path:
    """The folder that holds <name>.yaml: conf/ of the checkout, else the copy that an installed package carries."""
    package = Path(__file__).resolve().parents[1]
    checkout, installed = package.parent / "conf", package / "conf"
    return checkout if (checkout / f"{name}.yaml").is_file() else installed


def register(schema: type, name: str, schemas: Mapping[str, type]) -> None:
    """Puts the schemas of an entry into Hydra's store, where the files of conf/ find them."""
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=schema)
    for option, node in schemas.items():
        group, _, kind = option.partition("/")
        store.store(group=group, name=f"{kind}_schema", node=node)


def _check_jobs(schema: type[Schema], known: Sequence[str], name: str, conf: Path, args: Namespace) -> None:
    """Refuse what is wrong while nothing is written yet: Hydra makes the run folder before it hands us the config."""
    with hydra.initialize_config_dir(str(conf), job_name=name, version_base=HYDRA_VERSION):
        with one_line(known, args.overrides):
            jobs = _combinations(args.overrides) if args.multirun else [args.overrides]
        for overrides in jobs:
            _refuse_unread(schema, overrides)
            with one_line(known, overrides):
                composed = hydra.compose(name, overrides + _search_path(args))
            typed(schema, composed, known)


def _refuse_unread(schema: type, overrides: Sequence[str]) -> None:
    """Nobody may type a key that the entry takes in only because files of conf/ name it: such fields are marked `unread`, and a schema lists
    in `unread_keys` what it does not read inside the others."""
    unread = {field.name for field in fields(schema) if field.metadata.get("unread")} | set(getattr(schema, "unread_keys", ()))
    for override in overrides:
        parts = key(override).split(".")
        for name in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            if name in unread:
                raise ValueError(f"{override}: nothing here reads {name}; leave it out")


def _combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep. Continuous ranges are left out: only a sweeper can draw from them."""
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_discrete_sweep() else [str(o.input_line)]
        for o in parsed
        if o.is_discrete_sweep() or not o.is_sweep_override()
    ]
    return [list(job) for job in product(*choices)]


def _parse(arguments: list[str]) -> Namespace:
    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message}; write overrides as key=value, flags before them; --help shows the keys")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args(arguments)
    if args.config_path or args.config_name:
        raise ValueError("--config-path and --config-name are not for use here; --config-dir adds a folder with groups of your own")
    return args


def _only_shows(args: Namespace) -> bool:
    """Whether no job is asked for, but something that Hydra prints."""
    return bool(args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)


def _search_path(args: Namespace) -> list[str]:
    return [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []


def _check_launcher(args: Namespace, world: World) -> None:
    """Launchers that start processes of their own are an extra, run sweeps only, and make the ranks themselves."""
    for override in args.overrides:
        if not override.startswith("hydra/launcher=submitit_"):
            continue
        if not (find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_submitit_launcher")):
            raise ValueError(f"{override}: not installed; pip install hydra-submitit-launcher")
        if not args.multirun:
            raise ValueError(f"{override}: it starts the jobs of a sweep; write -m before the overrides, for a single job too")
        if world.size > 1:
            raise ValueError(f"{override}: it starts the ranks of a job itself; leave out torchrun, srun or what else has started several")


def _launch(task: Task[Schema], name: str, conf: Path, args: Namespace, arguments: list[str]) -> None:
    """Hands the jobs to Hydra, past hydra.main: it composes once more to learn whether this is a sweep, and drops what jobs return; one of another
    process says by that how it ended."""
    if _only_shows(args):
        with _command_line(arguments):
            hydra.main(version_base=HYDRA_VERSION, config_path=str(conf), config_name=name)(task)()
        return
    mode = "MULTIRUN" if args.multirun else "RUN"
    overrides = [*args.overrides, *_search_path(args), f"hydra.mode={mode}"]
    with hydra.initialize_config_dir(str(conf), job_name=name, version_base=HYDRA_VERSION):
        machine = GlobalHydra.instance().hydra
        assert machine is not None
        if not args.multirun:
            machine.run(name, task, overrides)
            return
        try:
            # srun reads the variable: a rank that fails ends the others of its job.
            with env_override({"SLURM_KILL_BAD_EXIT": "1"}):
                batches = machine.multirun(name, task, overrides)
            away = [job.return_value for batch in batches for job in batch]
        except RuntimeError as error:
            if type(error).__module__ != "submitit.core.utils":
                raise
            lost = str(error).splitlines()[0]  # what follows is the whole log
            away = [Ending(BUG, f"{lost}; its log is beside that file; jobs that still run go on")]
    if not task.endings:  # none has run in this process
        for ending in away:
            say(ending, elsewhere=True)
        task.endings.extend(away)


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


def _known(schema: type, schemas: Mapping[str, type], conf: Path) -> list[str]:
    """What may stand left of `=`: the keys of the schema, the groups of conf/, the two folders of Hydra that are ours to document."""
    return [*keys(schema, schemas), *(folder.name for folder in conf.iterdir() if folder.is_dir()), "hydra.run.dir", "hydra.sweep.dir"]
