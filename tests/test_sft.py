"""`python -m visual_rft.sft` as a user meets it: pytest tests/test_sft.py"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
import torch
from folders import tensors_in
from knobs import unread_keys
from omegaconf import DictConfig, OmegaConf

from visual_rft import evaluate, export, predict, report, train, workload
from visual_rft.config import conf_folder, keys, register
from visual_rft.sft import SftConfig, SftOptions, main
from visual_rft.supervised import SupervisedStep, Tutor
from visual_rft.tasks.meant import GRPO
from visual_rft.tracking.loggers import SCHEMAS as LOGGER_SCHEMAS

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[1]
SCHEMAS = workload.SCHEMAS | LOGGER_SCHEMAS
DATA = ["task.shots=1", "data.train_images=80", "data.test_images=4", "logger.report_images=2"]
SMALL = [*DATA, "steps=4", "prompts_per_step=3", "checkpoint.every=2"]
UNREPEATABLE = ("time/", "throughput/", "memory/")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with reasoning, one without, and one of GRPO."""
    folder = tmp_path_factory.mktemp("study")
    assert main([*SMALL, f"hydra.run.dir={folder / 'label'}"]) == 0
    assert main([*SMALL, "reasoning=none", f"hydra.run.dir={folder / 'none'}"]) == 0
    assert train.main([*SMALL, "algorithm.group_size=2", f"hydra.run.dir={folder / 'grpo'}"]) == 0
    return folder


def lines(file: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(UNREPEATABLE)} for line in file.read_text().splitlines()]


def test_its_folder_is_that_of_a_run_with_labels_for_rollouts(study: Path) -> None:
    names = {name: {path.name for path in (study / name).iterdir()} for name in ("label", "grpo")}
    assert names["label"] - names["grpo"] == {"labels.json"} and names["grpo"] - names["label"] == {"rollouts.jsonl"}
    summaries = {name: json.loads((study / name / "summary.json").read_text()) for name in ("label", "grpo")}
    assert list(summaries["label"]) == list(summaries["grpo"])
    assert [summaries[name]["method"] for name in ("label", "grpo")] == ["sft", "grpo"]
    environments = [json.loads((study / name / "environment.json").read_text())["data"] for name in ("label", "grpo")]
    assert set(environments[0]) == {"train", "test", "labels"} and environments[0].items() >= environments[1].items()
    assert (study / "label/split.json").read_bytes() == (study / "grpo/split.json").read_bytes()
    assert "loss/nll" in (study / "label/report.html").read_text()


def test_without_reasoning_nothing_is_asked_to_think(study: Path) -> None:
    labels = [json.loads((study / name / "labels.json").read_text()) for name in ("label", "none")]
    assert labels[0].keys() == labels[1].keys()
    assert all("<think>" in text for text in labels[0].values()) and not any("think" in text for text in labels[1].values())
    assert OmegaConf.load(study / "none/config.yaml").task.thinking is False
    composed_task = OmegaConf.to_object(composed("reasoning=none", *DATA))
    examples = workload.train_examples(composed_task.task, composed_task.data, evaluate._in_thousandths)
    exam = workload.test_exam(composed_task.task, composed_task.data, evaluate._in_thousandths)
    assert not any("think" in one.question or one.contract.thinking for one in (*examples, *exam.questions))


def test_they_stand_side_by_side(study: Path, capfd: Captured, tmp_path: Path) -> None:
    assert report.main([f"runs={study}", f"out={tmp_path / 'page.html'}"]) == 0
    rows = capfd.readouterr().out.splitlines()[1:4]
    assert {row.split("  ")[0] for row in rows} == {"method=grpo reasoning=-", "method=sft reasoning=label", "method=sft reasoning=none"}
    assert "loss/nll" in (tmp_path / "page.html").read_text()


