"""A small set in COCO's format, and every kind of trouble that one of its images can be in: what is taken as a matter of course, what is refused.

Image n (from 1) is n.png of 40×30 noise, with a cat (label 100+n) and a dog (200+n).
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 30)
CAT, DOG = (4.0, 3.0, 20.0, 15.0), (10.0, 6.0, 28.0, 21.0)
CORRECT = "correct the row, or take it out"
COPY = "copy it again, or set data.train_images=FOLDER to where the images are"

Content = dict[str, Any]
# (content of the file, folder of the images, number of the image) -> trouble.
Edit = Callable[[Content, Path, int], object]


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def write(root: Path, part: str, count: int, first: int = 1) -> Path:
    """`count` images, from number `first` on. Returns the JSON file."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    content: Content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]}
    for n in range(first, first + count):
        noise(n).save(root / "images" / f"{n}.png")
        content["images"].append({"id": n, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]})
        for key, category, box in ((100 + n, 1, CAT), (200 + n, 3, DOG)):
            area = {"area": 0.7 * box[2] * box[3], "iscrowd": 0}
            content["annotations"].append({"id": key, "image_id": n, "category_id": category, "bbox": list(box)} | area)
    (root / f"{part}.json").write_text(json.dumps(content))
    return root / f"{part}.json"


def spoil(root: Path, *edits: Edit, part: str = "train", first: int = 1) -> None:
    """Each edit on an image of its own."""
    file = root / f"{part}.json"
    content = json.loads(file.read_text())
    for n, edit in enumerate(edits, start=first):
        edit(content, root / "images", n)
    file.write_text(json.dumps(content))


def image(n: int, content: Content) -> Content:
    return next(row for row in content["images"] if row["id"] == n)


def dog(n: int, content: Content) -> Content:
    return next(row for row in content["annotations"] if row["id"] == 200 + n)


def in_image(**changes: Any) -> Edit:
    return lambda content, _, n: image(n, content).update(changes)


def in_dog(**changes: Any) -> Edit:
    return lambda content, _, n: dog(n, content).update(changes)


def without(table: str, key: str) -> Edit:
    return lambda content, _, n: (image if table == "images" else dog)(n, content).pop(key)


def again(table: str, key: int | None = None, **changes: Any) -> Edit:
    """The row of the image in another one as well."""
    return lambda content, _, n: content[table].append(next(row for row in content[table] if row["id"] == (key or n)) | changes)


def file_of(content: bytes | Callable[[Image.Image], bytes]) -> Edit:
    """Other bytes as the file of the image."""

    def edit(_: Content, images: Path, n: int) -> None:
        (images / f"{n}.png").write_bytes(content if isinstance(content, bytes) else content(noise(n)))

    return edit


def saved(of: Image.Image, format: str = "PNG", orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    of.save(buffer, format, exif=exif)
    return buffer.getvalue()


def both(*edits: Edit) -> Edit:
    return lambda content, images, n: [edit(content, images, n) for edit in edits]


def transparent(of: Image.Image) -> Image.Image:
    of.putalpha(Image.linear_gradient("L").resize(of.size))
    return of


def sixteen_bits(of: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(of.convert("L"), dtype=np.uint16) * 257)


def moved(_: Content, images: Path, n: int) -> None:
    (images / "deep").mkdir(exist_ok=True)
    (images / f"{n}.png").rename(images / "deep" / f"{n}.png")


def no_objects(content: Content, _: Path, n: int) -> None:
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != n]


# By its name: what is done, and what the trouble is called when it is counted.
IMAGES: dict[str, tuple[Edit, str]] = {
    "turned by EXIF, labels on what is shown": (file_of(lambda of: saved(of.rotate(90, expand=True), orientation=6)), "turned by EXIF"),
    "turned by EXIF, labels on what is stored": (
        file_of(lambda of: saved(of, orientation=6)),
        "EXIF rotation not applied: the labels are on the stored pixels",
    ),
    "mirrored by EXIF": (file_of(lambda of: saved(of, orientation=2)), "turned by EXIF"),
    "grey": (file_of(lambda of: saved(of.convert("L"), "JPEG")), "grey"),
    "transparent": (file_of(lambda of: saved(transparent(of))), "transparent"),
    "palette": (file_of(lambda of: saved(of.convert("P"))), "palette"),
    "16 bits": (file_of(lambda of: saved(sixteen_bits(of))), "16 bits"),
    "CMYK": (file_of(lambda of: saved(of.convert("CMYK"), "JPEG")), "CMYK"),
}
LABELS: dict[str, tuple[Edit, str]] = {
    "a crowd": (in_dog(iscrowd=1), "crowds: not asked for, not counted against an answer"),
    "a box without area": (in_dog(bbox=[5, 5, 0, 9]), "boxes without area in the image: not asked for"),
    "a negative width": (in_dog(bbox=[30, 5, -9, 9]), "boxes without area in the image: not asked for"),
    "a box outside": (in_dog(bbox=[40, 5, 9, 9]), "boxes without area in the image: not asked for"),
    "a box partly outside": (in_dog(bbox=[-5, 5, 15, 60]), "boxes that reach out of the image: cut at its edge to ask for"),
    "an image without objects": (no_objects, "images without an object"),
    "a category without images": (again("categories", 1, id=90, name="bird"), "categories without an image"),
    "a file name with folders": (
        both(moved, lambda content, _, n: image(n, content).update(file_name=f"deep/{n}.png")),
        "file names with folders",
    ),
}
HANDLED = IMAGES | LABELS


