"""The frame a model speaks is the image as the model is shown it. Run: .venv/bin/python -m pytest tests/test_frames.py"""

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from families import Family
from hub_folders import Layout, write_json
from hub_folders import preprocessor as published
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from visual_rft.boxes import convert, whole
from visual_rft.frames import NORM1000, Frame, Original, Resized
from visual_rft.models.frames import LONGEST, resized, thousandths
from visual_rft.models.loading import FAMILY, ModelOptions, Unsuitable, folder, speaks
from visual_rft.models.processor import image_processor

PIXELS = {Family.qwen2_5_vl}
sides = st.integers(1, 3000)
areas = st.integers(1, 2_000_000)


def configured(family: str, place: Path, **images: object) -> Path:
    """A folder with a configuration and nothing else."""
    place.mkdir(parents=True, exist_ok=True)
    write_json(place)("config.json", {"model_type": family})
    write_json(place)("preprocessor_config.json", published(Layout(Family(family))) | images)
    return place


def options(place: Path, min_pixels: int = 3136, max_pixels: int = 401408) -> ModelOptions:
    return ModelOptions("mine", str(place), min_pixels, max_pixels, 1e-6)


def possible(width: int, height: int) -> bool:
    return max(width, height) <= LONGEST * min(width, height)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured("qwen2_5_vl", tmp_path_factory.mktemp("frames") / "model")


def test_every_family_speaks_its_frame_and_only_its_configuration_is_read(tmp_path: Path) -> None:
    assert set(FAMILY) == set(Family)
    for family in Family:
        frame_of = speaks(options(configured(family, tmp_path / family)))
        assert frame_of((640, 480)) == (Resized(644, 476) if family in PIXELS else NORM1000)
        assert pickle.loads(pickle.dumps(frame_of))((640, 480)) == frame_of((640, 480))
    assert speaks(ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4)) is thousandths


@settings(deadline=None, max_examples=60)
@given(sides, sides, areas, areas, st.sampled_from([8, 14, 16]), st.sampled_from([1, 2, 3]))
def test_the_frame_is_the_grid_of_patches_that_the_model_is_shown(
    place: Path, width: int, height: int, area: int, other: int, patch: int, merge: int
) -> None:
    assume(possible(width, height))
    chosen = options(configured("qwen2_5_vl", place / f"{patch} {merge}", patch_size=patch, merge_size=merge), *sorted((area, other)))
    images = image_processor(Path(chosen.path), min_pixels=chosen.min_pixels, max_pixels=chosen.max_pixels)
    (grid,) = images([Image.new("RGB", (width, height))], return_tensors="np")["image_grid_thw"].tolist()
    assert speaks(chosen)((width, height)) == Resized(grid[2] * patch, grid[1] * patch)


@st.composite
def boxes_in_frames(draw: st.DrawFn) -> tuple[tuple[float, ...], Original, Frame]:
    width, height = draw(st.tuples(sides, sides).filter(lambda size: possible(*size)))
    area, factor = draw(areas), draw(st.sampled_from([28, 32]))
    frame = draw(st.sampled_from([NORM1000, resized((width, height), factor=factor, min_pixels=min(3136, area), max_pixels=area)]))
    unit = st.floats(0, 1)
    (x1, x2), (y1, y2) = sorted((draw(unit), draw(unit))), sorted((draw(unit), draw(unit)))
    return (x1 * width, y1 * height, x2 * width, y2 * height), Original(width, height), frame


@given(boxes_in_frames())
def test_a_box_comes_back_from_the_spoken_frame(case: tuple[tuple[float, float, float, float], Original, Frame]) -> None:
    box, original, frame = case
    there = convert([box], of=original, to=frame)
    np.testing.assert_allclose(convert(there, of=frame, to=original), [box], rtol=0, atol=1e-6)
    size, seen = np.array([original.width, original.height] * 2), np.array([frame.width, frame.height] * 2)
    assert (there >= 0).all() and (there <= seen * (1 + 1e-12)).all()

    back = np.array(convert(whole([box], of=original, to=frame), of=frame, to=original))
    error = np.abs(back - [box])
    # A side of less than a unit keeps one: then its ends are within a whole one.
    thin = np.rint(there[:, 2:]) <= np.rint(there[:, :2])
    units = np.where(np.concatenate([thin, thin], axis=1), 1.0, 0.5)
    assert (error <= units * size / seen + 1e-6).all()
    assert (error[:, size <= seen] <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("size", "line"), [((3, 601), "an image of 3 x 601 pixels: no side may be more than 200 times the other"), ((0, 5), "an image of 0 x 5")]
)
def test_an_image_that_cannot_be_resized_is_refused_in_one_line(place: Path, size: tuple[int, int], line: str) -> None:
    frame_of = speaks(options(place))
    assert isinstance(frame_of((3, 600)), Resized)
    for turned in (size, size[::-1]):
        with pytest.raises(ValueError) as refused:
            frame_of(turned)
        assert line.replace(f"{size[0]} x {size[1]}", f"{turned[0]} x {turned[1]}") in str(refused.value) and "\n" not in str(refused.value)


def test_the_limit_is_the_image_processors(place: Path) -> None:
    images = image_processor(place, min_pixels=3136, max_pixels=401408)
    images([Image.new("RGB", (2 * LONGEST, 2))])
    with pytest.raises(ValueError, match="aspect ratio"):
        images([Image.new("RGB", (2 * LONGEST + 1, 2))])


def test_a_model_of_another_family_is_refused_as_by_loading(tmp_path: Path) -> None:
    for other in ("qwen2", "llava", "of nobody"):
        target = shutil.copytree(folder("embedded:tiny"), tmp_path / other)
        (target / "config.json").write_text(json.dumps({"model_type": other}))
        with pytest.raises(
            Unsuitable, match=re.escape(f"model.path={target}: a {other} model; give one of the family: qwen2_vl, qwen2_5_vl, qwen3_vl")
        ):
            speaks(options(target))


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '"qwen2_vl"'])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_damaged_configuration_is_refused_in_one_line(name: str, damage: str, tmp_path: Path) -> None:
    broken = configured("qwen2_5_vl", tmp_path / "model")
    (broken / name).write_text(damage)
    if (name, damage) == ("preprocessor_config.json", "{}"):
        assert speaks(options(broken))((640, 480)) == Resized(644, 476)  # what it leaves out is as published
        return
    with pytest.raises(ValueError, match=rf"model\.path={broken}: {broken} is no readable Qwen2-VL folder \(.*\); copy it again, whole$"):
        speaks(options(broken))


def test_a_folder_without_a_configuration_of_images_is_refused(tmp_path: Path) -> None:
    (configured("qwen2_5_vl", tmp_path / "model") / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="is no readable Qwen2-VL folder"):
        speaks(options(tmp_path / "model"))
