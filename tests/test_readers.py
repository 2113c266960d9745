"""Datasets in other layouts than Market-1501's: recognised, read, and refused with a reason."""

import json
import re
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reid_world import BODY
from scipy.io import savemat
from trees import describe, rows, write_crops, write_cuhk03, write_deepfashion, write_msmt17, write_veri

from xingaug.config import from_mapping, load_config
from xingaug.data.annotations import read_annotations, write_npz
from xingaug.data.market1501 import read_split as read_market
from xingaug.data.pairs import pairs_from_tree, read_masks
from xingaug.data.readers import layout_of, open_dataset, read_split
from xingaug.data.readers.config import DatasetConfig
from xingaug.data.readers.template import parse_template
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput
from xingaug.poses import PoseBank
from xingaug.poses.collect import bank_from_tree
from xingaug.training.config import TrainConfig
from xingaug.training.loop import plan

PLAIN = "{pid:d}_{camid:d}_*.jpg"


def readable(split: Split) -> bool:
    return all(split.read(i).shape[2] == 3 for i in range(len(split)))


# MSMT17


@pytest.mark.parametrize(("version", "train", "test"), [(1, "train", "test"), (2, "mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, version, train, test):
    root = write_msmt17(tmp_path / "m", version)
    assert layout_of(root) == "msmt17"
    assert rows(read_split(root, "train")) == [
        (f"{train}/0000/0000_000_01_0303morning_0015_0.jpg", 1, 1),
        (f"{train}/0000/0000_001_14_0303morning_0016_0.jpg", 1, 14),
        (f"{train}/0001/0001_000_05_0303noon_0152_1.jpg", 2, 5),
    ]
    assert rows(read_split(root, "query")) == [(f"{test}/0000/0000_000_03_0113morning_1002_0_ex.jpg", 10_001, 3)]
    assert [row[1:] for row in rows(read_split(root, "gallery"))] == [(10_001, 15), (10_002, 1)]
    assert all(readable(read_split(root, split)) for split in ("train", "query", "gallery"))


def test_msmt17_trains_on_val_where_asked(tmp_path):
    write_msmt17(tmp_path / "m")
    (tmp_path / "m.yaml").write_text("layout: msmt17\nroot: m\nwith_val: true\n")
    train = read_split(tmp_path / "m.yaml", "train")
    assert len(train) == 4
    assert ("train/0000/0000_010_02_0303morning_0040_0.jpg", 1, 2) in rows(train)
    assert readable(train)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg", "needed <folder>/<person>_<n>_<camera>_<rest>.jpg <label>"),
        ("../0000_000_01_0303morning_0015_0.jpg 0", "needed <folder>"),
        ("/0000/0000_000_01_0303morning_0015_0.jpg 0", "needed <folder>"),
        ("0000/../../0000_000_01_0303morning_0015_0.jpg 0", "needed <folder>"),
        ("0000/0000_000_01.jpg zero", "needed <folder>"),
        ("0000/0000_000_03_0113morning_1002_0_ex.jpg 0", "is listed twice"),
    ],
)
def test_a_wrong_line_of_msmt17_is_named(tmp_path, line, said):
    root = write_msmt17(tmp_path / "m")
    with (root / "list_query.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(BadInput, match=rf"list_query\.txt:3: .*{re.escape(said)}"):
        read_split(root, "query")


def test_msmt17_with_things_missing(tmp_path):
    root = write_msmt17(tmp_path / "m")
    (root / "list_gallery.txt").unlink()
    with pytest.raises(MissingSplit, match=r"m: is laid out as MSMT17 but lacks list_gallery\.txt, which"):
        read_split(root, "gallery")
    (root / "list_query.txt").write_text("\n")
    with pytest.raises(BadInput, match=r"list_query\.txt: names no image, the split query is empty"):
        read_split(root, "query")
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(BadInput, match="holds neither train nor mask_train_v2"):
        read_split(root, "train")
    (root / "list_train.txt").write_bytes(b"\xff\xfe")
    (root / "elsewhere").rename(root / "train")
    with pytest.raises(BadInput, match=r"list_train\.txt: not UTF-8 text"):
        read_split(root, "train")


# CUHK03


@pytest.mark.parametrize("protocol", ["mat", "json"])
def test_cuhk03(tmp_path, protocol):
    root = write_cuhk03(tmp_path / "c", protocol)
    assert layout_of(root) == "cuhk03"
    expected = [
        ("images_detected/1_001_1_01.png", 1001, 1),
        ("images_detected/1_001_2_06.png", 1001, 2),
        ("images_detected/5_047_1_02.png", 5047, 1),
    ]
    assert rows(read_split(root, "train")) == expected
    assert rows(read_split(root, "query")) == [("images_detected/1_002_1_01.png", 1002, 1)]
    assert [row[1:] for row in rows(read_split(root, "gallery"))] == [(1002, 2), (2001, 2)]
    (tmp_path / "c.yaml").write_text("layout: cuhk03\nroot: c\nkind: labelled\n")
    labelled = read_split(tmp_path / "c.yaml", "train")
    assert [row[0] for row in rows(labelled)] == ["images_labeled/1_001_1_01.png", "images_labeled/1_001_2_06.png"]
    assert readable(labelled)
    assert read_masks(labelled, (128, 64)) is None  # an image is not its own mask


def test_cuhk03_with_things_missing(tmp_path):
    root = write_cuhk03(tmp_path / "c", "json")
    (root / "splits_new_detected.json").write_text('[{"train": [["x/1_001_1_01.png", 0, 0]], "query": 3}]')
    assert len(read_split(root, "train")) == 1
    for split in ("query", "gallery"):
        with pytest.raises(BadInput, match=r"splits_new_detected\.json: not torchreid's splits"):
            read_split(root, split)  # type: ignore[arg-type]
    (root / "splits_new_detected.json").write_text('[{"train": [["x/01.png", 0, 0]]}]')
    with pytest.raises(BadInput, match=r"train: '01\.png' is no name of CUHK03"):
        read_split(root, "train")
    (root / "splits_new_detected.json").unlink()
    with pytest.raises(
        BadInput, match=r"neither cuhk03_new_protocol_config_detected\.mat nor splits_new_detected\.json"
    ):
        read_split(root, "train")
    (root / "cuhk03_new_protocol_config_detected.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    with pytest.raises(BadInput, match=r"detected\.mat: .*needed protocol file of CUHK03"):
        read_split(root, "train")
    cells = np.array([["a.png"], ["b.png"]], dtype=object)
    savemat(root / "cuhk03_new_protocol_config_detected.mat", {"filelist": cells, "train_idx": "abc"})
    with pytest.raises(
        BadInput, match=r"detected\.mat: not a protocol file of CUHK03 .*; needed filelist and train_idx"
    ):
        read_split(root, "train")
    (root / "images_detected").rename(root / "other")
    with pytest.raises(BadInput, match=r"holds no images_detected; needed the images of cuhk-03\.mat as files"):
        read_split(root, "train")


# VeRi


@pytest.mark.parametrize("lists", [True, False])
def test_veri(tmp_path, lists):
    root = write_veri(tmp_path / "v", lists)
    assert layout_of(root) == "veri"
    assert rows(read_split(root, "train")) == [
        ("image_train/0001_c001_00016450_0.jpg", 1, 1),
        ("image_train/0001_c020_00016460_0.jpg", 1, 20),
        ("image_train/0003_c002_00016470_1.jpg", 3, 2),
    ]
    assert [row[1:] for row in rows(read_split(root, "query"))] == [(2, 2)]
    assert [row[1:] for row in rows(read_split(root, "gallery"))] == [(2, 2), (2, 10), (5, 19)]
    assert readable(read_split(root, "gallery"))


def test_wrong_names_of_veri(tmp_path):
    root = write_veri(tmp_path / "v")
    (root / "name_query.txt").write_text("0002_c002_00030600_0.jpg\n../0002_c002_00030600_0.jpg\n")
    with pytest.raises(BadInput, match=r"name_query\.txt:2: '\.\./0002.*' is no name of VeRi; needed <vehicle>"):
        read_split(root, "query")
    (root / "name_query.txt").unlink()
    (root / "image_query" / "car.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"image_query: 'car\.jpg' is no name of VeRi"):
        read_split(root, "query")
    (root / "image_test").rename(root / "images")
    with pytest.raises(MissingSplit, match="image_test: no such folder"):
        read_split(root, "gallery")


# DeepFashion


def test_deepfashion(tmp_path):
    root = write_deepfashion(tmp_path / "d")
    assert layout_of(root) == "deepfashion"
    train = read_split(root, "train")
    assert [row[1:] for row in rows(train)] == [(80, 1), (80, 1), (80, 2), (7625, 4), (7625, 4)]
    assert train.names[0] == "fashionMENDenimid0000008001_1front.jpg"
    assert train.path(0) == root / "train" / "fashionMENDenimid0000008001_1front.jpg"
    assert train.read(0).shape == (256, 176, 3)
    assert [row[1:] for row in rows(read_split(root, "gallery"))] == [(565, 1), (565, 1)]
    with pytest.raises(MissingSplit, match="have no split query; needed train or gallery"):
        read_split(root, "query")
    (root / "test" / "a.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"test: 'a\.jpg' is no name of PATN's DeepFashion; needed such as fashionMEN"):
        read_split(root, "gallery")


def test_deepfashion_gives_pairs_a_bank_and_a_training_run(tmp_path):
    root = write_deepfashion(tmp_path / "d")
    annotations, pairs = (root / f"fasion-resize-{what}-train.csv" for what in ("annotation", "pairs"))
    size = (256, 176)
    listed = pairs_from_tree(root, annotations, size=size, pairs=pairs).usable()
    assert listed.images.shape == (4, 256, 176, 3)  # the second piece of clothing has no partner
    assert listed.listed is not None
    assert sorted(map(tuple, listed.listed.tolist())) == [(0, 1), (1, 0), (2, 3), (3, 2)]
    unlisted = pairs_from_tree(root, annotations, size=size).usable()
    assert unlisted.names.tolist() == listed.names.tolist()  # pairs within one piece of clothing
    known = read_annotations(annotations)
    assert (listed.xy == known.xy[known.lookup(listed.names)]).all()
    assert len(bank_from_tree(root, annotations, size)) == 5
    config = from_mapping(
        TrainConfig,
        {
            "perceptual": "none", "size": [256, 176], "validation": {"identities": 1},
            "data": {"root": str(root), "annotations": str(annotations), "pairs": str(pairs)},
        },
    )  # fmt: skip
    said = plan(config, tmp_path / "run")
    assert "images: 2\n" in said
    assert "held_out_images: 2\n" in said


# Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        (PLAIN, "12_3_x.jpg", ("12", "3")),
        (PLAIN, "12_3_.jpg", ("12", "3")),
        (PLAIN, "a12_3_x.jpg", None),
        (PLAIN, "12_3_x.jpg.bak", None),
        (PLAIN, "12_3_x/y.jpg", None),
        (PLAIN, "١٢_3_x.jpg", None),
        ("{pid}/{camid:d}/*.png", "john_smith/4/a.b.png", ("john_smith", "4")),
        ("{pid}_{camid}_*.jpg", "a_b_c_d.jpg", ("a", "b")),
        ("{pid}_{camid:d}_*.jpg", "john_smith_7_x.jpg", ("john_smith", "7")),
        ("{pid:d}/{pid:d}_c{camid:d}(*).jpg", "7/7_c2(1).jpg", ("7", "2")),
        ("{pid:d}/{pid:d}_c{camid:d}(*).jpg", "7/8_c2(1).jpg", None),
        ("a.{pid:d}.jpg", "ab5.jpg", None),
        ("{pid:d}.jpg", "5.jpg", ("5", None)),
        ("*_{pid}_*_{camid:d}_*.jpg", "x_y_john_smith_7_8_z.jpg", ("smith", "8")),
    ],
)
def test_patterns(pattern, path, found):
    fields = parse_template(pattern).fields(path)
    assert (None if fields is None else (fields["pid"], fields.get("camid"))) == found


@given(
    pid=st.integers(0, 10**9), camid=st.integers(0, 99), rest=st.text("ab_.-", max_size=8), digits=st.integers(1, 12)
)
def test_a_pattern_reads_what_was_written(pid, camid, rest, digits):
    path = f"{pid:0{digits}d}/c{camid}_{rest}.jpg"
    fields = parse_template("{pid:d}/c{camid:d}_*.jpg").fields(path)
    assert fields is not None
    assert (int(fields["pid"]), int(fields["camid"])) == (pid, camid)


OPEN = st.sampled_from(["*", "*", "{pid}", "{pid:d}", "{camid}", "{camid:d}"])
BETWEEN = st.sampled_from(["a", "1", "/", "_", "a_", "_1", "/a"])


@settings(max_examples=400)
@given(
    parts=st.lists(st.tuples(OPEN, BETWEEN), min_size=1, max_size=6), ends_open=st.booleans(),
    path=st.text("aa11__/", min_size=1, max_size=14),
)  # fmt: skip
def test_many_open_places_are_found_as_a_regular_expression_finds_them(parts, ends_open, path):
    text = "".join(opened + between for opened, between in parts)
    try:
        template = parse_template(text[: -len(parts[-1][1])] if ends_open else text)
    except ValueError:
        assume(False)
    match = template.expression.fullmatch(path)
    assert template.fields_of_many(path) == (None if match is None else match.groupdict())


@pytest.mark.parametrize("middle", ["a*" * 12, "a{camid}a*a*a*a*a*a*", "a*/*" * 6])
def test_a_pattern_of_many_open_places_takes_no_time(middle):
    template, name = parse_template("{pid:d}_*" + middle + "c*.jpg"), "1_" + "a" * 247 + ".jpg"
    paths = (name, "/".join([name[:-4]] * (middle.count("/") + 1)) + ".jpg")
    start = time.perf_counter()
    assert [template.fields(path) for path in paths] == [None, None]
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{id:d}_*.jpg", "unknown field {id:d}; known: {pid:d}, {pid}, {camid:d}, {camid}"),
        ("{pid:04d}_*.jpg", "unknown field {pid:04d}; known"),
        ("{pid:d}{camid:d}.jpg", "'{camid:d}' follows another field; needed text between them"),
        ("{pid:d}_**.jpg", "'*' follows another field"),
        ("{pid:d_*.jpg", "a brace without its partner"),
        ("{camid:d}_*.jpg", "says no identity; needed {pid:d} or {pid}"),
        ("{pid}/{pid:d}.jpg", "pid stands as a number and as text"),
        ("../{pid}/*.jpg", "needed a path below the folder"),
        ("/{pid}/*.jpg", "needed a path below the folder"),
        ("{pid}//*.jpg", "needed a path below the folder"),
    ],
)
def test_wrong_patterns_are_explained(tmp_path, pattern, said):
    file = describe(tmp_path / "a.yaml", ".", train=pattern)
    with pytest.raises(BadInput, match=re.escape(f"a.yaml: train: pattern: '{pattern}'") + ".*" + re.escape(said)):
        load_config(DatasetConfig, file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layuot: pattern", "unknown key 'layuot'; did you mean 'layout'?"),
        ("layout: market", "layout: 'market', expected one of market1501, msmt17, cuhk03, veri, deepfashion, pattern"),
        ("layout: pattern", "train: missing; needed such as"),
        ("layout: veri\nkind: detected", "kind: 'detected', of the layout cuhk03 only; this is veri"),
        ("layout: veri\nwith_val: true", "with_val: of the layout msmt17 only"),
        ("layout: veri\ntrain: {pattern: '{pid}.jpg'}", "train: of the layout pattern only"),
        ("layout: pattern\ntrain: {patern: x}", "unknown key 'train.patern'; did you mean 'pattern'?"),
        ("layout: pattern\ntrain: {folder: ../x, pattern: '{pid}.jpg'}", "folder: '../x', needed a path below"),
        (
            "layout: pattern\ntrain: {pattern: '{pid}.jpg'}\nquery: {pattern: '{pid:d}_{camid}.jpg'}",
            "pid: a number in one split and text in another",
        ),
        ("layout: veri\nroot: nowhere", "root: nowhere, no such folder; it is relative to"),
    ],
)
def test_wrong_descriptions_are_explained(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)):
        open_dataset(tmp_path / "a.yaml")


