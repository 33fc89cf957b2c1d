"""The demo as it is documented, whole: minutes. Run: .venv/bin/python -m pytest -m slow tests/test_demo.py"""

import json
from pathlib import Path

import pytest

from visual_rft.train import main


@pytest.mark.slow
def test_the_demo_gains_ten_points_and_its_control_none(tmp_path: Path) -> None:
    gains = {}
    for name, overrides in {"demo": [], "control": ["experiment=control"]}.items():
        assert main([*overrides, f"hydra.run.dir={tmp_path / name}"]) == 0
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        gains[name] = summary["after"] - summary["before"]
        assert summary["evaluation_before"]["well-formed"] >= 95
    assert gains["demo"] >= 10
    assert gains["control"] < gains["demo"] / 4
