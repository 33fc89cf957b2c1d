"""docs/stand_in_grounding.py, for the tests: ReasonSeg, RefCOCO and SAM in miniature."""

import importlib.util
from pathlib import Path
from types import ModuleType


def stand_in() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("stand_in_grounding", Path(__file__).parents[1] / "docs/stand_in_grounding.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