def test_a_described_folder(tmp_path):
    write_crops(
        tmp_path / "crops",
        train=["3_1_a.jpg", "3_2_b.jpg", "12_1_c.jpg", "readme.txt", ".hidden.jpg"],
        query=["5_1_a.jpg"],
        gallery=["5_2_a.jpg", "0_1_far.jpg"],
    )
    file = describe(tmp_path / "crops.yaml", "crops", train=PLAIN, query=PLAIN, gallery=PLAIN)
    train = read_split(file, "train")
    assert rows(train) == [("train/12_1_c.jpg", 12, 1), ("train/3_1_a.jpg", 3, 1), ("train/3_2_b.jpg", 3, 2)]
    assert train.notes == (f"{tmp_path}/crops/train: 1 files do not fit '{PLAIN}' or are no images: readme.txt",)
    assert readable(train)
    assert not train.synthetic.any()
    assert rows(read_split(file, "query")) == [("query/5_1_a.jpg", 5, 1)]
    assert [row[1] for row in rows(read_split(file, "gallery"))] == [0, 5]


def test_dukemtmc_is_a_pattern_away(tmp_path):
    root = write_crops(tmp_path / "d", bounding_box_train=["0001_c2_f0046182.jpg", "0002_c8_f0057120.jpg"])
    with pytest.raises(BadInput, match=r"not Market-1501 file names.* or a YAML file with their pattern"):
        read_split(root, "train")
    (tmp_path / "d.yaml").write_text(
        'layout: pattern\nroot: d\ntrain: {folder: bounding_box_train/, pattern: "{pid:d}_c{camid:d}_f*.jpg"}\n'
    )
    assert rows(read_split(tmp_path / "d.yaml", "train")) == [
        ("bounding_box_train/0001_c2_f0046182.jpg", 1, 2), ("bounding_box_train/0002_c8_f0057120.jpg", 2, 8),
    ]  # fmt: skip


