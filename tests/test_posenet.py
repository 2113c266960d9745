"""PoseNet, the package's own estimator: its maps, its file, its training, and what the bundled weights find."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_data import patn_file

from xingaug.bench.launches import LaunchCounter
from xingaug.config import load_config
from xingaug.data.annotations import read_annotations
from xingaug.data.pairs import pairs_from_pedestrians
from xingaug.errors import BadInput, WorkFailed
from xingaug.images import read_image
from xingaug.keypoints import FLIP_ORDER, Keypoints
from xingaug.poses.estimators import BUNDLED, DEFAULT, load_estimator, posenet_file
from xingaug.poses.estimators.posenet import (
    CELL,
    SIZE,
    PoseNet,
    PoseNetFinder,
    cell_centres,
    fused,
    joints_of,
    load_posenet,
    save_posenet,
)
from xingaug.training.config import PedestrianData, TreeData
from xingaug.training.estimator import (
    Crops,
    EstimatorConfig,
    EstimatorTrainer,
    draw_crops,
    load_crops,
    train_estimator,
)
from xingaug.training.losses import joint_losses, pose_loss
from xingaug.training.steps import read

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = EstimatorConfig(
    data=[PedestrianData(identities=2, tracklets=1, poses=3, seed=5)], steps=3, batch_size=4, checkpoint_minutes=1e9
)


def network(seed: int = 0) -> PoseNet:
    torch.manual_seed(seed)
    return PoseNet()


def perfect_maps(xy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a network that knows the joints would give."""
    cells = torch.zeros(len(xy), 18, 32, 16)
    away = xy[..., None, None] - cell_centres(cells)
    return -away.square().sum(2) / (2 * CELL**2), away, torch.full((len(xy), 18), 5.0)


def test_joints_are_read_where_the_maps_say() -> None:
    rng = torch.Generator().manual_seed(0)
    xy = torch.rand(3, 18, 2, generator=rng) * torch.tensor([63.0, 127.0])
    found = joints_of(*perfect_maps(xy))
    torch.testing.assert_close(found.xy, xy, atol=1e-3, rtol=0)
    assert (found.visibility > 0.99).all()


def test_a_second_person_does_not_pull_the_joint_away() -> None:
    xy = torch.full((1, 18, 2), 12.0)
    cells, offsets, visible = perfect_maps(xy)
    cells[..., 25, 12] = cells.amax() - 0.5  # nearly as likely, far away
    found = joints_of(cells, offsets, visible)
    torch.testing.assert_close(found.xy, xy, atol=1e-3, rtol=0)


def test_the_losses_of_what_is_right_are_the_smallest() -> None:
    xy = torch.rand(2, 18, 2) * 60
    seen = torch.ones(2, 18, dtype=torch.bool)
    right, wrong = joint_losses(perfect_maps(xy), xy, seen), joint_losses(perfect_maps(xy + 6), xy, seen)
    assert right["offsets"] < 1e-4 < wrong["offsets"]
    assert right["cells"] < wrong["cells"]
    nobody = joint_losses(perfect_maps(xy), xy, ~seen)
    assert nobody["cells"] == nobody["offsets"] == 0
    assert nobody["visible"] > right["visible"]


def test_the_pose_loss_is_of_the_joints_asked_for_at_any_size() -> None:
    xy = torch.rand(2, 18, 2) * 60
    images = torch.rand(2, 3, *SIZE, requires_grad=True)
    large = torch.rand(2, 3, 256, 128)
    visible = torch.ones(2, 18)

    def knowing(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert batch.shape == (2, 3, *SIZE)
        return perfect_maps(xy)

    right = pose_loss(knowing, images, xy, visible)
    twice = Keypoints(xy, visible).resize(SIZE, (256, 128)).xy
    torch.testing.assert_close(pose_loss(knowing, large, twice, visible), right)
    assert pose_loss(knowing, images, xy + 8, visible) > right + 1
    assert pose_loss(knowing, images, xy + 8, visible * 0) == 0
    learned = network().eval().requires_grad_(False)
    pose_loss(learned, images, xy, visible).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_joints_follow_the_pixels_of_a_moved_crop() -> None:
    xy = torch.zeros(1, 18, 2) + torch.tensor([20.0, 90.0])
    images = torch.zeros(1, 3, *SIZE)
    images[:, :, 89:92, 19:22] = 1
    angle = torch.tensor(0.2)
    matrix = (
        1.2 * torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])[None]
    )
    moved = Crops(images, xy, torch.ones(1, 18, dtype=torch.bool)).moved(matrix, torch.tensor([[3.0, -7.0]]))
    weight = moved.images[0, 0]
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    centre = torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    torch.testing.assert_close(moved.xy[0, 0], centre, atol=0.05, rtol=0)
    away = Crops(images, xy, torch.ones(1, 18, dtype=torch.bool)).moved(matrix, torch.tensor([[-60.0, 0.0]]))
    assert not away.visible.any()


