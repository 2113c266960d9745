"""`xingaug augment`: from a folder of crops to a dataset and a page, in any layout and however often killed."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import annotating
import numpy as np
import pytest
from generating import tree as files_of
from PIL import Image
from telling import told
from trees import write_cuhk03, write_msmt17, write_veri

from xingaug import augmenting
from xingaug.augmenting import FolderConfig, augment_folder
from xingaug.cli import main
from xingaug.data.annotations import Annotations, read_annotations, write_npz
from xingaug.data.leaks import check_dataset
from xingaug.data.market1501 import read_split
from xingaug.data.market_tree import write_market_tree
from xingaug.data.pedestrians import write_world
from xingaug.data.readers import open_dataset
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.offline.generate import UnreadableImages, generate
from xingaug.offline.manifest import ManifestLine, read_manifest, write_manifest
from xingaug.offline.same_layout import _write_lists
from xingaug.offline.verify import verify
from xingaug.poses import estimators
from xingaug.poses.collect import bank_from_tree

HERE = Path(__file__).resolve().parent
FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
GENERATING = {"per_image": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "world"
    write_world(root, 6, 4, 5, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def crops(world: Path) -> Path:
    """The same persons in names of another grammar, with their keypoints beside them."""
    root = world.parent / "crops"
    old, names = read_annotations(world / "annotations.npz"), {}
    for folder, split in FOLDERS.items():
        (root / split).mkdir(parents=True)
        for number, image in enumerate(sorted((world / folder).glob("*.jpg"))):
            person, camera = image.name.split("_")[:2]
            names[image.name] = f"{split}/{int(person) + 200}_{camera[:2]}_{number:03d}.jpg"
            shutil.copyfile(image, root / names[image.name])
    write_npz(root / "annotations.npz", [names[name] for name in old.names.tolist()], old.xy, old.visibility)
    return root


def augmented(root: Path, out: Path, **changes: object) -> dict[str, object]:
    generating = {**GENERATING, **changes.pop("generating", {})}  # type: ignore[dict-item]
    options = {"generator": "pedestrians-small", "work": out.parent / "work", "generating": generating, **changes}
    return augment_folder(FolderConfig(root, out, **options), progress=False)  # type: ignore[arg-type]


def test_crops_become_a_market_tree(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"augment {crops} --out {tmp_path}/new --generator pedestrians-small --batch-size 4 --json"
    code = main(words.split())
    out, err = capsys.readouterr()
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["layout"], figures["real"], figures["synthetic"], figures["rejected"]) == ("pattern", 12, 12, 0)
    lines = err.splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"[{n}/6]" for n in range(1, 7)]
    assert "the pattern '{pid:d}_c{camid:d}_*' (guessed); train in train, query in query" in lines[0]
    assert lines[1] == "[2/6] leaks: none"
    assert f"npz from {crops}/annotations.npz; 12 of 12 images" in lines[2]
    verdict = verify(tmp_path / "new", progress=False)
    assert (verdict.problems, verdict.real, verdict.synthetic) == ([], 12 + 12, 12)
    with (tmp_path / "new" / "names.csv").open() as file:
        old = {row["new"]: row["old"] for row in csv.DictReader(file)}
    for line in read_manifest(tmp_path / "new" / "manifest.jsonl"):
        source = f"bounding_box_train/{line.source}"
        assert (tmp_path / "new" / source).read_bytes() == (crops / old[source]).read_bytes()
        assert not np.array_equal(read_image(tmp_path / "new" / line.file), read_image(crops / old[source]))
    page = (tmp_path / "new" / "report.html").read_text()
    for head in ("What was found", "usable poses, worst first", "Samples", "Quality gate", "layout: pattern"):
        assert head in page
    assert not re.search(r"<script|(src|href)=.?http", page)


def test_a_market_tree_is_taken_as_it_is(world: Path, tmp_path: Path) -> None:
    before = files_of(world)
    figures = augmented(world, tmp_path / "new", generating={"per_image": None, "per_identity": 6})
    assert (figures["real"], figures["synthetic"]) == (12, 6)
    assert read_split(tmp_path / "new", "train").names[0] == read_split(world, "train").names[0]
    assert files_of(world) == before


def test_a_folder_without_tests_will_do(crops: Path, tmp_path: Path) -> None:
    shutil.copytree(crops / "train", tmp_path / "flat")
    table = read_annotations(crops / "annotations.npz")
    rows = [row for row, name in enumerate(table.names.tolist()) if name.startswith("train/")]
    names = [Path(name).name for name in table.names[rows].tolist()]
    write_npz(tmp_path / "flat" / "annotations.npz", names, table.xy[rows], table.visibility[rows])
    assert augmented(tmp_path / "flat", tmp_path / "new")["synthetic"] == 12
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.is_dir()) == ["bounding_box_train"]
    assert verify(tmp_path / "new", progress=False).problems == []


# In the dataset's own layout


def to_own_layout(root: Path, world: Path) -> Path:
    """Drawn persons in the place of a published layout's images, with keypoints of its training images."""
    images = sorted((world / "bounding_box_train").glob("*.jpg"))
    table = read_annotations(world / "annotations.npz")
    names, rows = [], []
    for name, split in open_dataset(root).read_all().items():
        for i in range(len(split)):
            image = images[len(rows) % len(images)]
            Image.open(image).save(split.path(i))
            if name == "train":
                names.append(str(split.names[i]))
                rows.append(int(table.lookup([image.name])[0]))
    write_npz(root / "annotations.npz", names, table.xy[rows], table.visibility[rows])
    return root