def test_cameras_of_many_digits_do_not_mix_persons(tmp_path):
    names = ["1_101_a.jpg", "1_101_b.jpg", "2_1_a.jpg", "2_1_b.jpg"]  # 1 * 100 + 101 is 2 * 100 + 1
    write_crops(tmp_path / "c", train=names)
    write_npz(tmp_path / "a.npz", [f"train/{name}" for name in names], np.full((4, 18, 2), 40), np.ones((4, 18)))
    data = pairs_from_tree(describe(tmp_path / "c.yaml", "c", train=PLAIN), tmp_path / "a.npz")
    sources, targets, _ = data.draw(100, 0, 0)
    assert (data.pids[sources] == data.pids[targets]).all()


def test_texts_are_numbered_over_all_splits(tmp_path):
    pattern = "{pid}/{camid}/*.png"
    write_crops(
        tmp_path / "crops",
        train=["cy/west/1.png", "ann/east/1.png"], query=["bob/east/2.png"], gallery=["bob/north/3.png"],
    )  # fmt: skip
    file = describe(tmp_path / "c.yml", tmp_path / "crops", train=pattern, query=pattern, gallery=pattern)
    splits = open_dataset(file).read_all()
    assert rows(splits["train"]) == [("train/ann/east/1.png", 1, 1), ("train/cy/west/1.png", 3, 3)]
    assert rows(splits["query"]) == [("query/bob/east/2.png", 2, 1)]
    assert rows(splits["gallery"]) == [("gallery/bob/north/3.png", 2, 2)]
    assert splits["query"].notes == (
        "identities are numbered in the order of their names, 1 is ann, 3 is cy",
        "cameras are numbered in the order of their names, 1 is east, 3 is west",
    )


