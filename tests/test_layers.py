"""The plan of the house: an import goes only to a lower floor, and the lower floors run on a bare GPU machine.

    pytest tests/test_layers.py

A room is a module or package directly under `visual_rft`. Nothing is imported here: the sources are read by `ast`.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "visual_rft"
FLOORS = (
    {"vocabulary", "frames", "images"},
    {"boxes", "parsing", "rewards", "advantages", "losses", "metrics", "seeding"},
    {"distributed"},
    {"class_names", "config", "hardware", "storage"},
    {"models", "rollout", "tasks", "sources", "tracking"},
    {"algorithm", "checkpoint", "inference", "lessons", "masking", "measurements", "optimizer", "policies", "resuming", "workload"},
    {"learner", "evaluation", "inspection", "looking", "revisiting"},
    {"loop"},
    {"trainer", "supervised", "journal"},
    {"running"},
)
ENTRIES = len(FLOORS)  # the roof: every other module that can be run, imported by nobody
NEIGHBOURS = {0, 1}  # floors whose rooms may import each other: examples hold images, rewards read boxes and answers

BARE = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL", "scipy"} | sys.stdlib_module_names
BARE_ROOMS = FLOORS[0] | FLOORS[1] | {"distributed", "hardware", "storage", "models", "rollout"}
IMPURE = {"logging", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile"}  # the standard library's that floors 0 and 1 do without
MORE = {"metrics": {"pycocotools"}}
WITHIN_FUNCTIONS = {"models": {"flash_attn", "huggingface_hub"}, "metrics": {"faster_coco_eval"}}  # taken where it is installed and asked for


def sources(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """Of each module under the package folder `root`: its dotted name, its package (what relative imports start from) and its tree."""
    for path in sorted(root.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        package, name = parts[:-1], parts[:-1] if parts[-1] == "__init__" else parts
        yield ".".join(name), ".".join(package), ast.parse(path.read_text(), str(path))


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, those inside functions too; `from a import b` is a.b, be b a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def within_functions(tree: ast.Module) -> set[int]:
    """The lines of imports that only a call runs."""
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {node.lineno for function in functions for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))}


def room_of(name: str) -> str | None:
    """The room that a dotted name lies in: None for the bare package, whose `__init__` is empty."""
    return name.split(".")[1] if "." in name else None


def is_runnable(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def floors_of(root: Path) -> tuple[dict[str, int], list[str]]:
    """The floor of every room, and a complaint for each that has none."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    complaints = []
    for name, _, tree in sources(root):
        room = room_of(name)
        if room is None or room in floors:
            continue
        if name == f"{PACKAGE}.{room}" and is_runnable(tree):
            floors[room] = ENTRIES
        else:
            complaints.append(f"{name} has no floor: give its room one in FLOORS, or, if it is an entry, `if __name__ == '__main__'`")
    return floors, complaints


def upward_imports(root: Path) -> list[str]:
    """Every import that does not go to a lower floor, and every room without a floor."""
    floors, complaints = floors_of(root)
    for name, package, tree in sources(root):
        for line, target in imported(tree, package):
            if target.split(".")[0] != PACKAGE:
                continue
            here, there = room_of(name), room_of(target)
            if here is None:
                complaints.append(f"{name}:{line} imports {target}: this `__init__` stays empty")
            elif here == there or there is None or here not in floors:
                continue
            elif there not in floors:
                complaints.append(f"{name}:{line} imports {target}, which has no floor")
            elif floors[there] > floors[here] or (floors[there] == floors[here] and floors[here] not in NEIGHBOURS):
                complaints.append(f"{name}:{line} (floor {floors[here]}) imports {target} (floor {floors[there]})")
    return complaints


def foreign_imports(root: Path) -> list[str]:
    """Every import in a bare room of a library that a bare GPU machine lacks, or of a room that may need one; in a pure room, of files and logs."""
    complaints = []
    for name, package, tree in sources(root):
        room = room_of(name)
        if room not in BARE_ROOMS:
            continue
        late = within_functions(tree)
        for line, target in imported(tree, package):
            library = target.split(".")[0]
            more = MORE.get(room, set()) | (WITHIN_FUNCTIONS.get(room, set()) if line in late else set())
            allowed = (BARE | more) - (IMPURE if room in FLOORS[0] | FLOORS[1] else set())
            bare = room_of(target) in BARE_ROOMS | {None} if library == PACKAGE else library in allowed
            if not bare:
                complaints.append(f"{name}:{line} imports {target}, which a bare GPU machine or a pure room lacks")
    return complaints


HERE = Path(__file__).parents[1] / PACKAGE


def test_the_house_is_found() -> None:
    assert {"visual_rft.vocabulary", "visual_rft.losses", "visual_rft.models"} <= {name for name, _, _ in sources(HERE)}


def test_imports_go_to_a_lower_floor() -> None:
    complaints = upward_imports(HERE)
    assert not complaints, "\n".join(complaints)


