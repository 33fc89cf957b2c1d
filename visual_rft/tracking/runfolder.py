"""The run folder: the contract between a run, the tools that read it, and people.

    config.yaml  environment.json  metrics.jsonl  rollouts.jsonl  checkpoints/  summary.json  report.html

The two `.jsonl` files only ever grow by whole lines; every other file appears whole or not at all.
Axes: P prompts a step, G completions a prompt.
"""

import errno
import io
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from visual_rft.vocabulary import Group, Reward


@dataclass(frozen=True)
class RunFolder:
    """Writes a run's files under `path`. `RunFolder.create` begins a run; `RunFolder(path)` goes on in one that exists."""

    path: Path

    @classmethod
    def create(cls, path: Path, config_yaml: str, environment: Mapping[str, Any]) -> "RunFolder":
        """Make the folder, with its parents, for a new run: what it is, and where it is made. ValueError when it already holds a run, or cannot be
        written."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Permission bits do not tell of read-only mounts and full quotas; a file does.
            tempfile.TemporaryFile(dir=path).close()
            held = [name for name in ("metrics.jsonl", "summary.json") if (path / name).exists()] or _claim(path / "config.yaml", config_yaml)
        except OSError as error:
            raise ValueError(f"cannot write the run folder {path}: {error.strerror}; choose another hydra.run.dir") from error
        if held:
            raise ValueError(f"{path} already holds a run ({' and '.join(held)}); choose another hydra.run.dir")
        folder = cls(path)
        folder.write_environment(environment)
        return folder

    def rewind(self, step: int) -> None:
        """Forget what came after `step`, which a run that goes on from there writes again: lines of both logs, and checkpoints."""
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            if not (self.path / name).exists():  # supervised tuning samples nothing
                continue
            kept = [line for line in self._lines(name) if line["step"] <= step]
            write_atomically(self.path / name, "".join(_json(line) + "\n" for line in kept))
        for number, checkpoint in saved_steps(self.checkpoints).items():
            if number > step:
                shutil.rmtree(checkpoint)
        self.forget_answers("after")  # of a policy that is trained again
        for batch in (self.path / "skipped").glob("step_[0-9]*.pt"):
            if int(batch.stem.removeprefix("step_")) > step:
                batch.unlink()

    def seconds(self) -> float:
        """What the steps in `metrics.jsonl` took."""
        return sum(line.get("time/step", 0.0) for line in self.metrics())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` so far."""
        return self._lines("metrics.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log; without the last one if a crash of the machine left it in half. ValueError for another that cannot be read."""
        file = self.path / name
        texts = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        lines = []
        for row, text in enumerate(texts, start=1):
            try:
                lines.append(json.loads(text))
            except ValueError as error:
                if row < len(texts):
                    raise ValueError(f"{file}, line {row}: not JSON ({error}); take the line out, or begin anew in another hydra.run.dir") from error
        return lines

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_environment(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """What `environment` returned -> `environment.json`, unless the run has one: it says where the run began. Returns what it says."""
        file = self.path / "environment.json"
        if not file.exists():
            write_atomically(file, _json(environment, indent=2) + "\n")
        return self.environment()

    def environment(self) -> dict[str, Any]:
        """Where the run began."""
        file = self.path / "environment.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file}: not JSON ({error}); delete it") from error

    def same_data(self, environment: Mapping[str, Any]) -> None:
        """Raises ValueError when the run began with other data than `environment` says."""
        began = self.write_environment(environment).get("data", {})
        changed = [name for name, fingerprint in environment["data"].items() if began.get(name, fingerprint) != fingerprint]
        if changed:
            raise ValueError(f"{self.path}: its {' and '.join(changed)} data are other ones than when it began; put them back, or begin another run")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The outcome -> `summary.json`; that it exists says that the run finished."""
        self.write_json("summary.json", summary)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line: `step`, then the keys in order. JSON has no NaN or infinity: they become null."""
        assert "step" not in metrics, "step is the first argument"
        self._append("metrics.jsonl", [{"step": step} | {key: float(metrics[key]) for key in sorted(metrics)}])

    def write_answers(self, name: str, answers: Mapping[str, str], worth: Sequence[float] = ()) -> None:
        """The completions of one evaluation, by the id of their question -> `answers_<name>.jsonl`, one line a question, with what each is worth, if
        that is known. What was kept of them before goes."""
        told = [{"worth": round(one, 4)} for one in worth] or [{}] * len(answers)
        lines = (_json({"example": question, "completion": text} | more) for (question, text), more in zip(answers.items(), told, strict=True))
        write_atomically(self.path / f"answers_{name}.jsonl", "".join(line + "\n" for line in lines))
        self.forget_answers(name)

    def forget_answers(self, name: str) -> None:
        """Those that were kept while the evaluation went on."""
        for part in self.path.glob(f".answers_{name}.*.jsonl"):
            part.unlink()

    def write_json(self, name: str, value: Any) -> None:
        """Any further file of the run."""
        write_atomically(self.path / name, _json(value, indent=2) + "\n")

    def log_rollouts(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Append one line a record (see `rollout_records`), `step` first; non-finite numbers become null."""
        self._append("rollouts.jsonl", [{"step": step, **record} for record in records])

    def save_skipped(self, step: int, groups: Sequence[Group], advantages_PG: torch.Tensor) -> Path:
        """The batch of a step that was skipped -> `skipped/step_<N>.pt`, which `torch.load(…, weights_only=True)` reads. Returns the file."""
        folder = self.path / "skipped"
        folder.mkdir(exist_ok=True)
        batch = {
            "examples": [group.example.id for group in groups],
            "questions": [group.example.question for group in groups],
            "tokens_PG_T": [[c.tokens_T for c in group.completions] for group in groups],
            "logprobs_PG_T": [[c.logprobs_T for c in group.completions] for group in groups],
            "advantages_PG": advantages_PG,
        }
        file, buffer = folder / f"step_{step:06d}.pt", io.BytesIO()
        torch.save(batch, buffer)
        write_atomically(file, buffer.getvalue())
        return file

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        # One unbuffered write: an interrupt falls before or after it, so no line is ever left in two halves. A full disk takes a part, and says
        # so by the count alone.
        lines = "".join(_json(record) + "\n" for record in records).encode("ascii")
        with open(self.path / name, "ab", buffering=0) as file:
            _write_whole(file, lines)


class KeptAnswers:
    """The answers of an evaluation that goes on, a file for each rank, so that one which is interrupted need not ask again (`evaluation.Answers`).

    `known` is called on the first rank, before any other keeps its first.
    """

    def __init__(self, folder: RunFolder, name: str, rank: int) -> None:
        self.folder, self.name = folder, name
        self._path = folder.path / f".answers_{name}.{rank}.jsonl"

    def known(self) -> dict[str, str]:
        """By the id of the question. They are put into one file, since the last line of another may be a half."""
        parts = sorted(self.folder.path.glob(f".answers_{self.name}.*.jsonl"))
        found = {line["example"]: line["completion"] for part in parts for line in self.folder._lines(part.name)}
        if found:
            lines = "".join(_json({"example": question, "completion": text}) + "\n" for question, text in found.items())
            write_atomically(self.folder.path / f".answers_{self.name}.known.jsonl", lines)
        for part in parts:
            if not part.name.endswith(".known.jsonl"):
                part.unlink()
        return found

    def keep(self, question: str, text: str) -> None:
        """Append a line."""
        with open(self._path, "ab", buffering=0) as file:
            _write_whole(file, (_json({"example": question, "completion": text}) + "\n").encode("ascii"))


def _write_whole(file: io.FileIO, lines: bytes) -> None:
    """One write, at the end of the file. Raises OSError, with nothing written, where there is no room."""
    before = file.tell()
    if file.write(lines) < len(lines):
        file.truncate(before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))


def saved_steps(checkpoints: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step, the newest first; what was put aside under another name is none."""
    found = {path.name.removeprefix("step_"): path for path in checkpoints.glob("step_*")}
    return dict(sorted(((int(number), path) for number, path in found.items() if number.isdecimal()), reverse=True))


def _claim(file: Path, text: str) -> list[str]:
    """Make the run's first file, whole: of two runs started together one finds it there. Returns the names of what was in the way."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.link(partial, file)
    except FileExistsError:
        return [file.name]
    finally:
        partial.unlink(missing_ok=True)
    return []


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write so that `path` holds the old content or the new, never a part. Text is UTF-8; lone surrogates become character references."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode("utf-8", errors="xmlcharrefreplace") if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:  # after Ctrl-C, too: no half is left; once replaced there is nothing to remove
        partial.unlink(missing_ok=True)


def rollout_records(
    step: int,
    groups: Sequence[Group],
    rewards_PG: Sequence[Sequence[Reward]],
    totals_PG: Sequence[Sequence[float]] | torch.Tensor,
    advantages_PG: Sequence[Sequence[float]] | torch.Tensor,
) -> list[dict[str, Any]]:
    """The step's P·G completions as JSON-ready dictionaries, prompt by prompt.

    `answer` is as its kind says itself (`vocabulary.Answer.plain`; boxes in the frame of its contract), or None; `refused` is the reason, or None.
    """
    return [
        {
            "step": step,
            "example": group.example.id,
            "completion": completion.text,
            "answer": reward.answer.plain if reward.answer else None,
            "refused": reward.refusal and str(reward.refusal.reason),
            "rewards": dict(reward.parts),
            "reward": float(total),
            "advantage": float(advantage),
            "finished": completion.finished,
            "tokens": len(completion.tokens_T),
        }
        for group, rewards_G, totals_G, advantages_G in zip(groups, rewards_PG, totals_PG, advantages_PG, strict=True)
        for completion, reward, total, advantage in zip(group.completions, rewards_G, totals_G, advantages_G, strict=True)
    ]


def environment(device: str, fingerprints: Mapping[str, str], command: str) -> dict[str, Any]:
    """What a run depended on beside its configuration, and the command that began it. `git` is None unless the package is tracked in a checkout;
    `data` is `fingerprints`."""
    cuda = torch.device(device).type == "cuda"
    return {
        "command": command,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "git": _git(Path(__file__).parent),
        "data": dict(fingerprints),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]  # a lock would outlive a kill, and stop the user's next commit
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # A wheel in a virtual environment inside somebody else's checkout must not report that checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
