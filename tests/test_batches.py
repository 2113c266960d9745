"""Batches: what a step sees of its pairs."""

from dataclasses import replace

import numpy as np
import torch
from training_runs import ALONE, config

from xingaug.data.pairs import PairData
from xingaug.keypoints import Keypoints
from xingaug.training.batches import PairRows, make_batch, rows_of_steps
from xingaug.training.config import Photometric
from xingaug.training.masks import pose_mask
from xingaug.training.processes import Processes

SIZE, CPU = (128, 64), torch.device("cpu")


def rows_of(mirror: list[bool], seeds: tuple[int, int] = (0, 1)) -> PairRows:
    return PairRows(np.array([0, 1]), np.array([1, 0]), np.array(mirror), np.array(seeds))


def test_a_mirrored_batch_is_the_mirrored_picture(data: PairData) -> None:
    plain = make_batch(data, rows_of([False, False]), SIZE, CPU)
    mirrored = make_batch(data, rows_of([True, False]), SIZE, CPU)
    torch.testing.assert_close(mirrored.source[0], plain.source[0].flip(-1))
    torch.testing.assert_close(mirrored.source[1], plain.source[1])
    # Neck keeps its map; the right shoulder's becomes the left one's.
    torch.testing.assert_close(mirrored.target_heatmaps[0, 1], plain.target_heatmaps[0, 1].flip(-1))
    torch.testing.assert_close(mirrored.target_heatmaps[0, 2], plain.target_heatmaps[0, 5].flip(-1))
    torch.testing.assert_close(mirrored.mask[0], plain.mask[0].flip(-1))
    assert plain.names == [f"{data.names[0]} -> {data.names[1]}", f"{data.names[1]} -> {data.names[0]}"]


def test_a_person_counts_where_either_image_shows_it(data: PairData) -> None:
    assert data.masks is not None
    rows = rows_of([False, False])
    batch = make_batch(data, rows, SIZE, CPU)
    union = (data.masks[rows.sources] > 0) | (data.masks[rows.targets] > 0)
    np.testing.assert_array_equal(batch.mask[:, 0].numpy() > 0, union)
    assert union.sum() > (data.masks[rows.targets] > 0).sum()


def test_without_masks_the_target_pose_tells_the_foreground(data: PairData) -> None:
    batch = make_batch(replace(data, masks=None), rows_of([False, True]), SIZE, CPU)
    poses = Keypoints(torch.from_numpy(data.xy[[1, 0]]), torch.from_numpy(data.visibility[[1, 0]]))
    torch.testing.assert_close(batch.mask[0], pose_mask(poses[0], SIZE))
    torch.testing.assert_close(batch.mask[1], pose_mask(poses[1].flip(64), SIZE))
    true = make_batch(data, rows_of([False, True]), SIZE, CPU).mask
    assert (true * batch.mask).sum() > 0.6 * batch.mask.sum()


def test_colours_change_alike_in_both_images_and_by_seed_alone(data: PairData) -> None:
    same = replace(data, images=np.repeat(np.asarray(data.images)[:1], len(data), 0))
    strong = Photometric(0.5, 0.5, 0.5, 0.1, p=1.0)
    batch = make_batch(same, rows_of([False, False]), SIZE, CPU, strong)
    torch.testing.assert_close(batch.source, batch.target)
    assert (batch.source[0] - batch.source[1]).abs().mean() > 0.02  # two pairs, two draws
    again = make_batch(same, rows_of([False, False]), SIZE, CPU, strong)
    torch.testing.assert_close(batch.source, again.source, rtol=0, atol=0)
    other = make_batch(same, rows_of([False, False], (5, 6)), SIZE, CPU, strong)
    assert (batch.source - other.source).abs().mean() > 0.02
    untouched = make_batch(same, rows_of([False, False]), SIZE, CPU, Photometric(p=0.0))
    torch.testing.assert_close(untouched.source, make_batch(same, rows_of([False, False]), SIZE, CPU).source)


def test_processes_share_the_pairs_of_one(data: PairData) -> None:
    asked = config(steps=9, batch_size=4, pairs_per_epoch=12)
    whole = list(rows_of_steps(asked, data, 0, ALONE))
    parts = [list(rows_of_steps(asked, data, 0, Processes(rank, 2, CPU))) for rank in (0, 1)]
    for step, rows in enumerate(whole):
        for name, column in vars(rows).items():
            joined = np.concatenate([getattr(part[step], name) for part in parts])
            np.testing.assert_array_equal(joined, column)
    late = list(rows_of_steps(asked, data, 5, ALONE))
    assert len(late) == 4
    np.testing.assert_array_equal(late[0].sources, whole[5].sources)
    assert any((a.sources != b.sources).any() for a, b in zip(whole[:3], whole[3:6], strict=True))  # a new epoch


def test_parts_of_a_batch_are_the_batch(data: PairData) -> None:
    batch = make_batch(data, rows_of([False, True]), SIZE, CPU)
    parts = batch.parts(2)
    assert [part.names for part in parts] == [[name] for name in batch.names]
    for name in ("source", "target", "xy", "visibility", "target_heatmaps", "mask"):
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
