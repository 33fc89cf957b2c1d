"""Rows of image, problem and solution, as published and as users write them. Run: .venv/bin/python -m pytest tests/test_rows.py"""

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visual_rft.sources.findings import Findings
from visual_rft.sources.rows import Row, read_rows, write_rows

N = 21  # more than are read at once, and no multiple of it
FEATURES = datasets.Features({"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")})
Kind = Callable[[Path], str]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked for a network"))


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (30 + number, 20), (number, 2 * number, 3 * number))


def png(image: Image.Image, orientation: int | None = None) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def published(first: int = 0, count: int = N) -> list[dict[str, Any]]:
    numbers = range(first, first + count)
    return [{"image": {"bytes": png(picture(n)), "path": None}, "problem": f"What is {n}?", "solution": f"<answer>{n}</answer>"} for n in numbers]


def hub_rows(first: int = 0, count: int = N) -> datasets.Dataset:
    rows = published(first, count)
    return datasets.Dataset.from_dict({key: [row[key] for row in rows] for key in FEATURES}, features=FEATURES)


def one_parquet(folder: Path) -> str:
    hub_rows().to_parquet(folder / "some.parquet")
    return str(folder / "some.parquet")


def small_groups(folder: Path) -> str:
    hub_rows().to_parquet(folder / "some.parquet", batch_size=10)
    assert pq.ParquetFile(folder / "some.parquet").num_row_groups == 3
    return str(folder / "some.parquet")


def no_metadata(folder: Path) -> str:
    pq.write_table(pa.Table.from_pylist(published()), folder / "plain.parquet")
    return str(folder / "plain.parquet")


def shards(folder: Path) -> str:
    (folder / "data").mkdir()
    hub_rows(10, N - 10).to_parquet(folder / "data/train-00001-of-00002.parquet")
    hub_rows(0, 10).to_parquet(folder / "data/train-00000-of-00002.parquet")
    hub_rows(50, 2).to_parquet(folder / "data/test-00000-of-00001.parquet")
    return str(folder)


def saved_dict(folder: Path) -> str:
    datasets.DatasetDict({"train": hub_rows(), "test": hub_rows(50, 2)}).save_to_disk(folder / "saved")
    return str(folder / "saved")


def saved(folder: Path) -> str:
    hub_rows().save_to_disk(folder / "saved", num_shards=2)
    return str(folder / "saved")


def saved_paths(folder: Path) -> str:
    """The rows keep the paths of images that lie elsewhere."""
    rows = [{"image": {"bytes": None, "path": str(path)}} for path in files(folder)]
    pq.write_table(pa.Table.from_pylist([{**row, **texts} for row, texts in zip(published(), rows, strict=True)]), folder / "paths.parquet")
    return str(folder / "paths.parquet")


