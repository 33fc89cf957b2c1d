"""The notebooks are kept without outputs, and do what they say. Run: .venv/bin/python -m pytest tests/test_notebooks.py, and with -m slow each of
them, from its first cell to its last.
"""

import re
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
stripped = runpy.run_path(str(ROOT / "notebooks" / "strip.py"))["stripped"]


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_four() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["inspect_rollouts", "quickstart", "rewards", "your_own_data"]


@every
def test_it_is_kept_without_outputs(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text == stripped(text), f"{file.name} holds what a run or an editor left in it; strip it with: make notebooks"
    notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and all(re.fullmatch(r"[a-z0-9-]+", cell.id) for cell in notebook.cells)


def test_stripping_leaves_the_cells_alone() -> None:
    cells = [nbformat.v4.new_markdown_cell("a", id="a"), nbformat.v4.new_code_cell("b", id="b")]
    text = stripped(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    cells[1].outputs, cells[1].execution_count = [nbformat.v4.new_output("stream", text="seen")], 3
    cells[0].metadata["collapsed"] = True
    run = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python", "version": "3.11.7"}, "widgets": {}})
    assert stripped(nbformat.writes(run)) == text == stripped(text)
    assert [(cell.id, cell.source) for cell in nbformat.reads(text, as_version=4).cells] == [("a", "a"), ("b", "b")]
    assert "python notebooks/strip.py" in (ROOT / "Makefile").read_text().partition("\nnotebooks:")[2].partition("\n\n")[0]


@every
def test_it_names_no_place_of_a_machine(file: Path) -> None:
    found = re.findall(r"/(?:home|root|work|tmp|Users|mnt|content)/[\w./]*", file.read_text())
    assert not found


@every
def test_it_is_short_and_every_cell_is_told_about(file: Path) -> None:
    cells = nbformat.read(file, as_version=4).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown" and all({*pair} == {"code", "markdown"} for pair in pairwise(kinds))
    assert len(cells) < 30 and all(len(cell.source) < (700 if cell.cell_type == "markdown" else 2000) for cell in cells)


# --- as a person runs them ---


def run(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The executed notebook, in an empty folder that is also where temporary files go."""
    for name, value in {"HF_HUB_OFFLINE": "1", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    here = folder / "here"
    here.mkdir()
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", timeout=900, coalesce_streams=True, resources={"metadata": {"path": str(here)}})
    client.execute()  # raises where a cell does
    assert not re.search("Traceback|Warning", printed(notebook, "stderr"))
    assert not list(here.iterdir()), "writes where it was started"
    return notebook


def printed(notebook: Any, stream: str) -> str:
    return "".join(output.text for cell in code(notebook) for output in cell.outputs if output.output_type == "stream" and output.name == stream)


def shown(cell: Any, kind: str = "text/html") -> str:
    """What a cell shows, as text."""
    (text,) = [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]
    return str(text)


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def cell_with(notebook: Any, text: str) -> Any:
    """The only cell whose source has it."""
    (cell,) = [cell for cell in code(notebook) if text in cell.source]
    return cell


def improved(notebook: Any, metric: str = "AP") -> bool:
    """Whether the table of a training says so."""
    (row,) = re.findall(rf"^{metric} +(\S+) +(\S+) ", printed(notebook, "stdout"), re.MULTILINE)
    return float(row[0]) < float(row[1])


def every_cell_shows_something(notebook: Any) -> bool:
    """But for the first, which imports."""
    return all(cell.outputs for cell in code(notebook)[1:])


@pytest.mark.slow
def test_the_quickstart_ends_with_a_better_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(ROOT / "notebooks" / "quickstart.ipynb", tmp_path, monkeypatch)
    assert improved(notebook) and every_cell_shows_something(notebook)
    assert [line.split("  ")[0] for line in printed(notebook, "stderr").splitlines()] == ["evaluate before", "evaluate after", "step 10/10"]
    assert "before" in shown(cell_with(notebook, "by category"))
    assert pictures(cell_with(notebook, "compare=")) == 2 and shown(cell_with(notebook, "notebook.curves")).count("data-chart=") == 4
    (report,) = tmp_path.glob("visual_rft_*/run/report.html")
    assert len(shown(cell_with(notebook, "notebook.report"))) > report.stat().st_size


@pytest.mark.slow
def test_rewards_are_broken_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(ROOT / "notebooks" / "rewards.ipynb", tmp_path, monkeypatch)
    assert every_cell_shows_something(notebook) and not printed(notebook, "stderr")
    assert re.search(r"^right and sure .* 3\.00?$", shown(cell_with(notebook, '"right and sure"'), "text/plain"), re.MULTILINE)
    shares = [int(share) for share in re.findall(r">(\d+)%<", shown(cell_with(notebook, "cheats = [")))]
    paper, strict = shares[::2], shares[1::2]
    assert len(paper) == 8 and sum(share >= 100 for share in paper) == 7 and max(strict) < 100
    doubt = shown(cell_with(notebook, "on_average"))
    best = re.findall(r"#T_\w+_row(\d)_col(\d)", doubt.partition("</style>")[0])
    assert best == [("0", "5"), ("1", "3")], "paper pays most for 1.0, strict for 0.6"
    reasons = shown(cell_with(notebook, "refusals ="), "text/plain")
    assert "bad_confidence" in reasons and "nan" not in reasons.lower()
    assert "thoughtful" in shown(cell_with(notebook, "def thoughtful"), "text/plain")


@pytest.mark.slow
def test_a_run_that_cheats_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(ROOT / "notebooks" / "inspect_rollouts.ipynb", tmp_path, monkeypatch)
    assert every_cell_shows_something(notebook)
    assert "as cheating does" in printed(notebook, "stderr") and "more_boxes, since step" in printed(notebook, "stdout")
    groups = [shown(cell_with(notebook, f"{which} = groups")) for which in ("absent", "present")]
    assert all(group.count("&lt;article&gt;") == 8 for group in groups)
    assert "rect class=&quot;truth&quot;" in groups[1] and "rect class=&quot;truth&quot;" not in groups[0]
    (file,) = tmp_path.glob("visual_rft_*/run/rollouts.jsonl")
    assert len(file.read_text().splitlines()) == 20 * 16 * 8
    kinds = re.findall(r"(boxes|No Objects) +\d+ +(\S+) +(\S+)$", shown(cell_with(notebook, "judged = []"), "text/plain"), re.MULTILINE)
    honest, cheat = (next(map(float, paid) for said, *paid in kinds if said == which) for which in ("No Objects", "boxes"))  # where there is none
    assert [left < right for left, right in zip(honest, cheat, strict=True)] == [True, False], "paper pays the cheat more, strict less"
    assert "inverted_box" in shown(cell_with(notebook, "crosstab"), "text/plain")


@pytest.mark.slow
def test_twenty_images_become_a_better_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(ROOT / "notebooks" / "your_own_data.ipynb", tmp_path, monkeypatch)
    assert improved(notebook) and every_cell_shows_something(notebook)
    said = printed(notebook, "stdout")
    assert re.search(r"^problem: .*007\.png", said, re.MULTILINE) and "train: 20 images" in said
    assert pictures(cell_with(notebook, "compare=")) == 3
