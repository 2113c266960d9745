"""What people's files are really like: cases from outside, each with its kind."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patn import write_patn_csv
from PIL import Image
from telling import told
from trees import describe, write_crops, write_deepfashion, write_msmt17, write_veri

from xingaug.data.annotations import Annotations, keypoints_of, read_annotations, read_npz, write_npz
from xingaug.data.foreign import READERS, read_coco_json, read_openpose_json
from xingaug.data.leaks import check_dataset
from xingaug.data.listing import list_images
from xingaug.data.market1501 import read_split
from xingaug.data.market_tree import write_market_tree
from xingaug.data.readers import open_dataset
from xingaug.data.readers import read_split as read_any_split
from xingaug.data.readers.template import parse_template
from xingaug.images import read_image, write_image
from xingaug.offline.manifest import synthetic_name
from xingaug.poses.bank import PoseBank

# Joints of a person who fills an image of 128x64, about as OpenPose orders them.
BODY = np.array(
    [(32, 15), (32, 26), (24, 28), (20, 44), (19, 58), (40, 28), (44, 44), (45, 58), (27, 64), (26, 88), (26, 112),
     (37, 64), (38, 88), (38, 112), (30, 13), (34, 13), (28, 14), (36, 14)], np.float32,
)  # fmt: skip


def tree(
    root: Path, people: int = 4, per: int = 2, suffix: str = ".jpg", size: tuple[int, int] = (128, 64)
) -> list[str]:
    """A Market-1501 tree of noise; returns the names of its training images."""
    names = []
    for pid in range(1, people + 1):
        for k in range(per):
            names.append(f"{pid:04d}_c{k + 1}s1_{k:06d}_00{suffix}")
            paint(root / "bounding_box_train" / names[-1], 10 * pid + k, size)
        paint(root / "query" / f"{pid + 50:04d}_c1s1_000000_00{suffix}", 1000 + pid, size)
        paint(root / "bounding_box_test" / f"{pid + 50:04d}_c2s1_000000_00{suffix}", 2000 + pid, size)
    return names


def paint(path: Path, seed: int, size: tuple[int, int] = (128, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


def annotate(path: Path, names: list[str], xy: np.ndarray = BODY) -> Path:
    write_npz(path, names, np.tile(xy, (len(names), 1, 1)), np.ones((len(names), 18)))
    return path


def openpose(folder: Path, names: list[str], xy: np.ndarray) -> Path:
    folder.mkdir()
    for name in names:
        person = np.concatenate([xy, np.full((18, 1), 0.8)], 1).ravel().tolist()
        text = json.dumps({"people": [{"pose_keypoints_2d": person}]})
        (folder / f"{Path(name).stem}_keypoints.json").write_text(text)
    return folder


def coco(path: Path, names: list[str], frame: tuple[int, int] | None, xy: np.ndarray = BODY[:17]) -> Path:
    keypoints = np.concatenate([xy, np.full((17, 1), 2)], 1).ravel().tolist()
    size = {} if frame is None else {"height": frame[0], "width": frame[1]}
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(names)]
    entries = [{"image_id": i, "keypoints": keypoints} for i in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": entries}))
    return path


# Units and frames


@pytest.mark.parametrize("low", [0, -1])
def test_shares_that_openpose_writes_are_scaled_by_the_images(run: Any, tmp_path: Path, low: int) -> None:
    names = tree(tmp_path / "t")
    shares = BODY / [63, 127] * (1 - low) + low
    folder = openpose(tmp_path / "op", names, shares)
    code, _, err = run(f"annotate {tmp_path / 't'} --from openpose-json {folder} --out {tmp_path / 'a.npz'}")
    assert (code, err.count("\n")) == (0, 1)
    assert "8 images have another size than the file says, or shares of it there; joints were scaled" in err
    np.testing.assert_allclose(read_npz(tmp_path / "a.npz").xy, np.tile(BODY, (8, 1, 1)), atol=1e-4)
    assert "needed the images' sizes" in told(read_openpose_json, folder)


OTHER_FRAMES = {"shares": BODY / [64, 128], "larger": BODY * 2, "smaller": BODY / 2.5, "lying": BODY[:, ::-1] * [2, 1]}


@pytest.mark.parametrize("kind", OTHER_FRAMES)
def test_keypoints_of_another_frame_are_told_wherever_they_are_noticed(
    run: Any, place: Path, tmp_path: Path, kind: str
) -> None:
    root, names = tmp_path / "t", tree(tmp_path / "t")
    wrong, right = annotate(tmp_path / "w.npz", names, OTHER_FRAMES[kind]), annotate(tmp_path / "r.npz", names)
    pairs = "".join(f"{a},{b}\n" for a, b in zip(names[::2], names[1::2], strict=True))
    (tmp_path / "pairs.csv").write_text(f"from,to\n{pairs}")
    assert run(f"bank build --data {root} --annotations {right} --out {tmp_path / 'bank'}")[0] == 0
    (tmp_path / "train.yaml").write_text(f"steps: 2\nperceptual: none\ndata: {{root: {root}, annotations: {wrong}}}\n")
    for line in (
        f"annotate {root} --from npz {wrong} --out {tmp_path / 'o.npz'}",
        f"bank build --data {root} --annotations {wrong} --out {tmp_path / 'o'}",
        f"generate --data {root} --annotations {wrong} --bank {tmp_path / 'bank'} --generator tiny.safetensors "
        f"--out {tmp_path / 'o'}",
        f"evaluate --generator tiny.safetensors --data {root} --annotations {wrong} --pairs {tmp_path / 'pairs.csv'} "
        "--split train",
        f"train {tmp_path / 'train.yaml'} --out {tmp_path / 'o'}",
    ):
        code, _, err = run(line)
        assert (code, err.count("\n")) == (2, 1), line
        assert err.startswith(f"error: {wrong}: "), line
        assert "needed pixels" in err
        assert not list(tmp_path.glob("o*"))


def test_frames_that_fit_are_left_alone(tmp_path: Path) -> None:
    names = tree(tmp_path / "t")
    split = read_split(tmp_path / "t", "train")
    table = read_annotations(annotate(tmp_path / "a.npz", names))
    np.testing.assert_allclose(keypoints_of(table, split, (128, 64)).xy, table.xy, atol=1e-5)
    # A few joints outside, or one odd person in the corner, do not make another frame.
    xy = np.tile(BODY, (8, 1, 1))
    xy[0, :9] = 500
    xy[1] = BODY / 2.5
    odd = Annotations(np.array(names), xy, np.ones((8, 18)))
    assert keypoints_of(odd, split, (128, 64)).present.sum(1).tolist() == [9] + [18] * 7
    nobody = Annotations(np.array(names), np.zeros((8, 18, 2)), np.zeros((8, 18)))
    assert not keypoints_of(nobody, split, (128, 64)).present.any()


def test_coco_says_in_which_frame_its_joints_are(run: Any, tmp_path: Path) -> None:
    names = tree(tmp_path / "t")
    paint(tmp_path / "t" / "bounding_box_train" / names[0], 0, (256, 128))  # resized since
    paint(tmp_path / "t" / "bounding_box_train" / names[1], 0, (64, 128))  # turned since
    path = coco(tmp_path / "c.json", names, (128, 64))
    code, _, err = run(f"annotate {tmp_path / 't'} --from coco-json {path} --out {tmp_path / 'a.npz'}")
    assert code == 0
    assert f"1 images have another shape than the file says and were dropped: {names[1]} (64x128, the file" in err
    assert "1 images have another size" in err
    found = read_npz(tmp_path / "a.npz")
    assert found.names.tolist() == [names[0], *names[2:]]
    np.testing.assert_allclose(found.xy[0], found.xy[1] * 2 + 0.5)
    path = coco(tmp_path / "c.json", names, (64, 128))
    everywhere = lambda given: [(128, 64)] * len(given)  # noqa: E731
    assert "every image has another shape than the file says" in told(read_coco_json, path, everywhere)
    for odd in (-1, 0, "128", True, 1e9, None):
        text = json.loads(path.read_text())
        text["images"] = [{**image, "height": odd} for image in text["images"]]
        path.write_text(json.dumps(text))
        assert len(read_coco_json(path, everywhere)[0]) == 8, "a frame that is none is not believed"


def test_exif_and_coco_agree_on_what_is_up(run: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "d").mkdir()
    for i in range(1, 5):
        lying = np.random.default_rng(i).integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(lying).save(tmp_path / "d" / f"{i}_c1_0.jpg", exif=exif)
    path = coco(tmp_path / "a.json", [f"{i}_c1_0.jpg" for i in range(1, 5)], (128, 64))
    file = describe(tmp_path / "d.yaml", ".", d="x")
    file.write_text('layout: pattern\nroot: d\ntrain: {folder: ., pattern: "{pid:d}_c{camid:d}_*.jpg"}\n')
    code, out, err = run(f"annotate {file} --from coco-json {path} --out {tmp_path / 'a.npz'} --json")
    assert (code, json.loads(out)["annotations"], err) == (0, 4, "")
    code, _, _ = run(f"import {file} --out {tmp_path / 'tree'} --annotations {tmp_path / 'a.npz'}")
    assert code == 0
    split = read_split(tmp_path / "tree", "train")
    assert split.read(0).shape == (128, 64, 3)
    assert keypoints_of(read_annotations(tmp_path / "tree" / "annotations.npz"), split, (128, 64)).present.all()


# Names


def test_the_same_name_in_several_folders(run: Any, tmp_path: Path) -> None:
    for place in ("one/monday", "two/monday", "two/tuesday"):
        for i in range(4):
            paint(tmp_path / place / f"{i}.jpg", i)
    tuesday = coco(tmp_path / "t.json", [f"tuesday/{i}.jpg" for i in range(4)], (128, 64))
    both = coco(tmp_path / "b.json", [f"{day}/{i}.jpg" for day in ("tuesday", "monday") for i in range(4)], (128, 64))
    for root in ("one", "one/monday"):
        code, _, err = run(f"annotate {tmp_path / root} --from coco-json {tuesday} --out {tmp_path / 'a.npz'}")
        assert code == 2
        assert "annotates none of the 4 images" in err
        assert "such as tuesday/0.jpg, an image is monday/0.jpg" in err
    for path, count in ((tuesday, 4), (both, 8)):
        code, out, _ = run(f"annotate {tmp_path / 'two'} --from coco-json {path} --out {tmp_path / 'a.npz'} --json")
        assert (code, json.loads(out)["annotations"]) == (0, count)
        assert all("tuesday" in name for name in read_npz(tmp_path / "a.npz").names[:4])


def test_names_that_are_not_utf8_are_told_by_every_command(run: Any, tmp_path: Path) -> None:
    paint(tmp_path / "d" / "1_c1.jpg", 1)
    os.rename(tmp_path / "d" / "1_c1.jpg", os.fsencode(tmp_path / "d") + b"/1_c1_\xff\x1b.jpg")
    (tmp_path / "d.yaml").write_text('layout: pattern\nroot: d\ntrain: {pattern: "{pid:d}_c{camid:d}_*.jpg"}\n')
    for line in ("check {}", "import {} --out {}", "annotate {} --from npz {}", "annotate {}/d --from npz {}"):
        line = line.format(tmp_path / "d.yaml", tmp_path / "o").replace("d.yaml/d", "d")
        code, _, err = run(line)
        assert (code, err.count("\n"), err.isascii()) == (2, 1, True), line
        assert "not UTF-8" in err
        assert r"\xff" in err or r"\udcff" in err
        assert "\x1b" not in err


@pytest.mark.parametrize("name", [f"{10**19}_c1s1_000000_00.jpg", f"0001_c{10**19}s1_000000_00.jpg"])
def test_numbers_that_no_computer_counts_with_are_no_names(tmp_path: Path, name: str) -> None:
    paint(tmp_path / "t" / "bounding_box_train" / name, 1)
    assert "are not Market-1501 file names" in told(read_split, tmp_path / "t", "train")


@pytest.mark.parametrize("write", [write_veri, write_msmt17])
def test_numbers_of_other_layouts(tmp_path: Path, write: Any) -> None:
    root = write(tmp_path / "r")
    file = root / ("name_train.txt" if write is write_veri else "list_train.txt")
    file.write_text(f"{10**19}_c001_00016450_0.jpg" if write is write_veri else f"0/0_0_{10**19}_x.jpg {10**19}")
    assert str(file) in told(read_any_split, root, "train")


def test_patterns_that_would_be_tried_for_hours_are_refused() -> None:
    assert parse_template("*/*/*/*_{pid}_*_{camid}_*.jpg").depth == 3
    with pytest.raises(ValueError, match=r"a field stands twice, and 5 fields and \* in .*, needed at most 4"):
        parse_template("*_*_{pid}_*_{pid}.jpg")


# What is an image


def test_market_trees_of_any_suffix(run: Any, tmp_path: Path) -> None:
    root, names = tmp_path / "t", tree(tmp_path / "t", suffix=".JPG")
    folder = root / "bounding_box_train"
    for i, suffix in enumerate((".png", ".PNG", ".jpeg")):
        image = read_image(folder / names[i])
        (folder / names[i]).unlink()
        names[i] = Path(names[i]).stem + suffix
        write_image(folder / names[i], image)
    for name in names[3:]:
        write_image(folder / f"{Path(name).stem}.png", np.zeros((128, 64), np.uint8))  # its mask
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "0001_c1s1_000009_00.bmp").write_bytes(b"x")
    split = read_split(root, "train")
    assert split.names.tolist() == sorted(names)
    note = f"{folder}: 2 entries are no images (.jpg, .jpeg, .png): 0001_c1s1_000009_00.bmp, Thumbs.db"
    assert split.notes == (note,)
    for line in (f"check {root}", f"annotate {root} --from npz {annotate(tmp_path / 'a.npz', names)}"):
        code, _, err = run(line)
        assert (code, err) == (0, note + "\n")
    assert synthetic_name(names[0], 3) == "0001_c1s1_000000_00_x003.jpg"
    code, out, _ = run(f"import {root} --out {tmp_path / 'o'} --json")
    assert (code, json.loads(out)["train_images"], json.loads(out)["reencoded"]) == (0, 8, 2)
    paint(folder / f"{Path(names[3]).stem}.jpeg", 5)
    assert "differ only in the suffix" in told(read_split, root, "train")


def test_an_augmented_tree_of_png_is_whole(run: Any, place: Path, tmp_path: Path) -> None:
    root, names = tmp_path / "t", tree(tmp_path / "t", suffix=".png")
    annotations = annotate(tmp_path / "a.npz", names)
    assert run(f"bank build --data {root} --annotations {annotations} --out {tmp_path / 'bank'}")[0] == 0
    code, out, _ = run(
        f"generate --data {root} --annotations {annotations} --bank {tmp_path / 'bank'} --generator tiny.safetensors "
        f"--out {tmp_path / 'o'} --json"
    )
    assert (code, json.loads(out)["synthetic"]) == (0, 8)
    for part, count in (("train", 16), ("query", 4), ("gallery", 4)):
        split = read_split(tmp_path / "o", part)
        assert len(split) == count
        assert split.synthetic.sum() == (8 if part == "train" else 0)
    assert run(f"generate --verify {tmp_path / 'o'}")[0] == 0


def test_tif_and_sets_without_cameras(run: Any, tmp_path: Path) -> None:
    for pid in range(1, 4):
        for folder in ("occluded", "whole"):
            paint(tmp_path / "occ" / folder / f"{pid:03d}" / f"{pid:03d}_01.tif", pid + 9 * (folder == "whole"))
    (tmp_path / "occ" / "whole" / "001" / "notes.txt").write_text("x")
    text = 'layout: pattern\nroot: occ\nquery: {{folder: occluded, pattern: "{{pid:d}}/*"{}}}\n'
    text += 'gallery: {{folder: whole, pattern: "{{pid:d}}/*"{}}}\n'
    file = tmp_path / "occ.yaml"
    file.write_text(text.format("", ""))
    assert "`camid: N` beside it, with different numbers for query and gallery" in told(read_any_split, file, "query")
    file.write_text(text.format(", camid: 1", ", camid: 2"))
    splits = open_dataset(file).read_all()
    assert {name: np.unique(split.camids).tolist() for name, split in splits.items()} == {"query": [1], "gallery": [2]}
    assert splits["gallery"].pids.tolist() == [1, 2, 3], "notes.txt is no image"
    assert "1 files do not fit '{pid:d}/*' or are no images: 001/notes.txt" in splits["gallery"].notes[0]
    assert len(list_images(tmp_path / "occ")[0]) == 6
    summary = write_market_tree(file, tmp_path / "tree")
    assert (summary.reencoded, read_split(tmp_path / "tree", "query").camids.tolist()) == (6, [1, 1, 1])
    for wrong, said in (
        (", camid: 0", "camid: 0, needed a number from 1"), (", camid: one", "camid: 'one'"),
        (", camid: 99999999999999999999", "of 64 bits at most"),
    ):  # fmt: skip
        file.write_text(text.format(wrong, wrong))
        assert said in told(open_dataset, file)
    file.write_text('layout: pattern\nroot: occ\ntrain: {pattern: "{pid:d}_{camid:d}.jpg", camid: 3}\n')
    assert "has it too; needed one of them" in told(open_dataset, file)


def test_a_plain_folder_says_what_it_passes_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "d" / "a.TIFF", 1)
    (tmp_path / "d" / "a.heic").write_bytes(b"x")
    paint(tmp_path / "d" / "in" / "b.jpg", 1)
    paint(tmp_path / "d" / "in" / "b.png", 1)  # its mask
    paint(tmp_path / "d" / "b.png", 1)
    assert list_images(tmp_path / "d")[0] == ["a.TIFF", "b.png", "in/b.jpg"]
    assert "2 files are no images" in caplog.text
    assert "in/b.png" in caplog.text
    assert "a.heic" in caplog.text


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_without_its_lists_says_which(run: Any, tmp_path: Path, version: int) -> None:
    root = write_msmt17(tmp_path / "m", version)
    for file in root.glob("list_*.txt"):
        file.unlink()
    for line in (f"check {root}", f"import {root} --out {tmp_path / 'o'}", f"annotate {root} --from npz {root}"):
        code, _, err = run(line)
        assert (code, err.count("\n")) == (2, 1)
        assert "is laid out as MSMT17 but lacks list_train.txt, list_query.txt, list_gallery.txt" in err


def test_deepfashion_needs_its_lists_for_pairs_alone(tmp_path: Path) -> None:
    root = write_deepfashion(tmp_path / "d")
    counts = check_dataset(root)[0]
    for file in root.glob("*.csv"):
        file.unlink()
    assert check_dataset(root)[0] == counts


def test_a_list_that_msmt17_lacks_is_said(run: Any, tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "m")
    (root / "list_query.txt").unlink()
    code, _, err = run(f"check {root}")
    assert (code, err.count("\n")) == (0, 1)
    assert "lacks list_query.txt, which say" in err


def test_a_csv_in_which_nobody_is_seen(run: Any, tmp_path: Path) -> None:
    names = tree(tmp_path / "t")
    write_patn_csv(tmp_path / "a.csv", Annotations(np.array(names), np.zeros((8, 18, 2)), np.zeros((8, 18))))
    write_npz(tmp_path / "b.npz", names, np.zeros((8, 18, 2)), np.zeros((8, 18)))
    for line in (
        f"annotate {tmp_path / 't'} --from patn-csv {tmp_path / 'a.csv'} --out {tmp_path / 'o.npz'}",
        f"annotate {tmp_path / 't'} --from npz {tmp_path / 'b.npz'} --out {tmp_path / 'o.npz'}",
        f"import {tmp_path / 't'} --annotations {tmp_path / 'a.csv'} --out {tmp_path / 'o'}",
    ):
        code, _, err = run(line)
        assert (code, err.count("\n")) == (2, 1)
        assert "every joint of all 8 images is missing" in err
        assert not list(tmp_path.glob("o*"))


# Places


def test_home_is_meant_wherever_a_path_is(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = tree(tmp_path / "t")
    annotate(tmp_path / "a.npz", names)
    (tmp_path / "d.yaml").write_text("layout: market1501\nroot: ~/t\n")
    (tmp_path / "train.yaml").write_text("steps: 2\nperceptual: none\ndata: {root: ~/t, annotations: ~/a.npz}\n")
    for line in (
        "check ~/t", "check ~/d.yaml", "annotate ~/t --from npz ~/a.npz --out ~/b.npz --rejected ~/r.csv",
        "import ~/t --out ~/i --annotations ~/b.npz", "bank build --data ~/t --annotations ~/b.npz --out ~/bank",
        "bank show --bank ~/bank --out ~/bank.html", "compare-annotations ~/a.npz ~/b.npz",
        "train ~/train.yaml data.within=identity validation.identities=1 --dry-run",
    ):  # fmt: skip
        assert run(line)[0] == 0, line
    assert {"b.npz", "r.csv", "i", "bank", "bank.html"} <= {path.name for path in tmp_path.iterdir()}
    assert not Path("~").exists()
    code, _, err = run("check ~nobody-of-that-name/t")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no home directory of ~nobody-of-that-name" in err


def test_links_out_of_a_tree_are_copied_only_when_asked(run: Any, tmp_path: Path) -> None:
    root, names = tmp_path / "t", tree(tmp_path / "t")
    secret = tmp_path / "secret.jpg"
    paint(secret, 99)
    (root / "bounding_box_train" / names[0]).unlink()
    (root / "bounding_box_train" / names[0]).symlink_to(secret)
    (root / "bounding_box_train" / names[1]).unlink()
    (root / "bounding_box_train" / names[1]).symlink_to(names[2])  # within
    code, _, err = run(f"import {root} --out {tmp_path / 'o'}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{names[0]}: leads to {secret}, out of {root} (1 links do)" in err
    assert not (tmp_path / "o").exists()
    assert run(f"import {root} --out {tmp_path / 'o'} --follow-links")[0] == 0
    (root / "query").rename(tmp_path / "query")
    (root / "query").symlink_to(tmp_path / "query")
    (root / "bounding_box_train" / names[0]).unlink()
    assert f"leads to {tmp_path / 'query'}" in told(write_market_tree, root, tmp_path / "p")
    (tmp_path / "alias").symlink_to(tmp_path / "o")
    assert write_market_tree(tmp_path / "alias", tmp_path / "p").images["train"] == 8, "the tree itself may be a link"


def test_what_is_no_file_is_told_at_once(run: Any, tmp_path: Path) -> None:
    root, names = tmp_path / "t", tree(tmp_path / "t")
    os.mkfifo(tmp_path / "pipe")
    annotate(tmp_path / "a.npz", names)
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        for kind in READERS:
            if kind != "openpose-json":
                code, _, err = run(f"annotate {root} --from {kind} {place} --out {tmp_path / 'o.npz'}")
                assert (code, err.count("\n")) == (2, 1), kind
                assert f"{place}: is a " in err
        victim = root / "bounding_box_test" / "0051_c2s1_000000_00.jpg"
        victim.unlink()
        victim.symlink_to(place)
        for line in (f"check {root}", f"import {root} --out {tmp_path / 'o'} --follow-links"):
            code, _, err = run(line)
            assert (code, err.count("\n")) == (2, 1), line
            assert f"{victim}: is a " in err


# The bank's names


def test_a_name_and_its_path_are_one_image(tmp_path: Path) -> None:
    names = [f"p/{i}.jpg" for i in range(20)] + ["q/3.jpg"]
    bank = PoseBank.build(xingaug_keypoints(21), names=names)
    row = lambda name: bank.usable_rows[bank.positions_named(name)].tolist()  # noqa: E731
    assert row("p/3.jpg") == [3]
    assert row("/data/p/3.jpg") == [3]
    assert row("3.jpg") == [3, 20]
    assert row("x/3.jpg") == row("") == row("p") == []


def xingaug_keypoints(count: int) -> Any:
    from xingaug.keypoints import Keypoints

    rng = np.random.default_rng(0)
    return Keypoints(torch.tensor(BODY + rng.normal(0, 2, (count, 18, 2)).astype(np.float32)), torch.ones(count, 18))


def test_a_pattern_that_fits_other_files_takes_images_alone(tmp_path: Path) -> None:
    write_crops(tmp_path, train=["1_c1.jpg", "2_c1.jpg", "3_c1.txt"])
    file = describe(tmp_path / "a.yaml", ".", train="{pid:d}_c{camid:d}.*")
    counts, _, _, notes = check_dataset(file)
    assert counts["train"]["images"] == 2
    assert re.search(r"1 files do not fit .* or are no images: 3_c1.txt", notes[0])