def test_a_mirrored_crop_has_its_sides_exchanged() -> None:
    xy = torch.rand(2, 18, 2) * 60
    crops = Crops(torch.rand(2, 3, *SIZE), xy, torch.rand(2, 18) < 0.5)
    mirrored = crops.mirrored(torch.tensor([True, False]))
    torch.testing.assert_close(mirrored.images[0], crops.images[0].flip(-1))
    torch.testing.assert_close(mirrored.xy[0, :, 0], 63 - xy[0, list(FLIP_ORDER), 0])
    assert torch.equal(mirrored.visible[0], crops.visible[0, list(FLIP_ORDER)])
    assert torch.equal(mirrored.xy[1], xy[1])


def test_the_same_step_draws_the_same_crops() -> None:
    data = [pairs_from_pedestrians(2, 1, 3, 5, progress=False), pairs_from_pedestrians(2, 1, 2, 6, progress=False)]
    first, again, other = (draw_crops(data, SMALL, step) for step in (4, 4, 5))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (4, 3, *SIZE)


def test_images_without_joints_are_no_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xingaug.training.estimator.FEWEST_JOINTS", 19)
    with pytest.raises(BadInput, match=r"data: the drawn persons: none of 6 images shows 19 joints; needed one"):
        load_crops(SMALL.data, progress=False)


def test_the_images_that_show_joints_are_the_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = pairs_from_pedestrians(2, 1, 3, 5, progress=False)
    shown = np.array([False, True, True, False, True, True])
    drawn.visibility[~shown] = 0
    monkeypatch.setattr("xingaug.training.estimator.pairs_from_pedestrians", lambda *_, **__: drawn)
    (crops,) = load_crops(SMALL.data, progress=False)
    assert crops.names.tolist() == drawn.names[shown].tolist()
    assert (crops.visibility > 0).any(1).all()


@pytest.mark.parametrize("unused", [{"pairs": Path("a.csv")}, {"min_visible": 3}, {"within": "identity"}])
def test_settings_about_pairs_are_refused(unused: dict[str, Any]) -> None:
    name = next(iter(unused))
    with pytest.raises(ValueError, match=rf"^data.{name}: an estimator's training does not read it"):
        EstimatorConfig(data=[TreeData(Path("tree"), Path("joints.csv"), **unused)])


def test_one_batch_is_learned_by_heart() -> None:
    data = [pairs_from_pedestrians(2, 1, 3, 5, progress=False)]
    config = EstimatorConfig(data=SMALL.data, steps=40, batch_size=4, lr=3e-3)
    trainer = EstimatorTrainer(config, torch.device("cpu"))
    batch = draw_crops(data, config, 0)
    figures = [trainer.train_step(batch) for _ in range(40)]
    assert figures[-1]["total"] < 0.6 * figures[0]["total"]


def test_a_step_reads_its_figures_at_once_and_one_that_fails_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = EstimatorTrainer(SMALL, torch.device("cpu"))
    batch, reads = draw_crops(load_crops(SMALL.data, progress=False), SMALL, 0), []
    monkeypatch.setattr("xingaug.training.estimator.read", lambda figures: reads.append(1) or read(figures))
    with LaunchCounter() as counter:
        trainer.train_step(batch)
    assert not counter.reads
    assert len(reads) == 1
    before = copy.deepcopy(trainer.state())
    with pytest.raises(WorkFailed, match=r"step 1: the loss is not finite .*'cells': nan.*; try a lower lr"):
        trainer.train_step(replace(batch, xy=batch.xy * float("nan")))
    # A finite loss may have an infinite gradient.
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(WorkFailed, match=r"step 1: the loss is not finite .*'gradient': inf"):
        trainer.train_step(batch)
    for name in ("network", "average"):
        for key, value in trainer.state()[name].items():
            assert torch.equal(value, before[name][key]), (name, key)
    assert trainer.step == 1


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = load_posenet(train_estimator(SMALL, tmp_path / "whole", progress=False)).state_dict()
    run = tmp_path / "stopped"
    train_estimator(SMALL, run, progress=False)
    checkpoint = torch.load(run / "checkpoints" / "00000003.pt", weights_only=True)
    assert checkpoint["step"] == 3
    # As if it had been stopped after its second step.
    trainer = EstimatorTrainer(SMALL, torch.device("cpu"))
    data = load_crops(SMALL.data, progress=False)
    for step in range(2):
        trainer.train_step(draw_crops(data, SMALL, step))
    (run / "checkpoints" / "00000003.pt").unlink()
    torch.save(trainer.state(), run / "checkpoints" / "00000002.pt")
    (run / "estimator.safetensors").unlink()
    continued = load_posenet(train_estimator(SMALL, run, progress=False)).state_dict()
    assert all(torch.equal(continued[name], value) for name, value in whole.items())
    (run / "checkpoints" / "00000003.pt").write_bytes((run / "checkpoints" / "00000003.pt").read_bytes()[:999])
    with pytest.raises(BadInput, match=r"00000003.pt: .*; remove it to resume from the previous one"):
        train_estimator(SMALL, run, progress=False)
    with pytest.raises(BadInput, match=r"was made with steps = 3, now it is 4; .*; name another directory"):
        train_estimator(EstimatorConfig(data=SMALL.data, steps=4, batch_size=4), run, progress=False)


