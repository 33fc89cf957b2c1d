"""The four fine-grained sets of the paper's table 2, as they are published: Oxford 102 Flowers, Oxford-IIIT Pet, FGVC-Aircraft, Stanford Cars.

Each reader takes a root folder and a part, `train` or `test`: training images are all that are not for the test, those for validation among them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from visual_rft.class_names import read_names
from visual_rft.images import ImageSet
from visual_rft.sources.findings import Findings
from visual_rft.sources.labelled import Labelled, image_set, number_of
from visual_rft.sources.options import DataOptions

BANNER = 20  # pixels at the bottom of every image of FGVC-Aircraft, which name its photographer
VGG = "https://www.robots.ox.ac.uk/~vgg/data"
FLOWERS = f"take 102flowers.tgz, imagelabels.mat and setid.mat from {VGG}/flowers/102, unpack the first beside the others, and set data.root=FOLDER"
PETS = f"take images.tar.gz and annotations.tar.gz from {VGG}/pets, unpack both into one folder, and set data.root=FOLDER"
AIRCRAFT = f"take fgvc-aircraft-2013b.tar.gz from {VGG}/fgvc-aircraft, unpack it, and set data.root=fgvc-aircraft-2013b"
CARS = (
    "take cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat (their page is gone, "
    "https://github.com/pytorch/vision/issues/7545 names copies), unpack the three into one folder, the fourth beside them, and set data.root=FOLDER"
)
CORRECT = "correct the row, or take it out"

Reader = Callable[[str, str, Findings], ImageSet]


@dataclass
class PublishedOptions(DataOptions):
    """The folder `root`, as the archives unpack. `train_rows` are rows of image, problem and solution to train on instead, as `sources.rows` reads
    them."""

    root: str
    train_rows: str | None


@dataclass
class FlowersOptions(PublishedOptions):
    """Oxford 102 Flowers."""


@dataclass
class PetsOptions(PublishedOptions):
    """Oxford-IIIT Pet."""


@dataclass
class AircraftOptions(PublishedOptions):
    """FGVC-Aircraft."""


@dataclass
class CarsOptions(PublishedOptions):
    """Stanford Cars."""


def flowers(root: str, part: str, findings: Findings) -> ImageSet:
    """102 classes, whose names are not among the files: those of `embedded:flowers102`. Raises ValueError when a file is missing or is another."""
    folder = Path(root).expanduser()
    names, file = read_names("embedded:flowers102").names, folder / "setid.mat"
    labels = _numbers(folder / "imagelabels.mat", "labels", FLOWERS)
    numbers = [n for key in (("trnid", "valid") if part == "train" else ("tstid",)) for n in _numbers(file, key, FLOWERS)]

    def rows() -> Iterator[Labelled]:
        for value in numbers:
            number = number_of(value, len(labels))
            label = None if number is None else number_of(labels[number - 1], len(names))
            if number is None:
                findings.refuse(f"{file}: image {value}: imagelabels.mat has a label for 1 to {len(labels)}; {CORRECT}")
            elif label is None:
                findings.refuse(f"{folder / 'imagelabels.mat'}: image {number}: its label is {labels[number - 1]}, not 1 to {len(names)}; {CORRECT}")
            else:
                name = f"image_{number:05d}.jpg"
                yield Labelled(f"{file}, image {number}", folder / "jpg" / name, name, names[label - 1])

    return image_set(rows(), _numbered(names), str(file), FLOWERS, findings)


def pets(root: str, part: str, findings: Findings) -> ImageSet:
    """37 classes: the name of an image up to its last underscore. Raises ValueError when a file is missing or is another."""
    folder, names = Path(root).expanduser(), read_names("embedded:pets37").names
    file = folder / "annotations" / ("trainval.txt" if part == "train" else "test.txt")
    lines = _lines(file, PETS)

    def rows() -> Iterator[Labelled]:
        for place, line in lines:
            name, _, rest = line.partition(" ")
            category, number = name.rpartition("_")[0], rest.partition(" ")[0]
            if category not in names:
                findings.refuse(f"{place}: {line!r:.60} is not IMAGE CLASS …, where the image has the name of one of {len(names)} breeds; {CORRECT}")
            elif number != str(names.index(category) + 1):
                findings.refuse(f"{place}: class {number!r:.20}, and {category} is class {names.index(category) + 1}; {CORRECT}")
            else:
                yield Labelled(place, folder / "images" / f"{name}.jpg", f"{name}.jpg", category)

    return image_set(rows(), _numbered(names), str(file), PETS, findings)


def aircraft(root: str, part: str, findings: Findings) -> ImageSet:
    """The classes of variants.txt; images without their banner. Raises ValueError when a file is missing or is another."""
    folder = Path(root).expanduser() / "data"
    file = folder / f"images_variant_{'trainval' if part == 'train' else 'test'}.txt"
    names = list(dict.fromkeys(name for _, name in _lines(folder / "variants.txt", AIRCRAFT)))
    lines = _lines(file, AIRCRAFT)

    def rows() -> Iterator[Labelled]:
        for place, line in lines:
            image, _, variant = line.partition(" ")
            if variant in names:
                yield Labelled(place, folder / "images" / f"{image}.jpg", f"{image}.jpg", variant)
            else:
                findings.refuse(f"{place}: {line!r:.60} is not IMAGE VARIANT, with a variant of variants.txt; {CORRECT}")

    return image_set(rows(), _numbered(names), str(file), AIRCRAFT, findings, banner=BANNER)


def cars(root: str, part: str, findings: Findings) -> ImageSet:
    """The classes of devkit/cars_meta.mat. Raises ValueError when a file is missing or is another."""
    folder, meta = Path(root).expanduser(), Path(root).expanduser() / "devkit/cars_meta.mat"
    file = folder / ("devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat")
    names, annotations = _variable(meta, "class_names", CARS), _variable(file, "annotations", CARS)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{meta}: its class_names are no names, each once; {CARS}")
    if not all(isinstance(row, dict) and {"class", "fname"} <= row.keys() for row in annotations):
        raise ValueError(f"{file}: its annotations have no `class` and `fname`; {CARS}")

    def rows() -> Iterator[Labelled]:
        for number, row in enumerate(annotations, start=1):
            place, image = f"{file}, annotation {number}", row["fname"]
            label = number_of(row["class"], len(names))
            if label is None or not isinstance(image, str) or not image:
                findings.refuse(f"{place}: class {row['class']!s:.20}, fname {image!r:.40}: not 1 to {len(names)} and a file; {CORRECT}")
            else:
                yield Labelled(place, folder / f"cars_{part}" / image, image, names[label - 1])

    return image_set(rows(), _numbered(names), str(file), CARS, findings)


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, start=1)}


def _lines(file: Path, remedy: str) -> list[tuple[str, str]]:
    """(where, text) of every line that says something."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not text in UTF-8; {remedy}") from error
    return [(f"{file}, line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _numbers(file: Path, key: str, remedy: str) -> list[Any]:
    values = _variable(file, key, remedy)
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"{file}: {key} is no list of numbers; {remedy}")
    return values


def _variable(file: Path, key: str, remedy: str) -> list[Any]:
    """One variable of a MATLAB file as a list: of numbers, of texts, of structs as {field: value}."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; {remedy}") from error
    try:
        found = loadmat(file, variable_names=[key], simplify_cells=True)
    except Exception as error:  # what scipy raises at damaged bytes is of any kind
        raise ValueError(f"{file}: no MATLAB file of level 5, or damaged ({type(error).__name__}: {error}); copy it again, or {remedy}") from error
    if key not in found:
        raise ValueError(f"{file}: no `{key}` in it; {remedy}")
    values: list[Any] = np.ravel(np.asarray(found[key], dtype=object)).tolist()
    return values
