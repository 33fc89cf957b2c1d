"""Rows of image, problem and solution, the form of `laolao77/ViRFT_*`: read from where they lie (`tables`), and written as the hub has them."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from visual_rft.images import StoredImage
from visual_rft.sources.findings import Findings, unspeakable
from visual_rft.sources.image_file import shown_size, stored_bytes, stored_file
from visual_rft.sources.options import DataOptions
from visual_rft.sources.tables import FORM, IMAGE_KEYS, Record, records

MARK = "<image>"  # where an image goes in a problem
ONE_OF = "give one of " + ", ".join(f"`{key}`" for key in IMAGE_KEYS)
MOVED = "give a whole image file, or set data.images=FOLDER to where the images are"
WRITE_AGAIN = "write the row again, with a whole image"

ROWS_A_GROUP = 64  # of a parquet that is written, or fewer where images are large: what is in memory at once, and what must be read for one row
BYTES_A_GROUP = 8 << 20


class Frames(StrEnum):
    """What the numbers of a solution count."""

    norm1000 = "norm1000"  # thousandths of the image's sides
    pixels = "pixels"  # of the image as a viewer shows it


class Answered(StrEnum):
    """What the numbers of an answer count."""

    solution = "solution"  # what those of the solution count, as the problem asks
    model = "model"  # what the model speaks: the problem leaves it open


@dataclass
class RowOptions(DataOptions):
    """The data sets to train and test on, the folder that relative paths of images start from (None: that of their file), and their splits' names."""

    train: str | None = None
    test: str | None = None
    images: str | None = None
    solution_frame: Frames = Frames.norm1000
    answer_frame: Answered = Answered.solution
    train_split: str = "train"
    test_split: str = "test"


@dataclass(frozen=True, slots=True)
class Row:
    """One question as it was published. `place` names its file and line in messages, `id` is its number in the set. The last image is asked about;
    one file is one image, whatever rows it is in."""

    place: str
    id: str
    images: tuple[StoredImage, ...]
    problem: str
    solution: str
    category: str | None


def read_rows(path: str, *, images: str | None, split: str, findings: Findings) -> list[Row]:
    """Every row of the data set at `path`: a parquet or JSON file, a folder of parquet files or of `save_to_disk`, or else a name on the hub.

    In order, parquet files by name. Of images no more than the headers are kept. What cannot be taken is refused by `findings`, with file and row.
    """
    return rows_of(records(path, split, findings), images=images, findings=findings)


def rows_of(found: Iterable[Record], *, images: str | None, findings: Findings) -> list[Row]:
    """Each record as a row, wherever it was found; what cannot be taken is refused by `findings`."""
    reader = _Reader(Path(images).expanduser() if images is not None else None, findings)
    rows = [row for number, record in enumerate(found) if (row := reader.row(number, record))]
    uses = Counter(id for row in rows for id in {image.id for image in row.images})
    for _ in range(sum(times > 1 for times in uses.values())):
        findings.handle("one image in several rows")
    return rows