@pytest.mark.parametrize("layout", ["pattern", "msmt17", "veri"])
@pytest.mark.parametrize("real", ["copy", "omit"])
def test_the_same_layout_is_read_by_its_own_reader(
    layout: str, real: str, crops: Path, world: Path, tmp_path: Path
) -> None:
    root = crops
    if layout != "pattern":
        root = to_own_layout({"msmt17": write_msmt17, "veri": write_veri}[layout](tmp_path / "data"), world)
    out = tmp_path / "new"
    figures = augmented(root, out, layout="same", allow_leaks=True, generating={"real": real})
    before = open_dataset(root if layout != "pattern" else out / "dataset.yaml")
    there = open_dataset(out / "dataset.yaml" if layout == "pattern" else out)
    assert there.config.layout == layout == before.config.layout
    lines, train = read_manifest(out / "manifest.jsonl"), there.read("train")
    assert len(lines) == figures["synthetic"] > 0
    assert len(train) == len(lines) + (0 if real == "omit" else int(figures["real"]))  # type: ignore[call-overload]
    labels = {train.file(i): (int(train.pids[i]), int(train.camids[i])) for i in range(len(train))}
    for line in lines:
        assert labels[line.file] == (line.pid, line.camid)
        assert read_image(out / line.file).shape == (128, 64, 3)
        assert line.source not in labels or labels[line.source] == labels[line.file]
    annotated = read_annotations(out / "annotations.npz")
    assert {line.file for line in lines} <= set(annotated.names.tolist())
    for split in ("query", "gallery"):
        assert len(there.read(split)) == len(open_dataset(root).read(split)) if layout != "pattern" else True  # type: ignore[arg-type]
    verdict = verify(out, progress=False)
    assert (verdict.problems, verdict.synthetic) == ([], len(lines))
    assert verdict.real == (int(figures["real"]) if real == "copy" else 0) + sum(  # type: ignore[call-overload]
        len(split) for name, split in there.read_all().items() if name != "train"
    )
    state = files_of(out)
    assert augmented(root, out, layout="same", allow_leaks=True, generating={"real": real})["synthetic"] == len(lines)
    assert files_of(out) == state
    said = told(lambda: augmented(root, out, layout="same", allow_leaks=True, generating={"real": real, "seed": 1}))
    assert "was made of other images or settings; name a new directory" in said


def test_a_layout_without_room_is_told_before_any_work(crops: Path, world: Path, tmp_path: Path) -> None:
    cuhk = write_cuhk03(tmp_path / "cuhk03")
    said = told(lambda: augmented(cuhk, tmp_path / "new", layout="same"))
    assert "cuhk03's published lists name every image" in said
    said = told(lambda: augmented(crops, tmp_path / "new", layout="same", pattern="{pid:d}_c{camid:d}_0*.png"))
    assert "nothing fits" in said
    (tmp_path / "strict").mkdir()
    for number, image in enumerate(sorted((world / "bounding_box_train").glob("*.jpg"))):
        shutil.copyfile(image, tmp_path / "strict" / f"p{number // 4 + 1}{'abcd'[number % 4]}.jpg")
    said = told(lambda: augmented(tmp_path / "strict", tmp_path / "new", layout="same", pattern="p{pid:d}a.jpg"))
    assert "no other name of p1a.jpg fits 'p{pid:d}a.jpg'; needed a pattern that ends in *" in said
    assert not (tmp_path / "new").exists()


