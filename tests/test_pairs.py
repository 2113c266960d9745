"""Training pairs: who is paired with whom, from where, and who is held out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xingaug.data.pairs import DiskImages, PairData, pairs_from_tree, read_pairs
from xingaug.data.pedestrians import write_world
from xingaug.errors import BadInput
from xingaug.images import write_image


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs") / "w"
    write_world(root, 6, 6, 0, workers=1, progress=False)
    return root


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
    changed = replace(data, visibility=visibility, groups=groups)
    kept = set(changed.usable().names)
    assert kept == set(data.names[1 : lonely[0] - 1])
    with pytest.raises(BadInput, match="none of"):
        replace(data, visibility=visibility * 0).usable()
    assert len(data.usable(13)) <= len(data)


def test_pairs_of_a_written_world_have_masks_and_one_camera(world: Path, tmp_path: Path) -> None:
    same = pairs_from_tree(world, world / "annotations.npz")
    assert isinstance(same.masks, np.ndarray)
    assert same.masks.shape == same.images.shape[:3]
    assert len(np.unique(same.groups)) > 3
    across = pairs_from_tree(world, world / "annotations.npz", within="identity")
    assert len(np.unique(across.groups)) == 3
    other = tmp_path / "other.npz"
    np.savez(other, names=np.array(["x.jpg"]), xy=same.xy[:1], visibility=same.visibility[:1], source="")
    with pytest.raises(BadInput, match="annotates none"):
        pairs_from_tree(world, other)


def test_pairs_across_cameras(world: Path) -> None:
    data = pairs_from_tree(world, world / "annotations.npz", within="cross-camera").usable()
    sources, targets, _ = data.draw(2000, 0, 0)
    assert data.blocks is not None
    assert (data.pids[sources] == data.pids[targets]).all()
    assert (data.blocks[sources] != data.blocks[targets]).all()
    allowed = {(i, j) for i in range(len(data)) for j in range(len(data))
               if data.pids[i] == data.pids[j] and data.blocks[i] != data.blocks[j]}  # fmt: skip
    assert set(zip(sources.tolist(), targets.tolist(), strict=True)) == allowed


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=14), st.booleans())
def test_every_allowed_pair_can_be_drawn_and_no_other(members: list[tuple[int, int]], own_blocks: bool) -> None:
    groups, cameras = np.array(members).T
    n = len(groups)
    blocks = None if own_blocks else cameras
    blank = np.zeros((n, 1), np.float32)
    data = PairData(blank, np.zeros((n, 18, 2)), np.ones((n, 18)), None, groups, groups, np.arange(n), blocks)
    apart = np.arange(n) if blocks is None else blocks
    allowed = {(i, j) for i in range(n) for j in range(n) if groups[i] == groups[j] and apart[i] != apart[j]}
    if not allowed:
        with pytest.raises(BadInput, match="none of"):
            data.usable()
        return
    usable = data.usable()
    assert set(usable.names) == {i for pair in allowed for i in pair}
    sources, targets, _ = usable.draw(3000, 0, 0)
    drawn = set(zip(usable.names[sources].tolist(), usable.names[targets].tolist(), strict=True))
    assert drawn <= allowed
    assert {i for i, _ in drawn} == {i for i, _ in allowed}


def test_a_share_of_the_pairs_is_from_one_camera(world: Path) -> None:
    apart = pairs_from_tree(world, world / "annotations.npz", "cross-camera").usable()
    mixed = pairs_from_tree(world, world / "annotations.npz", "cross-camera", same_camera=0.5).usable()
    assert apart.blocks is not None
    assert mixed.blocks is not None
    for data, low, high in ((apart, 0.0, 0.0), (mixed, 0.4, 0.6)):
        sources, targets, _ = data.draw(1000, 0, 0)
        assert (sources != targets).all()
        assert (data.pids[sources] == data.pids[targets]).all()
        assert low <= (data.blocks[sources] == data.blocks[targets]).mean() <= high
    with pytest.raises(BadInput, match="same_camera: no person has two images from one camera"):
        replace(mixed, camids=np.arange(len(mixed))).usable()
    one = np.unique(mixed.pids)[0]  # the only person whom a camera took twice
    apart = replace(mixed, camids=np.where(mixed.pids == one, 1, 100 + np.arange(len(mixed)))).usable()
    for seed in range(3):  # held out or not, the other part has no pair of one camera
        with pytest.raises(BadInput, match=r"same_camera: .* the 1 held out \(validation.identities\) none has two"):
            apart.hold_out(1, seed)


def test_masks_may_lie_in_a_folder_of_their_own(world: Path, tmp_path: Path) -> None:
    beside = pairs_from_tree(world, world / "annotations.npz")
    assert isinstance(beside.masks, np.ndarray)
    for name, mask in zip(beside.names.tolist(), beside.masks, strict=True):
        write_image(tmp_path / Path(name).with_suffix(".png"), 255 - np.repeat(mask[..., None], 3, 2))
    apart = pairs_from_tree(world, world / "annotations.npz", masks=tmp_path)
    assert isinstance(apart.masks, np.ndarray)
    assert (apart.masks == 255 - beside.masks).all()
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(BadInput, match=r"no mask .*png; needed a PNG named as each of"):
        pairs_from_tree(world, world / "annotations.npz", masks=tmp_path)


def test_listed_pairs_are_the_only_ones(world: Path, tmp_path: Path) -> None:
    everything = pairs_from_tree(world, world / "annotations.npz")
    by_person = [np.flatnonzero(everything.pids == pid) for pid in np.unique(everything.pids)]
    listed = [(rows[0], rows[1]) for rows in by_person] + [(by_person[0][2], by_person[0][0])]
    names = everything.names
    file = tmp_path / "pairs.csv"
    file.write_text("from,to\n" + "".join(f"{names[a]},{names[b]}\n" for a, b in listed))
    data = pairs_from_tree(world, world / "annotations.npz", pairs=file).usable()
    assert set(data.names) == {names[i] for pair in listed for i in pair}
    wanted = {(names[a], names[b]) for a, b in listed}
    for part in (data, *data.hold_out(1, seed=0)):
        assert part is not None
        sources, targets, _ = part.draw(200, 0, 0)
        drawn = set(zip(part.names[sources], part.names[targets], strict=True))
        assert drawn == {pair for pair in wanted if pair[0] in set(part.names)}
    for bad, said in (
        (f"{names[0]},none.jpg", "line 2: 'none.jpg' is no training image with keypoints"),
        (f"{names[by_person[0][0]]},{names[by_person[1][0]]}", "line 2: .* expected two images of one person"),
        (f"{names[0]},{names[0]}", "line 2: .* expected two images of one person"),
    ):
        file.write_text(f"from,to\n{bad}\n")
        with pytest.raises(BadInput, match=said):
            pairs_from_tree(world, world / "annotations.npz", pairs=file)


def test_held_out_persons_are_in_neither_part_twice(data: PairData) -> None:
    rest, held = data.hold_out(1, seed=3)
    assert held is not None
    assert len(np.unique(held.pids)) == 1
    assert set(rest.names) | set(held.names) == set(data.names)
    assert set(rest.pids) & set(held.pids) == set()
    same, none = data.hold_out(0, seed=3)
    assert same is data
    assert none is None
    with pytest.raises(BadInput, match=r"validation.identities: 3 held out of 3 persons"):
        data.hold_out(3, seed=0)


def test_images_that_do_not_fit_into_memory_are_read_from_disk(world: Path) -> None:
    held = pairs_from_tree(world, world / "annotations.npz")
    read = pairs_from_tree(world, world / "annotations.npz", memory_bytes=0)
    assert isinstance(read.images, DiskImages)
    assert isinstance(read.masks, DiskImages)
    chosen = np.arange(len(held)) % 3 == 0
    rows = np.array([1, 0])
    for a, b in ((held, read), (held.select(chosen), read.select(chosen))):
        assert a.masks is not None
        assert b.masks is not None
        np.testing.assert_array_equal(a.images[rows], b.images[rows])
        np.testing.assert_array_equal(a.masks[rows], b.masks[rows])
        assert b.images.shape == a.images.shape


def test_reading_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("from,to\na.jpg, b.jpg\n")
    assert read_pairs(file) == [("a.jpg", "b.jpg")]
    for text, said in (("a,b\n", "line 1: expected the header"), ("from,to\na\n", "line 2: 1 fields"),
                       ("from,to\n", "no pair after the header")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_pairs(file)
