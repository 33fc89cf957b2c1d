"""README and docs/ do what they say. Run: .venv/bin/python -m pytest tests/test_docs.py, and with -m slow each document as a user types it.

Fences: `sh` is run; `text`, right after it, is what it prints; `console` is shown and not run, being too long or not for here; one without a
name is a figure; `{toctree}` lists pages of the site (docs/conf.py).
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from visual_rft import config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```([\w{}]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<!\w)[-+−]?\d+(\.\d+)?(e[-+]?\d+)?(?!\w)")
FOLDERS = re.compile(r"(?<!\S)/(?:[^\s/]+/)+")  # of an absolute path, all but its name
BEGIN = "---- block"


def blocks(text: str) -> list[tuple[str, str]]:
    """(command, expected output) of every `sh` block of a document; without a `text` block behind it any output will do."""
    found: list[tuple[str, str]] = []
    end = 0
    for block in BLOCK.finditer(text):
        kind, body = block.groups()
        assert kind in ("", "sh", "console", "text", "{toctree}"), f"```{kind}: not a fence that these tests know"
        if kind == "text":
            assert found and not text[end : block.start()].strip(), f"no sh block stands right before the output {body!r}"
            found[-1] = (found[-1][0], body)
        if kind == "sh":
            found.append((body, ""))
        end = block.end() if kind == "sh" else 0
    return found


def plain(line: str) -> str:
    """A line without what differs between machines and moments: numbers, where a folder lies, the widths of columns."""
    return " ".join(NUMBER.sub("0", FOLDERS.sub("/", line)).split())


def missing(expected: str, printed: str) -> str | None:
    """The first line of `expected` that `printed` does not have behind those before it; … stands for anything."""
    lines = iter(plain(line) for line in printed.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(re.escape(piece) for piece in plain(line).split("…")))
        if line.strip() != "…" and not any(pattern.fullmatch(one) for one in lines):
            return line
    return None


def invocations(text: str, kinds: Collection[str] = ("sh", "console")) -> Iterator[tuple[str, list[str]]]:
    """(entry, arguments) of every `python -m visual_rft.<entry>` that a document shows in such fences, but for those that it expects to fail, with
    ||."""
    shown = "".join(block[2] for block in BLOCK.finditer(text) if block[1] in kinds)
    for line in shown.replace("\\\n", " ").splitlines():
        if "python -m visual_rft." not in line or "||" in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        begin = words.index("-m") + 1
        end = next((i for i in range(begin, len(words)) if not set(words[i]).difference("|<>&;")), len(words))
        yield words[begin].removeprefix("visual_rft."), words[begin + 1 : end]


@pytest.mark.slow
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks(path.read_text())], ids=lambda path: path.name)
def test_every_command_runs_and_prints_what_is_shown(document: Path, tmp_path: Path) -> None:
    for folder in ("docs", "launch"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shown = blocks(document.read_text())
    script = "set -euo pipefail\n" + "".join(f"echo '{BEGIN}'\n{command}" for command, _ in shown)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONUNBUFFERED"] = "1"  # both streams in the order that a terminal shows
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    (tmp_path / "printed.txt").write_text(done.stdout)
    printed = done.stdout.split(f"{BEGIN}\n")[1:]
    assert done.returncode == 0, f"exit code {done.returncode}:\n{shown[len(printed) - 1][0]}{printed[-1]}"
    for (command, expected), output in zip(shown, printed, strict=True):
        assert missing(expected, output) is None, f"{missing(expected, output)!r} is not what this prints:\n{command}{output}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_not_run_composes(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of the README, on every commit. Its entry takes every key and value; in the order of the page, since one command names the folder
    that another makes. Of the numbers of a sweep the first stands for all. Jobs are checked, and no more than their folders is made."""
    monkeypatch.chdir(tmp_path)

    def launch(*given: Any) -> None:
        for argument in given[-1]:
            if argument.startswith(("hydra.run.dir=", "hydra.sweep.dir=")):
                Path(argument.partition("=")[2]).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(config, "_launch", launch)
    for entry, arguments in invocations(document.read_text(), ("sh", "console") if document.name == "README.md" else ("console",)):
        shortened = [re.sub(r"^([\w.]+=\d+)(,\d+)+$", r"\1", argument) for argument in arguments]
        assert importlib.import_module(f"visual_rft.{entry}").main(shortened) == 0, f"{entry} {shlex.join(arguments)}"


def test_every_entry_is_shown() -> None:
    entries = {path.stem for path in (ROOT / "visual_rft").glob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert entries == {entry for entry, _ in invocations((ROOT / "docs/commands.md").read_text())}


OUTPUT = "step 1/2  reward 0.53  3 s elapsed\n        before  after\nAP        7.17  26.21\nAP50     45.78  59.34\nrun folder: /x1/runs/first\n"


@pytest.mark.parametrize(
    "expected",
    [
        "",
        OUTPUT,
        "     before  after\nAP     100.00   0.00\n",
        "AP  -1 2e-05\n…\nrun folder: /home/me/runs/first",
        "step 7/9  … elapsed\nrun folder: …",
    ],
)
def test_shown_output_may_differ_in_numbers_places_and_widths(expected: str) -> None:
    assert missing(expected, OUTPUT) is None


@pytest.mark.parametrize(
    ("expected", "absent"),
    [
        ("AP75  0.00  14.94", "AP75  0.00  14.94"),  # another name
        ("AP  7.17  26.21  +19.04", "AP  7.17  26.21  +19.04"),  # a number too many
        ("AP  7.17  -", "AP  7.17  -"),  # no number
        ("AP  7.17  26.21\n  before  after", "  before  after"),  # another order
        ("AP  7.17  26.21\nAP  7.17  26.21", "AP  7.17  26.21"),  # once shown, once printed
        ("…\nrun folder: /a/runs/second", "run folder: /a/runs/second"),  # another name of the folder
        ("before", "before"),  # a part of a line
        ("step 1/2 … gone", "step 1/2 … gone"),
    ],
)
def test_shown_output_may_differ_in_nothing_else(expected: str, absent: str) -> None:
    assert missing(expected, OUTPUT) == absent


def test_blocks_and_invocations_by_hand() -> None:
    first = "python -m visual_rft.train -m seed=0,1 \\\n  task.shots=2  # a sweep\n"
    second = "cat > x <<'END'\nit's\nEND\npython -m visual_rft.score completions=x | python -m json.tool\npython -m visual_rft.score || echo $?\n"
    page = f"# Page\n```\na figure\n```\n```sh\n{first}```\n\n```text\nout\n```\nand\n```console\nmake\n```\n```sh\n{second}```\n"
    assert blocks(page) == [(first, "out\n"), (second, "")]
    assert list(invocations(page)) == [("train", ["-m", "seed=0,1", "task.shots=2"]), ("score", ["completions=x"])]


@pytest.mark.parametrize(
    "page",
    ["```bash\nls\n```\n", "```text\nout\n```\n", "```sh\nls\n```\nprints\n```text\nout\n```\n", "```sh\nls\n```\n```\n```\n```text\nout\n```\n"],
)
def test_a_block_that_would_not_be_checked_is_refused(page: str) -> None:
    with pytest.raises(AssertionError):
        blocks(page)
