"""Files of other programs with whatever content: MATLAB, JSON, CSV and lists are read, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import read_or_told, told

from xingaug.data.foreign import READERS
from xingaug.data.mat import read_mat
from xingaug.data.pairs import read_pairs
from xingaug.data.readers import read_split as read_any_split

# MATLAB files


def test_a_mat_that_grows_is_not_read(tmp_path: Path) -> None:
    import zlib

    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    packed = zlib.compress(bytes(300_000_000), 9)
    (tmp_path / "a.mat").write_bytes(header + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed)
    assert "its arrays take more than 256 MB" in told(read_mat, tmp_path / "a.mat", ("joints",), "joints.mat")


@pytest.mark.parametrize("packed", [False, True])
def test_a_mat_is_read_as_scipy_reads_it(tmp_path: Path, packed: bool) -> None:
    from scipy.io import loadmat, savemat

    cells = np.empty((4, 1), dtype=object)
    cells[:, 0] = ["1_001_1_01.png", "ä", "", "x" * 300]
    numbers = {"joints": np.arange(84.0).reshape(3, 14, 2), "small": np.uint8([[1, 2], [3, 4]]), "one": np.int16([[7]])}
    savemat(tmp_path / "a.mat", {**numbers, "filelist": cells, "text": "none"}, do_compression=packed)
    found = read_mat(tmp_path / "a.mat", (*numbers, "filelist", "text", "other"), "numbers")
    expected = loadmat(tmp_path / "a.mat")
    for name in numbers:
        np.testing.assert_array_equal(found[name], expected[name])
    assert found["filelist"].tolist() == cells[:, 0].tolist()
    assert str(found["text"]) == "none"
    assert "other" not in found


@pytest.fixture(scope="module", params=[False, True])
def mat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from scipy.io import savemat

    path = tmp_path_factory.mktemp("mat") / "a.mat"
    cells = np.empty((2, 1), dtype=object)
    cells[:, 0] = ["a", "b"]
    savemat(path, {"joints": np.arange(84.0).reshape(3, 14, 2), "filelist": cells}, do_compression=request.param)
    return path.read_bytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 2000))
def test_a_damaged_mat_is_read_or_told(
    mat: bytes, tmp_path_factory: Any, changes: list[tuple[int, int]], cut: int
) -> None:
    """scipy's own reader crashes on some of them."""
    data = bytearray(mat)
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    path.write_bytes(data if cut % 2 else data[: cut % len(data)])
    read_or_told(f"{path}: ", read_mat, path, ("joints", "filelist"), "numbers")
    read_or_told(f"{path}: ", READERS["lsp-mat"], path, None)


# JSON of other programs

ENTRY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a.jpg", "x/a.jpg", "\0"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["images", "annotations", "people", "pose_keypoints_2d", "keypoints", "image_id", "id",
                         "file_name", "height", "width", "score", "categories"]), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
VALUE = st.floats(-2, 200) | st.integers(0, 1) | st.sampled_from([float("nan"), 1e300])
PERSON = st.sampled_from([51, 54, 75, 78]).flatmap(lambda count: st.lists(VALUE, min_size=count, max_size=count))
PEOPLE = st.lists(st.fixed_dictionaries({"pose_keypoints_2d": PERSON}), max_size=2)
NUMBER = st.integers(0, 2)
IMAGE = st.fixed_dictionaries({"id": NUMBER, "file_name": st.sampled_from("abc"), "width": ENTRY, "height": NUMBER})
FOUND = st.fixed_dictionaries({"image_id": NUMBER, "keypoints": PERSON, "score": ENTRY})
FILES = st.one_of(
    ENTRY,
    st.fixed_dictionaries({"people": PEOPLE}),
    st.fixed_dictionaries({"images": st.lists(IMAGE, max_size=3), "annotations": st.lists(FOUND, max_size=3)}),
    st.lists(st.fixed_dictionaries({"image_id": ENTRY, "keypoints": PERSON, "score": ENTRY}), max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(FILES)
def test_any_json_is_read_or_told(tmp_path_factory: Any, contents: Any) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "a_keypoints.json").write_text(json.dumps(contents))
    sizes = lambda given: [(128, 64)] * len(given)  # noqa: E731
    for kind in ("coco-json", "alphapose-json"):
        read_or_told(folder, READERS[kind], folder / "a_keypoints.json", sizes)
    read_or_told(folder, READERS["openpose-json"], folder, sizes)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a.jpg:[]0123456789,-e\n\r\x0b\x1b ", max_size=120))
def test_any_csv_is_read_or_told(tmp_path_factory: Any, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(f"name:keypoints_y:keypoints_x\n{text}")
    read_or_told(path, READERS["patn-csv"], path, None)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"(\S+/)?\d+_\d+_\d+_\S+\.jpg( \d+)?", fullmatch=True))
def test_any_list_is_read_or_told(tmp_path_factory: Any, text: str) -> None:
    root = tmp_path_factory.mktemp("list")
    (root / "mask_train_v2").mkdir()
    (root / "list_train.txt").write_text(text, errors="surrogatepass")
    read_or_told(root, read_any_split, root, "train")
    (root / "pairs.csv").write_text(f"from,to\n{text}", errors="surrogatepass")
    read_or_told(root, read_pairs, root / "pairs.csv")
