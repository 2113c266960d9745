"""Training of generators that keep their source's ground: targets they can know, and what their split learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xingaug.config import from_mapping
from xingaug.data.pairs import pairs_from_tree
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput
from xingaug.generators.ground import SourceSplit
from xingaug.training.batches import PairRows, make_batch
from xingaug.training.config import TrainConfig
from xingaug.training.loop import load_pairs, train
from xingaug.training.splitting import compose, holes, split_losses

SIZE = (64, 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("composing") / "w"
    write_world(root, 6, 6, 0, workers=1, progress=False)
    return root


def config(world: Path, **changes: object) -> TrainConfig:
    settings = {
        "perceptual": "none",
        "data": {"root": str(world), "annotations": str(world / "annotations.npz"), "within": "identity",
                 "same_camera": 0.3},
        "generator": {"size": list(SIZE), "width": 16, "blocks": 1, "keep_ground": True},
        "target": "composite",
        "losses": {"structural": 0, "style": 0, "adversarial": 0, "feature_matching": 0},
        "discriminators": {"appearance": "none", "shape": "none"},
        "validation": {"identities": 0},
        "steps": 2,
        "batch_size": 4,
        "tensorboard": False,
    }  # fmt: skip
    return from_mapping(TrainConfig, settings | changes)


def test_a_composite_keeps_the_sources_ground_where_nobody_stands(world: Path) -> None:
    data = pairs_from_tree(world, world / "annotations.npz", "identity", SIZE).usable()
    sources, targets, _ = data.draw(6, 0, 0)
    rows = PairRows(sources, targets, np.array([False, True] * 3), np.zeros(6, np.int64))
    batch = make_batch(data, rows, SIZE, torch.device("cpu"))
    split = SourceSplit().eval()
    torch.nn.init.constant_(split.mask.leave.bias, -50.0)  # it sees nobody, so that the ground is the source
    made = compose(batch, split)
    assert batch.persons is not None
    assert data.camids is not None
    assert (batch.across.numpy() == (data.camids[sources] != data.camids[targets])).all()
    seen = (batch.persons[:, 1:] == 0).expand_as(made.target)
    torch.testing.assert_close(made.target[seen], batch.source[seen], atol=1e-5, rtol=0)
    same = ~batch.across[:, None, None, None] & (batch.persons[:, 1:] == 1)
    torch.testing.assert_close(made.target[same.expand_as(seen)], batch.target[same.expand_as(seen)], atol=1e-5, rtol=0)


def test_holes_are_known_only_beside_the_own_person() -> None:
    person = torch.zeros(2, 1, 32, 16)
    person[:, :, 8:24, 6:10] = 1
    hole, known = holes(person)
    assert ((hole == 1) | (person == 0)).all()
    assert known.sum() > 0
    assert (known * person).sum() == 0
    assert (hole >= known).all()


def test_a_hole_has_the_shape_of_the_previous_rows_person() -> None:
    person = torch.zeros(4, 1, 32, 15)
    for row in range(4):
        person[row, :, 8 * row + 3 : 8 * row + 5, 7] = 1
    hole, _ = holes(person)
    for row, column in enumerate((12, 2, 12, 2)):  # to the right and to the left by turns
        assert (hole[row, 0, 8 * ((row - 1) % 4) + 3, column - 2 : column + 3] == 1).all()
        assert hole[row].sum() == 2 * 5 * 6


def test_the_split_learns_masks_and_ground(world: Path) -> None:
    data = pairs_from_tree(world, world / "annotations.npz", "identity", SIZE).usable()
    rows = PairRows(*data.draw(4, 0, 0), np.zeros(4, np.int64))
    batch = make_batch(data, rows, SIZE, torch.device("cpu"))
    assert batch.persons is not None
    torch.manual_seed(0)
    split = SourceSplit(widths=(8, 8, 8, 8))
    optimiser = torch.optim.Adam(split.parameters(), 5e-3)
    history = []
    for _ in range(25):
        found = split_losses(split, batch.source, batch.source_means, batch.persons[:, :1])
        optimiser.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimiser.step()
        history.append({name: value.item() for name, value in found.items()})
    assert all(history[-1][name] < 0.8 * history[0][name] for name in ("mask", "ground"))


def test_a_run_on_composites_logs_its_terms_and_ends(world: Path, tmp_path: Path) -> None:
    out = train(config(world), tmp_path / "run", progress=False)
    assert out.is_file()
    logged = (tmp_path / "run" / "stats.jsonl").read_text()
    assert '"split"' in logged
    assert '"l1"' in logged


def test_what_composites_need_is_asked_for(world: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="target: composite needs a generator with keep_ground"):
        config(world, generator={"size": list(SIZE), "width": 16, "blocks": 1})
    with pytest.raises(BadInput, match=r"losses.style: needs the features of a perceptual loss"):
        config(world, losses={"style": 1})
    bare = tmp_path / "bare"
    write_world(bare, 3, 4, 0, workers=1, progress=False)
    for mask in bare.rglob("*.png"):
        mask.unlink()
    with pytest.raises(BadInput, match="keep_ground learns from masks of the persons"):
        load_pairs(config(bare), progress=False)
