"""The entry as a user types it, the real conf/, and the embedded checkpoint. Run: .venv/bin/python -m pytest tests/test_train.py"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from knobs import unread_keys
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from visual_rft import workload
from visual_rft.config import conf_folder, keys, register
from visual_rft.frames import NORM1000
from visual_rft.hardware import Attention, Machine
from visual_rft.images import StoredImage
from visual_rft.inference import answer, ask, prepare
from visual_rft.lessons import Recipe
from visual_rft.models.loading import ModelOptions, folder, load
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.sources import digits
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.tasks import classification, grounding
from visual_rft.tasks.detection import questions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import Task
from visual_rft.tasks.wording import Style, completion, detection_answer, thinking
from visual_rft.tracking.loggers import SCHEMAS as LOGGER_SCHEMAS
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.train import TrainConfig, main
from visual_rft.vocabulary import Detection, Example, Refusal

ROOT = Path(__file__).parents[1]
CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
SMALL = ["steps=2", "prompts_per_step=2", "algorithm.group_size=4", "task.shots=1", "data.test_images=6", "hardware.threads=1"]
SECTIONS = ("eval", "reward", "completion", "answer", "truth", "refused", "loss", "policy", "rollout", "time", "throughput", "memory")
UNREPEATABLE = ("time/", "throughput/", "memory/")


@pytest.fixture(scope="module")
def base() -> tuple[Policy, Processor]:
    options = ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)
    return load(options, CPU)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    assert main([*SMALL, f"hydra.run.dir={path}"]) == 0
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_folder_holds_what_the_contract_says(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "rollouts.jsonl",
        "checkpoints",
        "split.json",
        "summary.json",
        "report.html",
        "answers_before.jsonl",
        "answers_after.jsonl",
    }
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["task"], summary["model"], summary["metric"], summary["steps"]) == ("fsod_digits", "tiny", "AP", 2)
    assert 0 <= summary["before"] <= 100 and 0 <= summary["after"] <= 100 and summary["seconds"] > 0
    metrics = lines(run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 1, 2]
    assert [m.get("eval/AP") for m in metrics] == [summary["before"], None, summary["after"]]
    assert {name.partition("/")[0] for line in metrics for name in line} == {"step", *SECTIONS}, "the sections of docs/tracking.md"
    assert len(lines(run / "answers_after.jsonl")) == summary["questions"]
    assert len(lines(run / "rollouts.jsonl")) == 2 * 2 * 4
    assert set(json.loads((run / "environment.json").read_text())["data"]) == {"train", "test"}
    assert OmegaConf.load(run / "config.yaml").task.shots == 1


def test_one_seed_gives_one_metrics_file(run: Path, tmp_path: Path) -> None:
    assert main([*SMALL, f"hydra.run.dir={tmp_path}"]) == 0

    def repeatable(path: Path) -> list[str]:
        return [json.dumps({k: v for k, v in line.items() if not k.startswith(UNREPEATABLE)}) for line in lines(path / "metrics.jsonl")]

    assert repeatable(run) == repeatable(tmp_path)
    assert (run / "rollouts.jsonl").read_bytes() == (tmp_path / "rollouts.jsonl").read_bytes()
    assert main([*SMALL, "seed=1", f"hydra.run.dir={tmp_path / 'other'}"]) == 0
    assert repeatable(run) != repeatable(tmp_path / "other")


def test_the_table_is_on_stdout_and_the_rest_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, f"hydra.run.dir={tmp_path}"])
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["fsod_digits,", "before", "AP", "AP50", "AP75", "mean", "well-formed", "run"]
    assert "step 2/2" in err and "step" not in out


def test_a_folder_with_a_run_in_it_is_refused_and_left_alone(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main([*SMALL, f"hydra.run.dir={run}"]) == 2
    assert "already holds a run" in capfd.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def heard() -> None:
    """A suite that was started in the background would hand on a deaf ear for Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_an_interrupt_leaves_every_line_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "visual_rft.train", *SMALL, "steps=10000", f"hydra.run.dir={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1] == "interrupted" and "Traceback" not in err
    steps = [line["step"] for line in lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps))) and len(steps) >= 1
    assert not (tmp_path / "rollouts.jsonl").exists() or len(lines(tmp_path / "rollouts.jsonl")) >= 8 * (len(steps) - 2)
    assert not (tmp_path / "summary.json").exists() and json.loads((tmp_path / "environment.json").read_text())


