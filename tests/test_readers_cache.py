"""The index of a large folder: kept until something changes, made again where it is damaged, quick."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from trees import describe, rows, write_crops

from xingaug.data.readers import index as index_module
from xingaug.data.readers import read_split


@pytest.fixture
def nested(tmp_path, monkeypatch):
    """A described folder that is large enough for the cache, and settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "CACHE_FROM", 4)
    monkeypatch.setattr(index_module, "_SETTLED_NS", 0)
    write_crops(tmp_path / "crops", train=["ann/1_a.jpg", "ann/2_b.jpg", "bob/1_a.jpg", "bob/2_a.jpg", "x.txt"])
    time.sleep(0.02)  # past the tick of the clock in which the folders were changed
    return describe(tmp_path / "c.yaml", "crops", train="{pid}/{camid:d}_*.jpg")


def scans(monkeypatch) -> list[Path]:
    seen: list[Path] = []
    scan = index_module._scan
    monkeypatch.setattr(index_module, "_scan", lambda folder, depth: (seen.append(folder), scan(folder, depth))[1])
    return seen


def test_an_index_is_kept_until_something_changes(tmp_path, nested, monkeypatch):
    seen = scans(monkeypatch)
    first = read_split(nested, "train")
    scanned = len(seen)
    again = read_split(nested, "train")
    assert len(seen) == scanned == 1
    assert (rows(again), again.notes) == (rows(first), first.notes)
    train = tmp_path / "crops" / "train"
    changes = [
        lambda: (train / "bob" / "3_c.jpg").write_bytes(b"x"),  # added
        lambda: (train / "ann" / "1_a.jpg").rename(train / "ann" / "9_a.jpg"),
        lambda: (train / "bob" / "2_a.jpg").unlink(),
        lambda: (train / "bob").rename(train / "zoe"),
        lambda: (train / "cid").mkdir() or (train / "cid" / "1_a.jpg").write_bytes(b"x"),
    ]
    for number, change in enumerate(changes, 2):
        stamp = os.stat(train / "ann")
        change()
        os.utime(train / "ann", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as rsync sets it back
        time.sleep(0.02)
        on_disk = sorted(str(path.relative_to(train.parent)) for path in train.glob("*/*.jpg"))
        assert read_split(nested, "train").names.tolist() == on_disk
        assert len(seen) == number
    describe(nested, "crops", train="{pid}/*_{camid}.jpg")
    assert len(read_split(nested, "train")) == 5
    assert len(seen) == 7


def test_a_folder_that_was_just_changed_is_not_kept(nested, monkeypatch):
    monkeypatch.setattr(index_module, "_SETTLED_NS", 2_000_000_000)
    seen = scans(monkeypatch)
    read_split(nested, "train")
    read_split(nested, "train")
    assert len(seen) > 1


def test_a_damaged_or_unwritable_cache_is_passed_over(tmp_path, nested, monkeypatch):
    first = read_split(nested, "train")
    (kept,) = (tmp_path / "cache" / "xingaug" / "index").iterdir()
    good = kept.read_bytes()
    for damaged in (b"", b"PK", good[:200], good[:-30]):
        kept.write_bytes(damaged)
        assert rows(read_split(nested, "train")) == rows(first)
    monkeypatch.setenv("XDG_CACHE_HOME", str(nested))  # a file
    assert rows(read_split(nested, "train")) == rows(first)


def test_a_small_folder_leaves_no_cache(tmp_path, nested, monkeypatch):
    monkeypatch.setattr(index_module, "CACHE_FROM", 100)
    read_split(nested, "train")
    assert not (tmp_path / "cache").exists()


def test_a_large_index_is_read_quickly(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [
        f"{i // 25:04d}/{i // 25:04d}_{i % 25:03d}_{i % 15 + 1:02d}_0303morning_{i:06d}.jpg" for i in range(100_000)
    ]
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(index_module, "_scan", lambda folder, depth: (files.copy(), [""]))
    file = describe(tmp_path / "c.yaml", ".", train="{pid}/{pid}_*_{camid:d}_*.jpg")
    start = time.process_time()
    assert len(read_split(file, "train")) == 100_000
    assert time.process_time() - start < 2  # measured 0.6 s; processor time, as other work may share the machine


def test_a_large_list_is_read_quickly(tmp_path):
    lines = [
        f"{i // 25:04d}/{i // 25:04d}_{i % 25:03d}_{i % 15 + 1:02d}_0303morning_{i:06d}.jpg {i // 25}"
        for i in range(100_000)
    ]
    (tmp_path / "train").mkdir()
    (tmp_path / "list_train.txt").write_text("\n".join(lines))
    start = time.process_time()
    train = read_split(tmp_path, "train")
    assert time.process_time() - start < 2  # measured 0.6 s
    assert len(np.unique(train.pids)) == 4000
