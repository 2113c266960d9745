"""Reading untrusted files: regular files only, with a size limit that is checked before reading."""

import ast
import hashlib
import itertools
import json
import math
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xingaug.errors import BadInput, first_line

MAX_TEXT_BYTES = 256_000_000
"""Largest text or JSON file that is read; COCO's own file of keypoints has 233 MB (our choice)."""

MAX_ARRAY_BYTES = 1_000_000_000
"""Largest total size of the arrays of an .npz in memory: about two million annotated images (our choice)."""

MAX_JSON_DEPTH = 64
"""Deepest JSON that is read; no format here needs more than a tenth of it (our choice)."""

_KINDS = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_MAX_MEMBERS = 64
_MAX_HEADER = 10_000
_ARRAY_KINDS = "biufUS"


def open_regular(path: str | Path, what: str = "file", most: int = MAX_TEXT_BYTES) -> BinaryIO:
    """Opens a file for reading, without blocking on a pipe.

    Args:
        path: the file, or a symbolic link to it.
        what: what the file should be, for messages, such as "annotation file".
        most: most bytes that it may have.

    Raises:
        BadInput: it does not exist, cannot be opened, is not a regular file, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read as {what} ({error.strerror})") from None
    except ValueError as error:  # a NUL in its name
        raise BadInput(f"{path}: no name of a file ({error}); needed that of the {what}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "a device")
            raise BadInput(f"{path}: is {kind}; needed a regular file as {what}")
        if found.st_size > most:
            size = f"{found.st_size / 1e6:,.0f} MB"
            raise BadInput(f"{path}: has {size}; needed at most {most / 1e6:,.0f} MB as {what}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, what: str = "file", most: int = MAX_TEXT_BYTES) -> bytes:
    """A regular file's bytes; errors as in `open_regular`, and if reading fails."""
    with open_regular(path, what, most) as file:
        try:
            return file.read(most)
        except OSError as error:
            raise BadInput(f"{path}: cannot be read as {what} ({error.strerror})") from None


def sha256_of(path: str | Path, what: str = "file", most: int = MAX_TEXT_BYTES) -> str:
    """SHA-256 of a regular file's bytes, hexadecimal; errors as in `open_regular`."""
    with open_regular(path, what, most) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_text(path: str | Path, what: str = "file", most: int = MAX_TEXT_BYTES) -> str:
    """A regular file's text, with or without byte order mark; errors as in `read_bytes`, and if it is not UTF-8."""
    try:
        return read_bytes(path, what, most).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start}); needed that as {what}") from None


def read_json(path: str | Path, what: str = "JSON file", most: int = MAX_TEXT_BYTES) -> Any:
    """The JSON content of a regular file; errors as in `read_text`, and if it is not JSON or nested too deep."""
    return parse_json(read_text(path, what, most), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parses JSON.

    Args:
        text: the text, of any length.
        where: its file or line, for messages.

    Raises:
        BadInput: it is not JSON, or nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        if _depth(text) > MAX_JSON_DEPTH:
            raise BadInput(f"{where}: not usable JSON (nested deeper than {MAX_JSON_DEPTH} brackets)")
        return json.loads(text)
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error})") from None


def _depth(text: str) -> int:
    """Nesting depth of the brackets outside strings."""
    brackets = re.sub(r'"(?:[^"\\]|\\.)*+"|[^\[\]{}"]+', "", text, flags=re.DOTALL)
    steps = {"[": 1, "{": 1, "]": -1, "}": -1, '"': 0}
    return max(itertools.accumulate(steps[bracket] for bracket in brackets), default=0)


def read_arrays(path: str | Path, what: str = "array", most: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name; each header is checked before its array is read.

    Args:
        path: the file.
        what: what it should hold, for messages, such as "annotation".
        most: most bytes that all arrays together may have.

    Returns:
        Arrays of booleans, integers, floats or text.

    Raises:
        BadInput: no such regular file, not an .npz, damaged, encrypted, in a compression that numpy does not use, too
            large, or with complex numbers, records or pickled objects.
    """
    with open_regular(path, f"{what} file", most) as file:
        try:
            magic = file.read(6)
            if magic == b"\x93NUMPY":
                raise BadInput(f"{path}: holds one bare array; needed an {what} .npz")
            with zipfile.ZipFile(file) as archive:
                return _arrays_of(archive, f"{path}: not an {what} .npz", most)
        except BadInput:
            raise
        except OSError as error:
            raise BadInput(f"{path}: cannot be read as {what} .npz ({error.strerror or error})") from None
        except Exception as error:  # a damaged file can raise anything
            reason = first_line(error)
            raise BadInput(f"{path}: not an {what} .npz ({reason})") from None


def _arrays_of(archive: zipfile.ZipFile, wrong: str, most: int) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS or len({member.filename for member in members}) < len(members):
        raise BadInput(f"{wrong} ({len(members)} members, needed at most {_MAX_MEMBERS}, each once)")
    total = sum(member.file_size for member in members)
    if total > most:
        raise BadInput(f"{wrong} (its arrays take {total / 1e6:,.0f} MB, needed at most {most / 1e6:,.0f} MB)")
    arrays = {}
    for member in members:
        here = f"{wrong} ({member.filename}: "
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise BadInput(f"{here}encrypted, or compressed as numpy does not)")
        if not member.filename.endswith(".npy"):
            raise BadInput(f"{here}no array, needed a name that ends in .npy)")
        with archive.open(member) as stream:
            arrays[member.filename.removesuffix(".npy")] = _array_of(stream, member.file_size, here)
    return arrays


def _array_of(stream: Any, size: int, here: str) -> np.ndarray:
    """Reads one array from `size` bytes, after checking that its header fits the size."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise BadInput(f"{here}version {version} of numpy's format, needed 1 to 3)")
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > _MAX_HEADER:
        raise BadInput(f"{here}a header of {length} bytes, needed at most {_MAX_HEADER})")
    header = ast.literal_eval(stream.read(length).decode("latin1" if version < (3, 0) else "utf-8").strip())
    shape, dtype = header["shape"], header["descr"]
    if not isinstance(dtype, str) or np.dtype(dtype).kind not in _ARRAY_KINDS:
        raise BadInput(f"{here}values {str(dtype)[:40]}, needed whole or real numbers or text)")
    if not (isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)):
        raise BadInput(f"{here}shape {str(shape)[:40]}, needed whole numbers)")
    start = 6 + 2 + (2 if version == (1, 0) else 4) + length
    if math.prod(shape) * np.dtype(dtype).itemsize != size - start:
        raise BadInput(f"{here}{size - start} bytes for {dtype} of shape {str(shape)[:60]})")
    flat = np.frombuffer(bytearray(stream.read()), np.dtype(dtype), math.prod(shape))
    if flat.dtype.kind == "U" and not is_text_array(flat):
        raise BadInput(f"{here}text with numbers that are no characters)")
    return flat.reshape(shape, order="F" if header["fortran_order"] else "C")


def is_text_array(array: np.ndarray) -> bool:
    """Whether all characters of a unicode array can be written as UTF-8, which lone surrogates cannot."""
    points = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
    return bool(((points < 0xD800) | ((points > 0xDFFF) & (points <= 0x10FFFF))).all())
