"""MATLAB files of level 5, as far as data sets use them: numbers, text, cells and structs. The library's reader ends the process at damaged bytes.

Format: MAT-File Format, MathWorks. Nothing in a file is run, every length is checked before it is believed, and what is compressed may grow to no
more than `MOST_BYTES`.
"""

import math
import zlib
from pathlib import Path
from struct import unpack
from typing import Any

import numpy as np

MOST_BYTES = 1 << 28  # of one variable; those of Stanford Cars take 6 MB
DEEPEST = 8  # of cells and structs in each other
MOST_AXES = 32
HEADER = 128  # bytes

MATRIX, COMPRESSED = 14, 15  # kinds of elements; those of numbers and of text:
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR, NUMERIC = 1, 2, 4, range(6, 16)  # classes of matrices


def read_mat(file: Path, key: str, remedy: str) -> Any:
    """One variable: numbers as a list, text as a text, cells as a list, structs as a list of {field: value}; of several axes, the first runs fastest.

    Raises ValueError when there is no such file or variable, or its bytes are not what they should be.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; {remedy}") from error
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None or not content.startswith(b"MATLAB 5"):
        raise ValueError(f"{file}: no MATLAB file of level 5; {remedy}")
    try:
        elements = _Elements(content[HEADER:], order)
        while elements.left:
            variable = elements.variable()
            if variable.name() == key:
                return variable.value(0)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{file}: damaged ({error}); copy it again, or {remedy}") from error
    raise ValueError(f"{file}: no `{key}` in it; {remedy}")


class _Elements:
    """A row of elements: a tag of 8 bytes with kind and size, then the content, up to a multiple of 8."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    @property
    def left(self) -> int:
        """Bytes that are not read."""
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def element(self) -> tuple[int, bytes]:
        """Kind and content; up to four bytes of content may stand in the tag itself."""
        tag = self.take(8)
        kind, size = unpack(f"{self.order}II", tag)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError("a tag holds more than it has room for")
            return kind, tag[4 : 4 + size]
        content = self.take(size)
        if kind != COMPRESSED:
            self.at += min(-size % 8, self.left)
        return kind, content

    def variable(self) -> "_Matrix":
        """The next one of the file."""
        kind, content = self.element()
        if kind == COMPRESSED:
            kind, content = _Elements(_unpacked(content), self.order).element()
        return self._matrix(kind, content)

    def matrix(self) -> "_Matrix":
        """The next one of a cell or a struct."""
        return self._matrix(*self.element())

    def _matrix(self, kind: int, content: bytes) -> "_Matrix":
        if kind != MATRIX:
            raise ValueError(f"an element of kind {kind} where a matrix should stand")
        return _Matrix(_Elements(content, self.order))

    def numbers(self) -> list[Any]:
        kind, content = self.element()
        if kind not in NUMBERS:
            raise ValueError(f"an element of kind {kind} where numbers should stand")
        kept = np.dtype(self.order + NUMBERS[kind])
        if len(content) % kept.itemsize:
            raise ValueError("half a number")
        return list(np.frombuffer(content, kept).tolist())

    def text(self) -> str:
        kind, content = self.element()
        if kind not in TEXTS:
            raise ValueError(f"an element of kind {kind} where text should stand")
        ending = {"<": "-le", ">": "-be"}[self.order] if TEXTS[kind] in ("utf-16", "utf-32") else ""
        return content.decode(TEXTS[kind] + ending)


class _Matrix:
    """What one element of kind MATRIX holds. An empty one says nothing of itself."""

    def __init__(self, parts: _Elements) -> None:
        self.parts = parts
        self.shape: list[int] = [0]
        self.kind = 0
        if parts.left:
            flags, self.shape = parts.numbers(), parts.numbers()
            if not flags or len(self.shape) > MOST_AXES or not all(type(side) is int and side >= 0 for side in self.shape):
                raise ValueError("a matrix without flags or shape")
            self.kind = int(flags[0]) & 0xFF

    def name(self) -> str:
        """Of a variable; read once, before the value."""
        return self.parts.text() if self.parts.left else ""

    def value(self, depth: int) -> Any:
        count = math.prod(self.shape)
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        if not count:
            return "" if self.kind == CHAR else []
        if self.kind == CHAR:
            if count != max(self.shape):
                raise ValueError("several lines of text in one")
            return self.parts.text()
        if self.kind in NUMERIC:
            numbers = self.parts.numbers()
            if len(numbers) != count:
                raise ValueError(f"{len(numbers)} numbers where {count} should stand")
            return numbers
        fields = self._fields() if self.kind == STRUCT else [""]
        if self.kind not in (CELL, STRUCT) or not fields or count * len(fields) > self.parts.left // 8:
            raise ValueError(f"a matrix of class {self.kind} that cannot be read")
        if self.kind == CELL:
            return [self._inner(depth) for _ in range(count)]
        return [{field: self._inner(depth) for field in fields} for _ in range(count)]

    def _inner(self, depth: int) -> Any:
        matrix = self.parts.matrix()
        matrix.name()
        return matrix.value(depth + 1)

    def _fields(self) -> list[str]:
        (length, *_), (_, names) = self.parts.numbers() or [0], self.parts.element()
        if type(length) is not int or length < 1 or len(names) % length:
            raise ValueError("fields without names")
        return [names[start : start + length].split(b"\0")[0].decode("ascii") for start in range(0, len(names), length)]


def _unpacked(content: bytes) -> bytes:
    reader = zlib.decompressobj()
    try:
        unpacked = reader.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise ValueError("what is compressed cannot be read") from error
    if reader.unconsumed_tail:
        raise ValueError(f"more than {MOST_BYTES >> 20} MB in one variable")
    return unpacked
