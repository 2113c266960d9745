"""What any reader refuses before it reads: no regular file, too large, too deep; and the arrays of an .npz."""

import io
import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import read_or_told, told

from xingaug.errors import printable
from xingaug.inputs import MAX_JSON_DEPTH, open_regular, parse_json, read_arrays, read_json, read_text

QUICK = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("read", [read_text, read_json, read_arrays])
def test_only_regular_files_are_read(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "is a pipe"), (Path("/dev/zero"), "is a device"), (tmp_path, "is a directory"),
        (tmp_path / "none", "no such "), (tmp_path / "nul\0", "no name of a file"),
        (tmp_path / "pipe" / "below", "(Not a directory)"),
    ):  # fmt: skip
        assert said in told(read, path)


def test_size_is_judged_before_anything_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(300_000_000_000)
    assert "has 300,000 MB; needed at most 256 MB as text" in told(read_text, tmp_path / "sparse", "text")
    (tmp_path / "small").write_bytes(b"1234")
    with open_regular(tmp_path / "small", most=4) as file:
        assert file.read() == b"1234"
    assert "needed at most" in told(open_regular, tmp_path / "small", "file", 3)


def test_text_may_have_a_byte_order_mark_but_no_other_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffä\r\nb".encode())
    assert read_text(tmp_path / "a") == "ä\nb"
    (tmp_path / "a").write_bytes("ä".encode("latin1"))
    assert "not UTF-8 text" in told(read_text, tmp_path / "a")


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@QUICK
@given(values)
def test_json_that_is_not_deep_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value), "here") == value
    assert parse_json(json.dumps(value, ensure_ascii=False), "here") == value


@pytest.mark.parametrize(
    "text", ["[" * 2000 + "]" * 2000, '{"a":' * 1100 + "1" + "}" * 1100, "[" * 100_000, "[{" * 900]
)
def test_deep_json_is_told(text: str) -> None:
    assert f"nested deeper than {MAX_JSON_DEPTH}" in told(parse_json, text, "here")
    assert parse_json('"' + "[" * 2000 + '\\""', "here") == "[" * 2000 + '"'


@QUICK
@given(st.text(alphabet='[]{}",:\\ 1a') | st.sampled_from(["1" * 5000, "nan", "\ud800"]))
def test_other_text_is_json_or_told(text: str) -> None:
    read_or_told("here: ", parse_json, text, "here")


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


GOOD = npz(
    names=np.array(["a.jpg", "ü.jpg"]), xy=np.ones((2, 18, 2), np.float32), turned=np.asfortranarray(np.eye(3)[:2]),
    scalar=np.array("x"), none=np.zeros(0), truth=np.array([True]), swapped=np.arange(3, dtype=">i4"),
)  # fmt: skip


def test_arrays_come_as_they_were_saved(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(GOOD)
    found = read_arrays(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as expected:
        assert list(found) == expected.files
        for key in expected.files:
            assert found[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(found[key], expected[key])


def member(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def archive(path: Path, *members: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for number, data in enumerate(members):
            file.writestr(f"{number}.npy", data)
    return path


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", "0 bytes for <f4 of shape"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "shape (-1,)"),
        (b"{'descr': '<c8', 'fortran_order': False, 'shape': ()}", "values <c8"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (0,)}", "values |O"),
        (b"{'descr': '<m8[s]', 'fortran_order': False, 'shape': (0,)}", "values <m8"),
        (b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (0,)}", "values [('a'"),
        (b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (0,)}", "not an array .npz"),
        (b"{'descr': '<f4', 'shape': (0,)}", "fortran_order"),
        (b"(" * 9000, "not an array .npz"),
        (b"-" * 9000 + b"1", "not an array .npz"),
        (b"{'a':" * 1500, "not an array .npz"),
        (b" " * 20_000, "a header of 20000 bytes"),
        (b"[]", "not an array .npz"),
    ],
)
def test_odd_headers_of_arrays(tmp_path: Path, header: bytes, said: str) -> None:
    assert said in told(read_arrays, archive(tmp_path / "a.npz", member(header)), "array")


def test_odd_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(path, member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}"), method=method)
        assert "compressed as numpy does not" in told(read_arrays, path, "array")
    encrypted = bytearray(GOOD)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    path.write_bytes(encrypted)
    assert "encrypted" in told(read_arrays, path, "array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of a name that is there twice
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.npy", b"")
            file.writestr("a.npy", b"")
    assert "each once" in told(read_arrays, path, "array")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", b"")
    assert "no array" in told(read_arrays, path, "array")
    path.write_bytes(npz(a=np.zeros(3_000_000, np.uint8)))  # three kilobytes
    assert "its arrays take 3 MB, needed at most 2 MB" in told(read_arrays, path, "array", 2_000_000)
    for number in (0xD800, 0x110000):
        header = b"{'descr': '<U1', 'fortran_order': False, 'shape': ()}"
        archive(path, member(header, number.to_bytes(4, "little")))
        assert "no characters" in told(read_arrays, path, "array")


def test_names_of_several_lines_are_told_in_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("two\nlines.txt", b"")
    assert "(two lines.txt: no array" in told(read_arrays, tmp_path / "a.npz", "array")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_a_damaged_archive_is_read_or_told(tmp_path_factory: Any, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(data[:cut] if not changes else data)
    read_or_told(f"{path}: ", read_arrays, path, "array")


@QUICK
@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_whatever_is_said_is_one_line_of_printable_text(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert printable(shown) == shown


def test_escapes_and_bytes_of_file_names_are_shown_as_such() -> None:
    assert printable("a\x1b[31m.jpg") == r"a\x1b[31m.jpg"
    assert printable(os.fsdecode(b"\xff.jpg")) == r"\udcff.jpg"
    assert printable("größe 写真.jpg") == "größe 写真.jpg"
