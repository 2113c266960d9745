"""Reads arrays of MATLAB files, the format of some datasets' published lists.

Not read with `scipy.io`, whose reader ends the process with a segmentation fault on some damaged files. The format:
MathWorks, "MAT-File Format", level 5.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.errors import BadInput, first_line
from xingaug.inputs import read_bytes

MAX_BYTES = 256_000_000
"""Largest file that is read, packed or unpacked (our choice); published lists have a hundredth of it."""

_HEADER = 128
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin1", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR, _NUMBERS = 1, 4, range(6, 16)
_COMPLEX = 0x0800


def read_mat(path: Path, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """Reads arrays of a MATLAB file of version 5 to 7.

    Args:
        path: the file.
        names: names of the arrays.
        what: what the file should be, for error messages.

    Returns:
        The arrays that the file has: numbers, a text as an array (), or the texts in the cells of a cell array.

    Raises:
        BadInput: no such regular file, version 4 or 7.3 (which is HDF5), a damaged file, a named array of another
            type, or a file larger than `MAX_BYTES`, packed or unpacked.
    """
    data = read_bytes(path, "MATLAB file", MAX_BYTES)
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise BadInput(f"{path}: a MATLAB file of version 7.3; needed {what}, saved with -v7")
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
        if order is None:
            raise ValueError("no header")
        return dict(_named(memoryview(data)[_HEADER:], order, names))
    except BadInput as error:
        raise BadInput(f"{path}: {error}; needed {what}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, zlib.error) as error:
        reason = first_line(error)
        raise BadInput(f"{path}: not a MATLAB file of version 5 to 7 ({reason}); needed {what}") from None


def _named(data: memoryview, order: str, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    left = MAX_BYTES
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise BadInput(f"its arrays take more than {MAX_BYTES // 1_000_000} MB")
            if not unpacker.eof:
                raise ValueError("a compressed array ends early")
            kind, content = _next(_elements(memoryview(unpacked), order))
        if kind == _MATRIX:
            parts = _elements(content, order)
            flags, shape, name = _head(parts, order)
            if name in names:
                yield name, _array(flags, shape, parts, order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each element, in order."""
    while data:
        if len(data) < 8:
            raise ValueError("an element ends early")
        kind, size = (int(number) for number in np.frombuffer(data[:8], f"{order}u4"))
        if kind >> 16:  # a small element: size and kind share four bytes, the content is in the other four
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = 4, 8
        else:
            start, end = 8, 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data) or start + size > end:
            raise ValueError("an element ends early")
        yield kind, data[start : start + size]
        data = data[end:]


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None:
        raise ValueError("an array ends early")
    return found


def _head(parts: Iterator[tuple[int, memoryview]], order: str) -> tuple[int, tuple[int, ...], str]:
    """Flags, shape and name of an array."""
    (_, flags), (_, shape), (_, name) = _next(parts), _next(parts), _next(parts)
    sides = tuple(np.frombuffer(shape, f"{order}i4").tolist())
    if len(sides) < 2 or min(sides) < 0:
        raise ValueError(f"an array of shape {sides}")
    return int(np.frombuffer(flags, f"{order}u4")[0]), sides, bytes(name).decode("ascii")


def _array(flags: int, shape: tuple[int, ...], parts: Iterator[tuple[int, memoryview]], order: str) -> np.ndarray:
    kind = flags & 0xFF
    if kind == _CELL:
        return np.array([_text(content, order) for _, content in parts], dtype=str)
    found = _next(parts)
    if kind == _CHAR:
        return np.array(_decoded(*found, order))
    if kind not in _NUMBERS or flags & _COMPLEX:
        raise ValueError(f"an array of class {kind}, needed real numbers or text")
    numbers = np.frombuffer(found[1], order + _TYPES[found[0]])
    if math.prod(shape) != numbers.size:
        raise ValueError(f"{numbers.size} numbers for an array of shape {shape}")
    return numbers.reshape(shape, order="F").astype(numbers.dtype.newbyteorder("="))


def _text(content: memoryview, order: str) -> str:
    """The text in a cell of an array."""
    parts = _elements(content, order)
    flags, _, _ = _head(parts, order)
    if flags & 0xFF != _CHAR:
        raise ValueError(f"a cell of class {flags & 0xFF}, needed text")
    return _decoded(*next(parts, (2, memoryview(b""))), order)


def _decoded(kind: int, content: memoryview, order: str) -> str:
    encoding = _TEXTS[kind]
    ending: Any = {"<": "-le", ">": "-be"}[order] if encoding in ("utf-16", "utf-32") else ""
    return bytes(content).decode(encoding + ending)
