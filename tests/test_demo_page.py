"""What the page of the demo shows; the page itself needs gradio, which the tests do not: `pytest tests/test_demo_page.py`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from knobs import unread_keys
from PIL import Image

from visual_rft import demo
from visual_rft.config import keys
from visual_rft.demo import DemoConfig, Kind, main, question
from visual_rft.frames import NORM1000
from visual_rft.images import StoredImage
from visual_rft.sources.digits import Split, scenes
from visual_rft.tasks.wording import Wording
from visual_rft.workload import SCHEMAS

ROOT = Path(__file__).parents[1]
TERSE = SimpleNamespace(wording=Wording.terse_1, thinking=True)


class Page:
    """Stands in for gradio: remembers what the page does, and asks it."""

    class Error(Exception):
        def __init__(self, text: str, print_exception: bool) -> None:
            super().__init__(text)

    def __init__(self) -> None:
        self.asked: Any = None
        self.launched: dict[str, Any] = {}

    def __getattr__(self, _: str) -> Any:
        return lambda *args, **kwargs: None

    def Interface(self, asked: Any, *_: Any, **__: Any) -> Any:
        self.asked = asked
        return SimpleNamespace(launch=self.launched.update)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    stand_in = Page()
    monkeypatch.setattr(demo, "find_spec", lambda _: True)
    monkeypatch.setattr(demo, "import_module", lambda _: stand_in)
    return stand_in


def test_the_embedded_model_thinks_and_draws(page: Page, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (scene,) = scenes(Split.VALIDATION, 1, seed=0)
    scene.image.save(tmp_path / "scene.png")
    assert main(["port=1234"]) == 0 and page.launched == {"server_name": "127.0.0.1", "server_port": 1234, "share": False}
    drawn, thinking, answer = page.asked(str(tmp_path / "scene.png"), str(Kind.DETECTION), f" {scene.annotations[0].category} ")
    assert thinking.startswith(scene.annotations[0].category) and answer["boxes"] and answer["refused"] is None
    assert drawn.size != scene.image.size and isinstance(drawn, Image.Image)
    (tmp_path / "no.png").write_text("no image")
    for file, words, said in (
        (None, "seven", "no image yet"),
        (str(tmp_path / "no.png"), "seven", "not an image"),
        (str(tmp_path / "scene.png"), " ", "nothing"),
    ):
        with pytest.raises(Page.Error, match=said):
            page.asked(file, str(Kind.DETECTION), words)


@pytest.mark.parametrize(
    ("kind", "words", "asked"),
    [
        (Kind.DETECTION, "seven", "Find every seven in"),
        (Kind.GROUNDING, "the leftmost digit", "Point at the leftmost digit."),
        (Kind.CLASSIFICATION, "digit", "Which digit does the image show?"),
        (Kind.OWN, "Where is it?", "Where is it?"),
    ],
)
def test_each_kind_of_question_is_put_as_its_task_puts_it(kind: Kind, words: str, asked: str) -> None:
    put = question(kind, f" {words}\n", TERSE).put(StoredImage.of(0, Image.new("RGB", (8, 8))), lambda _: NORM1000)  # type: ignore[arg-type]
    assert put.example.question.startswith(asked)
    with pytest.raises(ValueError, match="nothing is asked yet"):
        question(kind, " ", TERSE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "gradio is not installed: pip install 'visual_rft[demo]'"),
        (["port=0"], "port=0: must lie in 1..65535"),
        (["task.shots=1"], "task.shots=1: nothing here reads task.shots; leave it out"),
    ],
)
def test_what_cannot_be_is_one_line(argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(said) and err.count("\n") == 1


def test_a_run_that_has_saved_nothing_and_a_port_that_is_taken_are_one_line(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run={tmp_path}"]) == 2 and "no checkpoint in it" in capfd.readouterr().err

    def taken(**_: Any) -> None:
        raise OSError("Cannot find empty port in range: 1-1.\nmore")

    monkeypatch.setattr(demo, "looking", lambda *_: None)
    monkeypatch.setattr(page, "Interface", lambda *_, **__: SimpleNamespace(launch=taken))
    assert main(["port=1"]) == 2 and capfd.readouterr().err == "port=1: Cannot find empty port in range: 1-1.; give another\n"


def test_every_knob_is_read() -> None:
    assert unread_keys(keys(DemoConfig, SCHEMAS), ROOT / "visual_rft") == []
