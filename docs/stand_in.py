"""A small stand-in for COCO 2017 and LVIS v1, in their published formats: scenes of handwritten digits under the names of other things.

    python docs/stand_in.py FOLDER

It makes FOLDER/annotations/{instances_train2017,instances_val2017,lvis_v1_train,lvis_v1_val}.json, FOLDER/train2017 and FOLDER/val2017, as the
archives unpack: COCO's ids of categories with their gaps, outlines of objects, crowds, grey images; LVIS's frequencies, negative and not exhaustively
labelled categories, and images without a file name. What is learned from it means nothing: it shows the way that COCO itself takes with a GPU.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from visual_rft.images import AnnotatedImage
from visual_rft.sources.digits import CATEGORIES, Split, scenes

COCO = {"bus": 6, "train": 7, "fire hydrant": 11, "stop sign": 13, "cat": 17, "dog": 18, "bed": 65, "toilet": 70, "mouse": 74, "toaster": 80}
# Every category of COCO has its name in the file, with images or without.
OTHERS = """
person bicycle car motorcycle airplane truck boat traffic_light parking_meter bench bird horse sheep cow elephant bear zebra
giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza
donut cake chair couch potted_plant dining_table tv laptop remote keyboard cell_phone microwave oven sink refrigerator book clock
vase scissors teddy_bear hair_drier toothbrush
"""
ABSENT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # numbers that COCO never gave
LVIS = ["horse_buggy", "die", "kitchen_table", "omelet", "papaya", "stepladder", "casserole", "futon", "mallet", "sugar_bowl"]
LVIS_OTHERS = ["egg_roll", "garbage", "handsaw", "hippopotamus", "shot_glass"]
SIZES = ((128, 128), (160, 128), (128, 160), (192, 128))  # pixels of the images
PARTS = {"train": (Split.TRAIN, 240), "val": (Split.TEST, 40)}  # scenes

Row = dict[str, Any]


def write(root: Path) -> None:
    """Both data sets, over the same images."""
    (root / "annotations").mkdir(parents=True)
    for part, (split, count) in PARTS.items():
        (root / f"{part}2017").mkdir()
        images = scenes(split, count, seed=0)
        rows = [image_row(root, f"{part}2017", image) for image in images]
        for name, content in ((f"instances_{part}2017", coco(images, rows)), (f"lvis_v1_{part}", lvis(images, rows))):
            (root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def image_row(root: Path, folder: str, image: AnnotatedImage) -> Row:
    """One image, written as a JPEG, and what COCO says of it."""
    width, height = SIZES[image.id % len(SIZES)]
    number = 1000 * (folder == "val2017") + 37 * image.id + 9
    pixels = image.image.resize((width, height), Image.Resampling.BICUBIC).convert("L" if image.id % 10 == 3 else "RGB")
    pixels.save(root / folder / f"{number:012d}.jpg", quality=95)
    where = {"file_name": f"{number:012d}.jpg", "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"}
    rest = {"license": 3, "date_captured": "2013-11-14 17:02:52", "flickr_url": "http://farm7.staticflickr.com/x.jpg"}
    return {"id": number, "width": width, "height": height} | where | rest


def label(image: AnnotatedImage, row: Row, number: int, category_id: int, which: int) -> Row:
    """Object `which` of an image: its box in pixels, and an octagon around it as its outline."""
    scale_x, scale_y = row["width"] / image.image.width, row["height"] / image.image.height
    x, y, w, h = image.annotations[which].bbox_xywh
    x, y, w, h = x * scale_x, y * scale_y, w * scale_x, h * scale_y
    corners = [(0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3)]
    outline = [round(value, 2) for a, b in corners for value in (x + a * w, y + b * h)]
    box = [round(value, 2) for value in (x, y, w, h)]
    return {"id": number, "image_id": row["id"], "category_id": category_id, "bbox": box, "area": round(0.82 * w * h, 4), "segmentation": [outline]}


def coco(images: list[AnnotatedImage], rows: list[Row]) -> Row:
    """instances_*.json; every twelfth image has a crowd as well."""
    names = list(COCO)
    annotations: list[Row] = []
    for image, row in zip(images, rows, strict=True):
        for which, one in enumerate(image.annotations):
            number = COCO[names[CATEGORIES.index(one.category)]]
            annotations.append(label(image, row, 900_000 + len(annotations), number, which) | {"iscrowd": 0})
        if image.id % 12 == 5:
            crowd = {"counts": [row["width"] * row["height"] - 400, 400], "size": [row["height"], row["width"]]}
            box = {"bbox": [0.0, 0.0, 20.0, 20.0], "area": 400, "segmentation": crowd, "iscrowd": 1}
            annotations.append({"id": 900_000 + len(annotations), "image_id": row["id"], "category_id": COCO["dog"]} | box)
    free = iter(n for n in range(1, 91) if n not in ABSENT | set(COCO.values()))
    categories = COCO | {name.replace("_", " "): next(free) for name in OTHERS.split()}
    listed = [{"supercategory": "thing", "id": number, "name": name} for name, number in sorted(categories.items(), key=lambda item: item[1])]
    licenses = [{"url": "http://creativecommons.org/licenses/by-nc-nd/2.0/", "id": 3, "name": "Attribution-NonCommercial-NoDerivs License"}]
    return {"info": {"year": 2017}, "licenses": licenses, "images": rows, "annotations": annotations, "categories": listed}


def lvis(images: list[AnnotatedImage], rows: list[Row]) -> Row:
    """lvis_v1_*.json: images by coco_url alone, and what is known of categories that are not labelled."""
    names = sorted(LVIS + LVIS_OTHERS)
    annotations: list[Row] = []
    listed: list[Row] = []
    for image, row in zip(images, rows, strict=True):
        shown = {names.index(LVIS[CATEGORIES.index(one.category)]) + 1 for one in image.annotations}
        for which, one in enumerate(image.annotations):
            annotations.append(label(image, row, len(annotations) + 1, names.index(LVIS[CATEGORIES.index(one.category)]) + 1, which))
        absent = [n for n in range(1, len(names) + 1) if n not in shown and (n + image.id) % 3 == 0]
        partly = sorted(shown)[:1] if image.id % 7 == 2 else []
        known = {"neg_category_ids": absent, "not_exhaustive_category_ids": partly}
        listed.append({key: value for key, value in row.items() if key != "file_name"} | known)
    categories = []
    for number, name in enumerate(names, start=1):
        of = [one["image_id"] for one in annotations if one["category_id"] == number]
        counts = {"image_count": len(set(of)), "instance_count": len(of), "frequency": "rcf"[number % 3]}
        categories.append({"id": number, "name": name, "synset": f"{name}.n.01", "synonyms": [name], "def": "a thing"} | counts)
    return {"info": {"version": "v1.0"}, "licenses": [], "images": listed, "annotations": annotations, "categories": categories}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
