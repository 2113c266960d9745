import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xingaug.config import from_mapping
from xingaug.data.pairs import PairData, pairs_from_pedestrians, pairs_from_tree
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators import SIZES, XingGAN, load_generator
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.xinggan import XingGANConfig
from xingaug.training import losses
from xingaug.training.loop import TrainConfig, Trainer, batches, make_batch, train

GENERATOR = {
    "width": 8, "blocks": 1, "query_channels": 4, "enhanced_width": 8, "candidates": 1, "decoder_widths": [4, 4],
    "pyramid": [1, 2], "texture_attention": 1,
}  # fmt: skip


def config(**changes: object) -> TrainConfig:
    small = {
        "data": {"identities": 3, "tracklets": 2, "poses": 3, "seed": 5},
        "generator": GENERATOR, "steps": 4, "batch_size": 4, "discriminator_start": 0.5, "sample_every": 2,
        "autocast": False,
    }  # fmt: skip
    return from_mapping(TrainConfig, {**small, **changes})


@pytest.fixture(scope="module")
def data() -> PairData:
    return pairs_from_pedestrians(3, 2, 3, seed=5, workers=1, progress=False).usable()


@pytest.fixture
def given(data: PairData, monkeypatch: pytest.MonkeyPatch) -> PairData:
    """Lets `train` use the images that are there already."""
    monkeypatch.setattr("xingaug.training.loop.load_pairs", lambda *_: data)
    return data


def test_pairs_stay_in_their_group_and_depend_on_seed_and_epoch_alone(data: PairData) -> None:
    sources, targets, mirror = data.draw(500, seed=1, epoch=2)
    assert (sources != targets).all()
    assert (data.groups[sources] == data.groups[targets]).all()
    assert set(sources) == set(range(len(data)))
    assert 0.4 < mirror.mean() < 0.6
    again, other = data.draw(500, 1, 2), data.draw(500, 1, 3)
    assert all((a == b).all() for a, b in zip((sources, targets, mirror), again, strict=True))
    assert (other[0] != sources).any()


def test_images_without_partner_or_joints_are_left_out(data: PairData) -> None:
    visibility = data.visibility.copy()
    visibility[0, 7:] = 0
    lonely = np.flatnonzero(data.groups == data.groups[-1])[1:]
    groups = data.groups.copy()
    groups[lonely] = 10_000 + np.arange(len(lonely))
    changed = PairData(data.images, data.xy, visibility, data.masks, groups, data.names)
    kept = set(changed.usable().names)
    assert kept == set(data.names[1 : lonely[0] - 1])
    with pytest.raises(BadInput, match="none of"):
        PairData(data.images, data.xy, visibility * 0, None, groups, data.names).usable()


def test_pairs_of_a_written_world_have_masks_and_one_camera(tmp_path: Path) -> None:
    write_world(tmp_path / "w", 4, 6, 0, workers=1, progress=False)
    same = pairs_from_tree(tmp_path / "w", tmp_path / "w" / "annotations.npz")
    assert same.masks is not None
    assert same.masks.shape == same.images.shape[:3]
    assert len(np.unique(same.groups)) > 2
    across = pairs_from_tree(tmp_path / "w", tmp_path / "w" / "annotations.npz", within="identity")
    assert len(np.unique(across.groups)) == 2
    other = tmp_path / "other.npz"
    np.savez(other, names=np.array(["x.jpg"]), xy=same.xy[:1], visibility=same.visibility[:1], source="")
    with pytest.raises(BadInput, match="annotates none"):
        pairs_from_tree(tmp_path / "w", other)