@dataclass
class _Reader:
    images: Path | None
    findings: Findings
    made: int = 0
    files: dict[str, StoredImage] = field(default_factory=dict)

    def row(self, number: int, record: Record) -> Row | None:
        try:
            images = self._images(record)
            problem, solution = (_text(record, key) for key in ("problem", "solution"))
            category = _text(record, "category") if record.values.get("category") is not None else None
            if (marks := problem.count(MARK)) not in (0, len(images)):
                said = f"{MARK} {marks} times in `problem`, and {len(images)} image{'s' * (len(images) > 1)}"
                raise ValueError(f"{record.place}: {said}; write it once an image, or leave it out")
        except ValueError as fault:
            self.findings.refuse(str(fault), fault)
            return None
        if len(images) > 1:
            self.findings.handle("several images in a row")
        return Row(record.place, str(number), images, problem, solution, category)

    def _images(self, record: Record) -> tuple[StoredImage, ...]:
        given = [key for key in IMAGE_KEYS if record.values.get(key) is not None]
        if len(given) > 1:
            raise ValueError(f"{record.place}: {' and '.join(f'`{key}`' for key in given)} at once; {ONE_OF}")
        entries = _entries(record.values[given[0]]) if given else []
        if not entries:
            raise ValueError(f"{record.place}: no image; {ONE_OF}")
        images = []
        for number, (content, path) in enumerate(map(_content_and_path, entries)):
            which = f"{record.place}, image {number}" if len(entries) > 1 else record.place
            if content is not None:
                images.append(self._embedded(which, content, partial(_bytes_again, which, record.image, number)))
            elif path:
                images.append(self._file(which, path, self.images or record.folder))
            else:
                raise ValueError(f"{which}: neither a path nor the bytes of an image; write {FORM}")
        return tuple(images)

    def _embedded(self, which: str, content: bytes, load: Callable[[], bytes]) -> StoredImage:
        size = self._looked_at(which, lambda: io.BytesIO(content), WRITE_AGAIN)
        self.made += 1
        return stored_bytes(self.made - 1, which, load, size, WRITE_AGAIN)

    def _file(self, which: str, path: str, folder: Path) -> StoredImage:
        if not path.isprintable():
            raise ValueError(f"{which}: {path!r:.60} names no file; write {FORM}")
        file = folder / Path(path).expanduser()
        known = os.path.abspath(file)
        if known not in self.files:
            try:
                size = self._looked_at(str(file), lambda: file.open("rb"), MOVED)
            except ValueError as fault:
                raise ValueError(f"{which}: {fault}") from fault
            self.files[known] = stored_file(self.made, file, path, size, MOVED)
            self.made += 1
        return self.files[known]

    def _looked_at(self, name: str, source: Callable[[], Any], remedy: str) -> tuple[int, int]:
        return shown_size(name, source, remedy)


def _text(record: Record, key: str) -> str:
    value = record.values.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{record.place}: {f'no `{key}`' if value is None else f'`{key}` is not a text'}; write {FORM}")
    if why := unspeakable(value):
        raise ValueError(f"{record.place}: `{key}` {why}; write another, or take the row out")
    return value


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _content_and_path(entry: Any) -> tuple[bytes | None, str | None]:
    """What an entry of an image column holds: bytes, a path, or either in the hub's {bytes, path}."""
    content, path = (entry.get("bytes"), entry.get("path")) if isinstance(entry, dict) else (entry, entry)
    return content if isinstance(content, bytes) else None, path if isinstance(path, str) else None


def _bytes_again(which: str, image: Callable[[], Any], number: int) -> bytes:
    content, _ = _content_and_path(_entries(image())[number])
    if content is None:
        raise ValueError(f"{which}: no image any more; leave the file alone while it is read")
    return content


def write_rows(rows: Iterable[Mapping[str, Any]], out: Path) -> None:
    """A parquet as the hub has them, of rows {"image": (bytes, name), "problem", "solution"}; with a "category" too if the first one has that key.

    A few rows are in memory at once. It is written whole or not at all. Raises ValueError when `out` is there, cannot be written, or would be empty.
    """
    if out.exists():
        raise ValueError(f"{out}: exists; name another file, or delete it")
    partly = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = partly.open("wb")
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; name a file that can be written") from error
    try:
        with file:
            if not _write(rows, file):
                raise ValueError(f"{out}: no rows to write; give a data set that has some")
        os.replace(partly, out)
    except OSError as error:
        raise ValueError(f"{out}: {error.strerror}; make room, or name another file") from error
    finally:
        partly.unlink(missing_ok=True)


def _write(rows: Iterable[Mapping[str, Any]], file: io.BufferedWriter) -> bool:
    """Whether there were any."""
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetWriter

    writer = None
    for group in _groups(rows):
        writer = writer or ParquetWriter(file, _schema("category" in group[0]), use_dictionary=False)
        listed = [{**row, "image": dict(zip(("bytes", "path"), row["image"], strict=True))} for row in group]
        writer.write_batch(RecordBatch.from_pylist(listed, schema=writer.schema))
    if writer:
        writer.close()
    return writer is not None


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"][0])
        if len(group) == ROWS_A_GROUP or size >= BYTES_A_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _schema(has_category: bool) -> Any:
    """With the note by which `datasets` knows an image."""
    import pyarrow as pa

    texts = ["problem", "solution", *(["category"] if has_category else [])]
    features = {"image": {"_type": "Image"}, **{key: {"dtype": "string", "_type": "Value"} for key in texts}}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema({"image": image, **{key: pa.string() for key in texts}}, metadata=note)
