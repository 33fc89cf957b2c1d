"""Folders of classes, the form of one's own images: train/CLASS/*.jpg and test/CLASS/*.jpg."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visual_rft.images import ImageSet
from visual_rft.sources.findings import Findings
from visual_rft.sources.labelled import Labelled, image_set
from visual_rft.sources.options import DataOptions

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
OWN = "make a folder for each class, FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg, and set data.root=FOLDER"
WHOLE = "give a whole image file, or take it out"


@dataclass
class ClassFolderOptions(DataOptions):
    """The folder `root`, and in it those of the two parts; an absolute path need not lie in it."""

    root: str
    train: str
    test: str


def train_images(options: ClassFolderOptions, findings: Findings) -> ImageSet:
    """Every image to train on, by the names of folder and file in order. Raises ValueError when there is no folder of a class."""
    return read_folders(Path(options.root).expanduser() / options.train, findings)


def test_images(options: ClassFolderOptions, findings: Findings) -> ImageSet:
    """Every image to test on, by the names of folder and file in order. Raises ValueError when there is no folder of a class."""
    return read_folders(Path(options.root).expanduser() / options.test, findings)


def read_folders(folder: Path, findings: Findings) -> ImageSet:
    """The images in the folders of `folder`, each of which is a class with its name."""
    try:
        classes = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; {OWN}") from error
    if not classes:
        raise ValueError(f"{folder}: no folder of a class in it; {OWN}")

    def rows() -> Iterator[Labelled]:
        for name in classes:
            for file in (folder / name).iterdir():
                if file.is_dir():
                    findings.refuse(f"{file}: a folder in that of a class; {OWN}")
                elif file.suffix.lower() in IMAGES and not file.name.startswith("."):
                    yield Labelled(str(folder / name), file, f"{name}/{file.name}", name)
                else:
                    findings.handle("files that are no images by their name: passed over")

    return image_set(rows(), {name: number for number, name in enumerate(classes, start=1)}, str(folder), WHOLE, findings)
