import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import random_people

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses import samplers
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform, keyed_uniforms
from xingaug.poses.samplers import FAR_TRIES, NEAR_POOL, SAMPLERS, Sources, parse_sampler, sample

EVERY = [*SAMPLERS, "uniform=3,near=1,gap=2"]


def name(index: int) -> str:
    return f"{index:04d}_c1s1_000000_00.jpg"


def torsoless(keypoints: Keypoints) -> Keypoints:
    visibility = keypoints.visibility.clone()
    visibility[:, [8, 11]] = 0
    return Keypoints(keypoints.xy, visibility)


@pytest.fixture(scope="module")
def bank() -> PoseBank:
    """200 poses of 100 images, two of each, every tenth pose unusable; 20 identities under 3 cameras."""
    people = random_people(200, seed=1, missing=0.1)
    visibility = people.visibility.clone()
    visibility[::10, 8:] = 0
    names = [name(index // 2) for index in range(200)]
    return PoseBank.build(Keypoints(people.xy, visibility), names, pids_of(names), camids_of(names))


def pids_of(keys) -> np.ndarray:
    return np.array([int(key[:4]) // 5 if key[:4].isdigit() else -1 for key in keys], np.int64)


def camids_of(keys) -> np.ndarray:
    return np.array([int(key[:4]) % 3 + 1 if key[:4].isdigit() else -1 for key in keys], np.int64)


def draws(bank, sampler, people, keys, **options) -> torch.Tensor:
    """`sample` with what every sampler may ask for."""
    return sample(bank, sampler, people, keys, pids_of(keys), camids_of(keys), **options)


# Keyed numbers


def test_keyed_numbers_are_the_same_on_every_machine():
    numbers = keyed_uniform(7, 3, ["a.jpg", "ü.jpg"], "uniform")
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [0.667167677881595, 0.16391783292459072]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63),
    epoch=st.integers(0, 1000),
    names=st.lists(st.text(max_size=20), max_size=8),
    stream=st.text(max_size=8),
)
def test_a_name_draws_the_same_number_in_any_batch(seed, epoch, names, stream):
    together = keyed_uniform(seed, epoch, names, stream)
    assert together.shape == (len(names),)
    assert ((together >= 0) & (together < 1)).all()
    assert together.tolist() == [keyed_uniform(seed, epoch, [one], stream)[0] for one in names]


def test_each_part_of_the_key_counts():
    keys = [(0, 0, "a", "s"), (1, 0, "a", "s"), (0, 1, "a", "s"), (0, 0, "b", "s"), (0, 0, "a", "t")]
    keys += [(0, 0, "a/b", "s"), (0, 0, "b", "s/a"), (10, 0, "a", "s"), (1, 0, "0a", "s")]
    assert len({float(keyed_uniform(seed, epoch, [key], stream)[0]) for seed, epoch, key, stream in keys}) == len(keys)


def test_keyed_numbers_are_uniform_and_streams_independent():
    names = [name(index) for index in range(4000)]
    first, second = (keyed_uniform(0, 0, names, stream) for stream in "ab")
    counts = np.bincount((first * 20).astype(int), minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 45  # chi-square, 19 degrees of freedom: exceeded once in 1000
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_keyed_numbers_leave_the_global_generators_alone(bank):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for sampler in EVERY:
        draws(bank, sampler, random_people(4), [name(i) for i in range(4)])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


# What holds for every sampler


@pytest.mark.parametrize("sampler", EVERY)
def test_a_draw_is_a_usable_pose_of_another_image(bank, sampler):
    keys = [name(index) for index in range(100)]
    people = bank.keypoints(np.arange(1, 200, 2))
    for epoch in range(5):
        rows = draws(bank, sampler, people, keys, epoch=epoch)
        assert rows.shape == (100,)
        assert rows.dtype == torch.int64
        assert (rows >= 0).all()
        assert bank.usable[rows.numpy()].all()
        assert (bank.names[rows.numpy()] != np.array(keys)).all()


@pytest.mark.parametrize("sampler", EVERY)
def test_a_draw_does_not_depend_on_the_batch(bank, sampler):
    keys = [name(index) for index in range(120)]  # the last 20 are not in the bank
    people = random_people(120, seed=3, missing=0.2)
    whole = draws(bank, sampler, people, keys, seed=5, epoch=2)
    order = np.random.default_rng(0).permutation(120)
    shuffled = draws(bank, sampler, people[torch.from_numpy(order)], [keys[i] for i in order], seed=5, epoch=2)
    assert shuffled.tolist() == whole[order].tolist()
    alone = [int(draws(bank, sampler, people[i : i + 1], keys[i : i + 1], seed=5, epoch=2)[0]) for i in range(120)]
    assert alone == whole.tolist()


@pytest.mark.parametrize("sampler", EVERY)
def test_seed_and_epoch_change_the_draw(bank, sampler):
    keys, people = [name(index) for index in range(64)], random_people(64, seed=3)
    rounds = [draws(bank, sampler, people, keys, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (rounds[first] != rounds[second]).float().mean() > 0.5


@pytest.mark.parametrize("sampler", EVERY)
def test_minus_one_only_when_nothing_is_left(sampler):
    people = random_people(3, seed=2)
    visibility = people.visibility.clone()
    visibility[2, 8:] = 0
    few = PoseBank.build(Keypoints(people.xy, visibility), names=["0001", "0001", "0002"], camids=[2, 2, 1])
    rows = draws(few, sampler, random_people(3), ["0001", "0002", "0005"])
    assert rows[0] == -1
    assert set(rows[1:].tolist()) <= {0, 1}
    two = PoseBank.build(random_people(2), names=["0001", "0002"], camids=[2, 3])
    assert draws(two, sampler, random_people(2), ["0001", "0002"]).tolist() == [1, 0]


@pytest.mark.parametrize("sampler", EVERY)
def test_sources_without_a_torso_and_empty_batches(bank, sampler):
    mixed = Keypoints.stack([random_people(1)[0], torsoless(random_people(1))[0]])
    rows = draws(bank, sampler, mixed, [name(0), name(1)])
    assert (rows >= 0).all()
    assert draws(bank, sampler, random_people(2)[:0], []).shape == (0,)


@pytest.mark.parametrize("sampler", EVERY)
def test_a_bank_without_names_excludes_nothing(sampler):
    bare = PoseBank.build(random_people(3), camids=[1, 2, 3])
    assert set(draws(bare, sampler, random_people(60), ["", *[name(i) for i in range(59)]]).tolist()) <= {0, 1, 2}
    assert (draws(bare, sampler, random_people(2), ["", "a"]) >= 0).all()


# One by one


def test_uniform_reaches_every_other_pose_equally(bank):
    keys = [name(7)]
    rows = np.array([int(sample(bank, "uniform", random_people(1), keys, epoch=e)[0]) for e in range(4000)])
    expected = [row for row in range(200) if bank.usable[row] and bank.names[row] != keys[0]]
    values, counts = np.unique(rows, return_counts=True)
    assert values.tolist() == expected
    mean = 4000 / len(expected)
    assert ((counts - mean) ** 2 / mean).sum() < 250  # chi-square, 177 degrees of freedom: exceeded once in 3000


def test_near_draws_from_the_upper_half_of_the_nearest(bank):
    people = bank.keypoints(np.arange(1, 12, 2))  # their own poses, which are nearest and excluded
    keys = [name(index) for index in range(6)]
    seen: list[set[int]] = [set() for _ in keys]
    for epoch in range(150):
        for found, row in zip(seen, sample(bank, "near", people, keys, epoch=epoch).tolist(), strict=True):
            found.add(row)
    for index, key in enumerate(keys):
        hits = bank.search(people[index : index + 1], k=NEAR_POOL + len(bank.positions_named(key))).indices[0].tolist()
        others = [row for row in hits if bank.names[row] != key]
        assert seen[index] == set(others[: NEAR_POOL // 2])


def test_near_draws_the_same_from_what_it_prepared_and_from_what_it_searched(bank, monkeypatch):
    rows = bank.usable_rows[:40]
    asked = (bank, "near", bank.keypoints(rows), bank.names[rows].tolist())
    bank.near_pools.clear()
    prepared = sample(*asked)
    assert len(bank.near_pools) >= len(bank.usable_rows)
    bank.near_pools.clear()
    monkeypatch.setattr(samplers, "_MOST_PREPARED", 0)
    assert sample(*asked).tolist() == prepared.tolist()
    assert len(bank.near_pools) == 40


def test_several_numbers_of_a_name_are_independent_of_one_another_and_of_other_names():
    names = [f"{index}.jpg" for index in range(2000)]
    numbers = keyed_uniforms(0, 0, names, "a", 8)
    assert numbers.shape == (2000, 8)
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    np.testing.assert_array_equal(numbers[[5, 7]], keyed_uniforms(0, 0, [names[5], names[7]], "a", 8))
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.04
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.1
    np.testing.assert_array_equal(keyed_uniforms(0, 0, names, "a", 1)[:, 0], keyed_uniform(0, 0, names, "a"))


def test_far_is_the_least_similar_of_several_uniform_draws(bank):
    people = random_people(20, seed=12)
    keys = [f"other{index}.jpg" for index in range(20)]
    rows = sample(bank, "far", people, keys, seed=4, epoch=1)
    for index, key in enumerate(keys):
        numbers = keyed_uniforms(4, 1, [key], "far", FAR_TRIES)[0]
        tried = [bank.usable_rows[int(number * len(bank.usable_rows))] for number in numbers]
        similarity = bank.oks(people[index : index + 1], np.array([tried]))[0]
        assert rows[index] == tried[int(np.argmin(similarity))]


def test_near_is_nearer_than_uniform_and_far_is_farther(bank):
    people, keys = random_people(100, seed=40), [f"other{index}.jpg" for index in range(100)]
    mean = {
        sampler: bank.oks(people, sample(bank, sampler, people, keys)[:, None]).mean()
        for sampler in ("uniform", "near", "far")
    }
    assert mean["near"] > mean["uniform"] + 0.05
    assert mean["far"] < mean["uniform"] - 0.05


def frequencies(bank, sampler, key, epochs=6000) -> np.ndarray:
    """How often each row of the bank is drawn for one image."""
    people = random_people(1)
    rows = [int(draws(bank, sampler, people, [key], epoch=epoch)[0]) for epoch in range(epochs)]
    return np.bincount(rows, minlength=len(bank)) / epochs


def allowed(bank, key) -> np.ndarray:
    return bank.usable & (bank.names != key)


def test_diverse_draws_every_group_equally_often(bank):
    key = name(7)
    often, may = frequencies(bank, "diverse", key), allowed(bank, key)
    groups = np.unique(bank.clusters[may])
    assert len(groups) > 10
    for group in groups:
        inside = may & (bank.clusters == group)
        assert often[inside].sum() == pytest.approx(1 / len(groups), abs=0.015)
        np.testing.assert_allclose(often[inside], 1 / len(groups) / inside.sum(), atol=0.015)


def test_diverse_passes_over_a_group_that_is_the_images_own():
    people = random_people(64, seed=1)
    clusters = PoseBank.build(people).clusters
    bank = PoseBank.build(people, names=np.where(clusters == 3, "own.jpg", "other.jpg"))
    drawn = [int(sample(bank, "diverse", people[:1], ["own.jpg"], epoch=epoch)[0]) for epoch in range(200)]
    assert set(bank.clusters[drawn].tolist()) == set(clusters.tolist()) - {3}


def test_inverse_density_draws_by_rarity(bank):
    key = name(7)
    often, may = frequencies(bank, "inverse-density", key), allowed(bank, key)
    expected = np.where(may, bank.rarity, 0)
    np.testing.assert_allclose(often, expected / expected.sum(), atol=0.01)
    assert bank.rarity[bank.usable].max() > 2 * np.median(bank.rarity[bank.usable])


def test_gap_draws_from_the_groups_that_the_identity_lacks(bank):
    key = name(7)  # of identity 1, whose images are 5 to 9
    theirs = set(bank.clusters[bank.usable & (bank.pids == 1)].tolist())
    lacking = allowed(bank, key) & ~np.isin(bank.clusters, list(theirs))
    often = frequencies(bank, "gap", key, epochs=3000)
    assert set(np.flatnonzero(often)) == set(np.flatnonzero(lacking))
    np.testing.assert_allclose(often[lacking], 1 / lacking.sum(), atol=0.01)


def test_gap_takes_the_least_seen_groups_where_none_is_lacking():
    people = random_people(64, seed=5)
    bank = PoseBank.build(people, names=[name(i) for i in range(64)], pids=np.zeros(64))
    sizes = np.bincount(bank.clusters)
    rows = sample(bank, "gap", people, [name(i) for i in range(64)], pids=np.zeros(64))
    assert (sizes[bank.clusters[rows.numpy()]] == sizes.min()).all()


def test_gap_passes_over_groups_that_hold_the_sources_own_poses_only():
    people = random_people(64, seed=5)
    clusters = PoseBank.build(people).clusters
    least = np.bincount(clusters).argmin()
    names = ["own.jpg" if cluster == least else f"{i}.jpg" for i, cluster in enumerate(clusters.tolist())]
    bank = PoseBank.build(people, names=names, pids=np.zeros(64))
    rows = sample(bank, "gap", people[:1], ["own.jpg"], pids=[0])
    sizes = np.bincount(clusters)
    assert rows[0] >= 0
    assert sizes[clusters[rows[0]]] == np.delete(sizes, least).min()


def test_camera_draws_from_every_other_camera(bank):
    key = name(7)  # seen by camera 2
    often = frequencies(bank, "camera", key, epochs=3000)
    others = bank.usable & (bank.camids != 2)
    assert set(np.flatnonzero(often)) == set(np.flatnonzero(others))
    np.testing.assert_allclose(often[others], 1 / others.sum(), atol=0.01)


def test_poses_of_unknown_cameras_are_of_no_other_camera():
    people = random_people(3)
    bank = PoseBank.build(people, names=["a", "b", "c"], camids=[1, 2, -1])
    assert sample(bank, "camera", people, ["a", "b", "c"]).tolist()[:2] == [1, 0]


@pytest.mark.parametrize("sampler", ["gap", "camera"])
def test_identities_and_cameras_that_are_not_given_are_the_banks(bank, sampler):
    keys = [name(index) for index in range(60)]
    people = random_people(60, seed=3)
    assert sample(bank, sampler, people, keys).tolist() == draws(bank, sampler, people, keys).tolist()
    column = {"gap": "pids", "camera": "camids"}[sampler]
    with pytest.raises(BadInput, match=f"'{sampler}' needs {column}, and the bank has no .*'new'"):
        sample(bank, sampler, people[:2], [name(0), "new"])


# Mixtures


def test_a_mixture_draws_each_part_by_its_share(bank):
    keys = [f"other{index}.jpg" for index in range(2000)]
    people = random_people(2000, seed=9)
    mixed = sample(bank, "uniform=3,far=1", people, keys, seed=2)
    parts = [sample(bank, sampler, people, keys, seed=2) for sampler in ("uniform", "far")]
    assert ((mixed == parts[0]) | (mixed == parts[1])).all()
    assert (mixed == parts[1]).float().mean() == pytest.approx(0.25, abs=0.03)


def test_weights_become_shares():
    assert parse_sampler("near") == (("near", 1.0),)
    assert parse_sampler(" uniform = 3, near") == (("uniform", 0.75), ("near", 0.25))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown ''"),
        ("uniform,", "unknown ''"),
        ("uniform=1,uniform=2", "'uniform' is given twice"),
        ("uniform=0,near=1", "weight '0' of 'uniform', needed a number above 0"),
        ("uniform=x", "weight 'x' of 'uniform', needed a number above 0"),
        ("uniform=nan", "weight 'nan'"),
        ("uniform=", "weight ''"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parse_sampler(text)


# Bad input


def test_an_unknown_sampler_is_refused(bank):
    with pytest.raises(BadInput, match="sampler: unknown 'unifrom'; known: uniform, near, far, diverse"):
        sample(bank, "unifrom", random_people(1), ["a"])


def test_lengths_that_differ_are_refused(bank):
    people = random_people(2)
    with pytest.raises(ValueError, match=r"keypoints: batch shape \(2,\), needed \(1,\) to fit keys"):
        sample(bank, "uniform", people, ["a"])
    with pytest.raises(ValueError, match="pids: 1 of them, needed 2 to fit keys"):
        sample(bank, "uniform", people, ["a", "b"], pids=[1])
    with pytest.raises(ValueError, match="camids: 3 of them, needed 2 to fit keys"):
        Sources(people, ["a", "b"], camids=np.arange(3))