def test_lower_floors_run_on_a_bare_machine() -> None:
    complaints = foreign_imports(HERE)
    assert not complaints, "\n".join(complaints)


def house(root: Path, modules: dict[str, str]) -> Path:
    """A package folder of these modules (path -> text), beside a vocabulary and an entry."""
    standing = {"__init__.py": "", "vocabulary.py": "import torch", "train.py": "if __name__ == '__main__':\n    pass"}
    for path, text in (standing | modules).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_well_built_house_is_accepted(tmp_path: Path) -> None:
    root = house(
        tmp_path,
        {
            "boxes.py": "from visual_rft.vocabulary import Box\nimport numpy.linalg",
            "rewards/strict.py": "from visual_rft import boxes\nfrom ..parsing import parse\nfrom .paper import score",
            "rewards/paper.py": "from .. import vocabulary",
            "parsing.py": "import re",
            "metrics/ap.py": "from pycocotools.coco import COCO",
            "tasks/a.py": "from visual_rft.rewards.strict import x\nimport sklearn",
            "trainer.py": "from .tasks.a import x\nimport visual_rft.models.policy",
            "models/policy.py": "import torch.nn\n\ndef f():\n    from flash_attn import g",
            "evaluate.py": "from visual_rft.trainer import f\nif __name__ == '__main__':\n    f()",
        },
    )
    assert upward_imports(root) == []
    assert foreign_imports(root) == []


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("boxes.py", "import visual_rft.trainer", "visual_rft.boxes:1 (floor 1) imports visual_rft.trainer (floor 8)"),
        ("boxes.py", "def f():\n    from . import config", "visual_rft.boxes:2 (floor 1) imports visual_rft.config (floor 3)"),
        ("vocabulary.py", "from .boxes import iou", "visual_rft.vocabulary:1 (floor 0) imports visual_rft.boxes.iou (floor 1)"),
        ("tasks/a.py", "from visual_rft.sources import digits", "visual_rft.tasks.a:1 (floor 4) imports visual_rft.sources.digits (floor 4)"),
        ("tasks/a.py", "from ..sources.digits import x", "visual_rft.tasks.a:1 (floor 4) imports visual_rft.sources.digits.x (floor 4)"),
        ("models/deep/a.py", "from ... import rollout", "visual_rft.models.deep.a:1 (floor 4) imports visual_rft.rollout (floor 4)"),
        ("config.py", "from visual_rft import hardware", "visual_rft.config:1 (floor 3) imports visual_rft.hardware (floor 3)"),
        ("trainer.py", "from visual_rft.train import main", "visual_rft.trainer:1 (floor 8) imports visual_rft.train.main (floor 10)"),
        (
            "export.py",
            "from .train import main\nif __name__ == '__main__':\n    main()",
            "visual_rft.export:1 (floor 10) imports visual_rft.train.main (floor 10)",
        ),
        ("boxes.py", "from visual_rft import nowhere", "visual_rft.boxes:1 imports visual_rft.nowhere, which has no floor"),
        ("__init__.py", "from visual_rft import boxes", "visual_rft:1 imports visual_rft.boxes: this `__init__` stays empty"),
        ("models/__init__.py", "from ..tracking import x", "visual_rft.models:1 (floor 4) imports visual_rft.tracking.x (floor 4)"),
    ],
)
def test_an_upward_import_is_reported(tmp_path: Path, module: str, text: str, complaint: str) -> None:
    assert upward_imports(house(tmp_path, {module: text})) == [complaint]


@pytest.mark.parametrize("module", ["helpers.py", "helpers/a.py", "helpers/__init__.py", "helpers/__main__.py"])
def test_a_room_without_a_floor_is_reported(tmp_path: Path, module: str) -> None:
    (complaint,) = upward_imports(house(tmp_path, {module: "X = 1"}))
    assert "visual_rft.helpers" in complaint
    assert "has no floor: give its room one" in complaint


@pytest.mark.parametrize(
    ("module", "text", "reported"),
    [
        ("losses.py", "import hydra", "hydra"),
        ("models/a.py", "def f():\n    from sklearn.datasets import load_digits", "sklearn.datasets.load_digits"),
        ("rollout/a.py", "import vllm.engine", "vllm.engine"),
        ("models/a.py", "def f():\n    pass\n\nimport flash_attn", "flash_attn"),
        ("rollout/a.py", "def f():\n    import flash_attn", "flash_attn"),
        ("rewards/a.py", "from pycocotools.coco import COCO", "pycocotools.coco.COCO"),
        ("vocabulary.py", "import torchvision", "torchvision"),
        ("parsing.py", "import logging", "logging"),
        ("metrics/a.py", "from pathlib import Path", "pathlib.Path"),
        ("models/a.py", "from ..config import typed", "visual_rft.config.typed"),
    ],
)
def test_a_foreign_import_is_reported(tmp_path: Path, module: str, text: str, reported: str) -> None:
    (complaint,) = foreign_imports(house(tmp_path, {module: text}))
    assert f"imports {reported}, which a bare GPU machine or a pure room lacks" in complaint
