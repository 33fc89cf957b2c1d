"""What keeps a logger from ending a run: a full disk, a dead network or a bug of its library costs an entry, and one line on stderr."""

import sys
from collections.abc import Callable
from pathlib import Path


class Guard:
    """Guards every call of the logger `name`: the first that fails prints one line with the `remedy`, the others are counted, `end` prints the
    count."""

    def __init__(self, name: str, folder: Path, remedy: str = "") -> None:
        self._name, self._folder, self._remedy = name, folder, remedy
        self._calls = self._lost = 0

    def __call__(self, call: Callable[[], object]) -> None:
        """Makes the call; what it raises is lost."""
        self._calls += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001  # whatever a logger raises must not end days of training
            self._lost += 1
            if self._lost == 1:
                say(self._name, f"{reason(error)}; the run goes on and {self._folder} holds all the same{self._remedy}")

    def end(self) -> None:
        """After the last call."""
        if self._lost:
            # At least: what its background process or thread cannot write, a library may tell nobody.
            say(self._name, f"at least {self._lost} of {self._calls} entries were lost; {self._folder} holds all of them")


def reason(error: Exception) -> str:
    """One line."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def say(name: str, line: str) -> None:
    """On stderr, as the logger `name`."""
    print(f"{name}: {line}", file=sys.stderr, flush=True)


def encodable(text: str) -> str:
    """Half a surrogate pair, which a model can write, is no UTF-8."""
    return text.encode("utf-8", errors="xmlcharrefreplace").decode("utf-8")