def test_a_described_market_tree_keeps_its_layout_and_its_names(world: Path, tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text(f"layout: market1501\nroot: {world}\n")
    options = {"layout": "same", "annotations": world / "annotations.npz"}
    assert augmented(tmp_path / "world.yaml", tmp_path / "new", **options)["synthetic"] == 12
    state = files_of(tmp_path / "new")
    assert augmented(tmp_path / "world.yaml", tmp_path / "new", **options)["synthetic"] == 12
    assert files_of(tmp_path / "new") == state
    names = read_annotations(tmp_path / "new" / "annotations.npz").names.tolist()
    assert set(read_split(tmp_path / "new", "train").names.tolist()) == set(names)


def test_what_is_wrong_in_the_same_layout_is_found(crops: Path, tmp_path: Path) -> None:
    augmented(crops, tmp_path / "new", layout="same")
    line, other = read_manifest(tmp_path / "new" / "manifest.jsonl")[:2]
    (tmp_path / "new" / line.file).write_bytes((tmp_path / "new" / other.file).read_bytes())
    stray = tmp_path / "new" / "train" / "201_c1_stray.jpg"
    shutil.copyfile(tmp_path / "new" / other.file, stray)
    assert verify(tmp_path / "new", progress=False).problems == [
        f"{line.file}: has changed since it was written",
        f"train/{stray.name}: neither in manifest.jsonl nor in real.sha256",
    ]
    stray.unlink()
    lines = read_manifest(tmp_path / "new" / "manifest.jsonl")
    stranger = next(one for one in lines if one.pid != line.pid)
    wrong = replace(line, source=stranger.source)
    write_manifest(tmp_path / "new" / "manifest.jsonl", [wrong, *lines[1:], lines[-1]])
    problems = verify(tmp_path / "new", progress=False).problems
    assert "manifest.jsonl: 1 images have two lines" in problems
    assert f"{line.file}: made of {stranger.source}, which is of another person or camera" in problems
    shutil.rmtree(tmp_path / "new" / "train")
    assert f"{tmp_path / 'new'}: has no training images" in verify(tmp_path / "new", progress=False).problems


def test_another_work_folder_or_place_changes_nothing(crops: Path, tmp_path: Path) -> None:
    first = augmented(crops, tmp_path / "new", layout="same")
    assert augmented(crops, tmp_path / "new", layout="same", work=tmp_path / "other" / "work") == first
    shutil.copytree(crops, tmp_path / "moved")
    assert augmented(tmp_path / "moved", tmp_path / "new", layout="same") == first


def test_other_readings_of_the_same_images_do_not_block_one_another(crops: Path, tmp_path: Path) -> None:
    for number, pattern in enumerate(("{pid:d}_c{camid:d}_*", "{pid}_c{camid}_*")):
        assert augmented(crops, tmp_path / f"new{number}", pattern=pattern)["synthetic"] == 12


def test_a_disk_that_cannot_be_linked_to_is_told_before_any_work(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folders: list[Path], out: Path) -> None:
        raise BadInput(f"{out}: on another file system than {folders[0]}")

    monkeypatch.setattr(augmenting, "require_linkable", refuse)
    said = told(lambda: augmented(crops, tmp_path / "new", layout="same", generating={"real": "link"}))
    assert "on another file system" in said
    assert not (tmp_path / "work").exists()


def test_renderings_in_another_layout_are_not_taken_for_real(crops: Path, tmp_path: Path) -> None:
    augmented(crops, tmp_path / "new", layout="same")
    described = tmp_path / "new" / "dataset.yaml"
    assert open_dataset(described).read("train").synthetic.sum() == 12
    assert "holds synthetic images already" in told(lambda: augmented(described, tmp_path / "more"))
    assert "is synthetic; import the real dataset" in told(write_market_tree, described, tmp_path / "tree")
    bank = bank_from_tree(described, tmp_path / "new" / "annotations.npz")
    assert len(bank) == 12
    assert open_dataset(tmp_path / "new").where == described  # which the folder holds
    manifest = tmp_path / "new" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert "manifest.jsonl, line 12: damaged" in told(lambda: open_dataset(described).read("train"))
    manifest.write_text('{"file": "train/1.jpg"}\n')  # another program's
    assert not open_dataset(described).read("train").synthetic.any()


# Images that cannot be read


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("layout", ["market", "same"])
def test_unreadable_images_fail_at_the_end_with_the_rest_done(
    layout: str, suffix: str, crops: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "crops", tmp_path / "new"
    shutil.copytree(crops, root)
    images = sorted(root.rglob("*.jpg"))
    for image in images if suffix == ".png" else []:
        Image.open(image).save(image.with_suffix(suffix))
        image.unlink()
    table = read_annotations(root / "annotations.npz")
    names = [name.replace(".jpg", suffix) for name in table.names.tolist()]
    write_npz(root / "annotations.npz", names, table.xy, table.visibility)
    damaged = sorted((root / "train").glob("*"))[2], min((root / "query").glob("*"))
    damaged[0].write_bytes(damaged[0].read_bytes()[:-300])  # its header is whole
    damaged[1].write_bytes(b"no image")
    files = sorted(str(path.relative_to(root)) for path in damaged)
    for _ in range(2):
        with pytest.raises(UnreadableImages, match=r"2 images cannot be read .*; everything else is done") as caught:
            augmented(root, out, layout=layout)
        assert all(file in str(caught.value) for file in files)
        assert sorted((out / "unreadable.txt").read_text().splitlines()) == files
    there = open_dataset(out / "dataset.yaml" if layout == "same" else out)
    splits = {name: there.read(name) for name in ("train", "query")}  # type: ignore[arg-type]
    assert (len(splits["train"]), int(splits["train"].synthetic.sum())) == (11 + 11, 11)
    assert len(splits["query"]) == len(list((root / "query").glob("*"))) - 1
    for split in splits.values():
        for i in range(len(split)):
            split.read(i)
    if layout == "market":
        assert verify(out, progress=False).problems == []
        assert (out / "names.csv").exists()


def test_a_person_whose_only_image_cannot_be_read_is_left_out(crops: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "named", tmp_path / "new"
    table = read_annotations(crops / "annotations.npz")
    names = [name for name in table.names.tolist() if name.startswith("train/")]
    moved = {name: f"{'abc'[int(name[6:9]) % 3]}/{Path(name).name}" for name in names}
    for old, new in moved.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(crops / old, root / new)
    rows = table.lookup(names)
    write_npz(root / "annotations.npz", [moved[name] for name in names], table.xy[rows], table.visibility[rows])
    (root / "a0").mkdir()  # numbered before the others
    (root / "a0" / "201_c1_900.jpg").write_bytes(b"no image")
    options = {"layout": "same", "pattern": "{pid}/*"}
    for _ in range(2):
        with pytest.raises(UnreadableImages, match=r"1 images cannot be read \(a0/201_c1_900.jpg\)"):
            augmented(root, out, **options)
    assert verify(out, progress=False).problems == []
    assert not (out / "a0").exists()


def test_a_source_may_be_unreadable_if_another_image_is_rendered(world: Path, tmp_path: Path) -> None:
    dataset = open_dataset(to_own_layout(write_msmt17(tmp_path / "data"), world))
    files = [
        f"train/{line.rpartition(' ')[0]}" for line in (dataset.root / "list_train.txt").read_text().split("\n") if line
    ]
    line = ManifestLine(
        f"{files[0][:-4]}_x000.jpg", "", files[0], 1, 1, 0, 0, [], "", "", 0, {}, "", "", files[1]
    )  # fmt: skip
    (tmp_path / "new").mkdir()
    _write_lists(dataset, tmp_path / "new", [line], "copy", {files[0]})
    listed = (tmp_path / "new" / "list_train.txt").read_text().split("\n")
    before = (dataset.root / "list_train.txt").read_text().split("\n")
    label = before[0].rpartition(" ")[2]
    assert listed == [*before[1:-1], f"{line.file.removeprefix('train/')} {label}", ""]


def test_a_table_of_somebody_else_is_not_taken_for_ours(world: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "new"
    shutil.copytree(world, root)
    (root / "names.csv").write_text("pid,name\n1,Anna\n")
    image = min((root / "bounding_box_train").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-300])
    with pytest.raises(UnreadableImages, match=rf"1 images cannot be read \({image.name}\)"):
        augmented(root, out)


# Keypoints


def test_links_out_of_the_dataset_are_told_before_any_work(world: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "linked", tmp_path / "new"
    shutil.copytree(world, root)
    image = min((root / "query").glob("*.jpg"))
    image.unlink()
    image.symlink_to(world / "query" / image.name)
    assert f"{image}: leads to" in told(augmented, root, out)
    assert not out.exists()
    assert not (tmp_path / "work").exists()
    assert augmented(root, out, generating={"follow_links": True})["real"] == 12


def test_an_estimator_is_asked_once(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(crops / "train", tmp_path / "flat")
    found = read_annotations(crops / "annotations.npz")
    calls = []

    class Knows(annotating.ByColour):
        name = "knows the persons"

        def __call__(self, images):  # type: ignore[no-untyped-def]
            calls.append(len(images))
            return found.keypoints([0] * len(images))

    monkeypatch.setattr(estimators, "load_estimator", lambda *_, **__: Knows())
    (tmp_path / "flat" / "201_c1_999.jpg").write_bytes(b"no image")
    for out, per_image in (("new", 1), ("other", 2)):  # the second is made of the same keypoints
        with pytest.raises(UnreadableImages, match=r"1 images cannot be read \(201_c1_999.jpg\)"):
            augmented(tmp_path / "flat", tmp_path / out, generating={"per_image": per_image})
        assert sum(calls) == 12
        assert len(read_manifest(tmp_path / out / "manifest.jsonl")) == 12 * per_image
    assert "unreadable" in (tmp_path / "other" / "report.html").read_text()


def test_keypoints_that_are_named_count_before_those_beside(crops: Path, tmp_path: Path) -> None:
    table = read_annotations(crops / "annotations.npz")
    kept = table.lookup([name for name in table.names.tolist() if name.startswith("train/")])[:8]
    write_npz(tmp_path / "some.npz", table.names[kept], table.xy[kept], table.visibility[kept])
    figures = augmented(crops, tmp_path / "new", annotations=tmp_path / "some.npz")
    assert (figures["synthetic"], figures["without_annotation"]) == (8, 4)
    assert isinstance(table, Annotations)


# Leaks and other bad input


def test_leaks_end_it(crops: Path, tmp_path: Path) -> None:
    leaky = tmp_path / "leaky"
    shutil.copytree(crops, leaky)
    one = next((leaky / "train").iterdir())
    shutil.copyfile(one, leaky / "gallery" / one.name)
    said = told(lambda: augmented(leaky, tmp_path / "new"))
    assert "1 identities are in training and in query or gallery" in said
    assert "or --allow-leaks" in said
    assert not (tmp_path / "new").exists()
    assert augmented(leaky, tmp_path / "new", allow_leaks=True)["synthetic"] == 12
    assert "images of query or gallery are training images" in (tmp_path / "new" / "report.html").read_text()


def test_what_the_gate_rejects_is_shown(crops: Path, tmp_path: Path) -> None:
    augmented(crops, tmp_path / "all")
    contrasts = [line.gate["contrast"] for line in read_manifest(tmp_path / "all" / "manifest.jsonl")]
    gate = augmenting.GateConfig(min_contrast=float(np.median(contrasts)))
    figures = augmented(crops, tmp_path / "new", gate=gate, generating={"tries": 1})
    assert 0 < int(figures["rejected"]) < 12  # type: ignore[call-overload]
    page = (tmp_path / "new" / "report.html").read_text()
    gate_section = page[page.index("<h2>Quality gate") :]
    assert gate_section.count('alt="synthetic"') == figures["rejected"]


def test_other_settings_need_another_directory(crops: Path, tmp_path: Path) -> None:
    augmented(crops, tmp_path / "new")
    state = files_of(tmp_path / "new")
    said = told(lambda: augmented(crops, tmp_path / "new", generating={"per_image": 2}))
    assert "was made with per_image = 1, now it is 2" in said
    assert files_of(tmp_path / "new") == state


# Stopped and started again


@pytest.mark.parametrize(("layout", "kills"), [("market", "0,2,9,30"), ("same", "1,30")])
@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(layout: str, kills: str, crops: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    augmented(crops, whole, layout=layout, work=tmp_path / "work_whole")
    done = subprocess.run(
        [sys.executable, str(HERE / "augmenting_killed.py"), crops, broken, tmp_path / "work_broken", layout, kills],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = files_of(whole), files_of(broken)
    for times in ("augment.json",):  # which says how long it took
        ours.pop(times, None), theirs.pop(times, None)
    assert theirs == ours
    assert not list(tmp_path.rglob("*.xingaug.tmp"))


def test_what_a_step_left_is_used_again(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented(crops, tmp_path / "new")
    for work in ("bank_from_tree", "annotate"):
        monkeypatch.setattr(augmenting, work, lambda *_, **__: pytest.fail("was done again"))
    rendered = []
    monkeypatch.setattr(augmenting, "generate", lambda *a, **k: rendered.append(done := generate(*a, **k)) or done)
    augmented(crops, tmp_path / "new")
    assert [done.rendered for done in rendered] == [0]
    assert check_dataset(tmp_path / "new")[1].lines() == []
