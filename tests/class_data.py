"""The stand-ins of the classification sets (docs/stand_in_classes.py), for the tests that read and train on them."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of each data set its folder in the stand-in.
FOLDERS = {"flowers102": "flowers-102", "pets37": "oxford-iiit-pet", "aircraft": "fgvc-aircraft-2013b", "cars196": "stanford_cars"}


def write(root: Path) -> Path:
    spec = importlib.util.spec_from_file_location("stand_in_classes", ROOT / "docs/stand_in_classes.py")
    assert spec is not None and spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    stand_in.write(root)
    return root