def paths_only(folder: Path) -> str:
    rows = [{**row, "image": path.name} for row, path in zip(published(), files(folder), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "names.parquet")
    return str(folder / "names.parquet")


def files(folder: Path) -> list[Path]:
    for number in range(N):
        (folder / f"{number}.png").write_bytes(png(picture(number)))
    return [folder / f"{number}.png" for number in range(N)]


def json_rows(folder: Path) -> list[dict[str, Any]]:
    keys = ("image", "images", "image_path")
    named = [{keys[n % 3]: [path.name] if n % 3 == 1 else path.name} for n, path in enumerate(files(folder))]
    return [{**row, **image, "more": [1]} if (row := dict(texts)).pop("image") else {} for texts, image in zip(published(), named, strict=True)]


def json_array(folder: Path) -> str:
    (folder / "rows.json").write_text(json.dumps(json_rows(folder), indent=1))
    return str(folder / "rows.json")


def json_lines(folder: Path) -> str:
    (folder / "rows.jsonl").write_text("\n\n".join(map(json.dumps, json_rows(folder))) + "\n")
    return str(folder / "rows.jsonl")


KINDS = [one_parquet, small_groups, no_metadata, shards, saved_dict, saved, saved_paths, paths_only, json_array, json_lines]
IN_TABLES = KINDS[:6]


def read(path: str, images: Path | None = None, split: str = "train") -> list[Row]:
    return read_rows(path, images=None if images is None else str(images), split=split, findings=Findings())


def checked(path: str, split: str = "train") -> tuple[list[Row], Findings]:
    findings = Findings(patient=True)
    return read_rows(path, images=None, split=split, findings=findings), findings


def refusal(path: str, split: str = "train") -> str:
    """Of one fault, which a patient reader finds too."""
    with pytest.raises(ValueError) as caught:
        read(path, split=split)
    line = str(caught.value)
    assert "\n" not in line and line in checked(path, split)[1].faults
    return line


# What is written is read


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_same_rows(kind: Kind, tmp_path: Path) -> None:
    rows = read(kind(tmp_path))
    assert [row.id for row in rows] == [str(n) for n in range(N)]
    assert [(row.problem, row.solution, row.category) for row in rows] == [(r["problem"], r["solution"], None) for r in published()]
    assert len({image.id for row in rows for image in row.images}) == N
    for number in [*range(N), *reversed(range(N)), *np.random.default_rng(0).permutation(N)]:
        (image,) = rows[number].images
        assert image.size == picture(number).size and image.open().tobytes() == picture(number).tobytes()
        assert image.digest() == hashlib.sha256(png(picture(number))).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_places_name_file_and_row(kind: Kind, tmp_path: Path) -> None:
    rows = read(kind(tmp_path))
    assert len({row.place for row in rows}) == N and all(row.place.startswith(str(tmp_path)) for row in rows)
    expected = {"json_lines": "rows.jsonl, line 5", "shards": "data/train-00000-of-00002.parquet, row 2", "json_array": "rows.json, row 2"}
    if kind.__name__ in expected:
        assert rows[2].place == f"{tmp_path}/{expected[kind.__name__]}"


@pytest.mark.parametrize("kind", [shards, saved_dict])
def test_a_split_is_asked_for_by_name(kind: Kind, tmp_path: Path) -> None:
    path = kind(tmp_path)
    assert [row.problem for row in read(path, split="test")] == ["What is 50?", "What is 51?"]
    said = refusal(path, "dev")
    assert said.startswith(f"{path}: no split `dev`, there is t") and said.endswith("; set data.train_split and data.test_split")


def test_files_that_name_no_split_are_all_of_it_in_order_of_name(tmp_path: Path) -> None:
    hub_rows(3, 2).to_parquet(tmp_path / "b.parquet")
    hub_rows(0, 3).to_parquet(tmp_path / "a.parquet")
    shutil.copytree(tmp_path, tmp_path / ".cache")
    for split in ("train", "anything"):
        assert [row.problem for row in read(str(tmp_path), split=split)] == [f"What is {n}?" for n in range(5)]


@pytest.mark.parametrize("layout", ["train/0000.parquet", "train.parquet", "data/train-00000-of-00001-0a1b.parquet"])
def test_the_names_of_a_split(layout: str, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        file = tmp_path / layout.replace("train", split)
        file.parent.mkdir(exist_ok=True)
        hub_rows(0, count).to_parquet(file)
    assert (len(read(str(tmp_path))), len(read(str(tmp_path), split="test"))) == (3, 2)


def test_two_configurations_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        hub_rows(0, 2).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
    assert refusal(str(tmp_path)) == f"{tmp_path}: several folders of parquet files, {tmp_path}/one and {tmp_path}/two; name one of them"
    assert len(read(str(tmp_path / "one"))) == 2


@pytest.mark.parametrize("kind", [saved_dict, saved, shards, json_lines])
def test_reading_writes_nothing_and_imports_datasets_nowhere(kind: Kind, tmp_path: Path) -> None:
    path = kind(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import sys; from visual_rft.sources.findings import Findings; from visual_rft.sources import rows; assert 'pyarrow' not in sys.modules;"
        f"rows.read_rows({path!r}, images=None, split='train', findings=Findings())[0].images[0].open(); assert 'datasets' not in sys.modules"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [*IN_TABLES, json_lines])
def test_images_are_read_in_processes_that_were_forked(kind: Kind, tmp_path: Path) -> None:
    rows = read(kind(tmp_path))
    rows[3].images[0].open()  # a position in the file, which each child inherits
    with multiprocessing.get_context("fork").Pool(2, initializer=_remember, initargs=(rows,)) as pool:
        found = pool.map_async(_opened, list(range(N)) * 3, chunksize=4).get(timeout=60)
    assert found == [picture(number).tobytes() for number in range(N)] * 3
    assert rows[4].images[0].open().tobytes() == picture(4).tobytes()


_rows: list[Row] = []


def _remember(rows: list[Row]) -> None:
    _rows[:] = rows


def _opened(number: int) -> bytes:
    return _rows[number].images[0].open().tobytes()


# Images


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Writes a file of rows, each what is not as usual about it; `a.png` and `b.png` lie beside it."""
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(picture(ord(name))))

    def write(*rows: dict[str, Any]) -> str:
        usual = {"image": "a.png", "problem": "Which?", "solution": "that"}
        full = [{key: value for key, value in (usual | row).items() if value is not ...} for row in rows]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in full))
        return str(tmp_path / "rows.jsonl")

    yield write


def test_a_file_is_one_image_in_whatever_rows_it_is(lines: Callable[..., str], tmp_path: Path) -> None:
    rows, findings = checked(
        lines({}, {"image": ["b.png", f"../{tmp_path.name}/a.png"]}, {"image": str(tmp_path / "a.png")}, {"image": ["b.png", "b.png"]})
    )
    assert [[image.id for image in row.images] for row in rows] == [[0], [1, 0], [0], [1, 1]]
    assert findings.handled == {"several images in a row": 2, "one image in several rows": 2} and not findings.faults
    assert [image.name for image in rows[1].images] == ["b.png", "a.png"]


def test_bytes_are_an_image_each(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([published()[0]] * 3), tmp_path / "a.parquet")
    assert [row.images[0].id for row in read(str(tmp_path))] == [0, 1, 2]


def test_several_images_in_a_row_of_a_parquet(tmp_path: Path) -> None:
    kind = datasets.Features(
        {"images": datasets.Sequence(datasets.Image()), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
    )
    pictures = [[{"bytes": png(picture(n + i)), "path": None} for i in range(n + 1)] for n in range(3)]
    texts = ["Which?", "<image> or <image>?", "Which?"]
    datasets.Dataset.from_dict({"images": pictures, "problem": texts, "solution": ["that"] * 3}, features=kind).to_parquet(tmp_path / "a.parquet")
    rows = read(str(tmp_path / "a.parquet"))
    assert [[image.open().size[0] for image in row.images] for row in rows] == [[30], [31, 32], [32, 33, 34]]


def test_images_start_from_their_folder_if_one_is_named(lines: Callable[..., str], tmp_path: Path) -> None:
    path = lines({})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "a.png").rename(elsewhere / "a.png")
    assert read(path, elsewhere)[0].images[0].open().size == picture(ord("a")).size
    said = f"{path}, line 1: {tmp_path}/a.png: No such file or directory; give a whole image file, or set data.images=FOLDER to where the images are"
    assert refusal(path) == said


def test_an_image_has_the_size_that_a_viewer_shows(lines: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(5), orientation=6))
    rows, findings = checked(lines({}, {}))
    assert findings.handled == {"one image in several rows": 1}
    assert rows[0].images[0].size == rows[0].images[0].open().size == (20, 35)


def test_pixels_are_read_only_when_they_are_looked_at(lines: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(Image.effect_noise((64, 64), 90))[:-900])
    (image,) = read(lines({}))[0].images
    with pytest.raises(ValueError, match=r"a\.png: not an image, or a damaged one; give a whole image file, or set data\.images=FOLDER"):
        image.open()


def test_an_image_that_is_gone_is_refused_by_its_file(tmp_path: Path) -> None:
    path = one_parquet(tmp_path)
    (image,) = read(path)[0].images
    os.unlink(path)
    with pytest.raises(ValueError, match=r"some\.parquet: No such file or directory; copy it again, whole"):
        image.open()


# Rows that are refused

FORM = '{"image": "a.jpg", "problem": "…", "solution": "…"}'
ONE_OF = "give one of `image`, `images`, `image_path`"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": ...}, f"no image; {ONE_OF}"),
    "null": ({"image": None}, f"no image; {ONE_OF}"),
    "an empty list": ({"image": []}, f"no image; {ONE_OF}"),
    "two keys": ({"image_path": "b.png"}, f"`image` and `image_path` at once; {ONE_OF}"),
    "a number": ({"image": 3}, f"neither a path nor the bytes of an image; write {FORM}"),
    "a number in a list": ({"image": ["a.png", 3]}, f"image 1: neither a path nor the bytes of an image; write {FORM}"),
    "an empty path": ({"image": ""}, f"neither a path nor the bytes of an image; write {FORM}"),
    "no problem": ({"problem": ...}, f"no `problem`; write {FORM}"),
    "a problem of another type": ({"problem": ["Which?"]}, f"`problem` is not a text; write {FORM}"),
    "no solution": ({"solution": ...}, f"no `solution`; write {FORM}"),
    "numbers as a solution": ({"solution": [1, 2, 3, 4]}, f"`solution` is not a text; write {FORM}"),
    "an empty solution": ({"solution": " \n"}, "`solution` is empty; write another, or take the row out"),
    "an empty problem": ({"problem": ""}, "`problem` is empty; write another, or take the row out"),
    "a category of another type": ({"category": 3}, f"`category` is not a text; write {FORM}"),
    "a mark too many": ({"problem": "<image><image> Which?"}, "<image> 2 times in `problem`, and 1 image; write it once an image, or leave it out"),
    "a mark too few": (
        {"images": ["a.png", "b.png"], "image": ..., "problem": "<image> Which?"},
        "<image> 1 times in `problem`, and 2 images; write it once an image, or leave it out",
    ),
    "a folder": ({"image": "."}, "{tmp_path}: Is a directory; give a whole image file, or set data.images=FOLDER to where the images are"),
}


@pytest.mark.parametrize("row, said", REFUSED.values(), ids=REFUSED)
def test_a_row_is_refused_with_its_line_and_the_others_are_read(row: dict[str, Any], said: str, lines: Callable[..., str], tmp_path: Path) -> None:
    path = lines({}, row, {"category": "cat"})
    comma = "" if said.startswith("image 1") else ":"
    place = f"{path}, line 2{', ' if not comma else ': '}"
    assert refusal(path) == place + said.replace("{tmp_path}", str(tmp_path))
    rows, findings = checked(path)
    assert [(row.id, row.category) for row in rows] == [("0", None), ("2", "cat")] and len(findings.faults) == 1


@pytest.mark.parametrize(
    "content, said", [(b"no image", "not an image, or a damaged one; give a whole"), (png(Image.new("L", (400, 2))), "400×2 pixels")]
)
def test_an_image_whose_header_is_no_use_is_refused(content: bytes, said: str, lines: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(content)
    path = lines({}, {"image": "b.png"}, {"image": "b.png"})
    assert refusal(path).startswith(f"{path}, line 2: {tmp_path}/b.png: {said}")
    rows, findings = checked(path)
    assert len(rows) == 1 and [fault.split(":")[0] for fault in findings.faults] == [f"{path}, line 2", f"{path}, line 3"]


def test_rows_of_a_parquet_are_refused_by_number(tmp_path: Path) -> None:
    rows = published(0, 6)
    rows[1]["image"] = {"bytes": None, "path": None}
    rows[2]["image"] = None
    rows[3]["image"]["bytes"] = b"no image"
    rows[4]["solution"] = None
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), path)
    taken, findings = checked(str(path))
    assert [row.id for row in taken] == ["0", "5"]
    assert findings.faults == [
        f"{path}, row 1: neither a path nor the bytes of an image; write {FORM}",
        f"{path}, row 2: no image; {ONE_OF}",
        f"{path}, row 3: not an image, or a damaged one; write the row again, with a whole image",
        f"{path}, row 4: no `solution`; write {FORM}",
    ]


@pytest.mark.parametrize("line", ["{", '{"image": NaN}', "[" * 9000, "7"])
def test_a_line_that_is_no_object_is_refused_and_the_others_are_read(line: str, lines: Callable[..., str]) -> None:
    path = lines({}, {})
    text = Path(path).read_text()
    Path(path).write_text(text + line + "\n" + text)
    said = refusal(path)
    assert said.startswith(f"{path}, line 3: not ") and said.endswith(f"; write {FORM}")
    assert len(checked(path)[0]) == 4


# Files that are refused


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    pq.write_table(FEATURES.arrow_schema.empty_table(), tmp_path / "none.parquet")
    (tmp_path / "none.json").write_text("[ ]")
    (tmp_path / "empty.jsonl").write_text(" \n")
    (tmp_path / "array.json").write_text("[{]")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "folder").mkdir()
    hub_rows(0, 0).save_to_disk(tmp_path / "saved")
    damaged = "not a table of its kind, or a damaged one; copy it again, whole"
    for name, said in {
        "none.parquet": "no rows; give a file that has some",
        "none.json": f"no rows; write [{FORM}, …]",
        "empty.jsonl": "empty; give one JSON object a line",
        "array.json": "not JSON (",
        "empty.parquet": damaged,
        "folder": "neither parquet files nor those of save_to_disk in it; give a",
        "absent.parquet": "No such file or directory; give a",
        "saved": "no rows; give a folder that has some",
    }.items():
        assert refusal(str(tmp_path / name)).startswith(f"{tmp_path / name}: {said}")


def test_a_parquet_that_is_cut_or_damaged_in_the_middle(tmp_path: Path) -> None:
    content = Path(one_parquet(tmp_path)).read_bytes()
    cut, damaged = tmp_path / "cut.parquet", tmp_path / "damaged.parquet"
    cut.write_bytes(content[:-50])
    damaged.write_bytes(content[:4] + b"\xff" * 100 + content[104:])
    for file in (cut, damaged):
        assert refusal(str(file)) == f"{file}: not a table of its kind, or a damaged one; copy it again, whole"
    (tmp_path / "some.parquet").unlink()
    hub_rows(0, 2).to_parquet(tmp_path / "whole.parquet")
    rows, findings = checked(str(tmp_path))
    assert len(rows) == 2 and len(findings.faults) == 2


def test_a_folder_of_save_to_disk_that_is_not_whole(tmp_path: Path) -> None:
    folder = Path(saved(tmp_path))
    second = folder / "data-00001-of-00002.arrow"
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    assert refusal(str(folder)) == f"{second}: not a table of its kind, or a damaged one; copy it again, whole"
    second.unlink()
    assert refusal(str(folder)) == f"{second}: No such file or directory; copy it again, whole"
    for text, said in {"{}": "not as save_to_disk writes it; save the data set again", "{": "not JSON (", "[]": "not as save_to_disk"}.items():
        (folder / "state.json").write_text(text)
        assert refusal(str(folder)).startswith(f"{folder}/state.json: {said}")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.drop_columns("solution"), "no column `solution` (its columns: image, problem); rename the one that it is"),
        (lambda t: t.drop_columns("image"), "no column `image` (its columns: problem, solution); have one column `image`"),
        (lambda t: t.append_column("images", t["image"]), "`image` and `images` at once (its columns: image, problem, solution, images); have one"),
        (lambda t: t.set_column(1, "problem", pa.array(range(N))), "column `problem` is int64, not text; write it as text, or rename it"),
        (lambda t: t.set_column(0, "image", pa.array(range(N))), "column `image` is int64; write images as {bytes, path}, bytes or paths"),
        (lambda t: t.append_column("category", pa.array(range(N))), "column `category` is int64, not text"),
    ],
)
def test_columns_that_are_missing_or_of_another_type(change: Callable[[pa.Table], pa.Table], said: str, tmp_path: Path) -> None:
    """One line a file, not one a row."""
    path = one_parquet(tmp_path)
    pq.write_table(change(pq.read_table(path)), path)
    assert refusal(path).startswith(f"{path}: {said}")
    assert checked(path)[0] == [] and len(checked(path)[1].faults) == 1


def test_other_columns_are_ignored_and_texts_may_be_of_any_sort(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(published()).append_column("number", pa.array(range(N)))
    table = table.append_column("category", pa.array(["cat", None, "dog"] * 7).dictionary_encode())
    pq.write_table(table.set_column(1, "problem", table["problem"].cast(pa.large_string())), tmp_path / "a.parquet")
    assert [row.category for row in read(str(tmp_path))] == ["cat", None, "dog"] * 7


# The hub


def test_a_name_is_asked_of_the_hub_only_where_no_such_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return hub_rows(0, 3)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    rows = read("owner/name", split="test")
    assert asked == [("owner/name", "test")] and rows[2].place == "owner/name, split test, row 2"
    assert rows[2].images[0].open().tobytes() == picture(2).tobytes()
    (tmp_path / "owner/name").mkdir(parents=True)
    hub_rows(0, 2).to_parquet(tmp_path / "owner/name/test-00000-of-00001.parquet")
    assert len(read("owner/name", split="test")) == 2 and len(asked) == 1


def test_a_name_that_the_hub_does_not_give_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    said = refusal("nobody/nothing")
    assert said.startswith("nobody/nothing: neither a path here nor a data set that the hub gives, split `train` (")
    assert said.endswith("; give a parquet or JSON file, a folder of parquet files or of save_to_disk, or a data set of the hub, OWNER/NAME")


# The writer


def to_write(count: int = N, **more: Any) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(published(0, count)):
        yield {**row, "image": (row["image"]["bytes"], f"{number}.png"), **more}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_rows(to_write(category="cat"), tmp_path / "new/train.parquet")
    rows = read(str(tmp_path / "new"))
    expected = [(row["problem"], row["solution"], "cat") for row in published()]
    assert [(row.problem, row.solution, row.category) for row in rows] == expected
    assert [row.images[0].open().tobytes() for row in rows] == [picture(n).tobytes() for n in range(N)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.parquet"]


def test_datasets_reads_what_is_written_and_the_layout_is_its_own(tmp_path: Path) -> None:
    write_rows(to_write(), tmp_path / "ours.parquet")
    read_by_datasets = datasets.load_dataset("parquet", data_files=str(tmp_path / "ours.parquet"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read_by_datasets.features == FEATURES
    assert read_by_datasets[7]["image"].tobytes() == picture(7).tobytes() and read_by_datasets[7]["problem"] == "What is 7?"
    assert pq.read_schema(tmp_path / "ours.parquet").equals(pq.read_schema(one_parquet(tmp_path)), check_metadata=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from to_write()
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_rows(broken(), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: no rows to write; give a data set that has some"):
        write_rows([], tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("mine")
    with pytest.raises(ValueError, match=r"a\.parquet: exists; name another file, or delete it"):
        write_rows(to_write(), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: (Not a directory|File exists); name a file that can be written"):
        write_rows(to_write(), tmp_path / "a.parquet/b.parquet")
    assert (tmp_path / "a.parquet").read_text() == "mine"


MEMORY = """
import io, resource, sys
from pathlib import Path
import numpy as np
import pyarrow, pyarrow.parquet
from PIL import Image
from visual_rft.sources.findings import Findings
from visual_rft.sources.rows import read_rows, write_rows

def rows():
    for number in range(200):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (590, 590, 3), dtype=np.uint8)).save(file, "BMP")
        assert len(file.getvalue()) > 1e6
        yield {"image": (file.getvalue(), "a.bmp"), "problem": "Which?", "solution": str(number)}

def used():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

out = Path(sys.argv[1])
write_rows([next(rows())], out.with_name("warm.parquet"))
open("/proc/self/clear_refs", "w").write("5")
before = used()
write_rows(rows(), out)
written = used()
found = read_rows(str(out), images=None, split="train", findings=Findings())
for row in found:
    row.images[0].open()
assert len(found) == 200
print(written - before, used() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process its peak")
def test_two_hundred_megabytes_are_written_and_read_in_a_few(tmp_path: Path) -> None:

    output = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "a.parquet")], check=True, capture_output=True, text=True).stdout
    assert (tmp_path / "a.parquet").stat().st_size > 200e6
    written, read_too = map(float, output.split())
    assert max(written, read_too) < 140, output
