"""Laws of the way entries start: bad input is one line and writes nothing, an explicit choice wins, a sweep survives its worst job.

pytest tests/test_config.py
"""

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from knobs import unread_keys
from omegaconf import MISSING, OmegaConf

from visual_rft import config, distributed
from visual_rft.config import Job, keys, start


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class Model:
    path: str | None = None


@dataclass
class Hardware:
    device: Device = Device.cpu


@dataclass
class Task:
    shots: int = MISSING
    classes: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shots == 13:
            raise ValueError("task.shots=13 is unlucky:\nany other number will do")
        if self.shots == 14:
            raise TypeError("a bug in a check")


@dataclass
class Config:
    model: Model = MISSING
    hardware: Hardware = MISSING
    task: Task = MISSING
    steps: int = 10
    name: str = ""


CONF = {
    "train": """
        defaults:
          - train_schema
          - habits
          - _self_
          - model: tiny
          - hardware: cpu
          - task: digits
          - experiment: null
        steps: 20
        """,
    "habits": """
        # @package _global_
        defaults:
          - override /hydra/job_logging: none
          - override /hydra/hydra_logging: none
        hydra:
          output_subdir: null
          job:
            name: ${hydra.job.config_name}
          run:
            dir: outputs/${hydra:runtime.choices.task}/${hydra:runtime.choices.model}/${started:%Y-%m-%d_%H-%M-%S}
          sweep:
            dir: outputs/sweeps/${started:%Y-%m-%d_%H-%M-%S}
            subdir: ${hydra.job.num}_${file_name:${hydra.job.override_dirname}}
        """,
    "model/tiny": "path: null",
    "model/big": "path: Qwen/Qwen2-VL-2B-Instruct",
    "hardware/cpu": "device: cpu",
    "hardware/gpu": "device: cuda",
    "task/digits": "shots: 4",
    "task/coco": """
        # @package _global_
        defaults:
          - override /model: big
          - override /hardware: gpu
        task:
          shots: 8
        steps: 200
        """,
    "task/unknown_key": "shotz: 4",
    "task/unknown_global": """
        # @package _global_
        task:
          shots: 4
        stepz: 3
        """,
    "task/wrong_type": "shots: four",
    "task/bad_yaml": "shots: [4",
    "task/no_shots": "classes: [cat]",
    "experiment/table3": """
        # @package _global_
        defaults:
          - override /task: coco
          - override /hardware: cpu
        steps: 77
        """,
}


