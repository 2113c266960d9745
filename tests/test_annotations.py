import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patn import write_patn_csv
from PIL import Image
from real_data import patn_file

from xingaug.data.annotations import (
    PATN_HEADER,
    Annotations,
    keypoints_of,
    match,
    read_annotations,
    read_npz,
    read_patn_csv,
    write_npz,
)
from xingaug.data.market1501 import Split, read_split
from xingaug.errors import BadInput

IN_TMP = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
Y = list(range(10, 28))
X = list(range(30, 48))


def some(count: int = 3, source: str = "test") -> Annotations:
    rng = np.random.default_rng(count)
    names = np.array([f"{index:04d}_c1s1_000000_00.jpg" for index in range(count)])
    xy = rng.uniform(0, 63, (count, 18, 2)).astype(np.float32)
    return Annotations(names, xy, rng.random((count, 18)).astype(np.float32), source)


def csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([PATN_HEADER, *rows]) + "\n")
    return path


@st.composite
def patn_annotations(draw):
    names = draw(
        st.lists(st.from_regex(r"[a-z0-9_:.\-]{1,12}\.jpg", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    size = 18 * len(names)
    x = np.array(draw(st.lists(st.integers(0, 63), min_size=size, max_size=size)), np.float32)
    y = np.array(draw(st.lists(st.integers(0, 127), min_size=size, max_size=size)), np.float32)
    seen = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    xy = np.stack([x, y], -1) * seen[:, None]
    return Annotations(np.array(names), xy.reshape(-1, 18, 2), seen.reshape(-1, 18).astype(np.float32))


@IN_TMP
@given(annotations=patn_annotations())
def test_patn_csv_round_trip(tmp_path, annotations):
    write_patn_csv(tmp_path / "a.csv", annotations)
    back, report = read_patn_csv(tmp_path / "a.csv")
    assert report.lines() == []
    assert back.names.tolist() == annotations.names.tolist()
    np.testing.assert_array_equal(back.xy, annotations.xy)
    np.testing.assert_array_equal(back.visibility, annotations.visibility)


def test_patn_rows_hold_y_before_x_and_need_no_offset(tmp_path):
    y, x = [-1, *Y[1:]], [-1, *X[1:]]
    annotations, report = read_patn_csv(csv(tmp_path / "a.csv", f"a.jpg: {y}: {x}", "", f"b.jpg: {Y}: {X}"))
    assert report.lines() == []
    assert annotations.names.tolist() == ["a.jpg", "b.jpg"]
    assert annotations.xy[0, 1].tolist() == [31, 11]
    assert annotations.visibility[0].tolist() == [0] + [1] * 17
    assert annotations.visibility[1].tolist() == [1] * 18
    assert annotations.source == "PATN CSV a.csv"


def test_findings_are_counted_and_reported(tmp_path):
    beyond = [*X[:17], 64]
    half_missing = [*Y[:17], -1]
    path = csv(
        tmp_path / "a.csv",
        f"a.jpg: {Y}: {X}",
        f"a.jpg: {X}: {Y}",
        f"b.jpg: {Y[:17]}: {X}",
        f"c.jpg: {Y}: {beyond}",
        f"d.jpg: {half_missing}: {X}",
        f"e.jpg: {Y + Y}: {X + X}",
    )
    annotations, report = read_patn_csv(path)
    assert annotations.names.tolist() == ["a.jpg", "c.jpg", "d.jpg"]
    assert annotations.xy[0, 0].tolist() == [30, 10], "the first of the duplicates stays"
    assert annotations.visibility[1].tolist() == annotations.visibility[2].tolist() == [1] * 17 + [0]
    assert (report.duplicates.count, report.wrong_counts.count, report.outside_frame.count) == (1, 2, 2)
    assert report.lines() == [
        "1 rows repeat a name and were dropped: a.jpg (line 3)",
        "2 rows do not hold 18 joints and were dropped: b.jpg (line 4: 17 y, 18 x), e.jpg (line 7: 36 y, 36 x)",
        "2 joints lie outside the frame and count as missing: c.jpg left_ear at (64, 27), d.jpg left_ear at (47, -1)",
    ]
    assert read_patn_csv(path, frame=(256, 176))[1].outside_frame.count == 1


def test_a_report_shows_the_first_few_examples(tmp_path):
    _, report = read_patn_csv(csv(tmp_path / "a.csv", *[f"a.jpg: {Y}: {X}"] * 6))
    assert report.lines() == [
        "5 rows repeat a name and were dropped: a.jpg (line 3), a.jpg (line 4), a.jpg (line 5), ..."
    ]


@pytest.mark.parametrize(
    "row",
    [
        "a.jpg",
        f"a.jpg: {Y}",
        f"a.jpg: {Y}: ",
        f"a.jpg: {Y}: {X}]",
        f"a.jpg: {Y}: 5",
        f": {Y}: {X}",
        f"a.jpg: {Y}: {[*X[:17], 0.5]}",
        f"a.jpg: {Y}: {[*X[:17], 'x']}".replace("'", '"'),
        f"a.jpg: {Y}: [{', '.join(['NaN'] * 18)}]",
        f"a.jpg: {Y}: {[*X[:17], 10**40]}",
        f"a.jpg: {Y}: {[X]}",
        f"a.jpg: {Y}: [[1], [1, 2]]",
    ],
)
def test_a_malformed_row_names_file_and_line(tmp_path, row):
    path = csv(tmp_path / "a.csv", f"z.jpg: {Y}: {X}", row)
    with pytest.raises(BadInput, match=r"a\.csv:3: malformed row .*; needed `name: \[18 y\]: \[18 x\]`") as error:
        read_patn_csv(path)
    assert "\n" not in str(error.value)


def test_a_csv_that_is_none(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(BadInput, match=r"a\.csv: no such annotation file"):
        read_patn_csv(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"a\.csv: not UTF-8 text"):
        read_patn_csv(path)
    path.write_text("from,to\n")
    with pytest.raises(BadInput, match=r"a\.csv:1: header 'from,to'; needed 'name:keypoints_y:keypoints_x'"):
        read_patn_csv(path)
    path.write_text("")
    with pytest.raises(BadInput, match=r"a\.csv:1: header ''"):
        read_patn_csv(path)
    with pytest.raises(BadInput, match=r"a\.csv: no usable row"):
        read_patn_csv(csv(path, f"b.jpg: {Y[:17]}: {X}"))


def test_npz_round_trip_and_same_bytes(tmp_path):
    annotations = some(5, "made up")
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, annotations.names, annotations.xy, annotations.visibility, annotations.source)
    back = read_npz(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    assert back.names.tolist() == annotations.names.tolist()
    np.testing.assert_array_equal(back.xy, annotations.xy)
    np.testing.assert_array_equal(back.visibility, annotations.visibility)
    assert back.source == "made up"


def test_no_images_round_trip(tmp_path):
    write_npz(tmp_path / "a.npz", [], np.zeros((0, 18, 2)), np.zeros((0, 18)))
    assert len(read_npz(tmp_path / "a.npz")) == 0


def test_write_npz_leaves_the_former_file_when_it_refuses(tmp_path):
    annotations = some()
    write_npz(tmp_path / "a.npz", annotations.names, annotations.xy, annotations.visibility)
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(ValueError, match="xy: "):
        write_npz(tmp_path / "a.npz", annotations.names, annotations.xy[:, :17], annotations.visibility)
    assert (tmp_path / "a.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "holds source, visibility, xy; needed names, xy, visibility"),
        ({"extra": np.zeros(1)}, "holds extra, names, source, visibility, xy; needed"),
        ({"xy": np.zeros((3, 17, 2))}, r"xy: shape \(3, 17, 2\), needed"),
        ({"xy": np.zeros((2, 18, 2)), "visibility": np.zeros((2, 18))}, r"xy: \(2,\) persons, needed \(3,\)"),
        ({"xy": np.full((3, 18, 2), np.nan), "visibility": np.ones((3, 18))}, "xy: NaN or infinite at a visible joint"),
        ({"visibility": np.full((3, 18), 2.0)}, "visibility: values outside"),
        ({"names": np.array(["a", "b", "a"])}, "names: 'a' occurs 2 times, needed once"),
        ({"names": np.arange(3)}, r"names: int64 of shape \(3,\), needed \(N,\) strings"),
        ({"names": np.array(["a", "b", "c"], object)}, "not an annotation .npz"),
        ({"xy": np.full((3, 18, 2), "a")}, "not an annotation .npz"),
    ],
)
def test_an_npz_of_other_contents_is_refused(tmp_path, change, message):
    stored = some()
    contents = {"names": stored.names, "xy": stored.xy, "visibility": stored.visibility, "source": np.array("")}
    contents = {key: value for key, value in {**contents, **change}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **contents)
    with pytest.raises(BadInput, match=message) as error:
        read_npz(tmp_path / "a.npz")
    assert str(error.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(BadInput, match=r"a\.npz: no such annotation file"):
        read_npz(path)
    annotations = some(200)
    write_npz(path, annotations.names, annotations.xy, annotations.visibility)
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 0xFF
    for contents in (b"", b"text", whole[: len(whole) // 2], whole[:-1], bytes(spoilt)):
        path.write_bytes(contents)
        with pytest.raises(BadInput, match=r"a\.npz: not an annotation \.npz \(.+\)"):
            read_npz(path)
    with path.open("wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(BadInput, match=r"a\.npz: (holds one bare array|not an annotation)"):
        read_npz(path)


def test_missing_joints_may_hold_nan():
    xy = np.full((1, 18, 2), np.nan)
    assert (Annotations(np.array(["a"]), xy, np.zeros((1, 18))).xy == 0).all()


def test_the_suffix_tells_the_format(tmp_path, caplog):
    annotations = some()
    write_npz(tmp_path / "a.npz", annotations.names, annotations.xy, annotations.visibility)
    assert read_annotations(tmp_path / "a.npz").names.tolist() == annotations.names.tolist()
    path = csv(tmp_path / "a.csv", f"a.jpg: {Y}: {X}", f"a.jpg: {Y}: {X}")
    with caplog.at_level(logging.WARNING):
        assert len(read_annotations(path)) == 1
    assert caplog.messages == [f"{path}: 1 rows repeat a name and were dropped: a.jpg (line 3)"]
    with pytest.raises(
        BadInput, match=r"unknown annotation format '\.json'; needed \.npz \(native\) or \.csv \(PATN\)"
    ):
        read_annotations(tmp_path / "a.json")


def test_lookup_and_keypoints():
    annotations = some(4)
    names = [annotations.names[2], "unknown.jpg", annotations.names[0]]
    rows = annotations.lookup(names)
    assert rows.tolist() == [2, -1, 0]
    assert rows.dtype == np.int64
    assert annotations.lookup([]).shape == (0,)
    keypoints = annotations.keypoints(rows)
    assert keypoints.shape == (3,)
    np.testing.assert_array_equal(keypoints.xy[0].numpy(), annotations.xy[2])
    np.testing.assert_array_equal(keypoints.visibility[2].numpy(), annotations.visibility[0])
    assert not keypoints.present[1].any()
    for index in (4, -2):
        with pytest.raises(ValueError, match="needed -1 to 3"):
            annotations.keypoints([index])


def test_keypoints_do_not_share_memory_with_the_annotations():
    annotations = some(2)
    before = annotations.xy.copy()
    annotations.keypoints([0, 1]).xy.zero_()
    np.testing.assert_array_equal(annotations.xy, before)


def paths_of(split: Split) -> list[Path]:
    return [split.path(index) for index in range(len(split))]


def test_match_finds_what_lacks_its_other_half_and_what_lies_outside(tmp_path):
    annotations = some(3)
    stray = annotations.xy.copy()
    stray[2, 0] = (1000, 20)
    seen = np.ones((3, 18), np.float32)
    annotations = Annotations(annotations.names, stray, seen, "test")
    (tmp_path / "bounding_box_train").mkdir()
    for name in [*annotations.names, "9999_c1s1_000000_00.jpg"]:
        Image.new("RGB", (900, 901)).save(tmp_path / "bounding_box_train" / name)
    names = np.array([*annotations.names[1:], "9999_c1s1_000000_00.jpg"])
    split = Split(tmp_path, "train", names, np.arange(3), np.ones(3, np.int64))
    lines = match(annotations, split.names, paths_of(split)).lines()
    assert "1 rows name an image that is not in the split: 0000_c1s1_000000_00.jpg" in lines
    assert "1 images of the split have no row: 9999_c1s1_000000_00.jpg" in lines
    assert any("nose at (1000, 20)" in line for line in lines)
    assert len(lines) == 3
    whole = Split(tmp_path, "train", annotations.names, np.arange(3), np.ones(3, np.int64))
    inside = Annotations(annotations.names, some(3).xy, seen, "test")
    assert match(inside, whole.names, paths_of(whole)).lines() == []
    whole.path(1).write_bytes(b"no image")
    assert match(inside, whole.names, paths_of(whole)).lines() == [f"1 images cannot be read: {whole.names[1]}"]
    Image.new("RGB", (900, 901)).save(whole.path(1))
    brought = keypoints_of(annotations, whole, (128, 64))
    assert brought.visibility[2, 0] == 0
    assert brought.visibility.sum() == 3 * 18 - 1


@pytest.mark.skipif("XINGAUG_MARKET1501" not in os.environ, reason="XINGAUG_MARKET1501 names no copy of Market-1501")
@pytest.mark.parametrize(("file", "split", "junk"), [("train", "train", 0), ("test", "gallery", 3819)])
def test_the_published_annotations_survive_unchanged(tmp_path, file, split, junk):
    root = Path(os.environ["XINGAUG_MARKET1501"])
    csv = patn_file(f"market-annotation-{file}.csv")
    annotations, report = read_patn_csv(csv)
    assert report.lines() == []
    write_patn_csv(tmp_path / "a.csv", annotations)
    assert (tmp_path / "a.csv").read_text() == csv.read_text()
    images = read_split(root, split)
    matched = match(annotations, images.names, paths_of(images))
    assert (matched.without_image.count, matched.without_row.count) == (junk, 0)
