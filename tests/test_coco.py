"""COCO's format, read from a small folder of digit scenes as published. Run: .venv/bin/python -m pytest tests/test_coco.py"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visual_rft.images import AnnotatedImage, Annotation, ImageSet, StoredImage
from visual_rft.sources.coco import CocoOptions, test_images, train_images
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.sources.findings import Findings
from visual_rft.train import main

test_images.__test__ = False  # type: ignore[attr-defined]  # named after the split; no test
CATEGORY_IDS = {name: 3 * i + 1 for i, name in enumerate(CATEGORIES)}  # with gaps, as COCO's own
SIDE = 64

Content = dict[str, Any]


def write(root: Path, part: str, images: list[AnnotatedImage]) -> None:
    """A part of COCO 2017 as it unpacks: annotations/instances_<part>2017.json and <part>2017/000000000042.jpg."""
    content: Content = {"info": {"year": 2017}, "licenses": [], "images": [], "annotations": []}
    content["categories"] = [{"supercategory": "digit", "id": i, "name": name} for name, i in CATEGORY_IDS.items()]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{part}2017").mkdir()
    for scene in reversed(images):  # the published files are in no order
        name = f"{scene.id:012d}.jpg"
        scene.image.save(root / f"{part}2017" / name, quality=95)
        content["images"].append({"license": 1, "file_name": name, "coco_url": f"http://x/{name}", "height": SIDE, "width": SIDE, "id": scene.id})
        for annotation in scene.annotations:
            x, y, w, h = annotation.bbox_xywh
            row = {"segmentation": [[x, y, x + w, y, x + w, y + h]], "area": w * h / 2, "iscrowd": 0, "image_id": scene.id, "bbox": [x, y, w, h]}
            content["annotations"].append(row | {"category_id": CATEGORY_IDS[annotation.category], "id": 900100 + len(content["annotations"])})
    json_of(root, part).write_text(json.dumps(content))


def json_of(root: Path, part: str) -> Path:
    return root / "annotations" / f"instances_{part}2017.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "train", scenes(Split.TRAIN, 6, seed=0))
    write(tmp_path, "val", scenes(Split.TEST, 4, seed=0))
    return tmp_path


def options(root: Path) -> CocoOptions:
    return CocoOptions(str(root), "annotations/instances_train2017.json", "train2017", None, "annotations/instances_val2017.json", "val2017")


def train_set(root: Path) -> ImageSet:
    return train_images(options(root), Findings())


def read_train(root: Path) -> list[AnnotatedImage]:
    return list(train_set(root).images)


def read_test(root: Path) -> list[AnnotatedImage]:
    return list(test_images(options(root), Findings()).images)


def without_areas(images: list[AnnotatedImage]) -> list[list[tuple[str, tuple[float, ...], bool]]]:
    return [[(one.category, one.bbox_xywh, one.crowd) for one in image.annotations] for image in images]


def change(root: Path, edit: Callable[[Content], object]) -> None:
    content = json.loads(json_of(root, "train").read_text())
    edit(content)
    json_of(root, "train").write_text(json.dumps(content))


def refusal(root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_train(root)
    line = str(caught.value)
    assert "\n" not in line and str(json_of(root, "train")) in line
    return line


def test_what_is_written_is_read_back(root: Path) -> None:
    for read, written in (
        (read_train(root), scenes(Split.TRAIN, 6, seed=0)),
        (read_test(root), scenes(Split.TEST, 4, seed=0)),
    ):
        assert [image.id for image in read] == [scene.id for scene in written]
        assert without_areas(read) == without_areas(written)
        areas = [[one.bbox_xywh[2] * one.bbox_xywh[3] / 2 for one in scene.annotations] for scene in written]
        assert [[one.area for one in image.annotations] for image in read] == areas, "COCO's own areas are those of polygons"
        for image, scene in zip(read, written, strict=True):
            assert image.image.mode == "RGB"
            difference = np.asarray(image.image, dtype=float) - np.asarray(scene.image, dtype=float)
            assert np.abs(difference).mean() < 5  # what JPEG costs


def test_images_without_objects_are_kept(root: Path) -> None:
    change(root, lambda c: c.update(annotations=[]))
    assert [image.annotations for image in read_train(root)] == [()] * 6


def test_the_order_of_the_file_changes_nothing(root: Path) -> None:
    before = [(image.id, image.annotations) for image in read_train(root)]
    change(root, lambda c: c["images"].reverse())
    assert [(image.id, image.annotations) for image in read_train(root)] == before


def test_a_set_knows_its_categories_by_its_own_numbers_and_where_it_is_from(root: Path) -> None:
    found = train_set(root)
    assert (found.category_ids, found.place, found.groups) == (CATEGORY_IDS, str(json_of(root, "train")), {})
    assert all(image.absent is None and not image.partly for image in found.images)


def test_absolute_paths_need_not_lie_in_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = CocoOptions(str(tmp_path_factory.mktemp("empty")), str(json_of(root, "train")), str(root / "train2017"), None, "a.json", "b")
    read = train_images(elsewhere, Findings()).images
    assert [image.image.tobytes() for image in read] == [image.image.tobytes() for image in read_train(root)]


def test_pixels_are_read_only_when_they_are_looked_at(root: Path) -> None:
    (root / "train2017" / "000000000003.jpg").write_bytes(b"no image")
    images = read_train(root)
    for image in images[:3] + images[4:]:
        assert image.image.size == (SIDE, SIDE)
    with pytest.raises(ValueError, match=r"000000000003\.jpg: not an image, or a damaged one; copy it again, or set data\.train_images="):
        _ = images[3].image


@pytest.mark.parametrize("mode", ["L", "CMYK"])  # COCO has grey images
def test_every_image_becomes_rgb(root: Path, mode: str) -> None:
    path = root / "train2017" / "000000000000.jpg"
    Image.open(path).convert(mode).save(path)
    assert read_train(root)[0].image.mode == "RGB"


# Boxes


@pytest.mark.parametrize("row", [{"iscrowd": 1}, {"bbox": [5.0, 5.0, 0.0, 9.0]}, {"bbox": [5, 5, 9, -1]}, {"bbox": [64.0, 0.0, 5.0, 5.0]}])
def test_crowds_and_boxes_without_area_in_the_image_are_labels_and_no_objects(root: Path, row: Content) -> None:
    """The average precision sees every label as it is; one can ask for objects alone."""
    before = read_train(root)
    change(root, lambda c: c["annotations"][0].update(row))
    after = read_train(root)
    assert sum(len(image.annotations) for image in after) == sum(len(image.annotations) for image in before)
    assert sum(len(image.objects) for image in after) == sum(len(image.objects) for image in before) - 1
    (changed,) = [one for was, image in zip(before, after, strict=True) for one in image.annotations if one not in was.annotations]
    assert changed.crowd == bool(row.get("iscrowd")) and list(changed.bbox_xywh) == row.get("bbox", list(changed.bbox_xywh))


numbers = st.floats(-1e6, 1e6) | st.integers(-100, 100)


@given(bbox=st.tuples(numbers, numbers, numbers, numbers), size=st.tuples(st.integers(1, 500), st.integers(1, 500)), crowd=st.booleans())
def test_an_object_is_the_part_of_its_label_inside_the_image(bbox: tuple[float, ...], size: tuple[int, int], crowd: bool) -> None:
    x, y, w, h = bbox
    label = Annotation("cat", (x, y, w, h), area=7.0, crowd=crowd)
    image = AnnotatedImage(StoredImage(0, "", size, lambda: pytest.fail("opened"), lambda: ""), (label,))
    assert image.annotations == (label,)
    if not image.objects:
        assert crowd or w <= 0 or h <= 0 or x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0 or x + w == x or y + h == y
        return
    assert not crowd and image.shown == {"cat"}
    (box,) = [one.bbox_xywh for one in image.objects]
    assert min(box[2:]) > 0 and box[0] >= 0 and box[1] >= 0
    for start, length, edge, first, extent in zip(box[:2], box[2:], size, (x, y), (w, h), strict=True):
        assert start + length == pytest.approx(min(first + extent, edge)) and start == max(first, 0)


def test_what_is_taken_as_a_matter_of_course_is_counted(root: Path) -> None:
    def edit(content: Content) -> None:
        content["annotations"][0].update(iscrowd=1)
        content["annotations"][1].update(bbox=[5.0, 5.0, 0.0, 9.0])
        content["annotations"][2].update(bbox=[60.0, 5.0, 20.0, 9.0])
        content["categories"].append({"id": 99, "name": "unicorn"})
        content["images"].append({"id": 999, "file_name": "no/where.jpg", "width": 9, "height": 9})

    change(root, edit)
    findings = Findings()
    images = train_images(options(root), findings).images
    shown = set().union(*(image.shown for image in images))
    assert +findings.handled == {
        "crowds: not asked for, not counted against an answer": 1,
        "boxes without area in the image: not asked for": 1,
        "boxes that reach out of the image: cut at its edge to ask for": 1,
        "images without an object": sum(not image.objects for image in images),
        "file names with folders": 1,
        "categories without an image": 11 - len(shown),
    }
    assert findings.faults == []


def test_a_check_collects_every_fault_and_goes_on_without_those_rows(root: Path) -> None:
    whole = read_train(root)

    def edit(content: Content) -> None:
        content["annotations"][0].update(bbox=None)
        content["annotations"][1].update(category_id=2)
        content["images"][0].update(width="64")
        content["categories"].append({"id": 1, "name": "zero again"})

    change(root, edit)
    findings = Findings(patient=True)
    images = train_images(options(root), findings).images
    said = ["another row has the same id", "its bbox is missing", "no category has its category_id 2", "its width is '64'"]
    assert [next(text for text in said if text in fault) for fault in findings.faults] == said
    assert all(fault.startswith(f"{json_of(root, 'train')}: ") and fault.endswith("correct the row, or take it out") for fault in findings.faults)
    assert len(images) == len(whole) - 1


# LVIS


def lvis(content: Content) -> None:
    """As LVIS v1 says more, and names no file."""
    for row in content["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/train2017/{row.pop('file_name')}"
        row["neg_category_ids"], row["not_exhaustive_category_ids"] = [CATEGORY_IDS["nine"]], [CATEGORY_IDS["zero"]]
    for row in content["categories"]:
        row["frequency"] = {"zero": "r", "one": "c"}.get(row["name"], "f")


def test_lvis_says_what_is_absent_and_what_is_labelled_in_part(root: Path) -> None:
    before = read_train(root)
    change(root, lvis)
    under_root = CocoOptions(**{**vars(options(root)), "train_images": "."})
    found = train_images(under_root, Findings())
    assert without_areas(list(found.images)) == without_areas(before)
    assert all((image.absent, image.partly) == ({"nine"}, {"zero"}) for image in found.images)
    assert found.groups == {"rare": ["zero"], "common": ["one"], "frequent": list(CATEGORIES[2:])}
    assert [image.image.tobytes() for image in found.images] == [image.image.tobytes() for image in before]
    assert found.images[0].stored.name == "train2017/000000000000.jpg"


@pytest.mark.parametrize("value", [[2], ["zero"], "zero", None, [True], {"1": 1}])
@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_a_list_of_categories_that_is_none_is_refused(root: Path, key: str, value: object) -> None:
    change(root, lvis)
    change(root, lambda c: c["images"][0].update({key: value}))
    line = refusal(root)
    assert f"images, id 5: its {key} is " in line and "not a list of ids of categories" in line


# Refusals


def test_missing_annotations_say_what_to_download_and_what_to_set(tmp_path: Path) -> None:
    line = refusal(tmp_path)
    assert "No such file" in line and "set data.root=" in line and "data.train_annotations=" in line
    for archive in ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip", "cocodataset.org"):
        assert archive in line
    with pytest.raises(ValueError, match=r"data\.test_annotations: .*instances_val2017\.json"):
        read_test(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_what_is_not_json_is_refused(root: Path, content: bytes) -> None:
    json_of(root, "train").write_bytes(content)
    assert "not JSON" in refusal(root)


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
def test_a_file_without_one_of_the_three_tables_is_refused(root: Path, table: str) -> None:
    for broken in ({"a": 1}, [1], None):
        change(root, lambda c, broken=broken: c.update({table: broken}))
        assert f"no list of objects '{table}'" in refusal(root)
    json_of(root, "train").write_text("[]")
    assert "no list of objects 'images'" in refusal(root)


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [
        ("annotations", "image_id", 77, "no image has its image_id 77"),
        ("annotations", "category_id", 2, "no category has its category_id 2"),
        ("annotations", "image_id", None, "its image_id is missing, not a whole number"),
        ("annotations", "image_id", [1], "its image_id is [1], not a whole number"),
        ("annotations", "bbox", [1, 2, 3], "its bbox is [1, 2, 3], not four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, 4, "5"], "not four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, float("nan")], "not four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, float("inf")], "not four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, 10**400], "not four finite numbers"),
        ("annotations", "bbox", [1, 2, 3, True], "not four finite numbers"),
        ("annotations", "bbox", "1 2 3 4", "not four finite numbers"),
        ("annotations", "bbox", None, "its bbox is missing, not four finite numbers"),
        ("annotations", "area", -1, "its area is -1, not a number of pixels"),
        ("annotations", "area", "9", "its area is '9', not a number of pixels"),
        ("annotations", "area", float("nan"), "its area is nan, not a number of pixels"),
        ("images", "file_name", 7, "its file_name is 7, not text"),
        ("images", "width", "64", "its width is '64', not a whole number"),
        ("images", "height", 0, "its size of 64×0 pixels is no image's"),
        ("categories", "name", None, "its name is missing, not text"),
    ],
)
def test_a_broken_row_is_named_with_what_is_wrong(root: Path, table: str, key: str, value: object, said: str) -> None:
    ids: list[int] = []

    def edit(content: Content) -> None:
        content[table][1][key] = value
        ids.append(content[table][1]["id"])

    change(root, edit)
    line = refusal(root)
    assert f"{table}, id {ids[0]}: " in line and said in line and "correct the row, or take it out" in line


@pytest.mark.parametrize("table", ["images", "categories"])
def test_an_id_belongs_to_one_row(root: Path, table: str) -> None:
    change(root, lambda c: c[table].append(c[table][0]))
    assert "another row has the same id" in refusal(root)
    change(root, lambda c: c[table].append({"id": "x"}))
    change(root, lambda c: c[table].pop(-2))
    assert f"{table}, id 'x': its id is 'x', not a whole number" in refusal(root)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xd8\xff", b"half"])
def test_an_image_file_that_cannot_be_read_is_refused_by_name(root: Path, content: bytes | None) -> None:
    path = root / "train2017" / "000000000000.jpg"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:700] if content == b"half" else content)
    with pytest.raises(ValueError) as caught:
        _ = read_train(root)[0].image
    said = "No such file or directory" if content is None else "not an image, or a damaged one"
    assert str(caught.value) == f"{path}: {said}; copy it again, or set data.train_images=FOLDER to where the images are"


def test_an_image_of_another_size_than_its_row_says_is_refused(root: Path) -> None:
    """Boxes in pixels mean nothing on a resized image."""
    path = root / "train2017" / "000000000000.jpg"
    Image.new("L", (48, SIDE)).save(path)
    with pytest.raises(ValueError, match=rf"{path}: 48×64 pixels, where its label says 64×64; give the images the boxes were drawn on"):
        _ = read_train(root)[0].image


@pytest.mark.parametrize("labelled", [(64, 48), (48, 64)])
def test_an_image_turned_by_its_exif_tag_is_taken_the_way_its_label_says(root: Path, labelled: tuple[int, int]) -> None:
    """Some tools label an image as it is stored, others as a viewer shows it."""
    stored, exif = Image.new("RGB", (64, 48)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    stored.save(root / "train2017" / "000000000000.jpg", exif=exif)
    change(root, lambda c: c["images"][-1].update(width=labelled[0], height=labelled[1]))
    assert read_train(root)[0].image.size == labelled


# The command


def test_fsod_coco_without_data_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["task=fsod_coco", "model=tiny", "hardware=cpu", f"data.root={tmp_path / 'nothing'}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == "" and "data.train_annotations" in line and "train2017.zip" in line and "set data.root=" in line


def test_fsod_coco_trains_and_evaluates_on_a_folder_in_its_format(tmp_path: Path) -> None:
    write(tmp_path, "train", scenes(Split.TRAIN, 30, seed=0))
    write(tmp_path, "val", scenes(Split.TEST, 6, seed=0))
    names = [*sorted({a.category for scene in scenes(Split.TEST, 6, seed=0) for a in scene.annotations})][:2]
    small = ["steps=1", "prompts_per_step=2", "task.shots=1", "algorithm.group_size=2", "algorithm.max_completion_tokens=8"]
    arguments = ["task=fsod_coco", "model=tiny", "hardware=cpu", f"task.categories=[{','.join(names)}]", f"data.root={tmp_path}"]
    assert main([*arguments, *small, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["task"], summary["model"], summary["steps"]) == ("fsod_coco", "tiny", 1)
