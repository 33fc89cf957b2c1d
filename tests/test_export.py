"""A run becomes a folder that stock classes load, and that answers as the run did. Run: .venv/bin/python -m pytest tests/test_export.py"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from visual_rft.evaluate import main as evaluate
from visual_rft.export import main as export
from visual_rft.models.loading import FAMILY
from visual_rft.train import main as train

QUESTIONS = ["data.test_images=6", "hardware.threads=1"]
SMALL = [*QUESTIONS, "steps=2", "prompts_per_step=2", "algorithm.group_size=4", "task.shots=1", "logger.report_images=0", "model.learning_rate=1e-3"]
PRECISIONS = {"float32": [], "bfloat16": ["hardware.precision=bfloat16", "hardware.logprob_tolerance=0.5"]}


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(precision) / "run"
    assert train([*SMALL, *PRECISIONS[precision], f"hydra.run.dir={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    out = trained.parent / "there" / "model"
    assert export([f"run={trained}", f"out={out}"]) == 0
    return out


def test_it_answers_as_the_run_did(precision: str, trained: Path, exported: Path, tmp_path: Path) -> None:
    assert evaluate([*QUESTIONS, *PRECISIONS[precision][:1], f"model.path={exported}", f"hydra.run.dir={tmp_path}"]) == 0
    summary = json.loads((trained / "summary.json").read_text())
    assert (tmp_path / "answers_evaluation.jsonl").read_bytes() == (trained / "answers_after.jsonl").read_bytes()
    assert json.loads((tmp_path / "summary.json").read_text())["value"] == summary["after"]
    assert (trained / "answers_before.jsonl").read_bytes() != (trained / "answers_after.jsonl").read_bytes(), "and it has learned something"


def test_stock_classes_load_it(precision: str, exported: Path) -> None:
    model, info = AutoModelForImageTextToText.from_pretrained(exported, dtype="auto", output_loading_info=True)
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration" and model.dtype == getattr(torch, precision)
    assert not any(info.values()), info
    assert model.config.text_config.use_cache, "a server that reads it keeps its keys and values"
    tokenizer, images = AutoTokenizer.from_pretrained(exported), AutoImageProcessor.from_pretrained(exported)
    assert tokenizer.chat_template and images.size == {"shortest_edge": 4096, "longest_edge": 4096}
    assert GenerationConfig.from_pretrained(exported).eos_token_id == tokenizer.eos_token_id
    said = json.loads((exported / "preprocessor_config.json").read_text())
    # by these two names a stock AutoProcessor finds the classes where torchvision is
    assert said["processor_class"] == FAMILY[model.config.model_type].processor and said["image_processor_type"] == "Qwen2VLImageProcessor"
    assert {"is_local", "local_files_only"}.isdisjoint(json.loads((exported / "tokenizer_config.json").read_text()))


@pytest.mark.parametrize("model_type", FAMILY)
def test_each_family_names_the_stock_processor_of_transformers(model_type: str) -> None:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    assert PROCESSOR_MAPPING_NAMES[model_type] == FAMILY[model_type].processor


@pytest.mark.parametrize("there", ["a file in it", "a file"])
def test_what_is_there_is_left_alone(there: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    if there == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()
    assert export([f"run={trained}", f"out={out}"]) == 2
    assert capfd.readouterr().err == f"out={out}: there is something; name a folder that is empty, or not there yet\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert export([f"run={trained}", f"out={tmp_path}"]) == 0
    out, err = capfd.readouterr()
    assert out == f"{trained}/checkpoints/step_000002 -> {tmp_path}\n" and not err
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("key", ["run", "out"])
def test_a_key_that_is_missing_is_named(key: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {"run": f"run={trained}", "out": f"out={tmp_path / 'out'}"}
    assert export([text for name, text in given.items() if name != key]) == 2
    assert key in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export([f"run={tmp_path}", f"out={tmp_path / 'out'}"]) == 2
    assert capfd.readouterr().err.startswith(f"run={tmp_path}: no checkpoint in it; ") and not (tmp_path / "out").exists()