def write_conf(folder: Path) -> Path:
    for name, text in CONF.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(dedent(text).lstrip())
    return folder


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A conf/ of our own, and an empty working directory."""
    folder = write_conf(tmp_path / "conf")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(config, "conf_folder", lambda name: folder)
    yield folder


def jobs_of(*argv: str, run: Callable[[Job[Config]], None] = lambda job: None) -> tuple[int, list[Job[Config]]]:
    """The exit code, and the jobs that were run, in order."""
    jobs: list[Job[Config]] = []

    def remember(job: Job[Config]) -> None:
        jobs.append(job)
        run(job)

    return start(Config, "train", remember, list(argv)), jobs


REFUSED = {
    "unknown key": (["stepz=3"], "stepz: no such key; did you mean steps?"),
    "unknown key of a group": (["task.shotz=3"], "task.shotz: no such key; did you mean task.shots?"),
    "key without its group": (["device=cuda"], "device: no such key; did you mean hardware.device?"),
    "unknown group": (["experimnt=table3"], "experimnt: no such key; did you mean experiment?"),
    "unknown key of Hydra": (["hydra.run.dri=x"], "hydra.run.dri: no such key; did you mean hydra.run.dir?"),
    "added key": (["+stepz=3"], "stepz: no such key; did you mean steps?"),
    "added key of a group": (["++task.shotz=3"], "task.shotz: no such key; did you mean task.shots?"),
    "nothing like it": (["zzz=3"], "zzz: no such key; --help shows the keys"),
    "unknown option": (["hardware=tpu"], "hardware=tpu: no such option; there is cpu, gpu"),
    "unknown experiment": (["experiment=table33"], "experiment=table33: no such option; there is table3"),
    "wrong type": (["steps=ten"], "steps: Value 'ten' of type 'str' could not be converted to Integer"),
    "bad enum value": (["hardware.device=tpu"], "hardware.device: Invalid value 'tpu', expected one of [cpu, cuda]"),
    "null": (["steps=null"], "steps: field 'steps' is not Optional"),
    "no value": (["task.shots"], "task.shots: not an override; write key=value"),
    "two values": (["steps=1=2"], "steps=1=2: not an override; write key=value"),
    "no option": (["model=null"], "model=null: Config group override must be a string"),
    "flag": (["--steps", "3"], "; write overrides as key=value, flags before them"),
    "sweep without -m": (["steps=1,2"], "Ambiguous value for argument 'steps=1,2'"),
    "missing": (["task=no_shots"], "task.shots: must be given, task.shots=…"),
    "interpolation": (["name=${nope}"], "name: Interpolation key 'nope' not found"),
    "closed dictionary": (["task.weights.iou=1"], "task.weights.iou: no such key yet; +task.weights.iou=… adds it"),
    "plus before a listed group": (["+experiment=table3"], "experiment: already in the defaults list; write experiment=… without +"),
    "typo in a group file": (["task=unknown_key"], "task/unknown_key.yaml: task.shotz: no such key; did you mean task.shots?"),
    "typo in a global file": (["task=unknown_global"], "task/unknown_global.yaml: stepz: no such key; did you mean steps?"),
    "wrong type in a file": (["task=wrong_type"], "task/wrong_type.yaml: task.shots: Value 'four' of type 'str'"),
    "broken YAML": (["task=bad_yaml"], "bad_yaml.yaml"),
    "impossible pair": (["task.shots=13"], "task.shots=13 is unlucky: any other number will do"),
    "unwritable run folder": (["hydra.run.dir=../conf/train.yaml/x"], "../conf/train.yaml/x: Not a directory; name a folder that can be written"),
    "folder that exists and cannot be written": (["hydra.run.dir=/proc"], "; name a folder that can be written, hydra.run.dir=…"),
    "other conf": (["--config-name", "habits"], "--config-dir adds a folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(case: str, conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv, line = REFUSED[case]
    code, jobs = jobs_of(*argv)
    out, err = capfd.readouterr()
    assert (code, jobs, out) == (2, [], "")
    assert err.endswith("\n") and err.count("\n") == 1 and line in err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "bad",
    ["stepz=3", "stepz=1,2", "+stepz=1,2", "task.shots=1,13", "task=digits,nope", "steps=1,ten", "steps=1=2", "hydra.sweep.dir=../conf/train.yaml/x"],
)
def test_one_bad_value_refuses_the_whole_sweep_before_it_starts(bad: str, conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs_of("-m", "name=a,b", bad) == (2, [])
    assert capfd.readouterr().err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "path", "device", "shots", "steps"),
    [
        ([], None, "cpu", 4, 20),
        (["task=coco"], "Qwen/Qwen2-VL-2B-Instruct", "cuda", 8, 200),
        (["task=coco", "model=tiny"], None, "cuda", 8, 200),
        (["hardware=cpu", "task=coco"], "Qwen/Qwen2-VL-2B-Instruct", "cpu", 8, 200),
        (["task=coco", "model.path=mine", "steps=3"], "mine", "cuda", 8, 3),
        (["experiment=table3"], "Qwen/Qwen2-VL-2B-Instruct", "cpu", 8, 77),
        (["experiment=table3", "hardware=gpu"], "Qwen/Qwen2-VL-2B-Instruct", "cuda", 8, 77),
        (["experiment=table3", "task=digits"], None, "cpu", 4, 77),
    ],
)
def test_a_task_brings_its_model_and_hardware_and_the_explicit_wins(
    argv: list[str], path: str | None, device: str, shots: int, steps: int, conf: Path
) -> None:
    code, [job] = jobs_of(*argv)
    assert code == 0
    assert job.config == Config(Model(path), Hardware(Device(device)), Task(shots), steps)


@pytest.mark.parametrize("argv", [[], ["task=coco", "+task.weights.iou=2", "task.classes=[cat,dog]", "name='a: b'"], ["~steps"]])
def test_the_yaml_of_a_job_reads_back_as_its_config(argv: list[str], conf: Path) -> None:
    _, [job] = jobs_of(*argv)
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(job.yaml)))
    assert again == job.config and isinstance(job.config.hardware.device, Device)
    assert set(OmegaConf.create(job.yaml)) == {"model", "hardware", "task", "steps", "name"}


def test_a_run_has_the_folder_of_its_task_model_and_time_and_nothing_else_in_it(conf: Path) -> None:
    _, [first] = jobs_of("task=coco")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", first.folder.name) and first.folder.parent == Path.cwd() / "outputs/coco/big"
    assert first.folder.is_dir() and list(first.folder.iterdir()) == []
    (_, [named]), (_, [nowhere]) = jobs_of("hydra.run.dir=here/it is"), jobs_of("hydra.run.dir=.")
    assert (named.folder, nowhere.folder) == (Path.cwd() / "here/it is", Path.cwd())


def test_each_job_of_a_sweep_has_a_folder_named_after_it(conf: Path) -> None:
    code, jobs = jobs_of("-m", "steps=1,2", "task=digits,coco", "model.path=/a/b")
    assert code == 0
    assert [(job.config.steps, job.config.task.shots) for job in jobs] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert [job.folder.name for job in jobs][:2] == ["0_model.path-_a_b_steps-1_task-digits", "1_model.path-_a_b_steps-1_task-coco"]
    assert {job.folder.parent.parent for job in jobs} == {Path.cwd() / "outputs/sweeps"}
    assert all(job.folder.is_dir() for job in jobs)
    assert {job.sweep for job in jobs} == {jobs[0].folder.parent.name}
    assert jobs_of("steps=1")[1][0].sweep is None


@pytest.mark.parametrize(
    ("error", "code", "last"), [(ValueError("steps=2 is too\nfew"), 2, "1_steps-2: steps=2 is too few"), (KeyError("x"), 1, "'x'")]
)
def test_a_failing_job_does_not_stop_the_sweep(error: Exception, code: int, last: str, conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail_at_two(job: Job[Config]) -> None:
        if job.config.steps == 2:
            raise error

    got, jobs = jobs_of("-m", "steps=1,2,3", "hydra.sweeper.max_batch_size=1", run=fail_at_two)
    err = capfd.readouterr().err.strip()
    assert (got, [job.config.steps for job in jobs]) == (code, [1, 2, 3])
    assert err.endswith(last) and "Error executing job" not in err
    assert "Traceback" in err or "\n" not in err


@pytest.mark.parametrize(
    ("error", "code", "lines"), [(ValueError("rows.jsonl: row 3\nhas no image"), 2, 1), (KeyboardInterrupt(), 130, 1), (SystemExit(3), 3, 0)]
)
def test_what_a_run_raises_is_said_once(error: BaseException, code: int, lines: int, conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(job: Job[Config]) -> None:
        raise error

    assert jobs_of(run=fail)[0] == code
    assert capfd.readouterr().err.count("\n") == lines


def test_a_bug_keeps_its_traceback(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def divide(job: Job[Config]) -> None:
        _ = 1 / (job.config.steps - 20)

    assert jobs_of(run=divide)[0] == 1
    assert "in divide" in capfd.readouterr().err
    assert jobs_of("task.shots=14") == (1, [])
    assert "in __post_init__" in capfd.readouterr().err


def test_a_refusal_shows_its_place_when_asked(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(job: Job[Config]) -> None:
        raise ValueError("no such file")

    level = logging.getLogger().level
    assert jobs_of("hydra.verbose=true", run=refuse)[0] == 2
    logging.getLogger().setLevel(level)
    err = capfd.readouterr().err
    assert "in refuse" in err and err.endswith("\nno such file\n")


def test_stdout_is_the_runs_alone(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    code, _ = jobs_of("-m", "steps=1,2", run=lambda job: print(job.config.steps))
    assert (code, *capfd.readouterr()) == (0, "1\n2\n", "")
    assert sys.argv == before


def test_showing_the_config_runs_nothing(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs_of("--cfg", "job", "task=no_shots") == (0, [])
    assert OmegaConf.is_missing(OmegaConf.create(capfd.readouterr().out).task, "shots")
    assert jobs_of("--help") == (0, [])
    assert re.search(r"task: bad_yaml, (\w+_schema, )*coco, ", capfd.readouterr().out)
    assert jobs_of("--cfg", "job", "stepz=3") == (2, [])
    assert capfd.readouterr().err == "stepz: no such key; did you mean steps?\n"
    assert list(Path.cwd().iterdir()) == []


def test_the_folders_of_what_succeeded_are_handed_over_at_the_end(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def handed(*argv: str) -> list[list[str]]:
        told: list[list[str]] = []

        def run(job: Job[Config]) -> None:
            assert not told
            if job.config.steps == 2:
                raise ValueError("unlucky")

        start(Config, "train", run, argv, conclude=lambda folders, _: told.append([folder.name for folder in folders]))
        return told

    assert handed("-m", "steps=1,2,3") == [["0_steps-1", "2_steps-3"]]
    assert handed("steps=1", "hydra.run.dir=one") == [["one"]]
    assert handed("steps=2") == handed("stepz=1") == []


@dataclass
class Zoo(Task):
    keeper: str = MISSING


def test_a_group_file_chooses_its_schema(conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (conf / "task/zoo.yaml").write_text("# @package _global_\ndefaults: [/task/animals_schema@task, _self_]\ntask: {shots: 3, keeper: me}\n")
    jobs: list[Config] = []

    def main(*argv: str) -> int:
        return start(Config, "train", lambda job: jobs.append(job.config), list(argv), schemas={"task/animals": Zoo})

    assert main("task=zoo", "task.keeper=you") == 0 and jobs[0].task == Zoo(3, keeper="you")
    assert main("task=digits") == 0 and type(jobs[1].task) is Task
    for argv, line in {
        ("task=digits", "task.keeper=you"): "task.keeper: this choice of task has no keeper; leave it out, or choose another task=…",
        ("task=zoo", "task.keper=you"): "task.keper: no such key; did you mean task.keeper?",
        ("task=zoo", "task.shots=13"): "task.shots=13 is unlucky: any other number will do",
        ("task=zooo",): "task=zooo: no such option; there is bad_yaml, coco, digits, no_shots, unknown_global, unknown_key, wrong_type, zoo",
    }.items():
        assert main(*argv) == 2
        assert capfd.readouterr().err.strip() == line
    assert set(keys(Config, {"task/animals": Zoo})) == {*keys(Config), "task.keeper"}


def test_a_folder_of_ones_own_adds_options(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/zoo.yaml").write_text("shots: 5\n")
    code, [job] = jobs_of("--config-dir", "../mine", "task=zoo")
    assert (code, job.config.task.shots) == (0, 5)


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "sweep"])
def test_a_job_knows_the_command_that_makes_it_again(flags: tuple[str, ...], conf: Path, tmp_path: Path) -> None:
    """What was typed, and nothing of where it ran; taken at its word it is the same job."""
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/zoo.yaml").write_text("shots: 5\n")
    typed = ["--config-dir", "../mine", "task=zoo", "name='a b'", "task.classes=[cat,dog]", "steps=3"]
    _, [job] = jobs_of(*flags, *typed)
    python, module, name, *again = shlex.split(job.command)
    assert (python, module, name) == ("python", "-m", "visual_rft.train") and str(job.folder) not in job.command
    _, [same] = jobs_of(*again)
    assert (same.yaml, same.command) == (job.yaml, job.command)


@pytest.mark.parametrize("layout", [["conf"], ["visual_rft/conf"], ["conf", "visual_rft/conf"]], ids=["checkout", "installed", "both"])
def test_conf_is_found_and_torch_is_not_loaded(layout: list[str], tmp_path: Path) -> None:
    (tmp_path / "visual_rft").mkdir()
    (tmp_path / "visual_rft/__init__.py").touch()
    shutil.copytree(Path(config.__file__).parent, tmp_path / "visual_rft/config")
    shutil.copy(distributed.__file__, tmp_path / "visual_rft")
    for steps, place in enumerate(layout, start=1):
        (write_conf(tmp_path / place) / "task/digits.yaml").write_text(f"shots: {steps}\n")
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        sys.path.insert(0, {str(tmp_path)!r})
        from test_config import Config
        from visual_rft.config import start
        sys.exit(start(Config, "train", lambda job: print(job.config.task.shots, "torch" in sys.modules)))
        """
    done = subprocess.run([sys.executable, "-c", dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 False\n", "")


def test_an_unread_key_is_found(tmp_path: Path) -> None:
    (tmp_path / "schema.py").write_text("class Task:\n    def __post_init__(self): self.shots\n    def half(self): return self.classes\n")
    (tmp_path / "train.py").write_text("def run(c): return c.model.path, c.task.weights, c.hardware, c.name\ndef set(c): c.steps = 3\n")
    assert unread_keys(keys(Config), tmp_path) == ["hardware.device", "task.shots", "task.classes", "steps"]
    (tmp_path / "more.py").write_text("class Other:\n    def go(self, h, t): return h.device, t.shots, t.classes, t.steps\n")
    assert unread_keys(keys(Config), tmp_path) == []


@dataclass
class Short:
    model: Any = field(default=None, metadata={"unread": True})
    hardware: Any = field(default=None, metadata={"unread": True})
    task: Task = MISSING
    steps: int = 10
    name: str = ""


@pytest.mark.parametrize("typed", ["model=big", "model.path=mine", "hardware.device=cpu", "++hardware.device=cpu"])
def test_a_key_that_only_files_may_give_cannot_be_typed(typed: str, conf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert start(Short, "train", lambda job: None, ["task=coco"]) == 0
    assert start(Short, "train", lambda job: None, ["task=coco", typed]) == 2
    root = typed.lstrip("+").partition("=")[0].partition(".")[0]
    assert capfd.readouterr().err == f"{typed}: nothing here reads {root}; leave it out\n"
