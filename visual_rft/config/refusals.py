"""What Hydra, OmegaConf and the file system raise, as one line that names the key, file or folder and the remedy."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

WRITABLE = "name a folder that can be written, hydra.run.dir=… (a sweep's: hydra.sweep.dir=…)"


@contextmanager
def one_line(known: Sequence[str], overrides: Sequence[str]) -> Iterator[None]:
    """Around Hydra's own work, where whatever is raised is about an override, a file of conf/ or the run folder."""
    try:
        yield
    except Exception as error:  # Hydra, OmegaConf and YAML share no other base
        nameless = isinstance(error, ValueError)  # Hydra's own exceptions name the override; those of Python do not
        raise ValueError((f"{' '.join(overrides)}: " if nameless else "") + describe(error, known)) from error


def describe(error: BaseException, known: Sequence[str]) -> str:
    """Whatever was raised while a configuration was composed, as a line."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override; write key=value ({error.message.partition('See http')[0]})"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: no such option; there is {', '.join(o for o in error.options if not o.endswith('_schema'))}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; {WRITABLE}"
    if twice := re.match(r"Multiple values for (\S+)\.", str(error)):
        return f"{twice[1]}: already in the defaults list; write {twice[1]}=… without +"
    file = re.match(r"In '([^']+)'", str(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return (f"{file[1]}.yaml: " if file else "") + _describe_key(cause, known)
        cause = cause.__cause__ or cause.__context__
    return str(error)


def _describe_key(error: OmegaConfBaseException, known: Sequence[str]) -> str:
    key = str(error.full_key)
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return f"{key}: no such key yet; +{key}=… adds it" if error.object_type is dict else no_such_key(key, known)
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: must be given, {key}=…"
    return f"{key}: {str(error.msg).splitlines()[0]}"


def no_such_key(key: str, known: Sequence[str]) -> str:
    """The remedy for a key that is not there. The same last word elsewhere is a better guess than the same letters: `shots` means `task.shots`."""
    if key in known:
        group, _, leaf = key.partition(".")
        return f"{key}: this choice of {group} has no {leaf}; leave it out, or choose another {group}=…"
    leaf = key.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == leaf] or get_close_matches(key, known, n=1)
    return f"{key}: no such key" + (f"; did you mean {' or '.join(near)}?" if near else "; --help shows the keys")


def folded(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())
