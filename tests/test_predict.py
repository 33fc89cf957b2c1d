"""One question about one image: `pytest tests/test_predict.py`."""

import json
from pathlib import Path
from typing import Any

import pytest
from knobs import unread_keys
from PIL import Image, ImageChops

from visual_rft import looking, predict
from visual_rft.config import keys
from visual_rft.frames import Resized
from visual_rft.predict import PredictConfig, main
from visual_rft.sources.digits import Split, scenes
from visual_rft.tasks.wording import completion
from visual_rft.tracking.drawing import LEAST_SIDE, draw_answer
from visual_rft.vocabulary import Completion
from visual_rft.workload import SCHEMAS

ROOT = Path(__file__).parents[1]
BOXES = "[{'Position': [100, 200, 300, 400], 'Confidence': 0.9}, {'Position': [0, 0, 1000, 1000], 'Confidence': 0.25}]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an image in it: scene.png, 64×32."""
    Image.new("RGB", (64, 32), "white").save(tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that says what it is told to, and the questions it was asked."""
    asked: list[str] = []

    def says(text: str) -> list[str]:
        def answer(policy: object, processor: object, examples: Any, **_: object) -> Any:
            asked.extend(example.question for example in examples)
            return ((number, Completion(None, None, text, True)) for number in reversed(range(len(examples))))  # type: ignore[arg-type]

        monkeypatch.setattr(predict.loading, "load", lambda options, machine: (None, None))
        monkeypatch.setattr(looking, "answer", answer)
        return asked

    return says


def predicted(capfd: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["image=scene.png", *argv]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count("\n") == 1
    return dict(json.loads(out))


def test_the_embedded_model_looks_at_a_scene(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (scene,) = scenes(Split.VALIDATION, 1, seed=0)
    scene.image.save("scene.png")
    said = predicted(capfd, f"category={scene.annotations[0].category}")
    assert said["completion"].startswith("<think>") and said["refused"] is None
    assert said["boxes"] and all(0 <= value <= 64 for box in said["boxes"] for value in box["xyxy_pixels"])
    with Image.open(here / "scene_answer.png") as drawn:
        assert drawn.size == (LEAST_SIDE, LEAST_SIDE)
    assert {file.name for file in here.iterdir()} == {"scene.png", "scene_answer.png"}


def test_boxes_come_in_pixels_of_the_image_with_what_they_are(here: Path, says: Any, capfd: pytest.CaptureFixture[str]) -> None:
    asked = says(completion("", BOXES))
    said = predicted(capfd, "category=seven", "out=mine.png")
    assert asked == [said["question"]] and "Find every seven" in asked[0]
    assert said["boxes"][0] == {"xyxy_pixels": pytest.approx([6.4, 6.4, 19.2, 12.8]), "label": "seven 0.90"}
    assert said["boxes"][1] == {"xyxy_pixels": pytest.approx([0, 0, 64, 32]), "label": "seven 0.25"}
    assert said["answer"][0] == {"Position": [100, 200, 300, 400], "Confidence": 0.9} and said["refused"] is None
    assert said["picture"] == "mine.png" and {file.name for file in here.iterdir()} == {"scene.png", "mine.png"}


@pytest.mark.parametrize(
    ("argv", "question", "text", "answer", "boxes"),
    [
        (["task=grounding_digits", "prompt=the leftmost digit"], "Point at the leftmost digit. Think", "(0,0),(500,500)", [0, 0, 500, 500], 1),
        (["task=cls_digits"], "Which digit does the image show? Think", "seven", "seven", 0),
        (["task=ovd_digits", "category=two"], "Find every two in", "No Objects", [], 0),
        (["task=cls_digits", "prompt=Where is it?"], "Where is it?", "(0,0),(500,500)", [0, 0, 500, 500], 1),
        (["prompt=Where is it?"], "Where is it?", "(0,0),(500,500)", [0, 0, 500, 500], 1),
        (["prompt=What is it?", "task=cls_digits"], "What is it?", "a cat", "a cat", 0),
    ],
)
def test_each_task_asks_in_its_own_words_and_a_prompt_in_ones_own(
    argv: list[str], question: str, text: str, answer: object, boxes: int, here: Path, says: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (asked, said) = says(completion("", text)), predicted(capfd, *argv)
    assert asked[0].startswith(question) and (asked[0] == question) == question.endswith("?")
    assert (said["answer"], len(said["boxes"]), said["refused"]) == (answer, boxes, None)


def test_without_thinking_the_answer_stands_alone(here: Path, says: Any, capfd: pytest.CaptureFixture[str]) -> None:
    asked = says(completion(None, BOXES))
    said = predicted(capfd, "category=seven", "task.thinking=false", "task.wording=full_1")
    assert "<think>" not in asked[0] and asked[0].startswith("Look for every seven") and len(said["boxes"]) == 2
    says(completion("hm", BOXES))
    assert predicted(capfd, "category=seven", "task.thinking=false")["refused"] == "text_outside"


def test_boxes_come_in_pixels_whatever_frame_the_model_speaks(
    here: Path, says: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict.loading, "speaks", lambda options: lambda size: Resized(128, 64))
    asked = says(completion("", "[{'Position': [0, 16, 128, 64], 'Confidence': 0.5}]"))
    said = predicted(capfd, "category=seven")
    assert "pixels of the image, which is 128 wide and 64 high" in asked[0]
    assert said["boxes"][0]["xyxy_pixels"] == pytest.approx([0, 8, 64, 32]) and said["answer"][0]["Position"] == [0, 16, 128, 64]
    says(completion("", "[{'Position': [0, 0, 129, 64], 'Confidence': 0.5}]"))
    assert predicted(capfd, "category=seven")["refused"] == "out_of_frame"


def test_a_refused_answer_is_an_answer(here: Path, says: Any, capfd: pytest.CaptureFixture[str]) -> None:
    says("<think> \x00 \ud800 cut")
    said = predicted(capfd, "category=seven")
    assert (said["answer"], said["boxes"], said["refused"], said["completion"]) == (None, [], "truncated", "<think> \x00 \ud800 cut")
    assert (here / "scene_answer.png").exists()


def test_drawing_marks_the_box_and_leaves_the_rest() -> None:
    image = Image.effect_noise((100, 50), 50).convert("RGB")
    plain = draw_answer(image, [], [], "")
    drawn = draw_answer(image, [(40.0, 30.0, 60.0, 40.0)], [""], "")
    assert plain.size == (600, 300) and image.size == (100, 50)
    assert ImageChops.difference(plain, drawn).getbbox() == (240, 180, 361, 241)
    large = Image.new("RGB", (1000, 600))
    assert draw_answer(large, [], [], "").tobytes() == large.tobytes()


@pytest.mark.parametrize("label", ["seven 0.95", "x" * 500, "\n\x00\ud800 漢字", ""])
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (5, 900), (900, 5)])
def test_any_label_is_drawn_on_any_image(label: str, size: tuple[int, int]) -> None:
    width, height = size
    draw_answer(Image.new("RGB", size), [(0.0, 0.0, width, height), (width / 2, height / 2, width, height)], [label, label], label)


def damaged(name: str) -> None:
    whole = Path("scene.png").read_bytes()
    Path(name).write_bytes({"text.png": b"not an image", "cut.png": whole[: len(whole) // 2], "empty.png": b""}[name])


WANTS = "fsod_digits wants category=… (zero, one, two"
REFUSED = {
    "no image": (["category=one"], "image: must be given, image=…"),
    "absent image": (["image=absent.png", "category=one"], "absent.png: No such file or directory; give a whole image file"),
    "a folder": (["image=..", "category=one"], "image=..: no image file in this folder; name a file, a folder of images or a pattern"),
    "not an image": (["image=text.png", "category=one"], "text.png: not an image, or a damaged one; give a whole image file"),
    "truncated": (["image=cut.png", "category=one"], "cut.png: not an image, or a damaged one"),
    "empty file": (["image=empty.png", "category=one"], "empty.png: not an image, or a damaged one"),
    "a thread": (["image=thread.png", "category=one"], "thread.png: 1×400 pixels, and the longer side must be less than 200 times the other"),
    "nothing asked": (["image=scene.png"], f"nothing is asked: {WANTS}"),
    "nothing to point at": (["image=scene.png", "task=grounding_digits"], "nothing is asked: grounding_digits wants what to point at, prompt='"),
    "category to ground": (
        ["image=scene.png", "task=grounding_digits", "category=one"],
        "category=one: grounding_digits asks for no category; grounding_digits wants what to point at, prompt='",
    ),
    "category to classify": (
        ["image=scene.png", "task=cls_digits", "category=one"],
        "category=one: cls_digits asks for no category; cls_digits needs the image alone",
    ),
    "two questions": (["image=scene.png", "category=one", "prompt=what"], "category and prompt: two questions; give one of them"),
    "an empty question": (["image=scene.png", "prompt="], "prompt: empty; say what is asked, or leave it out"),
    "absent model": (["image=scene.png", "category=one", "model.path=/not/there"], "model.path=/not/there: no config.json in /not/there"),
    "no such folder": (["image=scene.png", "category=one", "out=no/such.png"], "out=no/such.png: No such file or directory; name a file that can"),
    "a file as folder": (["image=scene.png", "category=one", "out=scene.png/x.png"], "out=scene.png/x.png: Not a directory; name a file"),
    "read-only": (["image=scene.png", "category=one", "out=/proc/x.png"], "out=/proc/x.png: "),
    "not a PNG": (["image=scene.png", "category=one", "out=x.jpg"], "out=x.jpg: must be the name of a PNG file; name a file"),
    "onto the image": (["image=scene.png", "category=one", "out=scene.png"], "out=scene.png: is the image itself; name a file"),
    "no tokens": (
        ["image=scene.png", "category=one", "algorithm.max_completion_tokens=0"],
        "algorithm.max_completion_tokens=0: must be at least 1",
    ),
    "unknown key": (["image=scene.png", "categry=one"], "categry: no such key; did you mean category?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_before_the_model_is_loaded(
    case: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv, said = REFUSED[case]
    if case != "absent model":
        monkeypatch.setattr(predict.loading, "load", lambda options, machine: pytest.fail("loaded a model"))
    for name in {"text.png", "cut.png", "empty.png"} & {argv[0].removeprefix("image=")}:
        damaged(name)
    if case == "a thread":
        Image.new("RGB", (1, 400)).save("thread.png")
    before = sorted(here.iterdir())
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(said) and err.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_every_knob_is_read() -> None:
    assert unread_keys(keys(PredictConfig, SCHEMAS), ROOT / "visual_rft") == []