def test_folders_that_cannot_be_read_as_described(tmp_path):
    crops = write_crops(tmp_path / "crops", train=["a_1.jpg", "b_1.jpg"], query=["0_1_a.jpg"], gallery=["4_0_a.jpg"])
    file = describe(tmp_path / "c.yaml", "crops", train=PLAIN, query=PLAIN, gallery=PLAIN)
    for split, said in (
        ("train", f"nothing fits '{PLAIN}' of {file} (2 files there, such as a_1.jpg)"),
        ("query", "0_1_a.jpg has identity 0, which means a distractor; {pid} numbers"),
        ("gallery", "4_0_a.jpg has camera 0; {camid} numbers them from 1"),
    ):
        with pytest.raises(BadInput, match=re.escape(said)):
            read_split(file, split)  # type: ignore[arg-type]
    describe(file, "crops", train="{pid}_*.jpg", query="{pid}_*.jpg")
    assert read_split(file, "train").camids.tolist() == [1, 1]
    with pytest.raises(BadInput, match=r"c\.yaml: query: '\{pid\}_\*\.jpg' has no camera, and evaluation ignores"):
        read_split(file, "query")
    with pytest.raises(MissingSplit, match=r"c\.yaml: describes no gallery; add `gallery: "):
        read_split(file, "gallery")
    for path in sorted((crops / "train").iterdir()):
        path.unlink()
    with pytest.raises(BadInput, match=r"\(no file\)"):
        read_split(file, "train")
    (crops / "train").rmdir()
    with pytest.raises(MissingSplit, match="train: no such folder, in which images should fit"):
        read_split(file, "train")


