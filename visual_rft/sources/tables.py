"""Where records of image, problem and solution lie: parquet, a folder of `save_to_disk`, the hub, JSON. Read in order, a few at a time.

Images stay where they are: what a record holds of one is forgotten with it, and read again by `Record.image` when it is looked at, also in a process
that was forked since. Of what lies here, nothing is asked of a network.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visual_rft.sources.findings import Findings
from visual_rft.sources.jsonl import read_text, strict_json

if TYPE_CHECKING:  # imported where needed: few runs do
    import pyarrow as pa
    from pyarrow import parquet

IMAGE_KEYS = ("image", "images", "image_path")
TEXT_KEYS = ("problem", "solution")
FORM = '{"image": "a.jpg", "problem": "…", "solution": "…"}'
AGAIN = "copy it again, whole"
GIVE = "give a parquet or JSON file, a folder of parquet files or of save_to_disk, or a data set of the hub, OWNER/NAME"
AT_ONCE = 8  # rows in memory

SHARD = re.compile(r"(.+?)-\d+-of-\d+")  # train-00000-of-00002
SPLITS = ("train", "test", "validation", "val", "dev")


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it was read, where it stands ("train.jsonl, line 3"), the folder that its paths start from, and what reads its image column again."""

    place: str
    folder: Path
    values: dict[str, Any]
    image: Callable[[], Any]


def records(path: str, split: str, findings: Findings) -> Iterator[Record]:
    """Every row of the data set at `path`, in order; files that cannot be read, and lines that are no object, are refused."""
    try:
        tables = _tables(path, split, findings)
    except ValueError as fault:
        findings.refuse(str(fault), fault)
        return
    for table in tables:
        try:
            yield from table
        except ValueError as fault:
            findings.refuse(str(fault), fault)


def _tables(path: str, split: str, findings: Findings) -> list[Iterator[Record]]:
    here = Path(path).expanduser()
    if here.is_dir():
        return _folder(here, split)
    if not here.exists():
        if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
            return [_hub(path, split)]
        raise ValueError(f"{path}: No such file or directory; {GIVE}")
    if here.suffix == ".parquet":
        return _parquets([here])
    return [_arrow(here)] if here.suffix == ".arrow" else [_json(here, findings)]


def _folder(folder: Path, split: str) -> list[Iterator[Record]]:
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        return _folder(folder / _among(folder, split, splits), split)
    if (folder / "state.json").is_file():
        files = [row.get("filename") if isinstance(row, dict) else row for row in _listed(folder / "state.json", "_data_files")]
        if not files:
            raise ValueError(f"{folder}: no rows; give a folder that has some")
        return [_arrow(folder / str(file)) for file in files]
    found = sorted(file for file in folder.rglob("*.parquet") if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    if not found:
        raise ValueError(f"{folder}: neither parquet files nor those of save_to_disk in it; {GIVE}")
    of_split = {file: _split_of(file, folder) for file in found}
    if named := {name for name in of_split.values() if name}:
        _among(folder, split, sorted(named))
        found = [file for file in found if of_split[file] == split]
    if len({file.parent for file in found}) > 1:
        raise ValueError(f"{folder}: several folders of parquet files, {found[0].parent} and {found[-1].parent}; name one of them")
    return _parquets(found)


def _listed(file: Path, key: str) -> list[Any]:
    content = strict_json(read_text(str(file)), str(file), AGAIN)
    if not isinstance(content, dict) or not isinstance(content.get(key), list) or content.get("_indices_data_files"):
        raise ValueError(f"{file}: not as save_to_disk writes it; save the data set again")
    return list(content[key])


def _among(folder: Path, split: str, splits: Sequence[Any]) -> str:
    if split not in splits or Path(split).name != split:
        there = ", ".join(map(str, splits)) or "none"
        raise ValueError(f"{folder}: no split `{split}`, there is {there}; set data.train_split and data.test_split")
    return split


def _split_of(file: Path, folder: Path) -> str | None:
    """That its name, or the folder it lies in, speaks of: train-00000-of-00002.parquet, test.parquet, train/0000.parquet."""
    if shard := SHARD.fullmatch(file.stem):
        return shard[1]
    spoken = (re.split(r"[-._]", file.stem)[0], file.stem, file.parent.name if file.parent != folder else "")
    return next((name for name in spoken if name in SPLITS), None)


def _json(file: Path, findings: Findings) -> Iterator[Record]:
    text = read_text(str(file))
    if text.lstrip().startswith("["):
        listed = strict_json(text, str(file), f"write [{FORM}, …]")
        for row, values in enumerate(listed):
            yield from _object(f"{file}, row {row}", file.parent, values, findings)
        if not listed:
            raise ValueError(f"{file}: no rows; write [{FORM}, …]")
        return
    for row, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}, line {row}"
            try:
                values = strict_json(line, place, f"write {FORM}")
            except ValueError as fault:
                findings.refuse(str(fault), fault)
                continue
            yield from _object(place, file.parent, values, findings)


def _object(place: str, folder: Path, values: Any, findings: Findings) -> Iterator[Record]:
    if isinstance(values, dict):
        yield Record(place, folder, values, lambda: None)
    else:
        findings.refuse(f"{place}: not a JSON object; write {FORM}")


