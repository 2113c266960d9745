"""The leak guard, against a slow comparison of everything with everything, and its command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import describe, write_crops, write_msmt17

from xingaug.data.leaks import Leak, check_dataset, find_leaks
from xingaug.data.matches import matchable_queries
from xingaug.data.readers import read_split
from xingaug.data.split import Split
from xingaug.errors import BadInput

PLAIN = "{pid:d}_{camid:d}_*.jpg"


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Clean: 1 and 2 are trained on, 5 and the distractor 0 are tested on."""
    write_crops(
        tmp_path / "crops",
        train=["1_1_a.jpg", "1_2_a.jpg", "2_1_a.jpg"], query=["5_1_a.jpg"], gallery=["5_2_a.jpg", "0_1_a.jpg"],
    )  # fmt: skip
    describe(tmp_path / "crops.yaml", "crops", train=PLAIN, query=PLAIN, gallery=PLAIN)
    return tmp_path / "crops"


def copy(crops: Path, source: str, target: str) -> None:
    shutil.copyfile(crops / source, crops / target)


def report(crops: Path):
    return check_dataset(crops.with_suffix(".yaml"))[1]


def test_a_clean_dataset(crops):
    counts, found, unmatched, notes = check_dataset(crops.with_suffix(".yaml"))
    assert not found
    assert unmatched is None
    assert found.lines() == []
    assert counts == {
        "train": {"images": 3, "identities": 2, "cameras": 2},
        "query": {"images": 1, "identities": 1, "cameras": 1},
        "gallery": {"images": 2, "identities": 1, "cameras": 2},
    }
    assert notes == ()


def test_queries_that_cannot_be_matched(crops):
    (crops / "gallery" / "5_2_a.jpg").rename(crops / "gallery" / "5_1_b.jpg")
    unmatched = check_dataset(crops.with_suffix(".yaml"))[2]
    assert unmatched == (
        "no query can be matched: 1 of the 1 people in query are in the gallery, but none of them from another camera; "
        "needed images of two cameras at least"
    )
    (crops / "gallery" / "5_1_b.jpg").rename(crops / "gallery" / "6_1_b.jpg")
    unmatched = check_dataset(crops.with_suffix(".yaml"))[2]
    assert (
        unmatched == "no query can be matched: none of the 1 people in query is in the gallery; needed the same people"
    )


@settings(deadline=None)
@given(st.data())
def test_matchable_queries_are_those_that_loops_find(data):
    query, gallery = (
        [(data.draw(st.integers(-1, 4)), data.draw(st.integers(1, 3))) for _ in range(data.draw(st.integers(0, 8)))]
        for _ in range(2)
    )
    (q_pids, q_camids), (g_pids, g_camids) = (np.array(part, int).reshape(-1, 2).T for part in (query, gallery))
    wanted = [any(g == pid and c != camid for g, c in gallery) for pid, camid in query]
    assert matchable_queries(q_pids, q_camids, g_pids, g_camids).tolist() == wanted


def test_shared_identities(crops):
    copy(crops, "query/5_1_a.jpg", "train/5_3_b.jpg")
    with (crops / "train" / "5_3_b.jpg").open("ab") as file:
        file.write(b"\0")  # another file
    found = report(crops)
    assert (found.identities, found.files, found.contradictions) == ((5,), (), ())
    assert found.lines() == ["1 identities are in training and in query or gallery: 5"]


def test_files_in_training_and_test_under_other_names(crops):
    copy(crops, "train/2_1_a.jpg", "gallery/5_3_z.jpg")
    copy(crops, "train/2_1_a.jpg", "query/5_2_z.jpg")
    found = report(crops)
    assert found.identities == ()
    assert found.files == (
        Leak("train/2_1_a.jpg", "gallery/5_3_z.jpg", (2, 5)),
        Leak("train/2_1_a.jpg", "query/5_2_z.jpg", (2, 5)),
    )
    assert found.lines() == [
        "2 images of query or gallery are training images: "
        "gallery/5_3_z.jpg is train/2_1_a.jpg, query/5_2_z.jpg is train/2_1_a.jpg"
    ]


def test_one_file_with_two_identities(crops):
    copy(crops, "train/1_1_a.jpg", "train/2_9_a.jpg")
    copy(crops, "train/1_1_a.jpg", "train/1_9_a.jpg")  # doubled, but no contradiction
    copy(crops, "query/5_1_a.jpg", "gallery/0_9_a.jpg")  # a distractor is nobody
    found = report(crops)
    assert found.contradictions == (Leak("train/1_1_a.jpg", "train/2_9_a.jpg", (1, 2)),)
    assert found.files == ()
    assert found.lines() == ["1 images have two identities: train/1_1_a.jpg (1) is train/2_9_a.jpg (2)"]