@pytest.mark.parametrize("change", [{"steps": 0}, {"data": []}, {"lr": 0.0}, {"ema_decay": 1.0}, {"device": "cuda:9"}])
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(change))}"):
        EstimatorConfig(**{"data": SMALL.data, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["market1501", "pedestrians"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    assert load_config(EstimatorConfig, CONFIGS / f"estimator_{name}.yaml").steps > 1000


def test_the_network_is_small_and_its_fast_form_the_same() -> None:
    plain = network()
    assert sum(p.numel() for p in plain.parameters()) <= 1_500_000
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        for _ in range(3):
            plain(images)  # batch statistics of its own
        expected = plain.eval()(images)
        found = fused(plain)(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_posenet(network(), path)
    assert load_estimator("posenet", path).name.startswith("posenet net.safetensors ")
    path.write_bytes(b"no tensors")
    with pytest.raises(BadInput, match=r"net\.safetensors: not the weights of a PoseNet"):
        load_estimator("posenet", path)
    broken = network()
    torch.nn.init.constant_(broken.out.bias, float("nan"))
    with pytest.raises(BadInput, match=r"out\.bias holds values that are not finite"):
        load_posenet(save_posenet(broken, path))
    with pytest.raises(BadInput, match="posenet': comes without weights"):
        load_estimator("posenet")
    with pytest.raises(BadInput, match="comes with its weights"):
        load_estimator(DEFAULT, path)


def test_crops_of_any_size_come_back_in_their_own_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = PoseNetFinder(save_posenet(network(), tmp_path / "net.safetensors"), torch.device("cpu"))
    xy = torch.rand(1, 18, 2) * torch.tensor([63.0, 127.0])

    def knowing(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert batch.shape == (1, 3, *SIZE)
        return perfect_maps(xy)

    monkeypatch.setattr(finder, "_network", knowing)
    found = finder([torch.rand(3, *SIZE), torch.rand(3, 300, 90)])
    torch.testing.assert_close(found[0].xy, xy[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1].xy, found[0].resize(SIZE, (300, 90)).xy, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_estimators_find_drawn_persons(name: str) -> None:
    crops = pairs_from_pedestrians(6, 1, 4, 77, progress=False)
    images = torch.from_numpy(np.asarray(crops.images[np.arange(len(crops))])).permute(0, 3, 1, 2).float() / 255
    found = load_estimator(name)(images)
    seen = (crops.visibility > 0) & (found.visibility.numpy() > 0)
    distance = np.linalg.norm(found.xy.numpy() - crops.xy, axis=-1)[seen]
    assert seen.mean() > 0.5 * (crops.visibility > 0).mean()
    assert np.median(distance) < (3 if "pedestrians" in name else 8)


@pytest.mark.skipif("XINGAUG_MARKET1501" not in os.environ, reason="XINGAUG_MARKET1501 names no copy of Market-1501")
def test_the_default_estimator_is_as_good_on_market1501_as_its_card_says() -> None:
    root = Path(os.environ["XINGAUG_MARKET1501"])
    table = read_annotations(patn_file("market-annotation-test.csv"))
    names = [name for name in table.names.tolist() if (root / "bounding_box_test" / name).exists()][::40][:200]
    pixels = np.stack([read_image(root / "bounding_box_test" / name, SIZE) for name in names])
    rows = table.lookup(names)
    found = load_estimator(DEFAULT)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    distance = np.linalg.norm(found.xy.numpy() - table.xy[rows], axis=-1)
    assert np.median(distance[(table.visibility[rows] > 0) & (found.visibility.numpy() > 0)]) < 2.4


@pytest.mark.parametrize("name", BUNDLED)
def test_a_card_lies_beside_the_weights(name: str) -> None:
    card = posenet_file(name).with_suffix(".md").read_text()
    parameters = sum(p.numel() for p in load_posenet(posenet_file(name)).parameters())
    assert f"{parameters:,} parameters" in card
    assert "licence" in card
