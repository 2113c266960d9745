"""The hook in a user's own script, and the bank that it keeps."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from reid_world import StandIn, settings, write_tree
from yacs.config import CfgNode

from reid_integration import add_config, attach_config
from reid_integration.attach import cached_bank, other_grounds
from reid_integration.config import reid_config
from reid_integration.datamanager import build_datamanager
from reid_integration.loader import PoseLoader, TrainingImages
from reid_integration.train import run
from xingaug.data.annotations import read_npz, write_npz
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput
from xingaug.generators import XingGANPlusPlus
from xingaug.poses.bank import PoseBank
from xingaug.poses.collect import bank_from_tree

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "world")


def read(tree: Path) -> TrainingImages:
    return TrainingImages.read([str(path) for path in sorted((tree / "bounding_box_train").iterdir())])


def test_a_bank_is_built_once_and_kept_by_its_content(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    persons = read(tree)
    first = cached_bank(persons, (128, 64))
    (kept,) = (tmp_path / "xingaug" / "banks").iterdir()
    monkeypatch.setattr(TrainingImages, "build_bank", lambda *_: pytest.fail("it is kept"))
    assert cached_bank(read(tree), (128, 64)).content_hash == first.content_hash
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (kept / "xy.npy").write_bytes(b"x")  # damaged: built again
    assert cached_bank(persons, (128, 64)).content_hash == first.content_hash
    assert PoseBank.load(kept).content_hash == first.content_hash
    persons.keypoints.xy[0] += 1
    assert cached_bank(persons, (128, 64)).content_hash != first.content_hash
    assert len(list((tmp_path / "xingaug" / "banks").iterdir())) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(PoseBank, "save", full)
    assert len(cached_bank(read(tree), (128, 64))) == 24


def test_a_bank_of_test_poses_is_refused(tree: Path, tmp_path: Path) -> None:
    query = sorted((tree / "query").iterdir())
    TrainingImages.read([str(path) for path in query]).build_bank((128, 64)).save(tmp_path / "bank")
    config = reid_config(settings(tree, tmp_path / "x", augment={"bank": str(tmp_path / "bank")}), "here")
    with pytest.raises(BadInput, match=r"augment.bank: .*bank: 6 poses are of test images, such as 0003"):
        run(config, generator=StandIn())


@pytest.mark.parametrize("below", ["query", "world/query"])
def test_a_bank_that_knows_paths_is_compared_by_them(tree: Path, tmp_path: Path, below: str) -> None:
    """As banks of described folders do, and those of several sources with the same names."""
    queries = sorted((tree / "query").iterdir())
    bank = TrainingImages.read([str(path) for path in queries]).build_bank((128, 64))
    names = [f"{below}/{path.name}" for path in queries]
    PoseBank.build(bank.keypoints(range(len(bank))), names=names, pids=bank.pids).save(tmp_path / "bank")
    config = reid_config(settings(tree, tmp_path / "x", augment={"bank": str(tmp_path / "bank")}), "here")
    with pytest.raises(BadInput, match=rf"6 poses are of test images, such as {below}/0003"):
        run(config, generator=StandIn())


def test_both_ways_to_a_bank_give_the_same_poses(tree: Path, tmp_path: Path) -> None:
    """Also where a joint lies outside its image."""
    known = read_npz(tree / "annotations.npz")
    xy = known.xy.copy()
    xy[::3, 4] = -3, 50
    write_npz(tmp_path / "outside.npz", known.names, xy, known.visibility)
    paths = [str(path) for path in sorted((tree / "bounding_box_train").iterdir())]
    ours = TrainingImages.read(paths, tmp_path / "outside.npz").build_bank((128, 64))
    theirs = bank_from_tree(tree, tmp_path / "outside.npz")
    assert ours.names.tolist() == theirs.names.tolist()
    np.testing.assert_array_equal(ours.visibility, theirs.visibility)
    np.testing.assert_array_equal(ours.xy, theirs.xy)
    assert (ours.visibility[:, 4] == 0).any()


@pytest.mark.parametrize("share", [1 / 128, 2.0])
def test_keypoints_of_another_frame_are_refused_before_training(tree: Path, tmp_path: Path, share: float) -> None:
    known = read_npz(tree / "annotations.npz")
    write_npz(tmp_path / "other.npz", known.names, known.xy * share, known.visibility)
    persons = read(tree)
    persons.build_bank((128, 64)).save(tmp_path / "bank")
    augment = {"annotations": str(tmp_path / "other.npz"), "bank": str(tmp_path / "bank")}
    with pytest.raises(BadInput, match=r"other\.npz: .*needed pixels"):
        run(reid_config(settings(tree, tmp_path / "x", augment=augment), "here"), generator=StandIn())


def test_several_views_of_an_image_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_integration.attach.load_generator", lambda *_: StandIn())
    manager = build_datamanager(reid_config(settings(tree, "unused"), "here"))
    manager.train_loader.dataset.k_tfm = 2
    cfg = script_config(tree)
    cfg.merge_from_list(["augment.name", "xinggan_pose"])
    with pytest.raises(BadInput, match="k_tfm: the data manager gives several views of an image; needed 1"):
        attach_config(manager, cfg)


def script_config(tree: Path) -> CfgNode:
    cfg = CfgNode()
    cfg.use_gpu = False
    cfg.data = CfgNode({"transforms": ["random_flip"], "norm_mean": [0.5] * 3, "norm_std": [0.2] * 3})
    cfg.train = CfgNode({"seed": 1})
    add_config(cfg)
    return cfg


def test_keys_are_added_and_checked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_integration.attach.load_generator", lambda *_: StandIn())
    manager = build_datamanager(reid_config(settings(tree, "unused"), "here"))
    stock = manager.train_loader
    cfg = script_config(tree)
    assert attach_config(manager, cfg) is None
    assert manager.train_loader is stock
    cfg.merge_from_list(["augment.name", "xinggan_pose", "augment.p", 1.0, "augment.seed", 3])
    loader = attach_config(manager, cfg)
    assert isinstance(loader, PoseLoader)
    assert manager.train_loader is loader
    assert (loader.augment.p, loader.augment.seed) == (1.0, 3)
    assert bool(next(iter(loader))["is_synthetic"].all())
    cfg.train.start_epoch = 5  # a resumed script
    assert attach_config(build_datamanager(reid_config(settings(tree, "unused"), "here")), cfg).epoch == 5
    with pytest.raises(AssertionError, match=r"Non-existent key: augment\.smpler"):
        cfg.merge_from_list(["augment.smpler", "near"])
    cfg.merge_from_list(["augment.p", 2.0])
    with pytest.raises(BadInput, match=r"p: 2.0, needed a number from 0 to 1"):
        attach_config(manager, cfg)


def test_the_script_of_the_examples(tmp_path: Path) -> None:
    write_world(tmp_path / "pedestrians", 12, 6, 0, workers=1, progress=False)
    spec = importlib.util.spec_from_file_location("torchreid_script", ROOT / "examples" / "torchreid_script.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = ["data.root", str(tmp_path), "data.sources", ["pedestrians"]]
    with torch.random.fork_rng():
        assert module.main(words) == 0
        assert 5 < module.main([*words, "augment.name", "xinggan_pose"]) < 32


def test_persons_stand_on_other_grounds_where_the_generator_tells_them_from_it(tree: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        keeping = XingGANPlusPlus(width=16, blocks=1, keep_ground=True).eval()
    persons = read(tree)
    assert other_grounds(StandIn(), persons, None, 0) is None
    assert other_grounds(StandIn(), persons, 0.0, 0) is None
    assert other_grounds(keeping, persons, 0.0, 0) is None
    found = other_grounds(keeping, persons, None, 0)
    assert found is not None
    assert (found.share, len(found.pictures)) == (1.0, len(persons.paths))
    again, other = persons.some(5, (128, 64), 0), persons.some(5, (128, 64), 1)
    assert len(again[0]) == len(again[1]) == 5
    np.testing.assert_array_equal(again[0], persons.some(5, (128, 64), 0)[0])
    assert not np.array_equal(again[0], other[0])


def test_a_ground_is_refused_for_a_generator_that_knows_none(tree: Path, tmp_path: Path) -> None:
    config = reid_config(settings(tree, tmp_path / "out", augment={"name": "xinggan_pose", "ground": 0.5}), "here")
    with pytest.raises(BadInput, match=r"augment\.ground: this generator does not separate person and ground"):
        run(config, generator=StandIn())
