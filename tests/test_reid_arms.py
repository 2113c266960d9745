"""Training folders of a comparison's arms, and what is drawn from them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reid_world import comparison, settings, write_tree

from reid_integration.arms import Cut, SyntheticConfig, chosen_rows, write_arm, write_cut
from reid_integration.compare import ComparisonResult, compare
from reid_integration.config import reid_config
from reid_integration.datamanager import build_datamanager
from xingaug.data.annotations import read_annotations, write_npz
from xingaug.data.market1501 import read_split
from xingaug.data.pedestrians import World, write_world
from xingaug.errors import BadInput
from xingaug.images import read_image
from xingaug.offline.manifest import read_manifest
from xingaug.poses.bank import PoseBank

ONCE = SyntheticConfig(per_image=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worlds") / "starved"
    write_world(root, 8, 5, 2, train_poses="starved", workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def real(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cut(world, tmp_path_factory.mktemp("arms") / "real", Cut())


def test_a_share_is_of_each_identity_and_part_of_a_larger_one() -> None:
    names = np.array([f"{i:04d}.jpg" for i in range(200)])
    pids = np.arange(200) // 20
    shares = {share: chosen_rows(names, pids, Cut(share)) for share in (0.05, 0.2, 0.6, 1.0)}
    for share, chosen in shares.items():
        assert set(np.bincount(pids[chosen])) == {max(2, 20 * share)}
    assert not (shares[0.2] & ~shares[0.6]).any()
    assert shares[1.0].all()
    turned = chosen_rows(names[::-1], pids[::-1], Cut(0.2))[::-1]
    np.testing.assert_array_equal(turned, shares[0.2])


def test_a_share_of_the_identities_is_part_of_a_larger_one_with_all_their_images() -> None:
    names = np.array([f"{i:04d}.jpg" for i in range(200)])
    pids = np.arange(200) // 20
    few, more = (chosen_rows(names, pids, Cut(identities=share)) for share in (0.3, 0.7))
    assert sorted(np.bincount(pids[few], minlength=10)) == [0] * 7 + [20] * 3
    assert len(set(pids[more])) == 7
    assert not (few & ~more).any()
    both = chosen_rows(names, pids, Cut(0.5, 0.3))
    assert not (both & ~few).any()
    assert both.sum() == 30
    assert (Cut(0.5, 0.3).name, Cut(0.5, 0.3).label) == (
        "share_50_identities_30", "50 % of the images of 30 % of the identities",
    )  # fmt: skip


def test_a_share_holds_links_and_annotations_of_its_images(world: Path, tmp_path: Path) -> None:
    out = write_cut(world, tmp_path / "share_60", Cut(0.6))
    train = read_split(out, "train")
    assert np.bincount(train.pids)[1:].tolist() == [3] * 4
    assert sorted(read_annotations(out / "annotations.npz").names) == sorted(train.names)
    for path in (out / "bounding_box_train").glob("*.jpg"):
        assert os.path.samefile(path, world / "bounding_box_train" / path.name)
    for part in ("query", "bounding_box_test"):
        assert {p.name for p in (out / part).iterdir()} == {p.name for p in (world / part).glob("*.jpg")}


def test_a_share_of_other_keypoints_is_not_taken_for_this_one(world: Path, tmp_path: Path) -> None:
    shutil.copy(world / "annotations.npz", tmp_path / "mine.npz")
    out = write_cut(world, tmp_path / "share" / "real", Cut(0.6), tmp_path / "mine.npz")
    assert write_cut(world, out, Cut(0.6), tmp_path / "mine.npz") == out
    table = read_annotations(tmp_path / "mine.npz")
    write_npz(tmp_path / "mine.npz", table.names, table.xy + 1, table.visibility)
    with pytest.raises(BadInput, match=r"made_of.json: was made with annotations = .*; remove .*share, and it is"):
        write_cut(world, out, Cut(0.6), tmp_path / "mine.npz")


def test_duplicates_have_their_sources_size(tmp_path: Path) -> None:
    real = write_cut(write_tree(tmp_path / "tree", size=(64, 48)), tmp_path / "data" / "real", Cut())
    split = read_split(write_arm("duplicates", real, tmp_path / "data" / "duplicates", ONCE), "train")
    assert split.synthetic.any()
    assert {read_image(split.path(i)).shape for i in range(len(split))} == {(64, 48, 3)}


def test_kinds_have_the_same_names_and_identities(world: Path, real: Path) -> None:
    kinds = {}
    for kind in ("duplicates", "offline", "oracle"):
        out = write_arm(kind, real, real.parent / kind, ONCE, world)  # type: ignore[arg-type]
        assert write_arm(kind, real, out, ONCE, world) == out  # type: ignore[arg-type]
        kinds[kind] = read_split(out, "train")
    names = kinds["offline"].names.tolist()
    assert all(split.names.tolist() == names for split in kinds.values())
    synthetic = [name for name in names if "_x" in name]
    assert len(synthetic) == len(names) - len(synthetic) == 20

    def difference(kind: str, name: str, other: np.ndarray) -> float:
        return float(np.abs(read_image(real.parent / kind / "bounding_box_train" / name).astype(int) - other).mean())

    bank, drawn = PoseBank.load(real.parent / "bank"), World(world)
    for line in read_manifest(real.parent / "offline" / "manifest.jsonl"):
        name = Path(line.file).name
        source = read_image(world / "bounding_box_train" / line.source)
        true = drawn.render_in_pose(line.source, str(bank.names[line.bank_row])).image
        assert difference("duplicates", name, source) < 2  # JPEG, once more
        assert difference("oracle", name, true) < 4
        assert difference("offline", name, true) < difference("offline", name, 255 - true)


def test_an_oracle_needs_a_world(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    real = write_cut(tree, tmp_path / "data" / "real", Cut())
    with pytest.raises(BadInput, match="is no pedestrian world; only there the true images are known"):
        write_arm("oracle", real, tmp_path / "data" / "oracle", ONCE, tree)


def test_arms_and_shares_of_a_comparison(world: Path, tmp_path: Path) -> None:
    mixed = {"sampler": {"synthetic_share": 0.5}}
    arms = {"real": {}, "duplicates": {"synthetic": "duplicates", **mixed}, "oracle": {"synthetic": "oracle", **mixed}}
    config = comparison(world, tmp_path, arms=arms, shares=[0.5, 1.0], seeds=[1], synthetic=ONCE)
    result = compare(config)
    images = {(arm, cut.images): cell.images for (arm, cut, _), cell in result.cells.items()}
    assert images == {
        ("real", 0.5): 8, ("real", 1.0): 20, ("duplicates", 0.5): 16, ("duplicates", 1.0): 40, ("oracle", 0.5): 16,
        ("oracle", 1.0): 40,
    }  # fmt: skip
    assert {cell.identities for cell in result.cells.values()} == {4}
    assert len(result.differences()) == 4
    twice = replace(config, against=["duplicates", "real"])
    pairs = [(row["arm"], row["against"]) for row in ComparisonResult(twice, result.cells).differences()[:3]]
    assert pairs == [("real", "duplicates"), ("oracle", "duplicates"), ("oracle", "real")]
    assert "50 % of the images" in (config.out / "report.html").read_text()


def test_synthetic_rows_are_drawn_by_their_share(real: Path, world: Path, tmp_path: Path) -> None:
    folder = write_arm("duplicates", real, real.parent / "duplicates", ONCE, world)
    for share in (0.0, 0.25, 1.0):
        config = reid_config(
            settings(world, tmp_path / "x", data__sources=[str(folder)], sampler__synthetic_share=share), "here"
        )
        loader = build_datamanager(config).train_loader
        flags = [flag for _ in range(25) for batch in loader for flag in batch["dsetid"].tolist()]
        assert np.mean(flags) == pytest.approx(share, abs=0.06)


def test_a_share_of_what_is_not_there_is_refused(world: Path, tmp_path: Path) -> None:
    config = reid_config(settings(world, tmp_path / "x", sampler__synthetic_share=0.5), "here")
    with pytest.raises(BadInput, match="has no synthetic training image"):
        build_datamanager(config)


@pytest.mark.parametrize("leak", [os.link, shutil.copyfile])
def test_test_images_are_found_under_any_name(tmp_path: Path, leak: Callable[[Path, Path], object]) -> None:
    tree = write_tree(tmp_path / "tree")
    leaked = next((tree / "bounding_box_test").glob("0003*.jpg"))
    leak(leaked, tree / "bounding_box_train" / "0002_c5s1_000777_00.jpg")
    with pytest.raises(BadInput, match="1 gallery images are among the training images"):
        build_datamanager(reid_config(settings(tree, tmp_path / "x"), "here"))


def test_evaluation_data_are_real(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    real = next((tree / "query").glob("0003*.jpg"))
    real.rename(real.with_name(f"{real.stem}_x001.jpg"))
    with pytest.raises(BadInput, match=r"1 query images are synthetic, such as .*_x001\.jpg; needed real ones"):
        build_datamanager(reid_config(settings(tree, tmp_path / "x"), "here"))


def test_a_change_of_the_synthetic_images_is_no_finished_cell(world: Path, tmp_path: Path) -> None:
    arms = {"duplicates": {"synthetic": "duplicates"}}
    compare(comparison(world, tmp_path, arms=arms, seeds=[1], synthetic=ONCE))
    with pytest.raises(BadInput, match=r"was made with data.sources"):
        compare(comparison(world, tmp_path, arms=arms, seeds=[1], synthetic=SyntheticConfig(per_image=2)))


def test_keypoints_elsewhere_serve_the_whole_set_too(world: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(world, tree)
    moved = shutil.move(tree / "annotations.npz", tmp_path / "moved.npz")
    arms = {"real": {}, "online": {"augment": "xinggan_pose"}}
    without = comparison(tree, tmp_path / "without", arms=arms, seeds=[1])
    with pytest.raises(BadInput, match=r"tree/annotations\.npz: no such annotation file"):
        compare(without)
    assert not without.out.exists()  # before any training
    config = comparison(tree, tmp_path, arms=arms, seeds=[1], synthetic=SyntheticConfig(annotations=Path(moved)))
    assert {arm for arm, *_ in compare(config).cells} == set(arms)
    elsewhere = {"augment": {"name": "xinggan_pose", "annotations": "mine.npz"}}
    with pytest.raises(BadInput, match=r"mine\.npz: no such annotation file"):
        compare(replace(config, arms={"online": elsewhere}, out=tmp_path / "elsewhere"))


def test_what_cannot_be_made_is_told_before_any_training(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    for name, (arm, synthetic, message) in {
        "oracle": ({"synthetic": "oracle"}, ONCE, "is no pedestrian world"),
        "missing": ({"synthetic": "offline"}, SyntheticConfig(generator="none"), "generator 'none': no such file"),
        "elsewhere": ({"data": {"targets": ["other"]}}, ONCE, r"arms.b: tests on \['other'\] in"),
        "generator": ({"augment": {"generator": "none"}}, ONCE, "generator 'none': no such file"),
        "bank": ({"augment": {"bank": "none"}}, ONCE, "none: "),
        "sampler": ({"augment": {"sampler": "unifrom"}}, ONCE, "sampler: unknown 'unifrom'"),
        "weights": ({"model": {"load_weights": "none.pth"}}, ONCE, "model.load_weights: none.pth"),
    }.items():
        config = comparison(tree, tmp_path / name, arms={"a": {}, "b": arm}, seeds=[1], synthetic=synthetic)
        with pytest.raises(BadInput, match=message):
            compare(config)
        assert not config.out.exists()
    first = next((tree / "bounding_box_train").iterdir())
    shutil.copy(first, first.with_name(f"{first.stem}_x000.jpg"))
    half = replace(comparison(tree, tmp_path / "half", arms={"a": {}}, seeds=[1]), shares=[0.5])
    with pytest.raises(BadInput, match=r"arms.a: 50 % of the images would be without the synthetic images that"):
        compare(half)
