"""The wheel, elsewhere: every file of the package is in it, and it runs. Run: .venv/bin/python -m pytest -m "" tests/test_packaging.py"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
SOURCES = ("visual_rft", "conf", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SMALL = ["steps=1", "prompts_per_step=2", "data.test_images=8"]

Command = Callable[..., subprocess.CompletedProcess[str]]


def shipped(folder: str, package: str) -> set[str]:
    """Every file of a folder of the checkout, by its name in the wheel, where the folder is called `package`."""
    found = (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {f"{package}/{p.relative_to(ROOT / folder).as_posix()}" for p in found}


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed(setup: ConfigParser) -> None:
    packages = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in (ROOT / "visual_rft").rglob("__init__.py")}
    assert set(setup["options"]["packages"].split()) == packages | {"visual_rft.conf"}


@pytest.mark.parametrize("folder, package", [("visual_rft", "visual_rft"), ("conf", "visual_rft.conf")])
def test_every_data_file_is_matched_by_a_pattern(folder: str, package: str, setup: ConfigParser) -> None:
    patterns = setup["options.package_data"][package].split()
    matched = {p for pattern in patterns for p in (ROOT / folder).glob(pattern)}
    assert {p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")} == matched != set()


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build/ beside what it builds, and puts what it finds there into the next wheel."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        whole = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        whole(ROOT / name, copy / name)
    pip("wheel", str(copy), "--no-deps", *offline(), "--wheel-dir", str(dist))
    (built,) = dist.glob("*.whl")
    return built


def offline() -> list[str]:
    """What spares pip the download of the setuptools that pyproject.toml asks for, where it is installed already."""
    try:
        return ["--no-build-isolation", "--no-index"] if int(version("setuptools").partition(".")[0]) >= 77 else []
    except PackageNotFoundError:
        return []


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`python …` in an empty folder, with the wheel's package before that of the checkout."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=work, env=environment, input=stdin, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    found = Path(run("-c", "import visual_rft; print(visual_rft.__file__)").stdout.strip())
    assert found == site / "visual_rft" / "__init__.py"
    return run


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_settings_its_checkpoint_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == shipped("visual_rft", "visual_rft") | shipped("conf", "visual_rft/conf")


@pytest.mark.slow
@pytest.mark.parametrize("less", [SMALL, ["steps=1"]], ids=["small", "default"])
def test_it_trains_from_a_folder_outside_the_checkout(less: list[str], run: Command, tmp_path: Path) -> None:
    done = run("-m", "visual_rft.train", *less, f"hydra.run.dir={tmp_path}")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["task"], summary["model"], summary["steps"]) == ("fsod_digits", "tiny", 1)
    assert json.loads((tmp_path / "environment.json").read_text())["git"] is None
    assert done.stdout.startswith("fsod_digits, tiny, ") and list((tmp_path / "checkpoints" / "step_000001").glob("*.safetensors"))


@pytest.mark.slow
def test_it_shows_its_configuration(run: Command) -> None:
    shown = OmegaConf.create(run("-m", "visual_rft.train", "--cfg", "job").stdout)
    assert (shown.task.name, shown.model.path, shown.steps) == ("fsod_digits", "embedded:tiny", 40)


@pytest.mark.slow
def test_it_scores(run: Command) -> None:
    box = "[{'Position': [100, 100, 300, 300], 'Confidence': 1}]"
    line = json.dumps({"completion": f"<think>here</think><answer>{box}</answer>", "solution": box})
    assert json.loads(run("-m", "visual_rft.score", "completions=-", stdin=line).stdout)["rewards"]["iou"] == 1
