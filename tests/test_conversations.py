"""Laws of reading referring expressions as VLM-R1 publishes them: `pytest tests/test_conversations.py`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visual_rft import workload
from visual_rft.frames import NORM1000, Original
from visual_rft.sources.conversations import ConversationOptions, box_of, expression
from visual_rft.sources.findings import Findings
from visual_rft.sources.rows import Frames
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.wording import Contract, Wording, grounding_question
from visual_rft.vocabulary import Example

ASKED = "Please provide the bounding box coordinate of the region this sentence describes"
TASK = GroundingOptions("grounding_refcoco", None, False, 0, None, Wording.full_1, True)


def turns(question: str, answer: Any, who: tuple[str, str] = ("human", "gpt")) -> list[dict[str, Any]]:
    return [{"from": who[0], "value": question}, {"from": who[1], "value": answer}]


def line(answer: Any = "[10, 20, 60, 80]", question: str = f"<image>{ASKED}: the red cup.", **more: Any) -> dict[str, Any]:
    return {"id": 1, "image": "train2014/a.jpg", "conversations": turns(question, answer)} | more


def data(root: Path, rows: list[Any], frame: Frames = Frames.pixels, *, lines: bool = True) -> ConversationOptions:
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 100), "blue").save(root / "train2014/a.jpg")
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    (root / "some.jsonl").write_text(text)
    return ConversationOptions(str(root), ["some.jsonl"], "some.jsonl", ".", frame)


def examples(options: ConversationOptions, speaks: Any = lambda _: NORM1000) -> list[Example]:
    return workload.train_examples(TASK, options, speaks)


def faults(options: ConversationOptions) -> list[str]:
    findings = Findings(patient=True)
    found = workload.training_data(options, 0, findings)
    workload.examples_of(TASK, found, lambda _: NORM1000, findings) if found.rows else None
    return findings.faults


FORMS = [
    "[10, 20, 60, 80]",
    " [[10.0,20,60,80]] ",
    '{"bbox_2d": [10, 20, 60, 80], "label": "cup"}',
    '[{"bbox_2d": [10, 20, 60, 80]}]',
    '```json\n[{"bbox_2d": [10, 20, 60, 80], "label": "the red cup"}]\n```',
    "(10,20),(60,80)",
    "( 10.0, 20 ) , (60, 8e1)",
    "<answer>[10, 20, 60, 80]</answer>",
    "<think>It is red.</think> <answer>(10,20),(60,80)</answer>",
    [10, 20, 60, 80.0],
]


@pytest.mark.parametrize("answer", FORMS)
def test_one_box_is_read_in_each_of_its_forms(answer: Any) -> None:
    assert box_of(answer) == (10, 20, 60, 80)


SEVERAL = ["[[1, 2, 3, 4], [5, 6, 7, 8]]", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 4]}]', "(1,2),(3,4),(5,6),(7,8)"]
NO_BOX = [*SEVERAL, "", "no idea", "[10, 20, 60]", "[10, 20, 60, 80, 90]", '{"bbox": [1, 2, 3, 4]}', '["10", "20", "60", "80"]']
NO_BOX += ["[10, 20, NaN, 80]", "[1e999, 2, 3, 4]", "[true, 20, 60, 80]", "(nan,1),(2,3)", "(1e400,1),(2,3)"]
NO_BOX += ["__import__('os')", "[" * 10000, "(1,2),(3,4) and more", "9" * 5000]


@pytest.mark.parametrize("answer", [*NO_BOX, None, 7, [1, 2, 3], [1, 2, 3, 10**400], {"a": 1}])
def test_whatever_is_not_one_box_is_refused_in_a_line(answer: Any) -> None:
    with pytest.raises(ValueError, match="write one box, ") as refused:
        box_of(answer)
    assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("question", "meant"),
    [
        (f"<image>{ASKED}: the red cup.", "the red cup"),
        (f"<image>\n{ASKED}: <ref>the red cup</ref>", "the red cup"),
        (f"{ASKED.replace('coordinate', 'coordinates')}: left guy", "left guy"),
        ("<image>Locate the house in this image.", "Locate the house in this image."),
        ("the red cup", "the red cup"),
    ],
)
def test_a_question_is_about_what_it_points_at(question: str, meant: str) -> None:
    assert expression(question) == meant


def test_both_forms_and_both_names_of_who_speaks_ask_the_same(tmp_path: Path) -> None:
    published = {"image": "train2014/a.jpg", "problem": f"{ASKED}: the red cup.", "solution": [10, 20, 60, 80], "normal_caption": "the red cup"}
    users = line() | {"conversations": turns(f"{ASKED}: the red cup.", "(10,20),(60,80)", ("user", "assistant"))}
    several = line() | {"image": ["train2014/a.jpg"]}
    found = examples(data(tmp_path, [line(), published, users, several]))
    assert [one.id for one in found] == ["0", "1", "2", "3"]
    assert {one.question for one in found} == {grounding_question("the red cup", Wording.full_1, Contract())}
    assert {one.truth.boxes for one in found} == {((50, 200, 300, 800),)} and {one.images for one in found} == {found[0].images}
    assert examples(data(tmp_path, [published] * 2, lines=False))[0].truth == found[0].truth


def test_boxes_count_pixels_or_thousandths_as_the_data_say_and_are_told_in_the_model_s_frame(tmp_path: Path) -> None:
    in_pixels = examples(data(tmp_path, [line()]), lambda size: Original(size[0] * 2, size[1] * 2))
    assert in_pixels[0].truth.boxes == ((20, 40, 120, 160),)
    in_thousandths = examples(data(tmp_path, [line("[50, 200, 300, 800]")], Frames.norm1000))
    assert in_thousandths[0].truth.boxes == ((50, 200, 300, 800),)


def test_a_box_that_reaches_a_pixel_too_far_is_cut(tmp_path: Path) -> None:
    findings = Findings()
    found = workload.training_data(data(tmp_path, [line("[150, 20, 201, 100.5]"), line()]), 0, findings)
    assert [row.solution for row in found.rows] == ["(150.0,20.0),(200.0,100.0)", "(10.0,20.0),(60.0,80.0)"]
    assert findings.handled["boxes that reach out of the image: cut at its edge"] == 1


def test_several_files_are_one_set(tmp_path: Path) -> None:
    options = data(tmp_path, [line()] * 3)
    (tmp_path / "more.jsonl").write_text(json.dumps(line("[0, 0, 9, 9]")))
    options.train.append("more.jsonl")
    found = examples(options)
    assert [one.id for one in found] == ["0", "1", "2", "3"] and found[3].truth != found[2].truth


FAULTS: dict[str, tuple[Any, str]] = {
    "answer": (line("in the middle"), "its answer is 'in the middle'; write one box, "),
    "outside": (line("[210, 20, 230, 80]"), "has no area in the image of 200×100 pixels"),
    "inverted": (line("[60, 20, 10, 80]"), "has no area in the image of 200×100 pixels"),
    "three turns": (line(conversations=turns("q", "a") + turns("q", "a")), "write one question and one answer a line"),
    "turned round": (line(conversations=turns("q", "a")[::-1]), "write one question and one answer a line"),
    "no turns": (line(conversations="hello"), "its `conversations` are 'hello'"),
    "no question": ({"image": "train2014/a.jpg"}, "neither `conversations` nor a `problem`"),
    "empty": (line(question=f"<image>{ASKED}: ."), "`problem` is empty"),
    "template": (line(question="the <|image_pad|>"), "which is the chat template's alone"),
    "image": (line(image="train2014/b.jpg"), "train2014/b.jpg: No such file"),
    "no image": (line(image=None), "no image"),
    "a number": (7, "not a JSON object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_line_that_cannot_be_taken_is_refused_by_its_number(fault: str, tmp_path: Path) -> None:
    row, said = FAULTS[fault]
    options = data(tmp_path, [line(), row, line()])
    (found,) = faults(options)
    assert found.startswith(f"{tmp_path / 'some.jsonl'}, line 2: ") and said in found and "\n" not in found
    with pytest.raises(ValueError) as refused:
        examples(options)
    assert str(refused.value) == found


def test_a_missing_file_says_where_to_get_it_and_is_looked_for_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ConversationOptions("owner", ["name.jsonl"], "name.jsonl", ".", Frames.pixels)
    with pytest.raises(ValueError, match=r"data.train: owner/name.jsonl: No such file; take rec_jsons_processed.zip"):
        examples(options)
    with pytest.raises(ValueError, match=r"data.test: owner/name.jsonl: No such file"):
        workload.test_data(options)
    with pytest.raises(ValueError, match=r"data.train: no file"):
        ConversationOptions("owner", [], "b", ".", Frames.pixels)
