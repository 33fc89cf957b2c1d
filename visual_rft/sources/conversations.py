"""Referring expressions and boxes as VLM-R1 publishes them: JSON lines of conversations to train on, a JSON array with solutions to test on.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>…: the red cup."}, {"from": "gpt", "value": "[10, 20, 80, 60]"}]}
    [{"image": "a.jpg", "problem": "…: the red cup.", "solution": [10, 20, 80, 60]}, …]

Either form in either file; LLaVA's and Qwen's own files for finetuning have the first one. What is taken from a question is what it points at: the
words of VLM-R1 and InternVL around a referring expression go, any other question stays whole. It is asked in the words of the task, since these say
what form an answer has. An answer is one box, in one of the forms that `box_of` reads, never evaluated.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visual_rft.sources.findings import Findings
from visual_rft.sources.jsonl import strict_json
from visual_rft.sources.options import DataOptions
from visual_rft.sources.rows import MARK, Frames, Row, rows_of
from visual_rft.sources.tables import Record, records

DOWNLOAD = (
    "take rec_jsons_processed.zip and train2014.zip from https://huggingface.co/datasets/omlab/VLM-R1, unpack both into one folder and set "
    "data.root=FOLDER, or name files of your own"
)
ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")
ONE_TURN = 'write one question and one answer a line, {"from": "human", "value": "…"} and {"from": "gpt", "value": "…"}'
ONE_BOX = 'write one box, [x1, y1, x2, y2], {"bbox_2d": [x1, y1, x2, y2]} or (x1,y1),(x2,y2)'

_REFERS = re.compile(r"please provide the bounding box coordinates? of the region this sentence describes:(.+)", re.IGNORECASE | re.DOTALL)
_FENCED = re.compile(r"```(?:json)?(.+)```", re.DOTALL)
_ANSWER = re.compile(r"(?:<think>.*</think>)?\s*<answer>(.+)</answer>", re.DOTALL)
_NUMBER = r"\s*([-+]?\d{1,9}(?:\.\d{1,20})?(?:e[-+]?\d{1,3})?)\s*"
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")


@dataclass
class ConversationOptions(DataOptions):
    """The folder `root`, and in it the files to train on, that to test on, and the folder that the paths of images start from; an absolute path need
    not lie in it. `solution_frame` is what the numbers of the boxes count."""

    root: str
    train: list[str]
    test: str
    images: str
    solution_frame: Frames

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("data.train: no file; give some, data.train=[a.jsonl,b.jsonl]")


@dataclass(frozen=True)
class Conversations:
    """Rows whose problem is what they point at, and the files they are from."""

    rows: list[Row]
    place: str


def train_rows(options: ConversationOptions, findings: Findings) -> Conversations:
    """Every line of the training files. Raises ValueError when one is missing."""
    return _read(options, "train", options.train, findings)


def test_rows(options: ConversationOptions, findings: Findings) -> Conversations:
    """Every line of the test file. Raises ValueError when it is missing."""
    return _read(options, "test", [options.test], findings)


def _read(options: ConversationOptions, part: str, names: Sequence[str], findings: Findings) -> Conversations:
    root = Path(options.root).expanduser()
    files = [root / name for name in names]
    for file in files:
        if not file.is_file():
            raise ValueError(f"data.{part}: {file}: No such file; {DOWNLOAD}")
    found = rows_of(_all(files, findings), images=str(root / options.images), findings=findings)
    if options.solution_frame is Frames.pixels:
        found = [inside for row in found if (inside := _inside(row, findings))]
    return Conversations(found, ", ".join(map(str, files)))


def _all(files: Sequence[Path], findings: Findings) -> Iterator[Record]:
    for file in files:
        for record in records(str(file), "", findings):
            try:
                yield replace(record, values={**record.values, **_question(record.values)})
            except ValueError as fault:
                findings.refuse(f"{record.place}: {fault}", fault)


def _question(values: dict[str, Any]) -> dict[str, str]:
    """What is pointed at, and its box as corners."""
    turns = values.get("conversations")
    asked, answered = (values.get("problem"), values.get("solution")) if turns is None else _turns(turns)
    if not isinstance(asked, str):
        raise ValueError(f"neither `conversations` nor a `problem` that is text; {ONE_TURN}")
    x1, y1, x2, y2 = box_of(answered)
    return {"problem": expression(asked), "solution": f"({x1!r},{y1!r}),({x2!r},{y2!r})"}


def _turns(turns: Any) -> tuple[Any, Any]:
    """What is asked, and what is answered."""
    listed = turns if isinstance(turns, list) else []
    said = [(turn.get("from"), turn.get("value")) for turn in listed if isinstance(turn, dict)]
    if len(said) != 2 or len(listed) != 2 or said[0][0] not in ASKS or said[1][0] not in ANSWERS:
        raise ValueError(f"its `conversations` are {turns!r:.60}; {ONE_TURN}")
    return said[0][1], said[1][1]


def expression(question: str) -> str:
    """What a question points at."""
    text = question.replace(MARK, " ").strip()
    refers = _REFERS.fullmatch(text)
    return refers[1].replace("<ref>", "").replace("</ref>", "").strip().removesuffix(".").rstrip() if refers else text


def box_of(answer: Any) -> tuple[float, float, float, float]:
    """The one box (x1, y1, x2, y2) of an answer. Raises ValueError when it is none, or several."""
    value = answer
    if isinstance(answer, str):
        text = answer.strip()
        for around in (_ANSWER, _FENCED):
            inner = around.fullmatch(text)
            text = inner[1].strip() if inner else text
        if corners := _CORNERS.fullmatch(text):
            return _checked([float(number) for number in corners.groups()], answer)
        try:
            value = strict_json(text, "", "")
        except ValueError:
            value = None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("bbox_2d")
    return _checked(value, answer)


def _checked(numbers: Any, answer: Any) -> tuple[float, float, float, float]:
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(type(one) in (int, float) and abs(one) < 1e9 for one in numbers):
        raise ValueError(f"its answer is {'missing' if answer is None else f'{answer!r:.60}'}; {ONE_BOX}")
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def _inside(row: Row, findings: Findings) -> Row | None:
    """The box in pixels, cut at the edge of the image: VLM-R1's reach a pixel beyond what they enclose."""
    width, height = row.images[-1].size
    x1, y1, x2, y2 = box_of(row.solution)
    cut = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        findings.refuse(
            f"{row.place}: its box {[x1, y1, x2, y2]} has no area in the image of {width}×{height} pixels; correct it, or take the row out"
        )
        return None
    findings.handle("boxes that reach out of the image: cut at its edge", cut != (x1, y1, x2, y2))
    return replace(row, solution="({!r},{!r}),({!r},{!r})".format(*cut))
