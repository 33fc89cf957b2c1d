"""Scoring completions by hand: `pytest tests/test_score.py`."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from knobs import unread_keys

from visual_rft.config import keys
from visual_rft.score import ScoreConfig, main
from visual_rft.tasks.wording import completion
from visual_rft.workload import SCHEMAS

ROOT = Path(__file__).parents[1]
BOX = "[{'Position': [100, 100, 300, 300], 'Confidence': 0.9}]"
TWO = "[{'Position': [100, 100, 300, 300], 'Confidence': 1}, {'Position': [500, 500, 900, 900], 'Confidence': 1}]"

Lines = list[dict[str, Any]]


def line(said: str, solution: str, **more: object) -> dict[str, Any]:
    return {"completion": said, "solution": solution, **more}


DETECTIONS = [
    line(completion("", BOX), BOX, id=7),
    line(completion("\ud800 \u2028", BOX), TWO),
    line(completion("", "No Objects"), completion("none", "No Objects"), note={"kept": [1, None]}),
    line("<think> cut", "<answer>No Objects</answer>"),
    line(completion("", "nothing"), BOX),
]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(lines: list[Any] | bytes) -> str:
        file = tmp_path / "file.jsonl"
        file.write_bytes(lines if isinstance(lines, bytes) else "".join(json.dumps(one) + "\n" for one in lines).encode())
        return f"completions={file}"

    return write


def scored(capfd: pytest.CaptureFixture[str], *argv: str) -> Lines:
    assert main(argv) == 0
    return [json.loads(one) for one in capfd.readouterr().out.splitlines()]


def test_a_file_scores_as_its_lines_one_by_one(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    together = scored(capfd, write(DETECTIONS))
    assert together == [one for given in DETECTIONS for one in scored(capfd, write([given]))]
    assert together[::-1] == scored(capfd, write(DETECTIONS[::-1]))


def test_scores_can_be_scored_again(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    once = scored(capfd, write(DETECTIONS))
    assert once == scored(capfd, write(once))
    heavy = scored(capfd, write(once), "+rewards.weights.iou=3")
    assert [one["reward"] - light["reward"] for one, light in zip(heavy, once, strict=True)] == pytest.approx(
        [2 * one["rewards"]["iou"] for one in once]
    )


def test_every_key_is_kept_and_what_was_earned_comes_with_it(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    results = scored(capfd, write(DETECTIONS))
    assert [{key: one[key] for key in given} for one, given in zip(results, DETECTIONS, strict=True)] == DETECTIONS
    first, second, third, fourth, fifth = results
    assert first["rewards"] == pytest.approx({"iou": 1, "confidence": 0.99, "format": 1}) and first["reward"] == pytest.approx(2.99)
    assert first["answer"] == [{"Position": [100, 100, 300, 300], "Confidence": 0.9}] and first["refused"] is None
    assert second["rewards"]["iou"] == 0.5
    assert (third["answer"], third["reward"]) == ([], 3)
    assert (fourth["answer"], fourth["refused"], fourth["reward"]) == (None, "truncated", 0)
    assert fifth["refused"] == "not_a_list"


def test_one_line_on_stderr_sums_up(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([write(DETECTIONS)]) == 0
    assert capfd.readouterr().err == "completions 5, mean reward 1.5970, refused 40.0% (truncated 20.0%, not_a_list 20.0%)\n"


def test_the_family_of_rewards_is_a_choice(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    lenient = line(f"<answer>{BOX}</answer>", BOX)  # without <think>: the published reward pays for its boxes
    assert scored(capfd, write([lenient]))[0]["reward"] == 0
    (paper,) = scored(capfd, write([lenient]), "rewards=paper")
    assert paper["rewards"]["iou"] == 1 and (paper["answer"], paper["refused"]) == (None, None)


def test_without_thinking_the_answer_stands_alone(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    both = [line(completion(None, BOX), BOX), line(completion("hm", BOX), completion("hm", BOX))]
    assert [one["refused"] for one in scored(capfd, write(both))] == ["no_think", None]
    for family in ("strict", "paper"):
        bare, thought = scored(capfd, write(both), "task.thinking=false", f"rewards={family}")
        assert bare["rewards"]["format"] == 1 and bare["answer"] and thought["rewards"]["format"] == 0 and thought["answer"] is None


@pytest.mark.parametrize(
    ("task", "said", "parts"),
    [
        ("fsod_digits", BOX, {"iou", "confidence", "format"}),
        ("ovd_digits", BOX, {"iou", "confidence", "format"}),
        ("fsod_coco", BOX, {"iou", "confidence", "format"}),
        ("cls_digits", "seven", {"accuracy", "format"}),
        ("grounding_digits", "(100,100),(300,300)", {"iou", "format"}),
    ],
)
def test_every_task_scores_without_its_data_or_its_model(
    task: str, said: str, parts: set[str], write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (one,) = scored(capfd, write([line(completion("", said), said)]), f"task={task}")
    assert set(one["rewards"]) == parts and one["rewards"]["format"] == 1 and one["reward"] > len(parts) - 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["file.jsonl"]


def test_other_ends_of_lines_a_mark_of_order_and_blank_lines_do_no_harm(write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    plain = "\r\n\r\n".join(json.dumps(one) for one in DETECTIONS)
    assert scored(capfd, write(b"\xef\xbb\xbf" + plain.encode())) == scored(capfd, write(DETECTIONS))


def test_stdin_is_read_and_a_closed_stdout_ends_it(monkeypatch: pytest.MonkeyPatch, write: Any, capfd: pytest.CaptureFixture[str]) -> None:
    raw = "".join(json.dumps(one) + "\n" for one in DETECTIONS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert scored(capfd, "completions=-") == scored(capfd, write(DETECTIONS))
    program = "import sys; from visual_rft.score import main; code = main(); sys.exit(code + 10 * ('visual_rft.models' in sys.modules))"
    command = [sys.executable, "-c", program, "completions=-"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(raw)
        process.stdin.close()
        err = process.stderr.read().decode()
    assert process.returncode == 0 and "Traceback" not in err and "Broken" not in err
    assert "mean reward" in err


GOOD = DETECTIONS[0]
REFUSED = {
    "no such file": (None, [], "absent.jsonl: No such file or directory; name a file that can be read"),
    "a folder": (None, ["completions=."], ".: Is a directory"),
    "not given": (None, ["completions=???"], "completions: must be given, completions=…"),
    "empty": (b"", [], "file.jsonl: empty; give one JSON object a line"),
    "blank": (b" \n\n", [], "file.jsonl: empty"),
    "not UTF-8": (json.dumps(GOOD).encode() + b'\n{"completion": "\xff"', [], "file.jsonl, line 2: not UTF-8 (byte 0xff); save the file as UTF-8"),
    "broken line": ([GOOD, GOOD, "cut"], [], "file.jsonl, line 3: not a JSON object; write"),
    "half a line": (json.dumps(GOOD).encode() + b"\n\n" + json.dumps(GOOD).encode()[:-9], [], "file.jsonl, line 3: not JSON ("),
    "no completion": ([GOOD, {"solution": BOX}], [], "file.jsonl, line 2: no key `completion`; write {"),
    "no solution": ([{"completion": BOX}], [], "file.jsonl, line 1: no key `solution`; write {"),
    "a completion that is a list": ([GOOD, line([BOX], BOX)], [], "file.jsonl, line 2: `completion` is not a text; write"),  # type: ignore[arg-type]
    "a solution that is null": ([line(BOX, None)], [], "file.jsonl, line 1: `solution` is not a text"),  # type: ignore[arg-type]
    "unreadable solution": (
        [GOOD, line("", "[{'Position': [1], 'Confidence': 1}]")],
        [],
        "line 2: the solution is no answer to this task: bad_box at",
    ),
    "empty solution": (
        [line(BOX, "")],
        [],
        "this task: empty_answer; write `solution` as a right answer is written",
    ),
    "solution of another task": ([line(BOX, "seven")], [], "line 1: the solution is no answer to this task: not_a_list at 'seven'"),
    "NaN": (b'{"completion": "", "solution": "No Objects", "x": NaN}', [], "line 1: not JSON (NaN is no number of JSON)"),
    "too large a number": (b'{"completion": "", "solution": "No Objects", "x": 1e999}', [], "line 1: not JSON (Out of range float"),
    "too deep": (b"[" * 100_000, [], "line 1: not JSON (nested too deeply)"),
    "unknown part": (
        [GOOD],
        ["+rewards.weights.giou=2"],
        "rewards.weights.giou: this task has no such reward part; its parts are iou",
    ),
    "unknown task": ([GOOD], ["task=nope"], "task=nope: no such option; there is cls_aircraft, "),
    "unknown key": ([GOOD], ["completion=x"], "completion: no such key; did you mean completions?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_prints_nothing(
    case: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content, argv, said = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    file = write(content) if content is not None else "completions=absent.jsonl"
    assert main([file, *argv] if not argv or not argv[0].startswith("completions=") else argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_every_knob_is_read() -> None:
    assert unread_keys(keys(ScoreConfig, SCHEMAS), ROOT / "visual_rft") == []
