"""LVIS's dialect of COCO's format: what it says of images and of categories that are not labelled. Run: .venv/bin/python -m pytest tests/test_lvis.py

How the figures of LVIS are counted: tests/test_average_precision.py.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from visual_rft import data, workload
from visual_rft.frames import NORM1000
from visual_rft.images import AnnotatedImage, ImageSet
from visual_rft.sources.coco import FREQUENCIES, CocoOptions, read_coco, test_images, train_images
from visual_rft.sources.findings import Findings
from visual_rft.tasks.detection import DetectionOptions, lacking
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Wording
from visual_rft.vocabulary import Detection, DetectionAnswer, DetectionTruth, Example

test_images.__test__ = False  # type: ignore[attr-defined]  # named after the split; no test
CORRECT = "correct the row, or take it out"

Content = dict[str, Any]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "docs" / "stand_in.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("stand_in") / "coco"
    module.write(root)
    return root


def options(root: Path, train: str = "lvis_v1_train", test: str = "lvis_v1_val") -> CocoOptions:
    """As conf/data/lvis.yaml has them."""
    return CocoOptions(str(root), f"annotations/{train}.json", ".", None, f"annotations/{test}.json", ".")


def detection(**changes: Any) -> DetectionOptions:
    usual = {"name": "fsod_lvis", "shots": None, "at_most": True, "split_seed": 0, "split": None, "wording": Wording.full_1, "thinking": True}
    usual |= {"categories": None, "trained": None, "negatives": 0.0, "present": Present.all, "presence": None, "iou_threshold": 0.5}
    return DetectionOptions(**usual | changes)  # type: ignore[arg-type]


def content(root: Path, part: str = "val") -> Content:
    return dict(json.loads((root / "annotations" / f"lvis_v1_{part}.json").read_text()))


@pytest.fixture(scope="module")
def val(stand_in: Path) -> tuple[ImageSet, Content]:
    """What is read, and what the file says."""
    return test_images(options(stand_in), Findings()), content(stand_in)


@pytest.fixture
def edited(stand_in: Path, tmp_path: Path) -> Callable[[Callable[[Content], object]], ImageSet]:
    """The validation file with a change, read over the same images."""

    def read(edit: Callable[[Content], object], findings: Findings | None = None) -> ImageSet:
        changed = content(stand_in)
        edit(changed)
        (tmp_path / "lvis.json").write_text(json.dumps(changed))
        return read_coco(tmp_path / "lvis.json", stand_in, "test", findings or Findings())

    return read


# Files


def test_a_file_is_the_last_two_parts_of_its_address(val: tuple[ImageSet, Content]) -> None:
    found, said = val
    rows = {row["id"]: row for row in said["images"]}
    assert not any("file_name" in row for row in rows.values())
    for image in found.images:
        assert image.stored.name == rows[image.id]["coco_url"].removeprefix("http://images.cocodataset.org/")
        assert image.image.size == image.stored.size == (rows[image.id]["width"], rows[image.id]["height"])


def test_images_of_the_validation_set_lie_in_both_folders(stand_in: Path, edited: Callable[..., ImageSet]) -> None:
    of_train = content(stand_in, "train")["images"][0]

    def with_one_of_train(said: Content) -> None:
        said["images"].append(of_train)

    found = edited(with_one_of_train)
    assert {image.stored.name.split("/")[0] for image in found.images} == {"train2017", "val2017"}
    for image in found.images:
        assert (stand_in / image.stored.name).read_bytes() == image.stored.content()


def test_a_file_name_goes_before_the_address(edited: Callable[..., ImageSet]) -> None:
    """As in v0.5, and in copies that people have made."""
    found = edited(lambda said: said["images"][0].update(file_name="val2017/000000001009.jpg", coco_url="http://elsewhere/gone.jpg"))
    assert found.images[0].stored.name == "val2017/000000001009.jpg" and found.images[0].image


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda row: row.pop("coco_url"), "its file_name is missing, not text"),
        (lambda row: row.update(coco_url=None), "its coco_url is missing, not text"),
        (lambda row: row.update(coco_url=3), "its coco_url is 3, not text"),
        (lambda row: row.update(neg_category_ids=[1, 99]), "its neg_category_ids is [1, 99], not a list of ids of categories"),
        (lambda row: row.update(neg_category_ids=None), "its neg_category_ids is missing, not a list of ids of categories"),
        (lambda row: row.update(neg_category_ids=["die"]), "its neg_category_ids is ['die'], not a list of ids of categories"),
        (lambda row: row.update(neg_category_ids=[True]), "its neg_category_ids is [True], not a list of ids of categories"),
        (lambda row: row.update(not_exhaustive_category_ids=[0]), "its not_exhaustive_category_ids is [0], not a list of ids of categories"),
    ],
    ids=lambda value: value[4:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_what_cannot_be_taken_is_named_with_its_image(
    edit: Callable[[Content], object], said: str, edited: Callable[..., ImageSet], tmp_path: Path
) -> None:
    whole = f"{tmp_path}/lvis.json: images, id 1009: {said}; {CORRECT}"
    patient = Findings(patient=True)
    found = edited(lambda content: edit(content["images"][0]), patient)
    assert patient.faults == [whole] and 1009 not in {image.id for image in found.images}
    with pytest.raises(ValueError) as caught:
        edited(lambda content: edit(content["images"][0]))
    assert str(caught.value) == whole


def test_a_check_finds_them_all(stand_in: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = content(stand_in)
    said["images"][0].pop("coco_url")
    said["images"][1].update(neg_category_ids=[1, 99])
    said["images"][2].update(coco_url="http://images.cocodataset.org/val2017/gone.jpg")
    (tmp_path / "lvis.json").write_text(json.dumps(said))
    code = data.main(["check", "task=fsod_lvis", f"data.root={stand_in}", f"data.test_annotations={tmp_path}/lvis.json"])
    out, err = capfd.readouterr()
    found = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert code == 2 and len(found) == 3 and err.splitlines()[-1].startswith("3 problems in the data of fsod_lvis")
    assert [place for place in ("id 1009: its file_name", "id 1046: its neg_cat", "val2017/gone.jpg: No such") if place in out] == [
        "id 1009: its file_name",
        "id 1046: its neg_cat",
        "val2017/gone.jpg: No such",
    ]


# What is known of categories


def test_absent_and_partly_labelled_categories_are_those_that_the_file_lists(val: tuple[ImageSet, Content]) -> None:
    found, said = val
    names = {row["id"]: row["name"] for row in said["categories"]}
    rows = {row["id"]: row for row in said["images"]}
    for image in found.images:
        assert image.absent == {names[i] for i in rows[image.id]["neg_category_ids"]}
        assert image.partly == {names[i] for i in rows[image.id]["not_exhaustive_category_ids"]}
    assert any(image.absent for image in found.images) and any(image.partly for image in found.images)


def test_an_empty_list_says_that_nothing_is_known_to_be_absent(edited: Callable[..., ImageSet]) -> None:
    """No list in the whole file, that all that is not labelled is."""
    first, *_ = edited(lambda said: said["images"][0].update(neg_category_ids=[])).images
    assert first.absent == frozenset()
    none = edited(lambda said: [row.pop("neg_category_ids", None) for row in said["images"]]).images
    assert {image.absent for image in none} == {None}


def test_groups_are_the_frequencies_in_the_order_of_categories(val: tuple[ImageSet, Content]) -> None:
    found, said = val
    assert list(found.groups) == ["rare", "common", "frequent"]
    for letter, group in FREQUENCIES.items():
        assert found.groups[group] == [row["name"] for row in said["categories"] if row["frequency"] == letter]
    assert sorted(name for group in found.groups.values() for name in group) == sorted(found.category_ids)


def test_coco_has_no_groups_and_a_group_without_categories_is_none(stand_in: Path, edited: Callable[..., ImageSet]) -> None:
    assert test_images(options(stand_in, test="instances_val2017"), Findings()).groups == {}
    found = edited(lambda said: [row.update(frequency="c") for row in said["categories"]])
    assert list(found.groups) == ["common"] and found.groups["common"] == list(found.category_ids)


def test_nothing_is_a_crowd_and_areas_are_those_of_the_outlines(val: tuple[ImageSet, Content]) -> None:
    found, said = val
    assert not any("iscrowd" in row for row in said["annotations"])
    labels = {image.id: list(image.annotations) for image in found.images}
    for row in said["annotations"]:
        one = labels[row["image_id"]].pop(0)
        assert not one.crowd and one.area == row["area"] < one.bbox_xywh[2] * one.bbox_xywh[3] and list(one.bbox_xywh) == row["bbox"]
    assert not any(labels.values())


def test_outlines_are_not_kept(stand_in: Path, edited: Callable[..., ImageSet]) -> None:
    """Whatever they are, they are not looked at: most of the file."""
    found = edited(lambda said: [row.update(segmentation="none") for row in said["annotations"]])
    usual = test_images(options(stand_in), Findings())
    assert [image.annotations for image in found.images] == [image.annotations for image in usual.images]


# What is asked


def by_image(questions: list[Example], found: ImageSet) -> dict[int, tuple[AnnotatedImage, dict[str, Example]]]:
    asked: dict[int, dict[str, Example]] = {}
    for one in questions:
        asked.setdefault(one.asked_about.id, {})[one.subject] = one
    return {image.id: (image, asked.get(image.id, {})) for image in found.images}


def exam(root: Path, **changes: Any) -> list[Example]:
    return list(workload.test_exam(detection(**changes), options(root), lambda _: NORM1000).questions)


@pytest.mark.parametrize("categories", [None, ["horse_buggy", "die", "kitchen_table", "omelet", "papaya", "stepladder"]])
def test_an_image_is_asked_only_about_what_is_labelled_or_known_to_be_absent(
    categories: list[str] | None, stand_in: Path, val: tuple[ImageSet, Content]
) -> None:
    found, _ = val
    tested = set(found.category_ids if categories is None else categories)
    for image, asked in by_image(exam(stand_in, categories=categories), found).values():
        assert image.absent is not None and asked.keys() == tested & (image.shown | image.absent)
        for name, question in asked.items():
            assert bool(question.truth.boxes) == (name in image.shown)
    assert len(exam(stand_in, categories=categories)) < len(tested) * len(found.images)


def test_by_default_an_image_is_asked_about_what_is_in_it(stand_in: Path, val: tuple[ImageSet, Content]) -> None:
    for image, asked in by_image(exam(stand_in, present=Present.ground_truth), val[0]).values():
        assert asked.keys() == image.shown


def test_coco_is_asked_about_everything(stand_in: Path) -> None:
    data = options(stand_in, test="instances_val2017")
    questions = workload.test_exam(detection(), data, lambda _: NORM1000).questions
    assert len(questions) == 80 * len(content(stand_in)["images"])


def test_a_question_says_the_name_without_underscores(stand_in: Path) -> None:
    (question, *_) = exam(stand_in, categories=["horse_buggy"])
    assert "every horse buggy in" in question.question and question.subject == "horse_buggy"


def test_negatives_of_training_are_known_to_be_absent(stand_in: Path) -> None:
    found = {image.id: image for image in train_images(options(stand_in), Findings()).images}
    asked = workload.train_examples(detection(shots=3, negatives=2.0), options(stand_in), lambda _: NORM1000)
    negatives = [one for one in asked if one.truth == DetectionTruth(())]
    assert len(negatives) == 2 * (len(asked) - len(negatives)) > 0
    for one in negatives:
        image = found[one.asked_about.id]
        assert image.absent is not None and one.subject in image.absent and one.subject not in image.shown
    assert {one.asked_about.id for one in negatives}.isdisjoint(one.asked_about.id for one in asked if one not in negatives)


def test_what_is_neither_labelled_nor_known_is_never_lacking(val: tuple[ImageSet, Content]) -> None:
    found, _ = val
    for image in found.images:
        assert image.absent is not None and lacking(image, list(found.category_ids)) == image.absent - image.shown


def test_a_category_with_fewer_images_than_shots_gives_what_it_has(stand_in: Path) -> None:
    asked = workload.train_examples(detection(shots=30), options(stand_in), lambda _: NORM1000)
    counts = {name: sum(one.subject == name for one in asked) for name in {one.subject for one in asked}}
    assert max(counts.values()) == 30 and min(counts.values()) < 30 and "handsaw" not in counts
    with pytest.raises(ValueError, match=r"task\.shots=30: only .*task\.at_most=true|task\.shots=30: .*leave that category out"):
        workload.train_examples(detection(shots=30, at_most=False), options(stand_in), lambda _: NORM1000)


def test_groups_are_scored(stand_in: Path) -> None:
    """AP of the rare, common and frequent categories that are tested; a perfect answer is worth 100 in each."""
    asked = workload.test_exam(detection(), options(stand_in), lambda _: NORM1000)
    scores = asked.measure([DetectionAnswer(tuple(Detection(box, 1.0) for box in one.truth.boxes)) for one in asked.questions])
    for group in ("AP", "AP rare", "AP common", "AP frequent", "rightly empty", "well-formed"):
        assert scores.values[group] == pytest.approx(100, abs=12 if group.startswith("AP") else 1e-9), group
