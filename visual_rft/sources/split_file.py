"""A split as a file that can be published and given back: which image is asked about what, and what each image was.

{"task": "fsod_coco", "shots": 4, "seed": 0, "fingerprint": "…", "examples": [{"image": 397133, "file": "000000397133.jpg", "subject": "cat",
"sha256": "…"}, …]}
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from visual_rft.images import StoredImage
from visual_rft.sources.few_shot import Pairs
from visual_rft.sources.jsonl import read_text, strict_json
from visual_rft.vocabulary import Example

FORM = '{"examples": [{"image": 3, "subject": "cat", "sha256": "…"}, …]}'


def split_of(examples: Sequence[Example], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The split that these examples are, with `facts` of how it was drawn; its fingerprint is over the examples alone, in order."""
    listed = [{"image": e.asked_about.id, "file": e.asked_about.name, "subject": e.subject, "sha256": e.asked_about.digest()} for e in examples]
    return {**facts, "fingerprint": _fingerprint(listed), "examples": listed}


def read_split(file: str, images: Mapping[int, StoredImage], subjects: Collection[str] | None = None) -> Pairs:
    """The pairs of a split file, in its order. Raises ValueError, naming file and row, for another form, an image that is not there or another one
    than it was, a subject that is none of `subjects` (None: whatever there is), or an example that is there twice."""
    content = strict_json(read_text(file), file, f"write {FORM}")
    rows = content.get("examples") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file}: no list of `examples`; write {FORM}")
    if content.get("fingerprint", _fingerprint(rows)) != _fingerprint(rows):
        raise ValueError(
            f"{file}: its fingerprint is not that of its examples; copy it again, or take `fingerprint` out if you changed it on purpose"
        )
    pairs = dict[tuple[int, str], None]()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or type(row.get("image")) is not int or not isinstance(row.get("subject"), str):
            raise ValueError(f"{file}, example {number}: not of the form {FORM}")
        image = images.get(row["image"])
        if image is None:
            raise ValueError(f"{file}, example {number}: the training data have no image {row['image']}; give the data the split was drawn from")
        if row.get("sha256", image.digest()) != image.digest():
            raise ValueError(f"{file}, example {number}: image {image.name} is another one than in the split; give the data the split was drawn from")
        if subjects is not None and row["subject"] not in subjects:
            raise ValueError(f"{file}, example {number}: this task is not trained on {row['subject']!r:.60}; give the task the split was drawn for")
        if (row["image"], row["subject"]) in pairs:
            raise ValueError(f"{file}, example {number}: is there twice; take one out")
        pairs[row["image"], row["subject"]] = None
    return list(pairs)


def _fingerprint(rows: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
