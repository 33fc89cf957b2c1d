"""The readers of the fine-grained sets and of folders of classes, on folders in the published formats: `pytest tests/test_fine_grained.py`."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import class_data
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from visual_rft import workload
from visual_rft.class_names import read_names
from visual_rft.frames import NORM1000
from visual_rft.images import ImageSet
from visual_rft.sources import fine_grained
from visual_rft.sources.class_folders import ClassFolderOptions, read_folders
from visual_rft.sources.findings import Findings
from visual_rft.sources.fine_grained import AircraftOptions, CarsOptions, FlowersOptions, PetsOptions, PublishedOptions
from visual_rft.sources.image_file import HANDLED, open_image
from visual_rft.tasks.classification import ClassificationOptions
from visual_rft.tasks.wording import Wording

READERS: dict[str, tuple[fine_grained.Reader, type[PublishedOptions]]] = {
    "flowers102": (fine_grained.flowers, FlowersOptions),
    "pets37": (fine_grained.pets, PetsOptions),
    "aircraft": (fine_grained.aircraft, AircraftOptions),
    "cars196": (fine_grained.cars, CarsOptions),
}
each_set = pytest.mark.parametrize("name", READERS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_data.write(tmp_path_factory.mktemp("data"))


def read(name: str, root: Path, part: str, findings: Findings | None = None) -> ImageSet:
    return READERS[name][0](str(root / class_data.FOLDERS[name]), part, findings or Findings())


def told(images: ImageSet) -> list[tuple[int, str, str, tuple[int, int]]]:
    return [(one.id, one.stored.name, one.annotations[0].category, one.stored.size) for one in images.images]


def options(name: str, **more: object) -> ClassificationOptions:
    common: dict[str, object] = {"shots": 2, "at_most": True, "split_seed": 3, "split": None, "wording": Wording.full_1, "thinking": True}
    return ClassificationOptions(**(common | {"name": name, "categories": None, "kind": "thing", "names": f"embedded:{name}"} | more))  # type: ignore[arg-type]


# What is read


@each_set
def test_a_published_folder_is_read_whole(name: str, data: Path) -> None:
    findings = Findings(patient=True)
    train, test = read(name, data, "train", findings), read(name, data, "test", findings)
    assert (len(train.images), len(test.images)) == (60, 20) and not findings.faults
    assert list(train.category_ids) == list(read_names(f"embedded:{name}").names) and next(iter(train.category_ids.values())) == 1
    assert findings.handled["classes without an image"] > len(train.category_ids)
    for of in (train, test):
        assert [one.id for one in of.images] == list(range(1, len(of.images) + 1))
        assert [one.stored.name for one in of.images] == sorted(one.stored.name for one in of.images)
        for one in of.images:
            assert one.image.size == one.stored.size and one.annotations[0].bbox_xywh == (0, 0, *one.stored.size) and len(one.shown) == 1
    assert {one.stored.digest() for one in train.images}.isdisjoint(one.stored.digest() for one in test.images)
    assert {one.image.mode for one in train.images} == {"RGB"}


def test_the_labels_are_those_of_the_files(data: Path) -> None:
    """By hand, with scipy."""
    root = data / "flowers-102"
    labels, ids = loadmat(root / "imagelabels.mat", squeeze_me=True)["labels"], loadmat(root / "setid.mat", squeeze_me=True)
    names = read_names("embedded:flowers102").names
    train = {one.stored.name: one.annotations[0].category for one in read("flowers102", data, "train").images}
    assert train == {f"image_{n:05d}.jpg": names[labels[n - 1] - 1] for n in [*ids["trnid"], *ids["valid"]]} and len(ids["valid"]) > 9
    rows = loadmat(data / "stanford_cars/cars_test_annos_withlabels.mat", squeeze_me=True)["annotations"]
    classes = loadmat(data / "stanford_cars/devkit/cars_meta.mat", squeeze_me=True)["class_names"]
    test = {one.stored.name: one.annotations[0].category for one in read("cars196", data, "test").images}
    assert test == {row["fname"]: classes[row["class"] - 1] for row in rows}
    for one in read("pets37", data, "train").images:
        assert (
            one.stored.name.startswith(f"{one.annotations[0].category}_") and one.stored.name.count("_") == one.annotations[0].category.count("_") + 1
        )


def test_the_banner_of_an_aircraft_is_cut_off_and_its_zeros_are_kept(data: Path) -> None:
    one = read("aircraft", data, "train").images[0]
    assert one.stored.name == "0034011.jpg"
    whole = open_image("", (data / "fgvc-aircraft-2013b/data/images" / one.stored.name).read_bytes, None, "").pixels
    assert one.stored.size == (whole.width, whole.height - 20) == one.image.size
    assert np.array_equal(np.asarray(one.image), np.asarray(whole)[:-20]) and np.asarray(whole)[-10:].mean() < 9 < np.asarray(one.image)[-10:].mean()
    assert one.image.info[HANDLED] == ("20 pixels of banner cut off",)


def test_folders_of_classes_are_read(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / "custom", tmp_path / "mine")
    (root / "train/one/.DS_Store").write_bytes(b"x")
    (root / "train/one/notes.txt").write_bytes(b"x")
    (root / "train/.git").mkdir()
    findings = Findings()
    found = read_folders(root / "train", findings)
    assert list(found.category_ids) == sorted(one.name for one in (data / "custom/train").iterdir())
    assert [one.stored.name for one in found.images] == sorted(str(one.relative_to(root / "train")) for one in root.glob("train/*/*.jpg"))
    assert all(one.stored.name.startswith(f"{one.annotations[0].category}/") for one in found.images)
    assert findings.handled["files that are no images by their name: passed over"] == 2


# The order of rows means nothing


def turned(name: str, root: Path) -> None:
    """The rows of every list in another order."""
    rng = random.Random(5)
    for file in [*root.rglob("trainval.txt"), *root.rglob("test.txt"), *root.rglob("images_variant_*.txt")]:
        lines = file.read_text().splitlines()
        rng.shuffle(lines)
        file.write_text("\r\n".join(lines))  # and as Windows ends them
    if name == "cars196":
        for file in root.rglob("*annos*.mat"):
            rows = loadmat(file)["annotations"]
            savemat(file, {"annotations": rows[:, ::-1]})
    if name == "flowers102":
        ids = loadmat(root / "setid.mat")
        savemat(root / "setid.mat", {key: ids[key][:, ::-1] for key in ("trnid", "valid", "tstid")})


@each_set
def test_a_split_does_not_depend_on_the_order_of_rows(name: str, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / class_data.FOLDERS[name], tmp_path / class_data.FOLDERS[name])
    turned(name, root)
    assert told(read(name, tmp_path, "train")) == told(read(name, data, "train"))
    splits = []
    for place in (data, tmp_path):
        of = READERS[name][1](root=str(place / class_data.FOLDERS[name]), train_rows=None)
        splits.append(workload.split(options(name), workload.train_examples(options(name), of, lambda _: NORM1000)))
    assert splits[0] == splits[1] and len(splits[0]["examples"]) == 20
    other = workload.train_examples(options(name, split_seed=4), of, lambda _: NORM1000)
    assert workload.split(options(name), other) != splits[0]


def test_a_split_of_folders_does_not_depend_on_the_order_of_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = ClassFolderOptions(root=str(data / "custom"), train="train", test="test")
    first = workload.train_examples(options("custom", names=None), of, lambda _: NORM1000)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self), reverse=True)))
    assert workload.train_examples(options("custom", names=None), of, lambda _: NORM1000) == first


# What cannot be taken


def mat(file: str, **content: object) -> Callable[[Path], None]:
    return lambda root: savemat(root / file, content)


def text(file: str, said: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(said)


def gone(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink()


def annotated(*rows: tuple[object, object]) -> np.ndarray:
    return np.array([list(rows)], dtype=[("class", object), ("fname", object)])


VARIANTS, TRAINVAL, ANNOS = "data/variants.txt", "annotations/trainval.txt", "devkit/cars_train_annos.mat"
REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("flowers102", gone("setid.mat"), "setid.mat: No such file or directory; take 102flowers.tgz, imagelabels.mat and setid.mat from https"),
    ("flowers102", gone("imagelabels.mat"), "imagelabels.mat: No such file or directory; take 102"),
    ("flowers102", lambda root: next((root / "jpg").iterdir()).unlink(), r"setid.mat, image \d+: .*jpg: No such file or directory; take 102"),
    ("flowers102", mat("setid.mat", trnid=[1, 999], valid=[2]), "setid.mat: image 999: imagelabels.mat has a label for 1 to 80; correct"),
    ("flowers102", mat("setid.mat", trnid=[1, 0], valid=[2]), "setid.mat: image 0: "),
    ("flowers102", mat("setid.mat", trnid=[1, np.nan], valid=[2]), "setid.mat: image nan: "),
    ("flowers102", mat("setid.mat", trnid=[1, 2], valid=[2]), "image image_00002.jpg is there twice"),
    ("flowers102", mat("setid.mat", trnid=[1, 2]), "no `valid` in it"),
    ("flowers102", mat("setid.mat", trnid="all", valid=[2]), "trnid is no list of numbers"),
    ("flowers102", mat("imagelabels.mat", labels=[103] * 80), "imagelabels.mat: image 1: its label is 103, not 1 to 102"),
    ("flowers102", text("imagelabels.mat", "no"), "imagelabels.mat: no MATLAB file"),
    ("pets37", gone(TRAINVAL), "trainval.txt: No such file or directory; take images.tar.gz and annotations.tar.gz from https"),
    ("pets37", text(TRAINVAL, "Persian_1 24 1 9\nhamster_7 1 1 1\n"), r"trainval.txt, line 2: 'hamster_7 1 1 1' is not IMAGE CLASS"),
    ("pets37", text(TRAINVAL, "Abyssinian_1 2 1 1\n"), "trainval.txt, line 1: class '2', and Abyssinian is class 1"),
    ("pets37", text(TRAINVAL, "Abyssinian_1 1 1 1\n" * 2), "line 2: image Abyssinian_1.jpg is there twice"),
    ("pets37", text(TRAINVAL, "Abyssinian_99999 1 1 1\n"), "line 1: .*Abyssinian_99999.jpg: No such file"),
    ("aircraft", gone(VARIANTS), "variants.txt: No such file or directory; take fgvc-aircraft-2013b.tar.gz from https"),
    ("aircraft", text("data/images_variant_trainval.txt", "0034011 Concorde\n"), "line 1: '0034011 Concorde' is not IMAGE VARIANT"),
    ("aircraft", text(VARIANTS, "x" * 99), "no answer can say the class"),
    ("cars196", gone("devkit/cars_meta.mat"), "cars_meta.mat: No such file or directory; take cars_train.tgz"),
    ("cars196", gone(ANNOS), "cars_train_annos.mat: No such file"),
    (
        "cars196",
        mat(ANNOS, annotations=annotated((1, "00001.jpg"), (197, "00002.jpg"))),
        r"annotation 2: class 197, fname '00002.jpg': not 1 to 196",
    ),
    ("cars196", mat(ANNOS, annotations=annotated((1, 7))), r"annotation 1: class 1, fname 7: not 1 to 196 and a file"),
    ("cars196", mat(ANNOS, annotations=[1, 2]), "its annotations have no `class` and `fname`"),
    ("cars196", mat("devkit/cars_meta.mat", class_names=[1, 2]), "its class_names are no names, each once"),
]


@pytest.mark.parametrize(("name", "change", "said"), REFUSED, ids=[f"{name}: {said}"[:50] for name, _, said in REFUSED])
def test_what_cannot_be_taken_is_named(name: str, change: Callable[[Path], object], said: str, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / class_data.FOLDERS[name], tmp_path / class_data.FOLDERS[name])
    change(root)
    with pytest.raises(ValueError, match=said) as refusal:
        read(name, tmp_path, "train")
    assert "\n" not in str(refusal.value)


def test_half_a_matlab_file_is_said_wherever_it_ends(data: Path, tmp_path: Path) -> None:
    """A download that broke off."""
    root = shutil.copytree(data / class_data.FOLDERS["cars196"], tmp_path / class_data.FOLDERS["cars196"])
    whole = (root / ANNOS).read_bytes()
    for end in range(0, len(whole), len(whole) // 40):
        (root / ANNOS).write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cars_train_annos.mat: (no MATLAB file of level 5, or damaged|no `annotations` in it)"):
            read("cars196", tmp_path, "train")


def test_who_checks_hears_of_every_row_and_keeps_the_others(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / "oxford-iiit-pet", tmp_path / "oxford-iiit-pet")
    with (root / TRAINVAL).open("a") as file:
        file.write("hamster_7 1 1 1\n\nAbyssinian_99999 1 1 1\nAbyssinian_1 2 1 1\n")
    findings = Findings(patient=True)
    assert len(read("pets37", tmp_path, "train", findings).images) == 60
    assert [fault.split(": ")[0].rpartition(", ")[2] for fault in findings.faults] == ["line 61", "line 64", "line 63"]


FOLDER_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: shutil.rmtree(root / "train"), "train: No such file or directory; make a folder for each class, FOLDER/train/CLASS"),
    (lambda root: [shutil.rmtree(one) for one in (root / "train").iterdir()], "train: no folder of a class in it"),
    (lambda root: (root / "train/one/more").mkdir(), "one/more: a folder in that of a class"),
    (lambda root: (root / "train/one/x.jpg").write_bytes(b"x"), "one/x.jpg: not an image, or a damaged one; give a whole image file, or take it out"),
    (lambda root: (root / "train/<one>").mkdir(), "no answer can say the class '<one>'"),
]


@pytest.mark.parametrize(("change", "said"), FOLDER_FAULTS, ids=[said[:30] for _, said in FOLDER_FAULTS])
def test_folders_that_are_none_of_classes_are_refused(change: Callable[[Path], object], said: str, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / "custom", tmp_path / "mine")
    change(root)
    with pytest.raises(ValueError, match=said):
        read_folders(root / "train", Findings())


# Names and data must agree


def names_of(found: ImageSet, **more: object) -> list[str]:
    return options("aircraft", **more).categories_of(found)


def test_categories_are_found_however_they_are_spelled(data: Path) -> None:
    found = read("aircraft", data, "test")
    assert names_of(found, categories=["boeing 747-400", "F/A 18"]) == ["747-400", "F/A-18"]
    assert names_of(found) == list(found.category_ids)


def test_data_with_other_classes_than_the_names_are_refused(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data / "fgvc-aircraft-2013b", tmp_path / "fgvc-aircraft-2013b")
    with (root / VARIANTS).open("a") as file:
        file.write("Concorde\n")
    found = read("aircraft", tmp_path, "test")
    with pytest.raises(ValueError, match=r"images_variant_test.txt: 'Concorde' is no class of task.names=embedded:aircraft; correct one of the two"):
        names_of(found)
    assert names_of(found, names=None)[-1] == "Concorde"
    with pytest.raises(ValueError, match=r"task.categories: 'Concorde' is no class of task.names=embedded:aircraft"):
        names_of(found, categories=["Concorde"])
    with pytest.raises(ValueError, match=r"task.categories: 'TSR-2' is no category of .*, which has 707-320, .* and 89 more"):
        names_of(found, categories=["TSR-2"], names=None)


def test_two_folders_of_one_class_are_refused(data: Path) -> None:
    found = read("aircraft", data, "test")
    twice = ImageSet(found.images, {**found.category_ids, "Boeing_747-400": 101}, "here")
    with pytest.raises(ValueError, match="here: '747-400' and 'Boeing_747-400' are the same class; make them one"):
        names_of(twice)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"aliases": {"jumbo": "747"}}, "task.aliases: alias 'jumbo' is given to '747', which is no class"),
        ({"aliases": {"747-300": "747-400"}}, "task.aliases: alias '747-300' of '747-400' is the name of another class"),
        ({"aliases": {"A 1": "A310"}, "names": None, "categories": ["A318"]}, "which is no class"),
        ({"names": "embedded:planes"}, "embedded:planes: No such file"),
        ({"categories": []}, "task.categories: must be names, each once"),
    ],
)
def test_options_that_disagree_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options("aircraft", **more)


@pytest.fixture(autouse=True)
def nothing_is_asked_of_a_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a reader asked for a network"))
    yield
