"""What is known of one pose: its descriptor, whether it is usable, and how alike two are (OKS)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skeletons import hide, random_people, small_bank

from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import (
    OKS_SIGMAS,
    PERSON_AREA,
    Shapes,
    Statistics,
    descriptor,
    is_usable,
    oks,
    shapes_of,
)

FRAME = (128, 64)


def shapes(keypoints: Keypoints) -> Shapes:
    return shapes_of(keypoints.xy.numpy(), keypoints.visibility.numpy())


def slow_oks(first: Keypoints, second: Keypoints) -> float:
    """OKS of two persons, joint by joint."""

    def normalised(person: Keypoints) -> dict[str, np.ndarray]:
        seen = {
            joint: xy.double().numpy()
            for joint, xy, v in zip(JOINTS, person.xy, person.visibility, strict=True)
            if v > 0
        }
        top = seen.get("neck")
        if top is None:
            top = np.mean([seen[j] for j in ("right_shoulder", "left_shoulder") if j in seen], axis=0)
        bottom = np.mean([seen[j] for j in ("right_hip", "left_hip") if j in seen], axis=0)
        torso = np.sqrt(((top - bottom) ** 2).sum())
        return {joint: (xy - (top + bottom) / 2) / torso for joint, xy in seen.items()}

    a, b = normalised(first), normalised(second)
    sigmas = dict(zip(JOINTS, OKS_SIGMAS.tolist(), strict=True))
    values = [
        np.exp(-((a[joint] - b[joint]) ** 2).sum() / (2 * PERSON_AREA * (2 * sigmas[joint]) ** 2))
        for joint in JOINTS
        if joint in a and joint in b
    ]
    return float(np.mean(values)) if values else 0.0


@pytest.fixture(scope="module")
def bank() -> PoseBank:
    return small_bank()


# Descriptor


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.2, 8),
    dx=st.floats(-200, 200),
    dy=st.floats(-200, 200),
    missing=st.floats(0, 0.5),
)
def test_the_descriptor_ignores_place_and_size(bank, seed, scale, dx, dy, missing):
    people = random_people(3, seed, missing)
    moved = Keypoints(people.xy * scale + torch.tensor([dx, dy]), people.visibility)
    np.testing.assert_allclose(descriptor(moved, bank.statistics), descriptor(people, bank.statistics), atol=2e-3)


def test_the_descriptor_is_in_torso_lengths_about_its_middle(bank):
    people = random_people(5)
    vectors = descriptor(people, bank.statistics).reshape(5, 18, 2)
    assert vectors.dtype == np.float32
    top, hips = vectors[:, 1], vectors[:, [8, 11]].mean(1)
    np.testing.assert_allclose(top + hips, 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(top - hips, axis=1), 1, atol=1e-5)


def test_a_mirrored_person_has_another_descriptor(bank):
    people = random_people(5)
    apart = np.abs(descriptor(people.flip(64), bank.statistics) - descriptor(people, bank.statistics)).max(1)
    assert (apart > 0.1).all()


def test_without_a_neck_the_shoulders_are_the_top():
    person = random_people(1)
    xy = person.xy.clone()
    xy[:, 1] = xy[:, [2, 5]].mean(1)
    whole, without = shapes(Keypoints(xy, person.visibility)), shapes(hide(Keypoints(xy, person.visibility), "neck"))
    np.testing.assert_allclose(without.torso_px, whole.torso_px)
    assert not without.present[0, 1]


@pytest.mark.parametrize(
    "gone", [("right_hip", "left_hip"), ("neck", "right_shoulder", "left_shoulder"), tuple(JOINTS)]
)
def test_a_person_without_a_torso_has_no_descriptor(bank, gone):
    people = Keypoints.stack([random_people(1)[0], hide(random_people(1)[0], *gone)])
    assert shapes(people).has_torso.tolist() == [True, False]
    with pytest.raises(ValueError, match="keypoints: row 1 has no torso; needed a neck or shoulder, and a hip"):
        descriptor(people, bank.statistics)


def test_a_torso_of_no_length_is_none():
    assert not shapes(Keypoints(torch.full((1, 18, 2), 30.0), torch.ones(1, 18))).has_torso.any()


def test_missing_joints_are_completed_by_their_conditional_mean(bank):
    people = random_people(6, seed=5, missing=0.3)
    given_shapes = shapes(people)
    completed = bank.statistics.complete(given_shapes)
    mean, covariance = bank.statistics.mean, bank.statistics.covariance
    for row, vector in enumerate(completed):
        seen = np.repeat(given_shapes.present[row], 2)
        x = given_shapes.xy[row].ravel()
        expected = x.copy()
        inner = np.linalg.inv(covariance[np.ix_(seen, seen)])
        expected[~seen] = mean[~seen] + covariance[np.ix_(~seen, seen)] @ inner @ (x[seen] - mean[seen])
        np.testing.assert_allclose(vector, expected, atol=1e-8)


def test_the_statistics_recover_the_gaussian_behind_incomplete_poses():
    rng = np.random.default_rng(0)
    factor = rng.normal(0, 0.2, (36, 6))
    truth = Statistics(rng.normal(0, 1, 36), factor @ factor.T + 0.01 * np.eye(36))
    xy = rng.multivariate_normal(truth.mean, truth.covariance, 3000).reshape(-1, 18, 2)
    present = rng.random((3000, 18)) < 0.7
    fitted = Statistics.fit(Shapes(np.where(present[..., None], xy, 0), present, np.ones(3000)))
    np.testing.assert_allclose(fitted.mean, truth.mean, atol=0.05)
    np.testing.assert_allclose(fitted.covariance, truth.covariance, atol=0.06)
    assert np.linalg.eigvalsh(fitted.covariance).min() > 0


def test_completion_is_closer_than_the_mean_pose(bank):
    people = random_people(200, seed=9)
    truth = shapes(people).xy[:, JOINTS.index("right_eye")]
    hidden = hide(people, "right_eye")
    completed = bank.statistics.complete(shapes(hidden)).reshape(-1, 18, 2)[:, JOINTS.index("right_eye")]
    error = np.linalg.norm(completed - truth, axis=1).mean()
    assert error < 0.5 * np.linalg.norm(truth.mean(0) - truth, axis=1).mean()


def test_joints_that_the_bank_never_saw_and_tiny_banks_stay_finite():
    for count in (1, 2, 40):
        people = hide(random_people(count, seed=2), "right_eye", "left_eye")
        small = PoseBank.build(people)
        assert np.isfinite(descriptor(random_people(3), small.statistics)).all()
        assert np.linalg.eigvalsh(small.statistics.covariance).min() > 0
        assert small.search(people, k=1).indices.ravel().tolist() == list(range(count))


def test_a_row_is_described_the_same_in_any_batch(bank):
    people = random_people(50, seed=3, missing=0.3)
    together = descriptor(people, bank.statistics)
    for row in range(50):
        np.testing.assert_array_equal(descriptor(people[row : row + 1], bank.statistics)[0], together[row])


# Usable poses


def test_which_poses_are_usable():
    person = random_people(1)[0]
    eight = hide(person, *[JOINTS[j] for j in (0, 3, 4, 6, 7, 14, 15, 16, 17, 13)])
    outside = person.xy.clone()
    outside[4] = torch.tensor([64.0, 50.0])
    people = [
        person,
        eight,
        hide(eight, "left_knee"),
        hide(person, "right_hip", "left_hip"),
        hide(person, "neck", "right_shoulder", "left_shoulder"),
        hide(person, "neck", "right_shoulder", "left_hip"),
        Keypoints(outside, person.visibility),
        hide(Keypoints(outside, person.visibility), "right_wrist"),
        Keypoints((person.xy - 32) * 0.1 + 32, person.visibility),
        Keypoints((person.xy - 32) * 0.3 + 32, person.visibility),
    ]
    assert int(eight.present.sum()) == 8
    expected = [True, True, False, False, False, True, False, True, False, True]
    assert is_usable(Keypoints.stack(people), FRAME).tolist() == expected


# OKS


def test_oks_against_loops(bank):
    people = random_people(4, seed=11, missing=0.3)
    rows = np.array([[0, 5, 9], [1, 2, 3], [7, 7, 8], [250, 299, 100]])
    found = bank.oks(people, rows)
    assert found.dtype == np.float32
    for row, column in np.ndindex(rows.shape):
        expected = slow_oks(people[row], bank.keypoints([rows[row, column]])[0])
        assert found[row, column] == pytest.approx(expected, abs=1e-5)


def test_oks_of_equal_symmetric_and_disjoint_poses():
    person = random_people(2)
    one, two = shapes(person[:1]), shapes(person[1:])
    moved = shapes(Keypoints(person[:1].xy * 3 + 7, person[:1].visibility))
    assert oks(one, moved) == pytest.approx(1)
    assert oks(one, two) == oks(two, one)
    assert 0 < oks(one, two)[0] < 1
    right = hide(person[:1], *[joint for joint in JOINTS if joint not in ("right_shoulder", "right_hip")])
    left = hide(person[:1], *[joint for joint in JOINTS if joint not in ("left_shoulder", "left_hip")])
    assert oks(shapes(right), shapes(left)) == 0


def test_sigmas_are_cocos():
    sigma = dict(zip(JOINTS, OKS_SIGMAS.tolist(), strict=True))
    assert [sigma[j] for j in ("nose", "left_eye", "right_ear")] == [0.026, 0.025, 0.035]
    assert [sigma[j] for j in ("left_shoulder", "right_elbow", "left_wrist")] == [0.079, 0.072, 0.062]
    assert [sigma[j] for j in ("right_hip", "left_knee", "right_ankle", "neck")] == [0.107, 0.087, 0.089, 0.079]