@dataclass(frozen=True)
class Refused:
    """What is done, and what is said of it, after the file, in terms of the number of the image."""

    edit: Edit
    said: Callable[[int], str]


def row(table: str, edit: Edit, what: Callable[[int], str], key: Callable[[int], Any] | None = None) -> Refused:
    of = key or {"images": lambda n: n, "annotations": lambda n: 200 + n, "categories": lambda _: 1}[table]
    return Refused(edit, lambda n: f"train.json: {table}, id {of(n)}: {what(n)}; {CORRECT}")


def labelled(key: str, value: Any, said: str) -> Refused:
    return row("annotations", in_dog(**{key: value}), lambda _: said)


FILES: dict[str, Refused] = {
    "a missing file": Refused(lambda _, images, n: (images / f"{n}.png").unlink(), lambda n: f"images/{n}.png: No such file or directory; {COPY}"),
    "an empty file": Refused(file_of(b""), lambda n: f"images/{n}.png: not an image, or a damaged one; {COPY}"),
    "a truncated file": Refused(file_of(lambda of: saved(of)[:-600]), lambda n: f"images/{n}.png: not an image, or a damaged one; {COPY}"),
    "a truncated JPEG": Refused(file_of(lambda of: saved(of, "JPEG")[:-300]), lambda n: f"images/{n}.png: not an image, or a damaged one; {COPY}"),
    "no image": Refused(file_of(b"<html>404</html>"), lambda n: f"images/{n}.png: not an image, or a damaged one; {COPY}"),
    "another size than labelled": Refused(
        in_image(width=41), lambda n: f"images/{n}.png: 40×30 pixels, where its label says 41×30; give the images the boxes were drawn on"
    ),
    "sides in the wrong order": Refused(
        in_image(width=30, height=40), lambda n: f"images/{n}.png: 40×30 pixels, where its label says 30×40; give the images the boxes were drawn on"
    ),
    "an extreme ratio": Refused(
        both(in_image(width=400, height=2), in_dog(bbox=[0, 0, 50, 2]), file_of(lambda of: saved(of.resize((400, 2))))),
        lambda n: f"images/{n}.png: 400×2 pixels, and the longer side must be less than 200 times the other; cut the image",
    ),
}
ROWS: dict[str, Refused] = {
    "an image id twice": row("images", again("images"), lambda _: "another row has the same id"),
    "a label's id twice": row(
        "annotations", lambda content, _, n: dog(n, content).update(id=100 + n), lambda _: "another row has the same id", lambda n: 100 + n
    ),
    "a category's id twice": row("categories", again("categories", 1, name="another"), lambda _: "another row has the same id"),
    "an unknown image": row("annotations", in_dog(image_id=9999), lambda _: "no image has its image_id 9999"),
    "an unknown category": row("annotations", in_dog(category_id=2), lambda _: "no category has its category_id 2"),
    "NaN in a box": labelled("bbox", [1, float("nan"), 3, 4], "its bbox is [1, nan, 3, 4], not four finite numbers"),
    "infinity in a box": labelled("bbox", [1, 2, 3, float("inf")], "its bbox is [1, 2, 3, inf], not four finite numbers"),
    "a number beyond floats": labelled("bbox", [1, 2, 3, 10**400], f"its bbox is {[1, 2, 3, 10**400]!r:.60}, not four finite numbers"),
    "a box of three": labelled("bbox", [1, 2, 3], "its bbox is [1, 2, 3], not four finite numbers"),
    "a box in words": labelled("bbox", "left", "its bbox is 'left', not four finite numbers"),
    "no box": row("annotations", without("annotations", "bbox"), lambda _: "its bbox is missing, not four finite numbers"),
    "a negative area": labelled("area", -1.0, "its area is -1.0, not a number of pixels"),
    "an image id in words": labelled("image_id", "1", "its image_id is '1', not a whole number"),
    "a category id that is a bool": labelled("category_id", True, "its category_id is True, not a whole number"),
    "a label's id that is a list": row("annotations", in_dog(id=[1]), lambda _: "its id is no number", lambda _: [1]),
    "no width": row("images", without("images", "width"), lambda _: "its width is missing, not a whole number"),
    "no height at all": row("images", in_image(height=0), lambda _: "its size of 40×0 pixels is no image's"),
    "a height beyond images": row("images", in_image(height=10**400), lambda _: f"its size of 40×{10**400} pixels is no image's"),
    "iscrowd in words": labelled("iscrowd", "0", "its iscrowd is '0', not 0 or 1"),
    "a file name of two lines": row("images", in_image(file_name="a\nb.png"), lambda _: r"its file_name is 'a\nb.png', which names no file"),
    "a file name that no system takes": row("images", in_image(file_name="a\0"), lambda _: r"its file_name is 'a\x00', which names no file"),
    "no file name": row("images", without("images", "file_name"), lambda _: "its file_name is missing, not text"),
    "a file name that is a number": row("images", in_image(file_name=3), lambda _: "its file_name is 3, not text"),
}
REFUSED = ROWS | FILES
