"""The names of the classes of a data set, and what else each may be called: JSON files, of which some ship with the package.

    {"source": "where they come from", "names": ["pink primrose", …], "aliases": {"pot marigold": "english marigold", …}}

`names` are in the order of the numbers that the data give them. A name or an alias means one class, and every spelling of it is the same
(`parsing.normalised_name`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from visual_rft.frames import Contract
from visual_rft.parsing import normalised_name, parse_classification
from visual_rft.vocabulary import ClassAnswer

EMBEDDED = "embedded:"
FORM = '{"source": "…", "names": ["one", …], "aliases": {"another name": "one", …}}'


@dataclass(frozen=True)
class ClassNames:
    """The classes in the order of their numbers, further names of some, {alias: name}, and where both come from."""

    source: str
    names: tuple[str, ...]
    aliases: Mapping[str, str]


def read_names(where: str) -> ClassNames:
    """The file at a path, or one that ships with the package (`embedded:flowers102`). Raises ValueError for another form, a name that no answer can
    say, or one that means two classes."""
    content = _json(where)
    kinds = {"source": str, "names": list, "aliases": dict}
    if not isinstance(content, dict) or content.keys() != kinds.keys() or not all(isinstance(content[key], kind) for key, kind in kinds.items()):
        raise ValueError(f"{where}: not of the form {FORM}")
    names, aliases = content["names"], content["aliases"]
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not sayable(name):
            raise ValueError(f"{where}: names, number {number}: {name!r:.60} is no name that an answer can say; write another")
    classes = {normalised_name(name): name for name in names}
    if not names or len(classes) < len(names):
        twice = next((name for name in names if classes[normalised_name(name)] != name or names.count(name) > 1), None)
        raise ValueError(f"{where}: {f'{twice!r} is there twice' if names else 'no names'}; write each class once")
    check_aliases(where, names, aliases)
    return ClassNames(content["source"], tuple(names), {alias: classes[normalised_name(name)] for alias, name in aliases.items()})


def check_aliases(place: str, names: Iterable[str], aliases: Mapping[str, Any]) -> None:
    """Raises ValueError, saying `place`, unless each alias means exactly one of the classes, and none is the name of another."""
    classes, meant = {normalised_name(name) for name in names}, dict[str, str]()
    for alias, name in aliases.items():
        of, spelled = normalised_name(str(name)), normalised_name(alias)
        if not isinstance(name, str) or of not in classes:
            raise ValueError(f"{place}: alias {alias!r:.60} is given to {name!r:.60}, which is no class; give it to one of them")
        if not sayable(alias):
            raise ValueError(f"{place}: alias {alias!r:.60} is no name that an answer can say; write another")
        if spelled in classes - {of}:
            raise ValueError(f"{place}: alias {alias!r} of {name!r} is the name of another class; take it out")
        if meant.setdefault(spelled, of) != of:
            raise ValueError(f"{place}: alias {alias!r} is given to two classes; take one out")


def merged(aliases: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Both; where they spell the same name, `aliases` win."""
    own = {normalised_name(alias) for alias in aliases}
    return {alias: name for alias, name in over.items() if normalised_name(alias) not in own} | dict(aliases)


def sayable(name: str) -> bool:
    """Whether an answer can say a name: one line of at most 80 characters."""
    return isinstance(parse_classification(f"<answer>{name}</answer>", Contract(thinking=False)), ClassAnswer)


def _json(where: str) -> Any:
    folder = files("visual_rft") / "assets/names"
    file: Traversable = folder / f"{where.removeprefix(EMBEDDED)}.json" if where.startswith(EMBEDDED) else Path(where).expanduser()
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        shipped = ", ".join(sorted(EMBEDDED + one.name.removesuffix(".json") for one in folder.iterdir()))
        raise ValueError(f"{where}: {error.strerror}; name a file of the form {FORM}, or one of {shipped}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON in UTF-8 ({error}); write {FORM}") from error
