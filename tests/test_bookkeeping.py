"""The benchmark of the bookkeeping runs, and says what it was asked. Nothing here looks at a time.

Run: .venv/bin/python -m pytest tests/test_bookkeeping.py
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bookkeeping


@pytest.mark.slow
def test_both_figures_are_printed_and_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bookkeeping.main(["--size", "tiny", "--json", str(tmp_path)])
    out, err = capfd.readouterr()
    (file,) = tmp_path.iterdir()
    result = json.loads(file.read_text())
    assert file.name.startswith("bookkeeping_synthetic-coco-lvis_") and json.loads(out) == result
    figures = result["figures"]
    assert figures.keys() == bookkeeping.MUSTS.keys() == {"evaluation", "lvis"} and err.count(" load ") == 2
    for figure in figures.values():
        assert figure["seconds"]["median"] > 0 and 0.01 < figure["peak_gb"]["max"] < 1 and figure["met"]["seconds"] and "load" in figure
    assert figures["evaluation"]["questions"] == 30 * 8 and 0 < figures["evaluation"]["refused"] < 30 and 0 < figures["evaluation"]["value"] < 100
    assert sum(figures["evaluation"]["parts"].values()) == pytest.approx(figures["evaluation"]["seconds"]["max"])
    assert (figures["lvis"]["images"], figures["lvis"]["categories"]) == (30, 12) and figures["lvis"]["labels"] > 200
