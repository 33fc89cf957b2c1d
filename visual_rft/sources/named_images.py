"""Images that somebody names, as a file, a folder or a pattern; and the PNGs that their answers are drawn in."""

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image

ANSWERS = "answers"


@dataclass(frozen=True)
class Named:
    """Image files, in order; `is_one` where a file itself was named."""

    files: Sequence[Path]
    is_one: bool


def named_images(name: str) -> Named:
    """The file; the images of a folder, by their endings, hidden ones apart; or the files that a pattern fits, `**` for folders at any depth.

    Raises ValueError where a folder or a pattern has none. Nothing is opened."""
    path = Path(name).expanduser()
    if path.is_dir():
        endings = {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN}
        found = [file for file in path.iterdir() if file.is_file() and file.suffix.lower() in endings and not file.name.startswith(".")]
    elif not path.exists() and glob.has_magic(name):
        found = [file for file in map(Path, glob.iglob(str(path), recursive=True)) if file.is_file()]
    else:
        return Named([path], is_one=True)
    if not found:
        what = "no image file in this folder" if path.is_dir() else "no file fits this pattern"
        raise ValueError(f"image={name}: {what}; name a file, a folder of images or a pattern")
    return Named(sorted(found), is_one=False)


def pictures(images: Named, out: str | None) -> Mapping[Path, Path]:
    """The PNG of each image: `out` or <name>_answer.png here for one; of several <name>_answer.png in the folder `out`, or `answers`.

    Images of one name in several folders, or with several endings, are told apart by those. Raises ValueError for what cannot be written, which
    should come out before a model is loaded."""
    if images.is_one:
        (image,) = images.files
        return {image: _checked(Path(out).expanduser() if out else Path(f"{image.stem}_answer.png"), image)}
    folder = Path(out or ANSWERS).expanduser()
    if folder.suffix.lower() == ".png" or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"out={folder}: several images have their PNGs in a folder; name a folder")
    _try_to_write(
        next(place for place in (folder, *folder.resolve().parents) if place.is_dir()), f"out={folder}", "name a folder that can be written"
    )
    stems = Counter(image.stem for image in images.files)
    names = {image: image.stem if stems[image.stem] == 1 else "_".join(part.strip("/") for part in image.parts) for image in images.files}
    drawn = {image: folder / f"{name}_answer.png" for image, name in names.items()}
    for (image, picture), count in zip(drawn.items(), map(Counter(drawn.values()).__getitem__, drawn.values()), strict=True):
        if count > 1 or picture.resolve() == image.resolve():
            raise ValueError(f"{image}: its answer would be drawn over another image or picture, {picture}; rename it, or name another folder, out=…")
    return drawn


def _checked(out: Path, image: Path) -> Path:
    """A PNG that can be written. Raises ValueError."""
    remedy = "name a file that can be written, out=….png"
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"out={out}: must be the name of a PNG file; {remedy}")
    if out.resolve() == image.resolve():
        raise ValueError(f"out={out}: is the image itself; {remedy}")
    _try_to_write(out.parent, f"out={out}", remedy)
    return out


def _try_to_write(folder: Path, key: str, remedy: str) -> None:
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{key}: {error.strerror}; {remedy}") from error