def test_a_mirrored_batch_is_the_mirrored_picture(data: PairData) -> None:
    rows = np.array([0, 1])
    plain = make_batch(data, rows, rows[::-1], np.array([False, False]), (128, 64), torch.device("cpu"))
    mirrored = make_batch(data, rows, rows[::-1], np.array([True, False]), (128, 64), torch.device("cpu"))
    torch.testing.assert_close(mirrored.source[0], plain.source[0].flip(-1))
    torch.testing.assert_close(mirrored.source[1], plain.source[1])
    # Neck keeps its map; the right shoulder's becomes the left one's.
    torch.testing.assert_close(mirrored.target_heatmaps[0, 1], plain.target_heatmaps[0, 1].flip(-1))
    torch.testing.assert_close(mirrored.target_heatmaps[0, 2], plain.target_heatmaps[0, 5].flip(-1))
    assert plain.mask is not None
    assert mirrored.mask is not None
    torch.testing.assert_close(mirrored.mask[0], plain.mask[0].flip(-1))


def test_losses_by_hand() -> None:
    generated, target = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    generated[..., 0] = 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 0] = 1
    assert losses.weighted_l1(generated, target, None, 3.0).item() == pytest.approx(1 / 8)
    assert losses.weighted_l1(generated, target, mask, 3.0).item() == pytest.approx(3 * 8 / (56 + 3 * 8))
    assert losses.structural_loss(target, target, mask, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert losses.structural_loss(generated, target, None, 3.0).item() > 0.05
    scores = torch.tensor([-2.0, 0.0, 2.0])
    assert losses.hinge_generator(scores).item() == 0
    assert losses.hinge_discriminator(scores, scores).item() == pytest.approx(4 / 3 + 4 / 3)
    assert losses.feature_matching([torch.ones(2)], [torch.zeros(2)]).item() == 1


def test_discriminator_trains_every_parameter() -> None:
    discriminator = PatchDiscriminator(18, width=4)
    scores, features = discriminator(torch.rand(2, 3, 32, 16), torch.rand(2, 18, 32, 16))
    assert scores.shape == (2, 1, 4, 2)
    assert len(features) == 3
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())


def test_overfits_one_batch(data: PairData) -> None:
    trainer = Trainer(config(steps=200, batch_size=2, lr=4e-3, discriminator_start=1.0))
    batch = next(batches(trainer.config, data, 0, trainer.device))
    first = trainer.train_step(batch)["l1"]
    for _ in range(79):
        last = trainer.train_step(batch)["l1"]
    assert last < 0.6 * first


