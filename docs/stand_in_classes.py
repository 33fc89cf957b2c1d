"""Small stand-ins for the four fine-grained sets, in their published formats: handwritten digits under other names; and digits in folders of classes.

    python docs/stand_in_classes.py FOLDER

It makes FOLDER/{flowers-102,oxford-iiit-pet,fgvc-aircraft-2013b,stanford_cars,custom} as the archives unpack: images named and numbered as theirs,
MATLAB files and lists of their structure, every class in the lists. Ten classes of each have images. What is learned from the four means nothing:
they show the way that the sets themselves take with a GPU.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from visual_rft.class_names import read_names
from visual_rft.images import AnnotatedImage
from visual_rft.sources.digits import CATEGORIES, Split, scenes

SIZES = ((96, 96), (112, 96), (96, 112))  # pixels of the images
PARTS = {"train": (Split.TRAIN, 60), "test": (Split.TEST, 20)}  # scenes


def write(root: Path) -> None:
    """All five."""
    flowers(root / "flowers-102")
    pets(root / "oxford-iiit-pet")
    aircraft(root / "fgvc-aircraft-2013b" / "data")
    cars(root / "stanford_cars")
    folders(root / "custom")


def names_of(name: str) -> tuple[str, ...]:
    """The classes of a set, in order."""
    return read_names(f"embedded:{name}").names


def images(part: str, classes: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """(class, image) of one digit each: which class it stands for, counted from 1."""
    split, count = PARTS[part]
    for scene in scenes(split, count, seed=0, digits=(1, 1)):
        yield classes[CATEGORIES.index(scene.annotations[0].category)], drawn(scene)


def drawn(scene: AnnotatedImage) -> Image.Image:
    """Larger, and now and then grey."""
    return scene.image.resize(SIZES[scene.id % len(SIZES)], Image.Resampling.BICUBIC).convert("L" if scene.id % 10 == 3 else "RGB")


def save(image: Image.Image, file: Path) -> None:
    """As a JPEG, into a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=95)


def flowers(root: Path) -> None:
    """jpg/, imagelabels.mat and setid.mat; a third of the training images is called the validation set."""
    labels: list[int] = []
    parts: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    for part in PARTS:
        for label, image in images(part, range(1, 102, 10)):
            labels.append(label)
            save(image, root / "jpg" / f"image_{len(labels):05d}.jpg")
            parts["tstid" if part == "test" else "valid" if len(labels) % 3 == 0 else "trnid"].append(len(labels))
    savemat(root / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    savemat(root / "setid.mat", {name: np.array([numbers], dtype=np.uint16) for name, numbers in parts.items()})


def pets(root: Path) -> None:
    """images/ and annotations/{trainval,test}.txt."""
    names, taken = names_of("pets37"), 0
    (root / "annotations").mkdir(parents=True)
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        lines = []
        for label, image in images(part, range(1, 38, 4)):
            taken += 1
            name = f"{names[label - 1]}_{taken}"
            save(image, root / "images" / f"{name}.jpg")
            lines.append(f"{name} {label} {1 if name[0].isupper() else 2} {label}")
        (root / "annotations" / file).write_text("".join(f"{line}\n" for line in lines))


def aircraft(root: Path) -> None:
    """images/, variants.txt and images_variant_*.txt; below each image the banner."""
    names, taken = names_of("aircraft"), 0
    root.mkdir(parents=True)
    (root / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    for part, file in (("train", "images_variant_trainval.txt"), ("test", "images_variant_test.txt")):
        lines = []
        for label, image in images(part, range(1, 101, 10)):
            taken += 1
            whole = Image.new("RGB", (image.width, image.height + 20), "black")
            whole.paste(image)
            save(whole, root / "images" / f"{34000 + 11 * taken:07d}.jpg")
            lines.append(f"{34000 + 11 * taken:07d} {names[label - 1]}")
        (root / file).write_text("".join(f"{line}\n" for line in lines))


def cars(root: Path) -> None:
    """cars_train/, cars_test/, devkit/cars_meta.mat and the annotations of both parts, where they lie."""
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([names_of("cars196")], dtype=object)})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = []
        for number, (label, image) in enumerate(images(part, range(1, 197, 20)), start=1):
            save(image, root / f"cars_{part}" / f"{number:05d}.jpg")
            rows.append((*(np.uint16(value) for value in (1, 1, image.width, image.height, label)), f"{number:05d}.jpg"))
        savemat(root / file, {"annotations": np.array([rows], dtype=fields)})


def folders(root: Path) -> None:
    """{train,test}/CLASS/*.jpg: digits under their own names, which the embedded model was taught, most of them."""
    for part, (split, count) in PARTS.items():
        for scene in scenes(split, 3 * count, seed=0, digits=(1, 1)):
            save(scene.image, root / part / scene.annotations[0].category / f"IMG_{scene.id:04d}.jpg")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