@pytest.mark.slow
def test_a_sweep_gives_a_folder_a_job(tmp_path: Path) -> None:
    assert main(["-m", *SMALL, "steps=1", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]) == 0
    assert len(list(tmp_path.glob("*/summary.json"))) == 2


def test_a_sweep_over_tasks_ends_in_one_table_and_a_failing_job_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = "task=fsod_digits,ovd_digits,cls_digits,grounding_digits"
    blocked = tmp_path / "1_ovd_digits"
    blocked.mkdir()
    (blocked / "metrics.jsonl").touch()
    small = ["steps=1", "prompts_per_step=2", "task.shots=1", "data.test_images=4", "hardware.threads=1"]
    overrides = ["-m", tasks, "seed=0", *small, f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=${hydra.job.num}_${task.name}"]
    assert main(overrides) == 2
    out, err = capfd.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["job", "metric"],
        ["0_fsod_digits", "AP"],
        ["2_cls_digits", "accuracy"],
        ["3_grounding_digits", "mIoU"],
        ["run", "folders:"],
    ]
    assert sum("already holds a run" in line for line in err.splitlines()) == 1


@pytest.mark.parametrize(
    "override, line",
    [
        ("task.shot=4", "task.shot: no such key; did you mean task.shots?"),
        ("steps=ten", "steps: Value 'ten' of type 'str' could not be converted to Integer"),
        (
            "task=nope",
            "task=nope: no such option; there is cls_aircraft, cls_cars196, cls_digits, cls_flowers102, cls_pets37, custom_classification",
        ),
        ("algorithm.group_size=1", "algorithm.group_size=1: an advantage compares the completions of one prompt; ask for 2 or more"),
        ("task.shots=500", "task.shots=500: only"),
        ("model.path=/not/there", "model.path=/not/there: no config.json in /not/there; give a Hugging Face model folder, or embedded:tiny"),
        ("hardware.device=cuda", "hardware.device=cuda: torch"),
        ("+rewards.weights.colour=2", "rewards.weights.colour: this task has no such reward part"),
        (
            "task=fsod_coco model=tiny hardware=cpu",
            "data.train_annotations: data/coco/annotations/instances_train2017.json: No such file or directory; take train2017.zip",
        ),
        ("task.negatives=1e308", "task.negatives=1e+308: must lie in 0..100"),
        ("steps=0", "steps=0: must be at least 1"),
        ("hardware.device=mps", "hardware.device=mps: no such kind of device"),
        ("hardware.attention=varlen", "hardware.attention=varlen: needs CUDA and hardware.precision=bfloat16; use sdpa"),
        ("hardware.attention=flash_attention_2", "hardware.attention=flash_attention_2: needs CUDA"),
        ("hardware.tokens_per_micro_batch=0", "hardware.tokens_per_micro_batch=0: must be at least 1"),
        ("hardware.decoded_together=0", "hardware.decoded_together=0: must be at least 1"),
        ("hardware.workers=-1", "hardware.workers=-1: must be 0"),
        ("hardware.precision=float16", "hardware.precision: Invalid value 'float16', expected one of [float32, bfloat16]"),
        ("model.frozen=[vision,merger,language]", "model.frozen: all parts; leave one to be trained"),
        ("model.frozen=[eyes]", "model.frozen"),
        ("algorithm.top_p=0", "algorithm.top_p=0.0: must lie in (0, 1]"),
        ("seed=99999999999", "task.split_seed=99999999999: must lie in"),
        ("task.split_seed=-1", "task.split_seed=-1: must lie in"),
        ("+rewards.weights.iou=nan", "rewards.weights.iou=nan: must lie in -1e+06..1e+06"),
        ("logger.report_images=-1", "logger.report_images=-1: must be"),
        ("hardware.logprob_tolerance=1e-12", "hardware.logprob_tolerance=1e-12: rollout and trainer differ by"),
        ("algorithm.kl.coefficient=-1", "algorithm.kl.coefficient=-1.0: must be 0 or a positive number"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(override: str, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if override == "hardware.device=cuda" and torch.cuda.is_available():
        return
    assert main([*override.split(), "hardware.threads=1", f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_runs_started_together_do_not_share_a_folder(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "", {})
    with pytest.raises(ValueError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "", {})


def test_a_refusal_spares_the_users_own_folder(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    os.utime(mine, (1e9, 1e9))
    assert main(["task.shots=500", f"hydra.run.dir={mine}"]) == 2
    assert mine.is_dir()


def test_a_checkpoint_that_lacks_a_tensor_or_a_file_is_refused(tmp_path: Path) -> None:
    whole = folder("embedded:tiny")
    for name in ("tensor", "preprocessor_config.json", "tokenizer.json", "config.json", "model.safetensors"):
        broken = tmp_path / name
        shutil.copytree(whole, broken)
        if name == "tensor":
            tensors = load_file(broken / "model.safetensors")
            del tensors[next(key for key in tensors if "down_proj" in key)]
            save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
        else:
            (broken / name).write_text("{")
        with pytest.raises(ValueError, match=f"model.path={broken}"):
            load(ModelOptions("tiny", str(broken), 4096, 4096, 1e-4), CPU)


def test_a_checkpoint_with_nan_or_other_patches_is_refused(tmp_path: Path) -> None:
    whole = folder("embedded:tiny")
    for name in ("nan", "patches"):
        shutil.copytree(whole, tmp_path / name)
    tensors = load_file(whole / "model.safetensors")
    tensors["visual.merger.ln_q.weight"] = tensors["visual.merger.ln_q.weight"] * float("nan")
    save_file(tensors, tmp_path / "nan/model.safetensors", metadata={"format": "pt"})
    patches = json.loads((whole / "preprocessor_config.json").read_text()) | {"patch_size": 16}
    (tmp_path / "patches/preprocessor_config.json").write_text(json.dumps(patches))
    for name, line in {"nan": r"the tensor .*ln_q\.weight holds NaN or infinity", "patches": "differ in the size of a patch"}.items():
        with pytest.raises(ValueError, match=f"model.path={tmp_path / name}: .*{line}"):
            load(ModelOptions("tiny", str(tmp_path / name), 4096, 4096, 1e-4), CPU)


def test_checkpoints_come_as_often_as_asked_and_the_reference_stays(tmp_path: Path) -> None:
    assert main([*SMALL, "steps=4", "checkpoint.every=2", f"hydra.run.dir={tmp_path}"]) == 0
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000002", "step_000004"]
    kl = [float(str(line["loss/kl"])) for line in lines(tmp_path / "metrics.jsonl") if "loss/kl" in line]
    assert kl[0] == pytest.approx(0, abs=1e-9) and kl[-1] > 1e-6


def test_a_run_that_diverges_keeps_every_line_and_saves_no_ruined_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    overrides = [*SMALL, "model.learning_rate=1e30", "algorithm.max_bad_steps=1", f"hydra.run.dir={tmp_path}"]
    assert main(overrides) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("algorithm.max_bad_steps=1: as many steps in a row were skipped, up to step 2: ")
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert not list(tmp_path.glob("checkpoints/*")) and not (tmp_path / "summary.json").exists()
    assert torch.load(tmp_path / "skipped/step_000002.pt", weights_only=True)["examples"]


def test_the_defaults_are_the_papers_and_strict() -> None:
    config = composed()
    assert (config.rewards.family.value, config.task.iou_threshold) == ("strict", 0.5)
    a = config.algorithm
    assert (a.group_size, a.temperature, a.kl.coefficient, a.updates_per_batch, a.aggregation.value) == (8, 1.0, 0.04, 1, "sequence")
    assert (a.advantage.value, a.weight_decay, a.max_grad_norm) == ("group", 0.0, 1.0)


def test_training_and_test_come_from_disjoint_handwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def remember(split: Split, count: int, **rest: object) -> list[object]:
        drawn.append((split, count))
        return scenes(split, count, **rest)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(digits, "scenes", remember)
    config = OmegaConf.to_object(composed("task.shots=1", "data.train_images=90", "data.test_images=7"))
    workload.train_examples(config.task, config.data, lambda _: NORM1000)
    workload.test_exam(config.task, config.data, lambda _: NORM1000)
    assert drawn == [(Split.TRAIN, 90), (Split.TEST, 7)]


def composed(*overrides: str) -> DictConfig:
    register(TrainConfig, "train", SCHEMAS)
    with hydra.initialize_config_dir(str(conf_folder("train")), version_base="1.3"):
        return hydra.compose("train", list(overrides))


SCHEMAS = workload.SCHEMAS | LOGGER_SCHEMAS


def test_every_knob_is_read() -> None:
    assert unread_keys(keys(TrainConfig, SCHEMAS), ROOT / "visual_rft") == []
    assert unread_keys(keys(Recipe), ROOT / "visual_rft") == []


def test_every_group_option_composes() -> None:
    """Each makes a whole and valid configuration."""
    for option in sorted(conf_folder("train").glob("*/*.yaml")):
        if option.parent.name not in ("reasoning", "experiment"):  # of supervised labels; test_reproduce and the documents have them
            OmegaConf.to_object(composed(f"{option.parent.name}={option.stem}"))


def test_the_base_checkpoint_is_small_and_knows_the_form(base: tuple[Policy, Processor]) -> None:
    path = folder("embedded:tiny")
    assert sum(f.stat().st_size for f in path.iterdir()) < 10e6
    assert [f.name for f in path.iterdir() if f.suffix in (".bin", ".pt", ".pkl", ".py")] == []
    shown = scenes(Split.VALIDATION, 40, seed=0)
    asked = questions(shown, CATEGORIES, Present.all, Style())[::4]
    asked += [classification.example(image, "digit", Style()) for image in scenes(Split.VALIDATION, 40, seed=0, digits=(1, 1))]
    asked += [grounding.example(image, image.instructions[0], Style()) for image in shown]
    tasks = task_of("fsod_digits"), task_of("cls_digits"), task_of("grounding_digits")
    texts = greedy(base, asked)
    answers = [tasks[0 if e.subject in CATEGORIES else 2 if e.subject else 1].parse(text, e.contract) for e, text in zip(asked, texts, strict=True)]
    assert sum(not isinstance(a, Refusal) for a in answers) >= 0.95 * len(asked)
    absent = [a for e, a in zip(asked, answers, strict=True) if e.subject in CATEGORIES and not e.truth.boxes]
    assert sum(str(a) == "No Objects" for a in absent) > len(absent) / 2


def task_of(name: str) -> Task:
    config = OmegaConf.to_object(composed(f"task={name}"))
    return workload.task(config.task, config.rewards)


def greedy(base: tuple[Policy, Processor], asked: list[Example]) -> list[str]:
    completions = dict(answer(*base, asked, max_tokens=96, together=100, workers=0))
    return [completions[n].text for n in range(len(asked))]


def test_the_policy_sees_the_image(base: tuple[Policy, Processor]) -> None:
    """With the image blanked, or swapped for the next one, the right answer is less likely and the model's own answers earn less."""
    policy, processor = base
    asked = questions(scenes(Split.VALIDATION, 48, seed=0), CATEGORIES, Present.ground_truth, Style())
    right = []
    for e in asked:
        boxes = sorted(e.truth.boxes)
        right.append(completion(thinking(e.subject, boxes), detection_answer([Detection(box, 0.95) for box in boxes])))
    task = task_of("fsod_digits")

    def look(examples: list[Example]) -> tuple[torch.Tensor, float]:
        with torch.no_grad():
            shown = ask(policy, prepare(processor, examples))
            scores = policy(shown.prompts, policy.encode(shown.pixels), [[processor.encode(text)] for text in right], 1.0)
        texts = greedy(base, examples)
        rewards = [task.total(task.reward(text, e.truth, e.contract)) for text, e in zip(texts, asked, strict=True)]
        return torch.where(scores.mask_BT, scores.logprobs_BT, 0).sum(1), sum(rewards) / len(rewards)

    logprobs, reward = look(asked)
    images = [e.image for e in asked]
    for others in ([image.point(lambda _: 128) for image in images], images[2:] + images[:2]):
        changed = [replace(e, images=(StoredImage.of(1000 + n, image),)) for n, (e, image) in enumerate(zip(asked, others, strict=True))]
        worse, poorer = look(changed)
        assert (worse < logprobs).float().mean() > 0.8
        assert poorer < reward - 0.3