def test_a_run_describes_itself_and_leaves_the_global_rng_alone(given: PairData, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    path = train(config(), tmp_path / "run", progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert "discriminators" not in lines[0]
    assert {"l1", "structural", "adversarial", "feature_matching", "discriminators"} <= set(lines[-1])
    assert (tmp_path / "run" / "samples" / "000004.png").is_file()
    assert load_generator(path).size == (128, 64)
    assert not list((tmp_path / "run").glob(".*"))


DROPPING = {"generator": {**GENERATOR, "dropout": 0.5}, "discriminators": {"appearance": "residual"}}


@pytest.mark.parametrize("changes", [{}, DROPPING], ids=["default", "dropout"])
def test_a_stopped_run_continues_bit_for_bit(
    changes: dict[str, object], given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(checkpoint_minutes=0, **changes)
    whole = train(asked, tmp_path / "whole", progress=False)
    step = Trainer.train_step

    def stops_at_three(self: Trainer, batch):  # type: ignore[no-untyped-def]
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stops_at_three)
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "stopped", progress=False)
    with (tmp_path / "stopped" / "stats.jsonl").open("a") as stats:
        stats.write('{"step": 4, "l1"')  # a line torn by the stop
    continued = train(asked, tmp_path / "stopped", progress=False)
    assert continued.read_bytes() == whole.read_bytes()
    stats_of = [(tmp_path / name / "stats.jsonl").read_text() for name in ("whole", "stopped")]
    assert stats_of[0] == stats_of[1]


@pytest.mark.parametrize("appearance", ["patch", "residual", "none"])
@pytest.mark.parametrize("shape", ["patch", "residual", "none"])
def test_discriminators_are_switched_on_their_own(appearance: str, shape: str, data: PairData) -> None:
    kinds = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
    chosen = {name: kind for name, kind in (("appearance", appearance), ("shape", shape)) if kind != "none"}
    changes = {"discriminators": {"appearance": appearance, "shape": shape}, "discriminator_start": 0.0}
    trainer = Trainer(config(batch_size=2, **changes))
    assert {name: type(d) for name, d in trainer.discriminators.items()} == {n: kinds[k] for n, k in chosen.items()}
    before = [p.detach().clone() for p in trainer.discriminators.parameters()]
    logged = trainer.train_step(next(batches(trainer.config, data, 0, trainer.device)))
    assert ({"adversarial", "feature_matching", "discriminators"} <= set(logged)) == bool(chosen)
    moved = [not torch.equal(p, q) for p, q in zip(trainer.discriminators.parameters(), before, strict=True)]
    assert sum(moved) >= 0.8 * len(moved)  # a bias may find both sides alike


def test_the_released_network_is_trained_by_the_same_loop(
    given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(blocks=1, width=2))
    asked = config(steps=1, batch_size=2, generator="xinggan")
    assert isinstance(load_generator(train(asked, tmp_path / "run", progress=False)), XingGAN)


@pytest.mark.parametrize("shared", [True, False])
def test_the_average_moves_every_tensor_once(shared: bool, data: PairData) -> None:
    trainer = Trainer(config(batch_size=2, generator={**GENERATOR, "shared_projections": shared}))
    before = [v.clone() for v in trainer.average.parameters()]
    trainer.train_step(next(batches(trainer.config, data, 0, trainer.device)))
    decay = 1 / 10  # at the first step
    for old, now, average in zip(before, trainer.generator.parameters(), trainer.average.parameters(), strict=True):
        torch.testing.assert_close(average, old.lerp(now, 1 - decay))


def test_a_named_generator_takes_a_size() -> None:
    tree = {"data": {"root": "x", "annotations": "y"}}
    assert config(**tree, generator="xinggan_pp", size=[256, 176]).network.size == (256, 176)
    with pytest.raises(BadInput, match="size: belongs to a named generator"):
        config(**tree, size=[256, 176])
    with pytest.raises(BadInput, match="pedestrians are drawn at"):
        config(generator="xinggan", size=[256, 176])


def test_training_goes_on_from_given_weights(given: PairData, tmp_path: Path) -> None:
    path = train(config(steps=1), tmp_path / "first", progress=False)
    start = Trainer(config(start=str(path))).generator.state_dict()
    for name, value in load_generator(path, dtype=None).state_dict().items():
        assert torch.equal(start[name], value)
    other = config(start=str(path), generator={**GENERATOR, "width": 12})
    with pytest.raises(BadInput, match=r"generator '.*': has width 8, asked for 12"):
        train(other, tmp_path / "second", progress=False)
    with pytest.raises(BadInput, match=r"is XingGANPlusPlus, asked for another network"):
        Trainer(config(start=str(path), generator="xinggan"))
    with pytest.raises(BadInput, match="generator 'none': no such file"):
        train(config(start="none"), tmp_path / "second", progress=False)
    assert not (tmp_path / "second").exists()


def test_another_configuration_on_a_run_is_refused(given: PairData, tmp_path: Path) -> None:
    train(config(steps=1), tmp_path / "run", progress=False)
    with pytest.raises(BadInput, match=r"holds a run with 'lr: .*', asked for 'lr: 0.1'"):
        train(config(steps=1, lr=0.1), tmp_path / "run", progress=False)


def test_a_loss_that_is_not_finite_stops_the_run(data: PairData) -> None:
    trainer = Trainer(config())
    batch = next(batches(trainer.config, data, 0, trainer.device))
    assert isinstance(trainer.generator.fusion, nn.Module)
    next(trainer.generator.fusion.parameters()).data.fill_(float("nan"))
    with pytest.raises(WorkFailed, match=r"step 0: loss is not finite .* images .* -> "):
        trainer.train_step(batch)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"discriminator_start": 2.0}, {"generator": "huge"}])
def test_bad_values(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        config(**bad)
