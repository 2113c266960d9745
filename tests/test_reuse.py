"""Rendering once and serving often: the same sequence whatever is kept, and as often rendered as promised."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from posing import images_of, keys_of, make, persons

from xingaug.augment.gate import QualityGate
from xingaug.augment.reuse import Rendered, ReuseCache, ReuseSchedule
from xingaug.augment.transform import XingPose
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform

COUNT = 60


def run(aug: XingPose, epochs: range, batches: list[list[int]]) -> dict[tuple[int, int], tuple[int, torch.Tensor]]:
    """For each (epoch, row) the pose and the pixels."""
    images, kp, keys = images_of(COUNT), persons(COUNT), keys_of(COUNT)
    seen = {}
    for epoch in epochs:
        for rows in batches:
            out = aug(images[rows], kp[rows], keys=[keys[i] for i in rows], epoch=epoch)
            for place, row in enumerate(rows):
                seen[epoch, row] = (int(out.draw.bank_rows[place]), out.images[place])
    return seen


def rendered_rows(aug: XingPose) -> int:
    return aug.generator.rows  # type: ignore[return-value]


WHOLE = [list(range(COUNT))]


@pytest.mark.parametrize("reuse", [2, 4])
def test_a_pose_is_served_so_often_and_rendered_once(reuse: int) -> None:
    aug = make(p=0.5, reuse=reuse)
    epochs = 16 * reuse
    seen = run(aug, range(epochs), WHOLE)
    runs, rendered = [], 0
    for row in range(COUNT):
        poses = [pose for epoch in range(epochs) if (pose := seen[epoch, row][0]) >= 0]
        changes = [0, *(i for i in range(1, len(poses)) if poses[i] != poses[i - 1]), len(poses)]
        lengths = np.diff(changes)
        runs += lengths[1:-1].tolist()
        rendered += len(lengths)
    # A new draw may bring the same pose of 40 again; but for that every run is of that length.
    assert np.mean(np.array(runs) == reuse) > 0.9
    assert set(np.array(runs) % reuse) == {0}
    assert rendered_rows(aug) >= rendered
    assert rendered_rows(aug) == pytest.approx(rendered, rel=0.1)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_every_step_renders_about_the_same_number(p: float) -> None:
    aug, reuse = make(p=p, reuse=4), 4
    halves = [list(range(0, COUNT, 2)), list(range(1, COUNT, 2))]
    per_step = []
    for epoch in range(60):
        for rows in halves:
            before = rendered_rows(aug)
            run(aug, range(epoch, epoch + 1), [rows])
            per_step.append(rendered_rows(aug) - before)
    later, expected = per_step[20:], 30 * p / reuse
    assert np.mean(later) == pytest.approx(expected, rel=0.15)
    assert max(later) < 20  # with p of 1, a common start would bring 30 in every fourth epoch


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(COUNT)), st.integers(1, COUNT), st.integers(0, 9), st.sampled_from([1e-3, 0.01, 100]))
def test_the_sequence_does_not_depend_on_what_is_kept(order: list[int], batch: int, start: int, limit: float) -> None:
    other = [order[i : i + batch] for i in range(0, COUNT, batch)]
    expected = run(make(reuse=3), range(start + 3), WHOLE)
    # Another order and batch size, begun in the middle, with a memory that holds none, a few, or all.
    found = run(make(reuse=3, reuse_limit_mb=limit), range(start, start + 3), other)
    for key, (pose, pixels) in found.items():
        assert pose == expected[key][0]
        assert torch.allclose(pixels, expected[key][1], atol=1.01 / 255)


def test_served_pixels_are_the_rendered_ones() -> None:
    aug, fresh = make(p=1, reuse=5), make(p=1, reuse=5)
    images, kp, keys = images_of(6), persons(6), keys_of(6)
    first = aug(images, kp, keys=keys, epoch=0)
    again = aug(images, kp, keys=keys, draw=first.draw)
    assert rendered_rows(aug) == 6
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, fresh(images, kp, draw=first.draw).images)  # no keys: rendered anew
    assert (first.images * 255 - (first.images * 255).round()).abs().max() < 1e-4
    assert torch.allclose(first.images, make(p=1)(images, kp, draw=first.draw).images, atol=0.51 / 255)


def test_images_of_another_size_are_rendered_anew() -> None:
    aug = make(p=1, reuse=5)
    out = aug(images_of(4), persons(4), keys=keys_of(4))
    aug(images_of(4, (64, 32)), persons(4, (64, 32)), keys=keys_of(4), draw=out.draw)
    assert rendered_rows(aug) == 8


def test_without_reuse_every_epoch_draws() -> None:
    assert ReuseSchedule(0, 1).generations(["a", "b"], 7, 0.5).tolist() == [7, 7]
    aug = make(p=1)
    seen = run(aug, range(3), WHOLE)
    assert rendered_rows(aug) == 3 * COUNT
    assert all(seen[0, row][0] != seen[1, row][0] or seen[1, row][0] != seen[2, row][0] for row in range(COUNT))


def test_verdicts_of_the_gate_are_kept_too() -> None:
    gate = QualityGate(min_contrast=0.122)
    aug = make(p=1, reuse=3, gate=gate)
    images, kp, keys = images_of(20), persons(20), keys_of(20)
    first = aug(images, kp, keys=keys, epoch=0)
    assert 0 < first.skipped.rejected < 20
    again = aug(images, kp, keys=keys, draw=first.draw)
    assert again.skipped == first.skipped
    assert torch.equal(again.images, first.images)
    assert torch.equal(again.scores["contrast"], first.scores["contrast"])
    assert gate.counts.judged.total() == 20


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcd")), min_size=1, max_size=12),
    st.integers(2, 5),
    st.sampled_from([0.3, 0.7, 1.0]),
)
def test_generations_against_a_loop(asked: list[tuple[int, str]], reuse: int, p: float) -> None:
    schedule = ReuseSchedule(5, reuse)
    for epoch, name in asked:
        served = sum(keyed_uniform(5, past, [name], "p")[0] < p for past in range(epoch))
        own = int(keyed_uniform(5, 0, [name], "reuse")[0] * reuse)
        assert schedule.generations([name, "z"], epoch, p)[0] == (served + own) // reuse


def entry(number: int, kept: bool = True) -> Rendered:
    return Rendered((number, (4, 4)), torch.full((3, 20, 25), number % 256, dtype=torch.uint8), kept, {})


def test_the_cache_stays_under_its_limit_and_keeps_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    cache = ReuseCache(limit_mb=0.005)  # three of them
    for number in range(5):
        cache.put(str(number), entry(number))
        assert cache.size == 1500 * len(cache) <= 5000
    assert [cache.get(str(n), (n, (4, 4))) is not None for n in range(5)] == [True, True, True, False, False]
    assert caplog.messages == [
        "reuse: 3 images fill the limit of 0.005 MB; others are rendered in every epoch that selects them"
    ]
    assert cache.get("1", (3, (4, 4))) is None
    cache.put("2", entry(9))
    assert (len(cache), cache.size) == (3, 4500)
    assert cache.get("2", (9, (4, 4))) is not None


def test_rejected_images_take_no_memory() -> None:
    cache = ReuseCache(limit_mb=1)
    cache.put("a", entry(0, kept=False))
    assert (len(cache), cache.size) == (1, 0)


def test_images_are_kept_where_it_is_asked() -> None:
    cache = ReuseCache(1, "meta")
    cache.put("a", entry(0))
    kept = cache.get("a", (0, (4, 4)))
    assert kept is not None
    assert kept.image.device.type == "meta"


def test_copies_are_empty() -> None:
    aug = make(p=1, reuse=3)
    out = aug(images_of(4), persons(4), keys=keys_of(4))
    twin = copy.deepcopy(aug)
    assert (len(aug._cache), len(twin._cache)) == (4, 0)  # type: ignore[arg-type]
    assert torch.equal(twin(images_of(4), persons(4), draw=out.draw).images, out.images)


def test_another_bank_empties_the_cache() -> None:
    aug = make(p=1, reuse=50)
    images, kp, keys = images_of(4), persons(4), keys_of(4)
    first = aug(images, kp, keys=keys)
    aug.bank = PoseBank.build(persons(40, (128, 64), seed=3))
    second = aug(images, kp, keys=keys, draw=first.draw)
    assert not torch.equal(second.images, first.images)
    assert rendered_rows(aug) == 8


def test_twins_in_a_batch_are_rendered_once() -> None:
    aug = make(p=1, reuse=2)
    rows = [0, 1, 0, 0, 2]
    out = aug(images_of(3)[rows], persons(3)[rows], keys=[keys_of(3)[i] for i in rows])
    assert rendered_rows(aug) == 3
    assert torch.equal(out.images[0], out.images[2])
    assert torch.equal(out.images[0], out.images[3])


def test_a_kept_image_does_not_hold_its_batch() -> None:
    cache = ReuseCache(1)
    batch = torch.zeros(8, 3, 32, 16, dtype=torch.uint8)
    cache.put("a", Rendered((0, (1, 1)), batch[0], True, {}))
    kept = cache.get("a", (0, (1, 1)))
    assert kept is not None
    assert kept.image.untyped_storage().nbytes() == batch[0].nbytes


@pytest.mark.parametrize("arguments", [{"reuse": 0}, {"reuse": 2, "reuse_limit_mb": 0}])
def test_bad_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needed at least 1, and more than 0 MB"):
        make(**arguments)
