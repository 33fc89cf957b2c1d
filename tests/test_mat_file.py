"""Laws of the reader of MATLAB files: it reads what scipy reads, and at damaged bytes says so in one line: `pytest tests/test_mat_file.py`."""

import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from visual_rft.sources import mat_file
from visual_rft.sources.mat_file import HEADER, read_mat

FIELDS = [(name, object) for name in ("bbox_x1", "class", "fname")]
ROWS = [(np.uint8(n), np.uint16(40 * n), f"{n:05d}.jpg") for n in range(1, 6)]
CONTENT: dict[str, Any] = {
    "labels": np.array([[1, 102, 77, 3]], dtype=np.uint8),
    "trnid": np.array([[1.5, 2, 3e9]]),
    "long": np.array([[-1, 2**40]], dtype=np.int64),
    "class_names": np.array([["AM General Hummer SUV 2000", "é", "Ram C/V"]], dtype=object),
    "annotations": np.array([ROWS], dtype=FIELDS),
    "one": "text",
    "none": np.zeros((0, 0)),
}


def written(file: Path, *, compressed: bool = True, keys: Sequence[str] = tuple(CONTENT)) -> Path:
    savemat(file, {key: CONTENT[key] for key in keys}, do_compression=compressed)
    return file


@pytest.mark.parametrize("compressed", [True, False])
def test_it_reads_what_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    file = written(tmp_path / "a.mat", compressed=compressed)
    theirs = loadmat(file, squeeze_me=True)
    for key in ("labels", "trnid", "long", "class_names", "none"):
        assert read_mat(file, key, "") == theirs[key].tolist()
    assert read_mat(file, "one", "") == theirs["one"] == "text"
    ours = read_mat(file, "annotations", "")
    assert [(row["bbox_x1"], row["class"], row["fname"]) for row in ours] == [([a], [b], c) for a, b, c in theirs["annotations"].tolist()]


def test_columns_come_one_after_the_other(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"m": np.array([[1, 2], [3, 4]])})
    assert read_mat(tmp_path / "a.mat", "m", "") == [1, 3, 2, 4]


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    """As a machine of the nineties wrote them: numbers, and text of two bytes a letter, short enough to stand in its tag."""
    numbers = element(9, pack(">2d", 1.5, -2))
    text = element(4, "é".encode("utf-16-be"))
    file = tmp_path / "a.mat"
    file.write_bytes(header(b"\1\0MI") + matrix(6, (1, 2), b"x", numbers) + matrix(4, (1, 1), b"y", text))
    assert read_mat(file, "x", "") == [1.5, -2] and read_mat(file, "y", "") == "é"


def header(end: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(HEADER - len(end)) + end


def element(kind: int, content: bytes) -> bytes:
    if len(content) <= 4:
        return pack(">HH", len(content), kind) + content.ljust(4, b"\0")
    return pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, shape: tuple[int, ...], name: bytes, *content: bytes) -> bytes:
    parts = element(6, pack(">II", kind, 0)) + element(5, pack(f">{len(shape)}i", *shape)) + element(1, name) + b"".join(content)
    return element(14, parts)


@pytest.mark.parametrize("key", ["labels", "class_names", "annotations"])
def test_damaged_bytes_end_in_one_line(tmp_path: Path, key: str) -> None:
    """Or in a value, where the damage is in what a value says."""
    whole, rng, refused = written(tmp_path / "a.mat", compressed=False, keys=[key]).read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 255, rng.randrange(256)))
        (tmp_path / "b.mat").write_bytes(damaged[: rng.randrange(len(damaged)) if rng.random() < 0.2 else None])
        try:
            read_mat(tmp_path / "b.mat", key, "take it again")
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(tmp_path / "b.mat")) and str(error).endswith("take it again")
    assert refused > 30


def bomb() -> bytes:
    return pack(">II", 15, len(packed := zlib.compress(bytes((1 << 20) + 1)))) + packed


def nested(depth: int) -> bytes:
    inner = matrix(1, (1, 1), b"", nested(depth - 1)) if depth else matrix(6, (1, 1), b"", element(2, b"\1"))
    return inner


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pack(">II", 14, 1 << 30), "ends too early"),
        (bomb(), "more than 1 MB"),
        (matrix(1, (1 << 15, 1 << 15), b"x"), "cannot be read"),  # a cell of a billion things that are not there
        (matrix(2, (1, 9), b"x", element(5, pack(">i", 0)), element(1, b"")), "fields without names"),
        (matrix(2, (1, 9), b"x", element(5, pack(">i", 4)), element(1, b"")), "cannot be read"),
        (matrix(1, (1, 1), b"x", nested(9)), "nested too deeply"),
        (matrix(6, (1, 3), b"x", element(2, b"\1")), "1 numbers where 3 should stand"),
        (matrix(6, (-1, 3), b"x", element(2, b"\1")), "without flags or shape"),
        (matrix(5, (1, 1), b"x", element(2, b"\1")), "class 5"),  # sparse
        (matrix(4, (2, 2), b"x", element(4, b"abcd")), "several lines of text"),
        (matrix(4, (1, 4), b"x", element(16, b"\xff\xfe\xff\xfe")), "decode"),
        (matrix(6, (1, 1), b"x", element(9, b"\1")), "half a number"),
        (matrix(6, (1, 1), b"other", element(2, b"\1")), "no `x` in it"),
        (element(1, b"x"), "where a matrix should stand"),
        (pack(">II", 15, 4) + b"oops", "compressed"),
    ],
    ids=range(15),
)
def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str) -> None:
    monkeypatch.setattr(mat_file, "MOST_BYTES", 1 << 20)
    (tmp_path / "a.mat").write_bytes(header(b"\1\0MI") + content)
    with pytest.raises(ValueError, match=said) as refusal:
        read_mat(tmp_path / "a.mat", "x", "remedy")
    assert str(refusal.value).startswith(f"{tmp_path / 'a.mat'}: ") and str(refusal.value).endswith(" remedy")


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"", "no MATLAB file"), (b"\x89HDF\r\n\x1a\n" * 99, "no MATLAB file")])
def test_no_such_file_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_mat(tmp_path / "a.mat", "x", "remedy")
