"""A small stand-in for ReasonSeg, for RefCOCO as VLM-R1 publishes it, and for SAM: scenes of handwritten digits, and a SAM that has learnt nothing.

    python docs/stand_in_grounding.py FOLDER

It makes FOLDER/ReasonSeg, FOLDER/refcoco and FOLDER/sam, as the archives unpack and the hub has them: several outlines of what is meant, areas to
ignore, shapes called flag, files that are not UTF-8; boxes that reach a pixel too far. What is measured on it means nothing: it shows the way that
the data themselves take with a GPU.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import SamConfig, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from visual_rft.frames import Box
from visual_rft.images import AnnotatedImage
from visual_rft.sources.digits import Split, scenes

SIDE = 2  # times the size of a scene
PARTS = {"train": (Split.TRAIN, 24), "val": (Split.VALIDATION, 6), "test": (Split.TEST, 8)}  # scenes
ASKED = "Please provide the bounding box coordinate of the region this sentence describes"

Row = dict[str, Any]


def write(root: Path) -> None:
    """The three of them."""
    for part, (split, count) in PARTS.items():
        images = scenes(split, count, seed=0, digits=(2, 3))
        reason_seg(root / "ReasonSeg" / part, images)
        if part != "test":
            refcoco(root / "refcoco", part, images)
    sam(root / "sam")


def picture(image: AnnotatedImage) -> Image.Image:
    """A scene, larger."""
    return image.image.resize((SIDE * image.image.width, SIDE * image.image.height), Image.Resampling.BICUBIC)


def reason_seg(folder: Path, images: Sequence[AnnotatedImage]) -> None:
    """A split of ReasonSeg: what the first instruction of each scene means, in one outline or in two halves, with all instructions that mean it."""
    folder.mkdir(parents=True)
    for image in images:
        x, y, w, h = (SIDE * value for value in image.instructions[0].bbox_xywh)
        texts = [one.text for one in image.instructions if one.bbox_xywh == image.instructions[0].bbox_xywh][:5]
        halves = [(x, y, w / 2, h), (x + w / 2, y, w / 2, h)] if image.id % 3 == 1 else [(x, y, w, h)]
        shapes = [shape("target", box) for box in halves]
        if image.id % 4 == 2:
            shapes += [shape("ignore", (0, 0, 12, 12)), shape("flag", (5, 5, 20, 20))]
        is_sentence = image.id % 2 == 0
        content = {"text": [f"What is {text}?" for text in texts] if is_sentence else texts, "is_sentence": is_sentence, "shapes": shapes}
        if image.id % 5 == 3:
            content["text"] = [f"{text} – à gauche ou à droite" for text in texts]
        name = f"{1000 + image.id}_{image.id % 7}"
        picture(image).save(folder / f"{name}.jpg", quality=95)
        (folder / f"{name}.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("cp1252"))


def shape(label: str, box: Box) -> Row:
    """An octagon in a box, as labelme writes it."""
    x, y, w, h = box
    corners = [(0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3)]
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": [[x + w * a, y + h * b] for a, b in corners]}


def refcoco(root: Path, part: str, images: Sequence[AnnotatedImage]) -> None:
    """A file of VLM-R1's, every instruction of each scene a row: lines of conversations to train on, an array of solutions to test on."""
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    (root / "rec_jsons_processed").mkdir(exist_ok=True)
    rows: list[Row] = []
    for image in images:
        name = f"train2014/COCO_train2014_{image.id + 1000 * (part == 'val'):012d}.jpg"
        picture(image).save(root / name, quality=95)
        for one in image.instructions[-3:]:
            x, y, w, h = (SIDE * value for value in one.bbox_xywh)
            rows.append({"image": name, "normal_caption": one.text, "solution": [x, y, x + w + 1, y + h + 1], "problem": f"{ASKED}: {one.text}."})
    if part == "val":
        for name in ("refcoco_val", "refcoco_testA"):
            (root / "rec_jsons_processed" / f"{name}.json").write_text(json.dumps(rows))
        return
    for number, name in enumerate(("refcoco", "refcocop", "refcocog")):
        lines = [conversation(i, row) for i, row in enumerate(rows[number::3])]
        (root / "rec_jsons_processed" / f"{name}_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def conversation(number: int, row: Row) -> Row:
    """A row to train on."""
    turns = [{"from": "human", "value": f"<image>{row['problem']}"}, {"from": "gpt", "value": json.dumps(row["solution"])}]
    return {"id": number, "image": row["image"], "conversations": turns}


def sam(folder: Path) -> None:
    """The smallest SAM there can be, untrained."""
    size, width, patch = 64, 32, 16
    tower = {"num_hidden_layers": 2, "num_attention_heads": 4, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64, "num_pos_feats": 16}
    shared = {"hidden_size": width, "image_size": size, "patch_size": patch}
    config = SamConfig(
        vision_config={**shared, **tower, "output_channels": width},
        prompt_encoder_config={**shared, "mask_input_channels": 4, "image_embedding_size": size // patch},
        mask_decoder_config={
            **{"hidden_size": width, "mlp_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
            **{"attention_downsample_rate": 2, "iou_head_hidden_dim": 32},
        },
    )
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder)
    SamImageProcessorPil(size={"longest_edge": size}, pad_size={"height": size, "width": size}).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
