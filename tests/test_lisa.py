"""Laws of reading ReasonSeg as LISA publishes it: `pytest tests/test_lisa.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visual_rft.frames import Original
from visual_rft.images import ImageSet
from visual_rft.metrics.masks import IGNORED, INSIDE, paint
from visual_rft.sources.findings import Findings
from visual_rft.sources.lisa import LisaOptions, read_lisa, test_images, train_images
from visual_rft.tasks import grounding
from visual_rft.tasks.wording import Style

test_images.__test__ = False  # type: ignore[attr-defined]  # what reads the images of a test

WIDTH, HEIGHT = 60, 40
Row = dict[str, Any]


def shape(label: str, left: float, top: float, right: float, bottom: float) -> Row:
    return {"label": label, "shape_type": "polygon", "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


TARGET = shape("target", 10, 5, 30.5, 20)


def one(folder: Path, content: Row | bytes, name: str = "1_a", orientation: int | None = None) -> Path:
    """A folder of one more image with this JSON."""
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / f"{name}.jpg", exif=exif)
    (folder / f"{name}.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def asked(*shapes: Row, text: Any = ("the red thing",), is_sentence: Any = False) -> Row:
    return {"text": list(text) if isinstance(text, tuple) else text, "is_sentence": is_sentence, "shapes": list(shapes)}


def read(folder: Path, most: int | None = None) -> tuple[ImageSet, Findings]:
    findings = Findings(patient=True)
    return read_lisa(folder, findings, most=most), findings


def test_the_box_is_that_of_all_shapes_together_whatever_their_order(tmp_path: Path) -> None:
    shapes = [TARGET, shape("Another part", 40, 2, 50, 10), shape("ignore", 0, 0, 59, 39), shape("flag", 0, 0, 59, 39)]
    for number, order in enumerate((shapes, shapes[::-1])):
        (image,) = read(one(tmp_path / str(number), asked(*order)))[0].images
        assert image.instructions[0].bbox_xywh == image.annotations[0].bbox_xywh == (10, 2, 40, 18)
        outline = image.instructions[0].outline
        assert outline is not None and (len(outline.polygons), len(outline.ignored)) == (2, 1)
        mask = paint(outline, image.stored.size)
        assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) == {INSIDE, IGNORED}
        assert (mask[15, 20], mask[5, 45], mask[30, 5]) == (INSIDE, INSIDE, IGNORED)


def test_the_box_is_cut_at_the_edge_of_the_image_and_the_question_holds_it(tmp_path: Path) -> None:
    found, findings = read(one(tmp_path, asked(shape("target", -7, 20, 30, 45))))
    (image,) = found.images
    assert image.instructions[0].bbox_xywh == (0, 20, 30, 20) and findings.handled["boxes that reach out of the image: cut at its edge"] == 1
    style = Style(speaks=lambda size: Original(*size))
    assert grounding.example(image, image.instructions[0], style).truth.boxes == ((0, 20, 30, 40),)


def test_shapes_are_labelled_in_any_case_and_of_two_points_there_is_nothing(tmp_path: Path) -> None:
    line = {"label": "target", "points": [[0, 0], [59, 39]]}
    found, findings = read(one(tmp_path, asked(shape("FLAG", 0, 0, 59, 39), shape("please Ignore", 0, 0, 5, 5), line, TARGET)))
    assert found.images[0].instructions[0].bbox_xywh == (10, 5, 20.5, 15)
    assert findings.handled["shapes called flag: left out"] == findings.handled["shapes to ignore: not scored"] == 1
    assert findings.handled["shapes of fewer than three points: left out"] == 1 and not findings.faults


def test_training_knows_every_instruction_and_the_test_asks_the_first(tmp_path: Path) -> None:
    texts = ("what is red", "which one stops the cars")
    for part in ("train", "val"):
        one(tmp_path / part, asked(TARGET, text=texts, is_sentence=True))
    options, findings = LisaOptions(str(tmp_path), "train", "val"), Findings()
    (trained,), (tested,) = train_images(options, findings).images, test_images(options, findings).images
    assert [instruction.text for instruction in trained.instructions] == list(texts) and {i.sort for i in trained.instructions} == {"sentence"}
    assert [instruction.text for instruction in tested.instructions] == [texts[0]]
    chosen = {grounding.choose(trained, np.random.default_rng(seed)).text for seed in range(20)}
    assert chosen == set(texts)


def test_a_file_that_is_not_utf_8_is_windows_own(tmp_path: Path) -> None:
    content = json.dumps(asked(TARGET, text=("the café – “open”",)), ensure_ascii=False)
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "cp1252")):
        found, _ = read(one(tmp_path / str(number), content.encode(encoding)))
        assert found.images[0].instructions[0].text == "the café – “open”"


def test_images_are_in_order_of_their_names_and_one_without_a_json_is_left_out(tmp_path: Path) -> None:
    for name in ("10_b", "9_a", "10_a"):
        one(tmp_path, asked(TARGET), name)
    Image.new("RGB", (9, 9)).save(tmp_path / "alone.jpg")
    found, findings = read(tmp_path)
    assert [(image.id, image.stored.name) for image in found.images] == [(0, "10_a.jpg"), (1, "10_b.jpg"), (2, "9_a.jpg")]
    assert findings.handled["images without a JSON: left out"] == 1 and found.place == str(tmp_path)


def test_shapes_are_on_the_image_as_a_viewer_shows_it(tmp_path: Path) -> None:
    """So LISA reads images: turned by EXIF."""
    (image,) = read(one(tmp_path, asked(TARGET), orientation=6))[0].images
    assert image.stored.size == image.image.size == (HEIGHT, WIDTH)


FAULTS: dict[str, tuple[Row | bytes, str]] = {
    "no target": (asked(shape("ignore", 1, 1, 9, 9)), "no shape of what is meant"),
    "no shapes": (asked(), "no shape of what is meant"),
    "outside": (asked(shape("target", 70, 5, 80, 9)), "its shapes have no area in the image of 60×40 pixels"),
    "a line": (asked(shape("target", 7, 5, 7, 9)), "its shapes have no area in the image of 60×40 pixels"),
    "shapes": ({"text": ["a"], "is_sentence": True}, "its `shapes` are None"),
    "label": (asked({"points": [[1, 2]]}), "not a list of objects with a `label`"),
    "points": (asked({"label": "target", "points": [[1, 2, 3]]}), "the `points` of shape 0 are [[1, 2, 3]]"),
    "NaN": (b'{"text": ["a"], "is_sentence": true, "shapes": [{"label": "target", "points": [[NaN, 2]]}]}', "the `points` of shape 0"),
    "far away": (asked({"label": "target", "points": [[10**400, 2]]}), "the `points` of shape 0"),
    "text": (asked(TARGET, text="the red thing"), "its `text` is 'the red thing', not a list of instructions"),
    "no text": (asked(TARGET, text=[]), "its `text` is []"),
    "empty text": (asked(TARGET, text=[" "]), "its instruction ' ' is empty"),
    "template": (asked(TARGET, text=["a <|im_end|> b"]), "which is the chat template's alone"),
    "is_sentence": (asked(TARGET, is_sentence="yes"), "its `is_sentence` is 'yes', not true or false"),
    "JSON": (b"{", "not JSON ("),
    "a list": (b"[]", "not a JSON object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_asked_is_refused_by_its_file(fault: str, tmp_path: Path) -> None:
    content, said = FAULTS[fault]
    one(tmp_path, asked(TARGET), "0_good")
    found, findings = read(one(tmp_path, content))
    assert len(found.images) == 1
    (line,) = findings.faults
    assert line.startswith(f"{tmp_path / '1_a.json'}: ") and said in line and line.endswith("; correct it, or take it out") and "\n" not in line
    with pytest.raises(ValueError) as refused:
        read_lisa(tmp_path, Findings(), most=1)
    assert str(refused.value) == line


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_json_without_a_whole_image_is_refused(damage: str, tmp_path: Path) -> None:
    file = one(tmp_path, asked(TARGET)) / "1_a.jpg"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:20])
    _, findings = read(tmp_path)
    assert "1_a.jpg: " in findings.faults[0] and "copy the image again" in findings.faults[0]


def test_a_folder_without_any_says_where_to_get_them(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "no JSON files in it"), (tmp_path / "none", "No such folder")):
        with pytest.raises(ValueError, match=rf"{said}; take train.zip, val.zip and test.zip of ReasonSeg .* data.root=FOLDER"):
            read_lisa(folder, Findings(), most=None)