def _parquets(files: Iterable[Path]) -> list[Iterator[Record]]:
    at: list[_Position] = []
    return [_parquet(file, at) for file in files]


def _parquet(file: Path, at: "list[_Position]") -> Iterator[Record]:
    with _readable(file):
        parquet = _open_parquet(file)
        columns = _columns(parquet.schema_arrow, str(file))
        starts = tuple(accumulate((parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)), initial=0))
    read_again = partial(_image_of, file, starts, columns[0], at)
    yield from _rows(str(file), file.parent, _batches(parquet, range(parquet.num_row_groups), columns), read_again)


def _open_parquet(file: Path) -> "parquet.ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, memory_map=False, buffer_size=1 << 20)


def _batches(file: "parquet.ParquetFile", groups: Iterable[int], columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
    """One group after the other: asked for several at once, pyarrow keeps them all in memory. It has no threads, which a fork would lose."""
    for group in groups:
        yield from file.iter_batches(AT_ONCE, row_groups=[group], columns=columns, use_threads=False)


@dataclass
class _Position:
    """How far a row group of a parquet has been read: the images of a few of its rows, the first of which is `first`, and those that follow."""

    file: Path
    group: int
    first: int
    images: "pa.Array"
    batches: "Iterator[pa.RecordBatch]"


def _image_of(file: Path, starts: Sequence[int], column: str, at: list[_Position], row: int) -> Any:
    """Of a row group one can only read from its start: on from `at`, where the last one was read, if that is not too far. There is one for all files
    of a set, or none while another thread has it."""
    group = next(i for i, end in enumerate(starts[1:]) if row < end)
    offset = row - starts[group]
    with _readable(file):
        try:
            position = at.pop()
        except IndexError:
            position = None
        if position is None or (position.file, position.group) != (file, group) or offset < position.first:
            position = None  # what it has in memory goes before more comes
            batches = _batches(_open_parquet(file), [group], [column])
            position = _Position(file, group, 0, next(batches).column(0), batches)
        while offset >= position.first + len(position.images):
            position.first += len(position.images)
            position.images = next(position.batches).column(0)
        value = position.images[offset - position.first].as_py()
        at[:] = [position]
    return value


def _arrow(file: Path) -> Iterator[Record]:
    """One of save_to_disk's."""
    with _readable(file):
        import pyarrow as pa

        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    yield from _arrow_table(str(file), file.parent, table)


def _arrow_table(place: str, folder: Path, table: "pa.Table") -> Iterator[Record]:
    columns = _columns(table.schema, place)
    images = table.column(columns[0])
    yield from _rows(place, folder, iter(table.select(columns).to_batches(max_chunksize=AT_ONCE)), lambda row: images[row].as_py())


def _hub(name: str, split: str) -> Iterator[Record]:
    """A data set of the hub, from the cache of `datasets` if it is there."""
    from datasets import load_dataset  # type: ignore[import-untyped]
    from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

    try:
        table = load_dataset(name, split=split).data.table
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: neither a path here nor a data set that the hub gives, split `{split}` ({reason}); {GIVE}") from error
    yield from _arrow_table(f"{name}, split {split}", Path(), table)


def _rows(place: str, folder: Path, batches: "Iterator[pa.RecordBatch]", image: Callable[[int], Any]) -> Iterator[Record]:
    row = 0
    with _readable(place):
        for batch in batches:
            for values in batch.to_pylist():
                yield Record(f"{place}, row {row}", folder, values, partial(image, row))
                row += 1
    if not row:
        raise ValueError(f"{place}: no rows; give a file that has some")


def _columns(schema: "pa.Schema", place: str) -> list[str]:
    """The names of those to read, the images' first. ValueError when one is missing or of another type."""
    there = ", ".join(schema.names) or "none"
    images = [key for key in IMAGE_KEYS if key in schema.names]
    if len(images) != 1:
        said = " and ".join(f"`{key}`" for key in images) + " at once" if images else "no column `image`"
        raise ValueError(f"{place}: {said} (its columns: {there}); have one column `image`")
    if not _holds_images(schema.field(images[0]).type):
        raise ValueError(f"{place}: column `{images[0]}` is {schema.field(images[0]).type}; write images as {{bytes, path}}, bytes or paths")
    for key in TEXT_KEYS:
        if key not in schema.names:
            raise ValueError(f"{place}: no column `{key}` (its columns: {there}); rename the one that it is")
    texts = [key for key in (*TEXT_KEYS, "category") if key in schema.names]
    for key in texts:
        if not _holds_text(schema.field(key).type):
            raise ValueError(f"{place}: column `{key}` is {schema.field(key).type}, not text; write it as text, or rename it")
    return [*images, *texts]


def _holds_text(kind: "pa.DataType") -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def _holds_images(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_images(kind.value_type)
    if types.is_struct(kind):
        return bool({"bytes", "path"} & {field.name for field in kind})
    return _holds_text(kind) or types.is_binary(kind) or types.is_large_binary(kind)


@contextmanager
def _readable(place: object) -> Iterator[None]:
    """Whatever pyarrow and the file system raise inside, as a ValueError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, StopIteration) as error:
        reason = "No such file or directory" if isinstance(error, FileNotFoundError) else "not a table of its kind, or a damaged one"
        raise ValueError(f"{place}: {reason}; {AGAIN}") from error
