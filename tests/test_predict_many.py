"""One question about several images, and two models beside each other: `pytest tests/test_predict_many.py`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from visual_rft import looking
from visual_rft.models import loading
from visual_rft.predict import main
from visual_rft.tasks.wording import completion
from visual_rft.tracking.drawing import GAP, LINE, side_by_side
from visual_rft.vocabulary import Completion

BOX = completion("", "[{'Position': [100, 200, 300, 400], 'Confidence': 0.9}]")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with images of several sizes, and what is none, in photos/."""
    for number, name in enumerate(("a.png", "b.jpg", "c.png", "d/a.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64 + number, 32), "white").save(file)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each model says, by its path, the last image first; BOX where nothing else is put here. The models that were loaded stand in it."""
    says: dict[str, str] = {}

    def load(options: Any, _: object) -> tuple[str, None]:
        says.setdefault(options.path, BOX)
        return options.path, None

    def answer(policy: str, _: object, examples: Any, **__: object) -> Any:
        return ((n, Completion(None, None, says[policy], True)) for n in reversed(range(len(examples))))  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(looking, "answer", answer)
    return says


def asked(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of stdout, read, and those of stderr."""
    assert main(["category=seven", *argv]) == code
    out, err = capfd.readouterr()
    return [json.loads(line) for line in out.splitlines()], err.splitlines()


def test_an_image_among_others_is_answered_as_it_is_alone(here: Path, models: object, capfd: pytest.CaptureFixture[str]) -> None:
    together, err = asked(capfd, "image=photos", "out=seen")
    assert [one["image"] for one in together] == ["photos/a.png", "photos/b.jpg", "photos/c.png"] and err == []
    assert [file.name for file in sorted((here / "seen").iterdir())] == ["a_answer.png", "b_answer.png", "c_answer.png"]
    for one in together:
        (alone,), _ = asked(capfd, f"image={one['image']}", "out=alone.png")
        assert alone | {"picture": one["picture"]} == one
        assert Path(one["picture"]).read_bytes() == Path("alone.png").read_bytes()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/*.png", {"photos/a.png": "a", "photos/c.png": "c"}),
        ("photos/**/*.png", {"photos/a.png": "photos_a.png", "photos/c.png": "c", "photos/d/a.png": "photos_d_a.png"}),
        ("photos/?.[jp]*g", {"photos/a.png": "a", "photos/b.jpg": "b", "photos/c.png": "c"}),
        ("photos/d", {"photos/d/a.png": "a"}),
    ],
)
def test_a_pattern_names_images_and_each_has_a_picture_of_its_own(
    pattern: str, found: dict[str, str], here: Path, models: object, capfd: pytest.CaptureFixture[str]
) -> None:
    said, _ = asked(capfd, f"image='{pattern}'")
    assert {one["image"]: one["picture"] for one in said} == {image: f"answers/{name}_answer.png" for image, name in found.items()}
    assert {file.name for file in (here / "answers").iterdir()} == {f"{name}_answer.png" for name in found.values()}


def test_an_image_named_like_a_pattern_is_an_image(here: Path, models: object, capfd: pytest.CaptureFixture[str]) -> None:
    Path("photos/a.png").rename("photos/[a]*.png")
    (said,), _ = asked(capfd, "image='photos/[a]*.png'")
    assert said["picture"] == "[a]*_answer.png"


def test_what_is_no_image_is_named_and_left_out(here: Path, models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    whole = Path("photos/c.png").read_bytes()
    Path("photos/b.jpg").write_bytes(b"not an image")
    Path("photos/c.png").write_bytes(whole[: len(whole) // 2])
    said, err = asked(capfd, "image=photos", code=2)
    assert [one["image"] for one in said] == ["photos/a.png"] and [file.name for file in (here / "answers").iterdir()] == ["a_answer.png"]
    left_out = [
        f"left out: photos/{name}: not an image, or a damaged one; give a whole image file, such as a PNG or a JPEG" for name in ("b.jpg", "c.png")
    ]
    assert err == [*left_out, "2 of 3 images were left out; each is named above"]
    models.clear()
    Path("photos/a.png").write_bytes(b"")
    said, err = asked(capfd, "image=photos", "out=new", code=2)
    assert said == [] and err[-1].startswith("3 of 3 images") and not models and not Path("new").exists()


REFUSED = {
    "an empty folder": (["image=empty"], "image=empty: no image file in this folder; name a file, a folder of images or a pattern"),
    "nothing fits": (["image='photos/*.webp'"], "image=photos/*.webp: no file fits this pattern; name a file, a folder of images or a pattern"),
    "a PNG for several": (["image=photos", "out=x.png"], "out=x.png: several images have their PNGs in a folder; name a folder"),
    "a file as folder": (["image=photos", "out=photos/notes.txt"], "out=photos/notes.txt: several images have their PNGs in a folder"),
    "read-only": (["image=photos", "out=/proc/x"], "out=/proc/x: "),
    "nothing to compare": (["image=photos", "compare=empty"], "compare=empty: neither the folder of a run nor of a model; name one of them"),
    "a run without weights": (["image=photos", "compare=begun"], "run=begun: no checkpoint in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line_before_a_model_is_loaded(
    case: str, here: Path, models: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    argv, line = REFUSED[case]
    Path("empty").mkdir()
    Path("begun").mkdir()
    Path("begun/config.yaml").write_text("seed: 0\n")
    before = sorted(here.rglob("*"))
    said, err = asked(capfd, *argv, code=2)
    assert said == [] and len(err) == 1 and err[0].startswith(line) and not models and sorted(here.rglob("*")) == before


def test_two_models_are_asked_and_drawn_beside_each_other(here: Path, models: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    other = str(ROOT / "visual_rft/assets/tiny")
    models[other] = completion("none", "No Objects")
    said, _ = asked(capfd, "image=photos", f"compare={other}")
    assert set(models) == {"embedded:tiny", other} and len(said) == 3
    alone, _ = asked(capfd, "image=photos", "out=alone")
    for both, one in zip(said, alone, strict=True):
        assert both == one | {"picture": both["picture"], "compared": both["compared"]}
        assert both["compared"] == {"question": one["question"], "completion": models[other], "answer": [], "boxes": [], "refused": None}
        with Image.open(one["picture"]) as left, Image.open(both["picture"]) as drawn:
            assert drawn.width == 2 * left.width + GAP
            assert ImageChops.difference(drawn.crop((0, LINE, left.width, LINE + left.height)), left).getbbox() is None


@pytest.mark.parametrize("heading", ["base", "/a/long/path" * 50, "\n\x00\ud800 漢字", ""])
def test_any_heading_stands_above_its_picture(heading: str) -> None:
    drawn = side_by_side([(heading, Image.new("RGB", (30, 40), "red")), ("b", Image.new("RGB", (50, 20), "blue"))])
    assert drawn.size == (30 + GAP + 50, LINE + 40)
    assert drawn.getpixel((0, LINE)) == (255, 0, 0) and drawn.getpixel((30 + GAP, LINE)) == (0, 0, 255)
