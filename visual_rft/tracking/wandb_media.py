"""What Weights & Biases shows beside curves: tables, and images under layers of boxes. Axes: P prompts a step, G completions a prompt, N boxes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from visual_rft.boxes import convert
from visual_rft.frames import Box, Frame
from visual_rft.tracking._guard import encodable
from visual_rft.tracking.pictures import Picture, ious, labels
from visual_rft.vocabulary import Answer, Example, Refusal, Truth


def rollouts_table(step: int, records: Sequence[Mapping[str, Any]], asked_P: Sequence[Example]) -> wandb.Table:
    """A row a completion, group by group: `number` is its place in the group, as on the group's image. One that was refused has no answer. The
    question is last, since it is long and the same in a whole group."""
    parts, of_group = list(records[0]["rewards"]), len(records) // len(asked_P)
    told = ["step", "example", "number", "completion", "answer", "truth", "refused"]
    return wandb.Table(
        columns=[*told, *(f"reward/{part}" for part in parts), "reward", "advantage", "question"],
        data=[
            [
                *(step, r["example"], row % of_group + 1, encodable(r["completion"])),
                *("" if r["answer"] is None else _json(r["answer"]), _truth(asked_P[row // of_group].truth), r["refused"] or ""),
                *(r["rewards"][part] for part in parts),
                *(r["reward"], r["advantage"], encodable(asked_P[row // of_group].question)),
            ]
            for row, r in enumerate(records)
        ],
    )


def _truth(truth: Truth) -> str:
    return encodable(str(truth)) or _json([list(box) for box in truth.boxes])


def _json(value: Any) -> str:
    return encodable(json.dumps(value, ensure_ascii=False))


def classes_table(summary: Mapping[str, Any]) -> wandb.Table | None:
    """The task's metric by class, before and after and what is between, as `summary.json` has it; None where there are no classes."""
    before, after = (summary[f"evaluation_{when}"]["by category"] for when in ("before", "after"))
    rows = [[name, before.get(name), after[name], after[name] - before[name] if name in before else None] for name in after]
    return wandb.Table(columns=["class", "before", "after", "change"], data=rows) if rows else None


def image(picture: Picture) -> wandb.Image:
    """The image under its layers of boxes, `truth` and one an answer; the words are in the caption."""
    truth = picture.truth
    layers = {"truth": _layer(0, "truth", _shares(truth.boxes, picture.frame), [{"box_caption": "truth"} for _ in truth.boxes])}
    for number, (name, answer) in enumerate(picture.answers.items(), start=1):
        if not isinstance(answer, Refusal):
            layers[name] = _layer(number, name, _shares(answer.boxes, picture.frame), _labelled(answer, truth.boxes))
    return wandb.Image(picture.image, caption=encodable("\n".join(picture.words())), boxes=layers)


def _labelled(answer: Answer, truth: Sequence[Box]) -> list[dict[str, Any]]:
    """Of each predicted box: what is written beside it, and the IoU by which the page can hide it."""
    return [{"box_caption": label, "scores": {"IoU": iou}} for label, iou in zip(labels(answer, truth), ious(answer, truth), strict=True)]


def _shares(boxes_N: Sequence[Box], of: Frame) -> list[list[float]]:
    """Corners as shares of the image, as wandb wants them."""
    shares: list[list[float]] = convert(boxes_N, of=of, to=Frame(1, 1)).tolist()
    return shares


def _layer(number: int, name: str, shares_N: Sequence[Sequence[float]], labels_N: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Boxes under one switch and in one colour."""
    data = [
        {"position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}, "class_id": number, **label}
        for (x1, y1, x2, y2), label in zip(shares_N, labels_N, strict=True)
    ]
    return {"box_data": data, "class_labels": {number: name}}
