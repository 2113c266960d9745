"""Identities held out of the training set, to choose settings on."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reid_world import StandIn, comparison, write_tree
from telling import told

from reid_integration.arms import SyntheticConfig
from reid_integration.compare import compare, table_lines
from reid_integration.comparison import HELD_OUT
from reid_integration.validation import held_out_rows, query_rows, write_validation
from xingaug.data.annotations import read_annotations
from xingaug.data.market1501 import read_split
from xingaug.data.pedestrians import write_world
from xingaug.data.split import Split

ONCE = SyntheticConfig(per_image=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worlds") / "whole"
    write_world(root, 16, 5, 2, workers=1, progress=False)  # 8 identities to train on
    return root


def split_of(*images: tuple[int, int]) -> Split:
    names = np.array([f"{pid:04d}_c{camid}s1_{i:06d}_00.jpg" for i, (pid, camid) in enumerate(images)])
    pids, camids = np.array(images).T
    return Split(Path("none"), "train", names, pids, camids)


def test_held_out_identities_are_a_share_of_them_and_the_same_in_any_order() -> None:
    pids = np.repeat(np.arange(20), 3)
    chosen = held_out_rows(pids, 0.25)
    assert sorted(np.bincount(pids[chosen], minlength=20)) == [0] * 15 + [3] * 5
    np.testing.assert_array_equal(held_out_rows(pids[::-1], 0.25)[::-1], chosen)
    assert not (chosen & ~held_out_rows(pids, 0.5)).any()
    for share in (0.01, 0.99):
        assert len(set(pids[held_out_rows(pids, share)])) == {0.01: 2, 0.99: 18}[share]


def test_each_camera_of_a_person_gives_a_query_that_another_camera_can_answer() -> None:
    split = split_of((1, 1), (1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (3, 4), (3, 4))
    chosen = query_rows(split)
    queries, gallery = split.select(chosen), split.select(~chosen)
    assert queries.pids.tolist().count(1) == 2
    assert set(queries.camids[queries.pids == 1]) == {1, 2}
    assert queries.pids.tolist().count(2) == 1  # two images: the one answers the other
    assert 3 not in queries.pids  # seen by one camera
    for pid, camera in zip(queries.pids, queries.camids, strict=True):
        assert ((gallery.pids == pid) & (gallery.camids != camera)).any()


def test_no_query_is_without_an_answer_from_another_camera() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        cameras = rng.integers(1, 5, rng.integers(1, 7))
        split = split_of(*((1, int(camera)) for camera in cameras))
        chosen = query_rows(split)
        assert chosen.any() == (len(set(cameras)) > 1)
        for camera in cameras[chosen]:
            assert (cameras[~chosen] != camera).any()
            assert (cameras[chosen] == camera).sum() == 1


def test_the_new_dataset_is_of_training_images_alone(world: Path, tmp_path: Path) -> None:
    out = write_validation(world, tmp_path / "data" / "validation", 0.4)
    train, query, gallery = (read_split(out, part) for part in ("train", "query", "gallery"))
    whole = read_split(world, "train")
    assert sorted([*train.names, *query.names, *gallery.names]) == sorted(whole.names)
    assert len(set(train.pids)) == 5
    assert len(set(gallery.pids)) == 3
    assert set(query.pids) <= set(gallery.pids)
    assert not set(train.pids) & set(gallery.pids)
    assert train.path(0).samefile(world / "bounding_box_train" / str(train.names[0]))
    assert sorted(read_annotations(out / "annotations.npz").names) == sorted(whole.names)  # test.poses needs them all
    assert write_validation(world, out, 0.4) == out


def test_an_earlier_dataset_of_other_images_or_keypoints_is_refused(world: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "validation"
    shutil.copytree(world / "bounding_box_train", source / "bounding_box_train")
    write_validation(source, out, 0.4)
    assert not (out / "annotations.npz").exists()  # nobody asked for keypoints
    shutil.copyfile(world / "annotations.npz", source / "annotations.npz")
    assert "was made with annotations = None, now it is" in told(write_validation, source, out, 0.4)
    (source / "annotations.npz").unlink()
    write_validation(source, out, 0.4)
    next((source / "bounding_box_train").glob("*.jpg")).unlink()
    assert "was made with images = " in told(write_validation, source, out, 0.4)


def test_synthetic_images_of_held_out_identities_are_left_out(world: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    folder = source / "bounding_box_train"
    folder.mkdir(parents=True)
    for path in (world / "bounding_box_train").glob("*.jpg"):
        for name in (path.name, f"{path.stem}_x001.jpg"):
            (folder / name).hardlink_to(path)
    out = write_validation(source, tmp_path / "validation", 0.4, world / "annotations.npz")
    train, query, gallery = (read_split(out, part) for part in ("train", "query", "gallery"))
    assert train.synthetic.sum() == len(train) / 2
    assert not query.synthetic.any()
    assert not gallery.synthetic.any()


def test_what_cannot_be_held_out_is_told(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", identities=3)
    assert "has 3 training identities, needed at least 4" in told(
        write_validation, tmp_path / "tree", tmp_path / "new", 0.5
    )
    folder = tmp_path / "lonely" / "bounding_box_train"
    folder.mkdir(parents=True)
    for i, path in enumerate((tmp_path / "tree" / "bounding_box_train").glob("*.jpg")):
        (folder / f"{i:04d}_c1s1_000001_00.jpg").hardlink_to(path)
    assert "no held-out identity was seen by two cameras" in told(
        write_validation, tmp_path / "lonely", tmp_path / "new", 0.5
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_must_be_one(share: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation: .*, needed a share of the identities"):
        comparison(tmp_path, tmp_path, validation=share)


def test_what_cannot_be_validated_is_told_before_any_training(world: Path, tmp_path: Path) -> None:
    (world.parent / "crops.yaml").write_text(
        'layout: pattern\nroot: whole\ntrain: {folder: bounding_box_train, pattern: "{pid:d}_c{camid:d}s*.jpg"}\n'
    )
    for arms, message in (
        ({"real": {}, "other": {"data": {"sources": ["other"]}}}, "the same data.root and data.sources for all arms"),
        ({"real": {"data": {"sources": ["crops.yaml"]}}}, "arms.real needs a Market-1501 tree"),
    ):
        config = comparison(world, tmp_path, arms=arms, validation=0.4)
        assert message in told(compare, config)
        assert not config.out.exists()


def test_poses_at_test_time_are_validated_too(world: Path, tmp_path: Path) -> None:
    arms = {"posed": {"augment": {"name": "xinggan_pose", "reuse": 4}, "test": {"poses": 1}}}
    config = comparison(world, tmp_path, arms=arms, seeds=[1], validation=0.4)
    result = compare(replace(config, iterations=2), generator=StandIn())
    assert next(iter(result.cells.values())).reid.queries


def test_a_comparison_on_held_out_identities(world: Path, tmp_path: Path) -> None:
    arms = {"real": {}, "duplicates": {"synthetic": "duplicates", "sampler": {"synthetic_share": 0.5}}}
    config = comparison(world, tmp_path, arms=arms, shares=[0.5, 1.0], seeds=[1], synthetic=ONCE, validation=0.4)
    result = compare(config)
    assert {cell.identities for cell in result.cells.values()} == {5}
    assert {(arm, cut.images): cell.images for (arm, cut, _), cell in result.cells.items()} == {
        ("real", 0.5): 10, ("real", 1.0): 25, ("duplicates", 0.5): 20, ("duplicates", 1.0): 50,
    }  # fmt: skip
    (tree,) = (config.out / "data").glob("validation_*")
    assert {row["target"] for row in result.rows()} == {tree.name}
    assert next(iter(result.cells.values())).reid.queries == len(read_split(tree, "query"))
    page = (config.out / "report.html").read_text()
    assert HELD_OUT in page
    assert table_lines(result)[0] == HELD_OUT
    assert [cell.train_seconds for cell in compare(config).cells.values()] == [
        cell.train_seconds for cell in result.cells.values()
    ]  # finished cells are not run again
