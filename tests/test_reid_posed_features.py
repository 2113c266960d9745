"""Test time: central poses of a bank, and features averaged over renderings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reid_world import BODY, StandIn, settings, write_tree
from torch import nn

from reid_integration.config import reid_config
from reid_integration.posed_features import PosedFeatures, central_rows
from reid_integration.train import run
from xingaug.augment.batch import build_batch_chain
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import read_annotations, write_npz
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank

CHAIN = build_batch_chain([], (32, 16), [0, 0, 0], [1, 1, 1])


class MeanColour(nn.Module):
    """The feature of an image is its mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * self.one


def bank_of(xy: np.ndarray) -> PoseBank:
    names = [f"{i:04d}_c1s1_000000_00.jpg" for i in range(len(xy))]
    keypoints = Keypoints(torch.from_numpy(xy.astype(np.float32)), torch.ones(len(xy), 18))
    return PoseBank.build(keypoints, names=names, frame=(128, 64))


def test_central_poses_are_the_medoids_of_what_is_not_covered_yet() -> None:
    rng = np.random.default_rng(0)
    other = BODY + np.array([6, 0]) * np.isin(np.arange(18), [3, 4, 6, 7])[:, None]  # arms elsewhere
    people = [BODY + rng.normal(0, 0.3, (9, 18, 2)), other + rng.normal(0, 0.3, (4, 18, 2))]
    bank = bank_of(np.concatenate(people))
    rows = central_rows(bank, 2)
    assert (rows[0] < 9, rows[1] >= 9) == (True, True)
    similar = bank.oks(bank.keypoints(torch.arange(13)), np.tile(np.arange(13), (13, 1)))
    assert rows[0] == similar.sum(0).argmax()
    assert sorted(central_rows(bank, 99)) == list(range(13))


def test_features_are_the_mean_over_image_and_renderings(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "world", identities=2)
    paths = [str(path) for path in sorted((root / "query").iterdir())]
    augment = XingPose(StandIn(), bank_of(np.stack([BODY, BODY + 1, BODY * 1.1])), p=0.5)
    own = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])
    colour = torch.tensor([0.9, 0.5, 0.1])
    found = PosedFeatures(augment, 3, None, CHAIN, False).mixed(MeanColour(), paths, own)
    torch.testing.assert_close(found, (own + 3 * colour) / 4, atol=1e-3, rtol=0)
    found = PosedFeatures(augment, 1, None, CHAIN, True).mixed(MeanColour(), paths, own)
    wanted = (torch.eye(2, 3) + colour / colour.norm()) / 2
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_an_image_without_keypoints_keeps_its_own(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "world", identities=2)
    paths = [str(path) for path in sorted((root / "query").iterdir())]
    data = dict(np.load(root / "annotations.npz"))
    data["visibility"][data["names"] == Path(paths[0]).name] = 0
    np.savez(root / "annotations.npz", **data)
    augment = XingPose(StandIn(), bank_of(np.stack([BODY, BODY + 1])), p=0.5)
    own = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])
    found = PosedFeatures(augment, 1, None, CHAIN, False).mixed(MeanColour(), paths, own)
    assert found[0].tolist() == own[0].tolist()
    assert found[1].tolist() != own[1].tolist()


def test_renderings_are_computed_as_in_training_and_without_joints_outside(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "world", identities=2)
    paths = [str(path) for path in sorted((root / "query").iterdir())]
    data = dict(np.load(root / "annotations.npz"))
    data["xy"][:, 4] = (30, 200)
    np.savez(root / "annotations.npz", **data)
    augment = XingPose(StandIn(), bank_of(np.stack([BODY, BODY + 1])), p=0.5, dtype="float32", runtime="torch")
    posed = PosedFeatures(augment, 1, None, CHAIN, False)
    assert (posed.renderer.core.dtype, posed.renderer.core.runtime) == ("float32", "torch")
    assert torch.isfinite(posed.mixed(MeanColour(), paths, torch.eye(2, 3))).all()


def test_a_run_may_be_tested_with_poses(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "world")
    trained = run(reid_config(settings(root, tmp_path / "run")))
    only = {"model__load_weights": str(trained.directory / "model.safetensors"), "test__evaluate": True}
    plain = run(reid_config(settings(root, tmp_path / "plain", **only, augment={"p": 0.5})), generator=StandIn())
    posed = run(
        reid_config(settings(root, tmp_path / "posed", **only, augment={"p": 0.5}, test__poses=2)), generator=StandIn()
    )
    assert plain.reid.mAP == trained.reid.mAP
    assert posed.reid.queries == 6
    assert posed.sources["generator"] == "stand-in"
    table = read_annotations(root / "annotations.npz")
    rows = table.lookup(np.array([path.name for path in (root / "bounding_box_train").iterdir()]))
    write_npz(tmp_path / "train.npz", table.names[rows], table.xy[rows], table.visibility[rows])
    chosen = {"p": 0.5, "annotations": str(tmp_path / "train.npz")}
    untested = reid_config(settings(root, tmp_path / "untested", augment=chosen, test__poses=2))
    with pytest.raises(BadInput, match=r"train.npz: has keypoints for none of the 6 images, such as .*query"):
        run(untested, generator=StandIn())
    assert not (tmp_path / "untested" / "stats.jsonl").exists()  # before any training
    bare = write_tree(tmp_path / "bare", annotations=False, seed=2)
    elsewhere = settings(root, tmp_path / "x", **only, augment={"p": 0.5}, test__poses=2, data__targets=[str(bare)])
    with pytest.raises(BadInput, match=r"annotations\.npz"):
        run(reid_config(elsewhere), generator=StandIn())
