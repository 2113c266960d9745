"""The pose mask: against skimage's rasteriser in loops, by hand, and at its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from skimage.draw import disk, polygon
from skimage.morphology import closing
from test_keypoints import people, standing

from xingaug.keypoints import Keypoints
from xingaug.training.masks import MASK_LIMBS, pose_mask

# As PATN counts them, from 1.
PATN_LIMBS = (
    "2-3,2-6,3-4,4-5,6-7,7-8,2-9,9-10,10-11,2-12,12-13,13-14,2-1,1-15,15-17,1-16,16-18,2-17,2-18,9-12,12-6,9-3,17-18"
)


def person(**joints: tuple[float, float]) -> Keypoints:
    """One person with a few joints: `j0=(x, y)` is the first."""
    xy, visibility = torch.zeros(1, 18, 2), torch.zeros(1, 18)
    for name, place in joints.items():
        xy[0, int(name[1:])], visibility[0, int(name[1:])] = torch.tensor(place), 1
    return Keypoints(xy, visibility)


def slow_mask(kp: Keypoints, size: tuple[int, int], radius: float = 4.0) -> np.ndarray:
    """One person, one limb at a time, with scikit-image's rasteriser."""
    mask = np.zeros(size, bool)
    rows_columns, present = kp.xy.double().numpy()[:, ::-1], kp.present.numpy()
    for limb in PATN_LIMBS.split(","):
        a, b = (int(joint) - 1 for joint in limb.split("-"))
        start, stop = rows_columns[a], rows_columns[b]
        if not (present[a] and present[b]) or (start == stop).all():
            continue
        aside = (stop - start)[::-1] * (-1, 1)
        aside = aside / np.linalg.norm(aside) * radius
        corners = np.array([start + aside, start - aside, stop - aside, stop + aside])
        mask[polygon(corners[:, 0], corners[:, 1], size)] = True
    for joint in np.flatnonzero(present):
        mask[disk(rows_columns[joint], radius, shape=size)] = True
    return closing(mask, np.ones((5, 5)))


def test_limbs_are_those_of_patn() -> None:
    assert ",".join(f"{a + 1}-{b + 1}" for a, b in MASK_LIMBS) == PATN_LIMBS


@settings(max_examples=30, deadline=None)
@given(people())
def test_equals_a_slow_mask_but_for_slanted_edges(kp: Keypoints) -> None:
    size = (128, 64)
    # A joint 6e-8 pixels beside a whole one moves an upright limb's edge across a whole column of pixels.
    kp = Keypoints((kp.xy * 1024).round() / 1024, kp.visibility)
    masks = pose_mask(kp, size)
    for i, mask in enumerate(masks):
        differing = (mask[0].numpy() > 0) != slow_mask(kp[i], size)
        assert differing.mean() <= 0.01


def test_upright_limbs_and_whole_pixels_are_exact() -> None:
    kp = person(j1=(20, 10), j2=(40, 10), j3=(40, 50), j8=(63, 90), j9=(63, 127))
    assert (pose_mask(kp, (128, 64))[0, 0].numpy() == slow_mask(kp[0], (128, 64))).all()


def test_one_joint_is_a_disk() -> None:
    mask = pose_mask(person(j4=(10, 12)), (30, 20), radius_px=2)
    expected = torch.zeros(30, 20)
    expected[11:14, 9:12] = 1  # all pixels less than 2 away
    assert (mask[0, 0] == expected).all()
    assert mask.shape == (1, 1, 30, 20)
    assert mask.dtype == torch.float32


def test_one_limb_is_a_band_with_round_ends() -> None:
    mask = pose_mask(person(j2=(20, 10), j3=(20, 30)), (40, 40), radius_px=3)[0, 0]
    assert (mask[10:31, 17:24] == 1).all()
    assert mask[:, :17].sum() == mask[:, 24:].sum() == 0
    assert mask[8, 20] == mask[32, 20] == 1
    assert mask[:8].sum() == mask[33:].sum() == 0


def test_no_band_to_a_missing_joint_nor_between_joints_of_no_limb() -> None:
    apart = person(j4=(10, 5), j7=(10, 25))  # the wrists
    assert pose_mask(apart, (30, 20))[0, 0, 15].sum() == 0
    hidden = Keypoints(person(j2=(10, 5), j3=(10, 25)).xy, person(j2=(10, 5)).visibility)
    assert (pose_mask(hidden, (30, 20)) == pose_mask(person(j2=(10, 5)), (30, 20))).all()


def test_a_limb_of_no_length_and_a_person_of_no_joints() -> None:
    same = pose_mask(person(j2=(10, 5), j3=(10, 5)), (30, 20))
    assert (same == pose_mask(person(j2=(10, 5)), (30, 20))).all()
    assert pose_mask(person(), (30, 20)).sum() == 0
    assert pose_mask(person()[:0], (30, 20)).shape == (0, 1, 30, 20)


def test_narrow_gaps_are_closed_also_those_to_the_border() -> None:
    gap = pose_mask(person(j4=(20, 9), j7=(20, 20)), (40, 40))[0, 0]
    assert (gap[6:24, 20] == 1).all()  # rows 13 to 16 lie in neither disk
    for place in ((0, 0), (5, 5), (34, 33), (20, 37), (3, 20)):
        kp = person(j4=place)
        assert (pose_mask(kp, (40, 40))[0, 0].numpy() == slow_mask(kp[0], (40, 40))).all()
    assert pose_mask(person(j4=(20, 5)), (40, 40))[0, 0, 0, 20] == 1  # the disk begins in row 2


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (30,)])
def test_any_batch_is_its_persons_one_by_one(batch: tuple[int, ...]) -> None:
    kp = standing(*batch)
    masks = pose_mask(kp, (64, 32))
    assert masks.shape == (*batch, 1, 64, 32)
    xy, visibility = kp.xy.reshape(-1, 18, 2), kp.visibility.reshape(-1, 18)
    for i, mask in enumerate(masks.reshape(-1, 64, 32)):
        assert (mask == pose_mask(Keypoints(xy[i], visibility[i]), (64, 32))[0]).all()
    assert set(masks.unique().tolist()) == {0.0, 1.0}


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    kp = standing(7)
    whole = pose_mask(kp, (128, 64))
    monkeypatch.setattr("xingaug.training.masks._CHUNK", 2 * len(MASK_LIMBS) * 128 * 64)
    assert (pose_mask(kp, (128, 64)) == whole).all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"size: \(0, 64\), needed"):
        pose_mask(person(), (0, 64))
    with pytest.raises(ValueError, match=r"radius_px: 0, needed"):
        pose_mask(person(), (30, 20), radius_px=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same() -> None:
    kp = standing(20)
    mask = pose_mask(kp.to("cuda"), (128, 64))
    assert mask.device.type == "cuda"
    assert (mask.cpu() != pose_mask(kp, (128, 64))).float().mean() < 1e-3