def test_commands_take_a_description(tmp_path, run):
    names = [f"{who}_{camera}_{n}.jpg" for who in ("ann", "bob") for camera in (1, 2) for n in (1, 2)]
    text = "{pid}_{camid:d}_*.jpg"
    write_crops(tmp_path / "crops", train=names, query=["cy_1_a.jpg"], gallery=["cy_2_a.jpg", "cy_2_b.jpg"])
    file = describe(tmp_path / "c.yaml", "crops", train=text, query=text, gallery=text)
    known = [*(f"train/{name}" for name in names), "gallery/cy_2_a.jpg", "gallery/cy_2_b.jpg"]
    xy = (BODY + np.random.default_rng(0).normal(0, 2, (len(known), 18, 2))).astype(np.float32)
    write_npz(tmp_path / "a.npz", known, xy, np.ones((len(known), 18), np.float32))
    (tmp_path / "pairs.csv").write_text("from,to\ngallery/cy_2_a.jpg,gallery/cy_2_b.jpg\n")
    data = f"--data {file} --annotations {tmp_path}/a.npz"
    code, out, _ = run(f"bank build {data} --out {tmp_path}/bank --json")
    assert (code, json.loads(out)["poses"]) == (0, 8)
    assert PoseBank.load(tmp_path / "bank").names.tolist() == sorted(f"train/{name}" for name in names)
    code, out, _ = run(f"evaluate --generator tiny.safetensors {data} --pairs {tmp_path}/pairs.csv --json")
    assert (code, json.loads(out)["pairs"]) == (0, 1)
    assert len(pairs_from_tree(file, tmp_path / "a.npz").usable()) == 8


# Finding out what a folder is


def test_folders_are_told_apart(tmp_path):
    root = write_msmt17(tmp_path / "sets" / "m")
    with pytest.raises(BadInput, match=rf"sets: is no dataset, but {root} is one in the layout msmt17; name it"):
        open_dataset(tmp_path / "sets")
    with pytest.raises(BadInput, match="nowhere: no such folder; needed the dataset's root"):
        read_split(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty: holds no bounding_box_train; .* or a YAML file that describes one"):
        read_split(tmp_path / "empty", "train")
    with pytest.raises(BadInput, match=r"list_train\.txt: is a file; needed the folder of a dataset, or a \.yaml"):
        open_dataset(root / "list_train.txt")
    with pytest.raises(ValueError, match="split: 'val', needed one of train, query, gallery"):
        read_split(root, "val")  # type: ignore[arg-type]


def test_market_trees_are_read_as_ever(place):
    for split in ("train", "query", "gallery"):
        assert rows(read_split(place / "world", split)) == rows(read_market(place / "world", split))  # type: ignore[arg-type]