def test_one_file_with_two_identities_in_query_and_gallery(crops):
    copy(crops, "query/5_1_a.jpg", "gallery/6_9_a.jpg")
    found = report(crops)
    assert (found.identities, found.files) == ((), ())
    (leak,) = found.contradictions
    assert {leak.first, leak.second} == {"query/5_1_a.jpg", "gallery/6_9_a.jpg"}
    assert set(leak.pids) == {5, 6}


@given(
    contents=st.lists(
        st.tuples(st.sampled_from("tqg"), st.integers(1, 4), st.sampled_from([b"a", b"b", b"cc", b"dd"]))
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_everything_is_found_and_nothing_else(tmp_path_factory, contents):
    root = tmp_path_factory.mktemp("leaks")
    splits = {}
    for letter, name in (("t", "train"), ("q", "query"), ("g", "gallery")):
        mine = [(pid, data, i) for i, (where, pid, data) in enumerate(contents) if where == letter]
        for _, data, i in mine:
            (root / f"{i:03d}.jpg").write_bytes(data)
        pids = np.array([pid for pid, _, _ in mine], np.int64)
        names = np.array([f"{i:03d}.jpg" for _, _, i in mine], dtype=str)
        splits[letter] = Split(root, name, names, pids, np.ones_like(pids), "")  # type: ignore[arg-type]
    found = find_leaks(splits["t"], splits["q"], splits["g"])
    train = [(pid, data) for where, pid, data in contents if where == "t"]
    tests = [(pid, data) for where, pid, data in contents if where != "t"]
    assert set(found.identities) == {pid for pid, _ in train} & {pid for pid, _ in tests}
    leaking = {f"{i:03d}.jpg" for i, (w, _, data) in enumerate(contents) if w != "t" and data in {d for _, d in train}}
    assert {leak.second for leak in found.files} == leaking
    assert all((root / leak.first).read_bytes() == (root / leak.second).read_bytes() for leak in found.files)
    doubled = {a for rows in (train, tests) for pid, a in rows for other, b in rows if a == b and other != pid}
    assert {(root / leak.first).read_bytes() for leak in found.contradictions} == doubled
    assert all(leak.pids[0] != leak.pids[1] for leak in found.contradictions)


def test_equal_labels_of_msmt17_are_different_people(tmp_path):
    root = write_msmt17(tmp_path / "m")
    assert not find_leaks(*(read_split(root, split) for split in ("train", "query", "gallery")))


def test_a_vanished_image_is_named(crops):
    train = read_split(crops.with_suffix(".yaml"), "train")
    train.path(0).unlink()
    with pytest.raises(BadInput, match=r"1_1_a\.jpg: no such image"):
        find_leaks(train)


def test_the_command(crops, run):
    file = crops.with_suffix(".yaml")
    assert run(f"check {file}") == (
        0,
        "train: 3 images, 2 identities, 2 cameras\nquery: 1 images, 1 identities, 1 cameras\n"
        "gallery: 2 images, 1 identities, 2 cameras\nno leaks\n",
        "",
    )
    copy(crops, "train/2_1_a.jpg", "gallery/2_3_z.jpg")
    (crops / "train" / "notes.txt").write_text("x")
    code, out, err = run(f"check {file}")
    assert code == 1
    assert out.endswith(
        "1 identities are in training and in query or gallery: 2\n"
        "1 images of query or gallery are training images: gallery/2_3_z.jpg is train/2_1_a.jpg\n"
    )
    assert err == f"{crops}/train: 1 files do not fit '{PLAIN}' or are no images: notes.txt\n"
    code, out, _ = run(f"check {file} --json")
    told = json.loads(out)
    assert code == 1
    assert told["splits"]["train"] == {"images": 3, "identities": 2, "cameras": 2}
    assert told["identities"] == [2]
    assert told["files"] == [{"first": "train/2_1_a.jpg", "second": "gallery/2_3_z.jpg", "pids": [2, 2]}]
    assert told["contradictions"] == []


def test_the_command_says_that_queries_cannot_be_matched(crops, run):
    copy(crops, "query/5_1_a.jpg", "query/6_1_a.jpg")
    (crops / "query" / "6_1_a.jpg").write_bytes(b"another")
    code, out, err = run(f"check {crops.with_suffix('.yaml')}")
    assert (code, err) == (0, "1 of 2 queries have no image of another camera in gallery and do not count\n")
    (crops / "gallery" / "5_2_a.jpg").rename(crops / "gallery" / "5_1_b.jpg")
    code, out, _ = run(f"check {crops.with_suffix('.yaml')}")
    assert code == 1
    assert out.splitlines()[-1].startswith("no query can be matched: 1 of the 2 people in query are in the gallery")
    code, out, _ = run(f"check {crops.with_suffix('.yaml')} --json")
    assert code == 1
    assert json.loads(out)["unmatched"].startswith("no query can be matched")


def test_the_command_on_a_world(run):
    assert run("check world")[0] == 0