def test_what_it_made_is_evaluated_exported_and_asked(study: Path, capfd: Captured, tmp_path: Path) -> None:
    run = study / "none"
    asked = ["data.test_images=4", f"run={run}", f"hydra.run.dir={tmp_path / 'e'}"]
    assert evaluate.main(asked) == 2
    assert f"run={run}: it was trained with task.thinking=false" in capfd.readouterr().err
    assert evaluate.main([*asked, "task.thinking=false", "algorithm.max_completion_tokens=96"]) == 0
    assert (tmp_path / "e/answers_evaluation.jsonl").read_bytes() == (run / "answers_after.jsonl").read_bytes()
    assert export.main([f"run={study / 'label'}", f"out={tmp_path / 'plain'}"]) == 0
    picture = ["image=docs/scene.png", "category=seven", f"out={tmp_path / 'a.png'}"]
    assert predict.main([*picture, f"model.path={tmp_path / 'plain'}"]) == 0


def test_a_run_that_a_signal_stopped_goes_on_to_the_very_same_end(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tutor.run

    def signalled(self: Tutor, *given: object, **named: object) -> Iterator[SupervisedStep]:
        for step in run(self, *given, **named):  # type: ignore[arg-type]
            if step.number == 3:
                signal.raise_signal(signal.SIGUSR1)
            yield step

    folder = f"hydra.run.dir={tmp_path}"
    with monkeypatch.context() as patch:
        patch.setattr(Tutor, "run", signalled)
        assert main([*SMALL, folder]) == 75
    assert main([*SMALL, folder, "resume=auto"]) == 0
    whole = study / "label"
    assert lines(tmp_path / "metrics.jsonl") == lines(whole / "metrics.jsonl")
    for name in ("answers_after.jsonl", "labels.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    a, b = (tensors_in(path / "checkpoints/step_000004") for path in (tmp_path, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("task", ["ovd_digits", "cls_digits", "grounding_digits"])
def test_every_task_is_taught(task: str, tmp_path: Path, capfd: Captured) -> None:
    assert main([*DATA, f"task={task}", "steps=2", "prompts_per_step=3", f"hydra.run.dir={tmp_path}"]) == 0
    assert capfd.readouterr().out.startswith(f"{task}, tiny, ")
    assert all("loss/nll" in line for line in lines(tmp_path / "metrics.jsonl")[1:])


def write_rows(folder: Path, *solutions: str) -> Path:
    rows = [{"image": str(ROOT / "docs/scene.png"), "problem": "Where is the seven?", "solution": text} for text in solutions]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


BOX = "<answer>[{'Position': [100, 100, 300, 300], 'Confidence': 1}]</answer>"


def test_the_reasoning_of_the_rows_is_taught(tmp_path: Path, capfd: Captured) -> None:
    rows = write_rows(tmp_path, f"<think> on the\nleft </think> {BOX}", BOX)
    told = [*("task=custom_detection", "data=rows", "model=tiny", "hardware=cpu", f"data.train={rows}", f"data.test={rows}")]
    told += ["reasoning=data", "steps=1", "prompts_per_step=1", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(told) == 2
    assert capfd.readouterr().err.startswith("reasoning=data: training example 1 has none (rows count from 0); give rows whose solutions are")
    write_rows(tmp_path, f"<think> on the\nleft </think> {BOX}")
    assert main(told) == 0
    labels = json.loads((tmp_path / "run/labels.json").read_text())
    assert labels["0"].startswith("<think> on the\nleft </think> <answer> [{'Position': [100, 100, 300, 300], 'Confidence': 0.95}] </answer>")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("reasoning=none task.thinking=true", "task.thinking=true: reasoning=none says whether it is asked for; leave task.thinking out"),
        ("task.thinking=false", "task.thinking=false: reasoning=label says whether it is asked for; leave task.thinking out"),
        ("reasoning=data", "reasoning=data: training example "),
        ("reasoning=some", "reasoning=some: no such option; there is data, label, none"),
        ("algorithm.group_size=4", "algorithm.group_size=4: nothing here reads algorithm.group_size; leave it out"),
        ("algorithm.kl.coefficient=0", "algorithm.kl.coefficient=0: nothing here reads algorithm.kl; leave it out"),
        ("+rewards.weights.iou=2", "+rewards.weights.iou=2: nothing here reads rewards; leave it out"),
        ("rewards=paper", "rewards=paper: nothing here reads rewards; leave it out"),
        ("hardware.logprob_tolerance=1", "hardware.logprob_tolerance=1: nothing here reads hardware.logprob_tolerance; leave it out"),
        ("algorithm.max_grad_norm=0", "algorithm.max_grad_norm=0.0: must be positive"),
        ("algorithm.weight_decay=-1", "algorithm.weight_decay=-1.0: must be 0 or a positive number"),
        ("confidence=2", "confidence=2.0: must lie in 0..1"),
        ("confidence=1 task=cls_digits", "confidence: labels of cls_digits say nothing of it; leave it out"),
        ("steps=0", "steps=0: must be at least 1"),
        ("seed=-1", "task.split_seed=-1: must lie in"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(override: str, line: str, tmp_path: Path, capfd: Captured) -> None:
    assert main([*override.split(), f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_labels_that_the_test_would_cut_are_told(tmp_path: Path, capfd: Captured) -> None:
    small = [*DATA, "steps=1", "prompts_per_step=1", "algorithm.max_completion_tokens=22", f"hydra.run.dir={tmp_path}"]
    assert main(small) == 0
    told = capfd.readouterr().err.splitlines()[0]
    assert told.startswith("algorithm.max_completion_tokens=22: ") and told.endswith(" labels are longer, and the test cuts such answers")


def composed(*overrides: str) -> DictConfig:
    register(SftConfig, "sft", SCHEMAS)
    with hydra.initialize_config_dir(str(conf_folder("sft")), version_base="1.3"):
        return hydra.compose("sft", list(overrides))


def test_every_experiment_and_what_it_may_choose_composes(tmp_path: Path) -> None:
    """The very files of GRPO among them, with what only it reads."""
    for option in sorted(conf_folder("sft").glob("*/*.yaml")):
        if option.parent.name in ("reasoning", "rewards"):  # the others are test_train's
            OmegaConf.to_object(composed(f"{option.parent.name}={option.stem}"))
    for name in ("gamed", "control", "table3_coco_2b", "table6_lisa_2b"):
        OmegaConf.to_object(composed(f"experiment={name}"))
    own = tmp_path / "experiment/mine.yaml"
    own.parent.mkdir()
    own.write_text(
        "# @package _global_\ndefaults: [{override /task: cls_digits}, {override /rewards: paper}]\nsteps: 7\nmodel: {learning_rate: 1e-6}\n"
        "algorithm: {group_size: 4, temperature: 0.7, top_p: 0.9, updates_per_batch: 2, clip_high: 0.3, kl: {coefficient: 0.0}, aggregation: token}\n"
    )
    config = OmegaConf.to_object(composed("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"))
    assert (config.steps, config.task.name, config.model.learning_rate, config.algorithm.aggregation.value) == (7, "cls_digits", 1e-6, "token")
    assert config.task.thinking and config.algorithm.kl == {"coefficient": 0.0}


def test_every_knob_is_read_or_cannot_be_typed() -> None:
    """By name some of GRPO's are read, elsewhere; here each is refused."""
    assert unread_keys(keys(SftConfig, SCHEMAS), ROOT / "visual_rft") == []
    unread = {f"algorithm.{name}" for name, field in SftOptions.__dataclass_fields__.items() if field.metadata.get("unread")}
    assert unread <= set(GRPO) and set(GRPO) <= set(keys(SftConfig, SCHEMAS))
    grpo = {key for key in keys(train.TrainConfig, SCHEMAS) if key.startswith("algorithm.")}
    assert {key.removesuffix(".coefficient") for key in grpo} <= set(keys(SftConfig, SCHEMAS))
