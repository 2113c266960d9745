"""Any dataset as a Market-1501 tree: `xingaug import`."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import DEEPFASHION, describe, write_crops, write_cuhk03, write_deepfashion, write_msmt17, write_veri

from xingaug.data import market_tree
from xingaug.data.annotations import read_annotations, read_npz, write_npz
from xingaug.data.market1501 import read_split as read_market
from xingaug.data.market_tree import write_market_tree
from xingaug.data.readers import open_dataset
from xingaug.errors import BadInput
from xingaug.images import read_image

PLAIN = "{pid:d}_{camid:d}_*.jpg"


def table(tree: Path) -> list[dict[str, str]]:
    with (tree / "names.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("write", [write_msmt17, write_veri, write_deepfashion, write_cuhk03])
def test_every_layout_becomes_a_tree_that_reads_the_same(tmp_path, write):
    root = write(tmp_path / "set")
    done = write_market_tree(root, tmp_path / "tree", progress=False)
    listed = {row["old"]: row for row in table(tmp_path / "tree")}
    persons: dict[int, str] = {}
    splits = open_dataset(root).read_all()
    for name, split in splits.items():
        made = read_market(tmp_path / "tree", name)
        assert len(made) == len(split) == done.images[name]
        for i in range(len(split)):
            row = listed[split.file(i)]
            assert (int(row["old_pid"]), int(row["old_camid"])) == (split.pids[i], split.camids[i])
            (j,) = np.flatnonzero(made.names == Path(row["new"]).name)
            assert made.file(j) == row["new"]
            assert made.camids[j] == split.camids[i]
            assert persons.setdefault(int(made.pids[j]), row["old_pid"]) == row["old_pid"]  # one person, one number
            if split.path(i).suffix == ".jpg":
                assert made.path(j).read_bytes() == split.path(i).read_bytes()
            else:
                # JPEG of quality 95 of one colour
                assert np.abs(made.read(j).astype(int) - split.read(i)).max() <= 4
    assert sorted(persons) == list(range(1, done.identities + 1))
    assert len(set(persons.values())) == done.identities
    assert done.reencoded == (len(listed) if write is write_cuhk03 else 0)


def test_large_numbers_and_distractors(tmp_path):
    train = [f"{100_000 + i}_123_a.jpg" for i in range(3)]
    write_crops(tmp_path / "c", train=train, query=["7_1_a.jpg"], gallery=["0_1_a.jpg", "0_1_b.jpg", "7_2_a.jpg"])
    file = describe(tmp_path / "c.yaml", "c", train=PLAIN, query=PLAIN, gallery=PLAIN)
    write_market_tree(file, tmp_path / "tree", progress=False)
    assert read_market(tmp_path / "tree", "gallery").names.tolist() == [
        "0000_c1s1_000000_00.jpg", "0000_c1s1_000001_00.jpg", "0001_c2s1_000001_00.jpg",
    ]  # fmt: skip
    made = read_market(tmp_path / "tree", "train")
    assert made.pids.tolist() == [2, 3, 4]
    assert made.camids.tolist() == [123] * 3


def test_names_go_on_where_a_number_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(market_tree, "_FRAMES", 2)
    write_crops(tmp_path / "c", train=[f"1_1_{i}.jpg" for i in range(5)])
    write_market_tree(describe(tmp_path / "c.yaml", "c", train=PLAIN), tmp_path / "tree", progress=False)
    assert len(read_market(tmp_path / "tree", "train")) == 5


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_links(tmp_path, link):
    root = write_veri(tmp_path / "v")
    write_market_tree(root, tmp_path / "tree", link, progress=False)
    for row in table(tmp_path / "tree"):
        new, old = tmp_path / "tree" / row["new"], root / row["old"]
        assert new.samefile(old)
        assert new.is_symlink() == (link == "symbolic")
        assert read_image(new).shape == (60, 80, 3)


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_a_tree_that_is_there_already_stays_as_it_is(tmp_path, link):
    root, tree = write_veri(tmp_path / "v"), tmp_path / "tree"
    first = write_market_tree(root, tree, link, progress=False)
    before = {path: path.lstat().st_mtime_ns for path in tree.rglob("*")}
    assert write_market_tree(root, tree, link, progress=False) == first
    assert {path: path.lstat().st_mtime_ns for path in tree.rglob("*")} == before
    next(tree.rglob("*.jpg")).unlink()
    with pytest.raises(BadInput, match="tree: exists and is not empty"):
        write_market_tree(root, tree, link, progress=False)


def test_images_that_exif_turns_are_written_upright(tmp_path):
    root = write_veri(tmp_path / "v")
    image = min((root / "image_train").glob("*.jpg"))
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (80, 60), "red").save(image, exif=exif)
    for link in ("copy", "symbolic"):
        done = write_market_tree(root, tmp_path / link, link, progress=False)
        assert done.reencoded == 1
        (new,) = [row["new"] for row in table(tmp_path / link) if row["old"] == f"image_train/{image.name}"]
        with Image.open(tmp_path / link / new) as written:
            assert (written.size, written.getexif().get(274)) == ((60, 80), None)
        assert write_market_tree(root, tmp_path / link, link, progress=False) == done


def test_the_table_has_identities_and_cameras_as_the_names_have_them(tmp_path):
    for name in ("Anna/left_1.jpg", "Anna/right_1.jpg", "Bo/left_1.jpg"):
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 60)).save(tmp_path / "crops" / name)
    text = 'layout: pattern\nroot: crops\ntrain: {folder: ., pattern: "{pid}/{camid}_*"}\n'
    (tmp_path / "crops.yaml").write_text(text)
    write_market_tree(tmp_path / "crops.yaml", tmp_path / "tree", progress=False)
    rows = [(row["old_pid"], row["old_camid"]) for row in table(tmp_path / "tree")]
    assert rows == [("Anna", "left"), ("Anna", "right"), ("Bo", "left")]


def test_an_image_that_changed_is_not_taken_for_the_old_one(tmp_path):
    root, tree = write_cuhk03(tmp_path / "c"), tmp_path / "tree"
    write_market_tree(root, tree, progress=False)
    write_market_tree(root, tree, progress=False)
    image = min((root / "images_detected").glob("1_001*.png"))
    Image.new("RGB", (40, 80), "red").save(image)
    with pytest.raises(BadInput, match="tree: exists and is not empty"):
        write_market_tree(root, tree, progress=False)


def test_a_link_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(BadInput, match=r"--link: .* no hard link possible \(Invalid cross-device link\)"):
        write_market_tree(write_veri(tmp_path / "v"), tmp_path / "tree", "hard", progress=False)
    assert not (tmp_path / "tree").exists()


def test_annotations_go_along(tmp_path):
    root = write_deepfashion(tmp_path / "d")
    given = root / "fasion-resize-annotation-train.csv"
    done = write_market_tree(root, tmp_path / "tree", annotations=given, progress=False)
    made, old = read_npz(tmp_path / "tree" / "annotations.npz"), read_annotations(given)
    assert done.annotations == len(made) == len(DEEPFASHION["train"])
    assert set(made.names) == set(read_market(tmp_path / "tree", "train").names)
    for row in table(tmp_path / "tree"):
        (new,) = made.lookup([Path(row["new"]).name])
        (before,) = old.lookup([Path(row["old"]).name])
        assert (new < 0) == (before < 0) == row["old"].startswith("test/")
        if new >= 0:
            assert (made.xy[new] == old.xy[before]).all()
            assert (made.visibility[new] == old.visibility[before]).all()
    write_npz(tmp_path / "other.npz", ["a.jpg"], np.ones((1, 18, 2)), np.ones((1, 18)))
    with pytest.raises(BadInput, match=r"other\.npz: annotates none of the 7 images; needed names such as fashionMEN"):
        write_market_tree(root, tmp_path / "again", annotations=tmp_path / "other.npz", progress=False)


def test_what_cannot_be_imported_leaves_nothing(tmp_path):
    root = write_veri(tmp_path / "v", lists=False)
    broken = write_cuhk03(tmp_path / "c") / "images_detected" / "1_002_1_01.png"
    broken.write_bytes(b"x")
    listed = write_msmt17(tmp_path / "m")
    (listed / "test" / "0000" / "0000_001_15_0113morning_1003_0.jpg").unlink()
    for data, out, said in (
        (root, root / "tree", "and the dataset .* contain one another"),
        (root, tmp_path, "contain one another"),
        (root, listed, "exists and is not empty"),
        (tmp_path / "c", tmp_path / "tree", r"1_002_1_01\.png: not a readable image"),
        (listed, tmp_path / "tree", r"0000_001_15_0113morning_1003_0\.jpg: no such image"),
    ):
        with pytest.raises(BadInput, match=said):
            write_market_tree(data, out, progress=False)
    for name, said in (("0001_c000_00000001_0.jpg", "has camera 0"), ("0000_c001_00000001_0.jpg", "has identity 0")):
        strange = write_veri(tmp_path / f"strange {name}", lists=False)
        shutil.copy(next((strange / "image_train").iterdir()), strange / "image_train" / name)
        with pytest.raises(BadInput, match=rf"{name} {said}; needed numbers from 1"):
            write_market_tree(strange, tmp_path / "tree", progress=False)
    assert not (tmp_path / "tree").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_command_and_generate_on_its_result(place, run, tmp_path):
    write_crops(tmp_path / "c", train=["ann_1_a.jpg", "x.txt"], query=["bob_1_a.jpg"], gallery=["bob_2_a.jpg"])
    text = "{pid}_{camid:d}_*.jpg"
    file = describe(tmp_path / "c.yaml", "c", train=text, query=text, gallery=text)
    code, out, err = run(f"import {file} --out {tmp_path}/tree --json")
    assert (code, json.loads(out)) == (
        0,
        {
            "train_images": 1, "query_images": 1, "gallery_images": 1, "identities": 2, "reencoded": 0,
            "annotations": 0, "root": f"{tmp_path}/tree",
        },
    )  # fmt: skip
    assert err == (
        f"{tmp_path}/c/train: 1 files do not fit '{text}' or are no images: x.txt\n"
        "identities are numbered in the order of their names, 1 is ann, 2 is bob\n"
    )
    assert run(f"check {tmp_path}/tree")[0] == 0
    options = f"--generator tiny.safetensors --bank bank --annotations world/annotations.npz --out {tmp_path}/new"
    for data in (file, write_veri(tmp_path / "v")):
        code, out, err = run(f"generate --data {data} {options}")
        told = (
            f"error: {data}: generate needs a Market-1501 tree; make one of it with `xingaug import {data} --out TREE`"
        )
        assert (code, out, err) == (2, "", f"{told}\n")
    assert not (tmp_path / "new").exists()


def test_a_world_comes_back_with_its_keypoints(place, run, tmp_path):
    line = f"import world --out {tmp_path}/again --link symbolic --annotations world/annotations.npz"
    code, out, err = run(line)
    assert (code, err) == (0, "")
    assert re.search(r"^identities: 8$", out, re.MULTILINE)
    before, after = (read_npz(folder / "annotations.npz") for folder in (place / "world", tmp_path / "again"))
    assert len(after) == len(before)
    assert (
        run(f"bank build --data {tmp_path}/again --annotations {tmp_path}/again/annotations.npz --out {tmp_path}/b")[0]
        == 0
    )
