import os
from pathlib import Path

import numpy as np
import pytest
import torch
from real_data import patn_file
from skimage.metrics import structural_similarity

from xingaug.keypoints import Keypoints
from xingaug.poses.estimators import PoseEstimator
from xingaug.training.evaluate import EvaluateConfig, evaluate
from xingaug.training.poses_found import estimate_poses
from xingaug.training.quality import has_head, measure, pckh, ssim_map


def pair(seed: int = 0, count: int = 3, size: tuple[int, int] = (40, 24)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.integers(-9, 10, (count, *size, 3)), axis=2)
    true = np.clip(128 + smooth, 0, 255).astype(np.uint8)
    generated = np.clip(true.astype(int) * 0.8 + rng.integers(-20, 20, true.shape) + 20, 0, 255).astype(np.uint8)
    return generated, true


def test_ssim_equals_scikit_image() -> None:
    generated, true = pair()
    ours = ssim_map(generated, true).mean((1, 2))
    for i, (g, t) in enumerate(zip(generated, true, strict=True)):
        theirs = structural_similarity(
            t, g, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1,
            data_range=float(g.max()) - float(g.min()),
        )  # fmt: skip
        assert ours[i] == pytest.approx(theirs, abs=1e-6)
        assert ours[i] < 0.95


def slow_ssim(generated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """SSIM by its definition: at every pixel moments under a window of 11x11 weights."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line)[..., None] / line.sum() ** 2
    found = np.zeros((len(true), true.shape[1] - 10, true.shape[2] - 10))
    for i, row, column in np.ndindex(found.shape):
        x, y = (side[i, row : row + 11, column : column + 11].astype(float) for side in (generated, true))
        span = float(generated[i].max()) - float(generated[i].min())
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        mean_x, mean_y = ((window * side).sum((0, 1)) for side in (x, y))
        var_x, var_y = ((window * (s - m) ** 2).sum((0, 1)) for s, m in ((x, mean_x), (y, mean_y)))
        covariance = (window * (x - mean_x) * (y - mean_y)).sum((0, 1))
        value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        found[i, row, column] = (value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()
    return found


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (43, 27), (27, 11)])  # around the blocks of the banded matrix
def test_ssim_is_its_definition(size: tuple[int, int]) -> None:
    generated, true = pair(1, 2, size)
    np.testing.assert_allclose(ssim_map(generated, true), slow_ssim(generated, true), atol=1e-9)


def test_ssim_of_many_pairs_is_that_of_each() -> None:
    generated, true = pair(count=19)  # more than are computed at a time
    single = [ssim_map(generated[i : i + 1], true[i : i + 1]) for i in range(19)]
    np.testing.assert_allclose(ssim_map(generated, true), np.concatenate(single), atol=1e-12)


def test_measure_by_hand() -> None:
    generated, true = pair(count=5)
    quality = measure(generated, true, chunk=2)
    difference = generated.astype(float) / 255 - true.astype(float) / 255
    assert quality.pairs == 5
    assert quality.l1 == pytest.approx(np.abs(difference).mean())
    assert quality.psnr == pytest.approx(np.mean([-10 * np.log10((d**2).mean()) for d in difference]))
    assert quality.ssim == pytest.approx(ssim_map(generated, true).mean())
    assert quality.person_ssim is None
    assert "person_ssim" not in quality.to_json()


def test_person_ssim_looks_inside_the_mask_only() -> None:
    generated, true = pair()
    masks = np.zeros(true.shape[:3], np.uint8)
    masks[:, 12:28, 8:16] = 255
    inside = measure(generated, true, masks).person_ssim
    similarity = ssim_map(generated, true)
    expected = np.mean([similarity[i, 7:23, 3:11].mean() for i in range(3)])
    assert inside == pytest.approx(expected)
    generated[:, :4] = 0  # outside the mask, and outside any window that touches it
    same_range = np.array([255.0] * 3)
    before, after = ssim_map(pair()[0], true, same_range), ssim_map(generated, true, same_range)
    np.testing.assert_allclose(after[:, 7:23, 3:11], before[:, 7:23, 3:11])


def test_equal_images_are_perfect() -> None:
    _, true = pair()
    quality = measure(true, true)
    assert quality.ssim == pytest.approx(1)
    assert quality.l1 == 0


def test_bad_shapes() -> None:
    generated, true = pair()
    with pytest.raises(ValueError, match="needed two equal"):
        ssim_map(generated[:, :8], true[:, :8])
    with pytest.raises(ValueError, match="at least one pair"):
        measure(generated[:0], true[:0])


# Mask-SSIM


def test_mask_ssim_equals_scikit_image_on_masked_images() -> None:
    generated, true = pair()
    masks = np.zeros(true.shape[:3], np.float32)
    masks[:, 8:30, 6:18] = 1
    kept = masks[..., None].astype(np.uint8)
    expected = []
    for g, t in zip(generated * kept, true * kept, strict=True):
        theirs = structural_similarity(
            t, g, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1,
            data_range=float(g.max()) - float(g.min()),
        )  # fmt: skip
        expected.append(theirs)
    quality = measure(generated, true, pose_masks=masks, chunk=2)
    assert quality.mask_ssim == pytest.approx(np.mean(expected), abs=1e-6)
    assert quality.mask_ssim != pytest.approx(quality.ssim, abs=1e-3)
    assert list(quality.to_json()) == ["pairs", "ssim", "mask_ssim", "l1", "psnr"]


def test_mask_ssim_ignores_what_is_outside_the_mask() -> None:
    generated, true = pair()
    masks = np.zeros(true.shape[:3], bool)
    masks[:, 8:30, 6:18] = True
    before = measure(generated, true, pose_masks=masks)
    generated[~masks] = 255 - generated[~masks]
    true[~masks] = 7
    after = measure(generated, true, pose_masks=masks)
    assert after.mask_ssim == before.mask_ssim
    assert after.ssim != before.ssim


def test_mask_ssim_at_its_ends() -> None:
    generated, true = pair()
    everywhere, nowhere = np.ones(true.shape[:3]), np.zeros(true.shape[:3])
    whole = measure(generated, true, pose_masks=everywhere)
    assert whole.mask_ssim == whole.ssim
    assert measure(generated, true, pose_masks=nowhere).mask_ssim == pytest.approx(1)
    assert measure(true, true, pose_masks=nowhere + np.eye(40, 24)).mask_ssim == pytest.approx(1)


# PCKh


def poses(count: int = 1) -> Keypoints:
    """Persons with a nose at (30, 10), a neck at (34, 20), a right eye at (28, 8), and both wrists."""
    xy, visibility = torch.zeros(count, 18, 2), torch.zeros(count, 18)
    for joint, place in {0: (30, 10), 1: (34, 20), 14: (28, 8), 4: (10, 60), 7: (50, 60)}.items():
        xy[:, joint], visibility[:, joint] = torch.tensor(place).float(), 1
    return Keypoints(xy, visibility)


def moved(kp: Keypoints, person: int, joint: int, dx: float, dy: float) -> Keypoints:
    xy = kp.xy.clone()
    xy[person, joint] += torch.tensor([dx, dy])
    return Keypoints(xy, kp.visibility)


def hidden(kp: Keypoints, person: int, *joints: int) -> Keypoints:
    visibility = kp.visibility.clone()
    visibility[person, list(joints)] = 0
    return Keypoints(kp.xy, visibility)


def test_pckh_by_hand() -> None:
    true = poses(2)  # head 6 wide and 12 high: at 0.5, 3 px along x and 6 px along y
    assert pckh(true, true) == 1
    for dx, dy, right in ((2.9, 5.9, 10), (-2.9, -5.9, 10), (3, 0, 9), (0, 6, 9), (0, -6, 9), (-3, 0, 9)):
        assert pckh(moved(true, 0, 4, dx, dy), true) == pytest.approx(right / 10)
    assert pckh(moved(true, 0, 4, 5.9, 11.9), true, threshold=1) == 1
    assert pckh(moved(true, 0, 4, 2.9, 0), true, threshold=0.25) == pytest.approx(0.9)


def test_pckh_counts_the_true_joints() -> None:
    true = poses(2)
    assert pckh(hidden(true, 1, 4, 7), true) == pytest.approx(0.8)  # not found is wrong
    assert pckh(true, hidden(true, 1, 4, 7)) == 1  # found where nothing can be seen does not count
    assert pckh(moved(true, 0, 4, 9, 0), hidden(true, 1, 4, 7)) == pytest.approx(7 / 8)


def test_pckh_leaves_out_persons_without_a_head() -> None:
    true, wrong = poses(2), moved(moved(poses(2), 0, 4, 9, 0), 1, 4, 9, 0)
    assert pckh(wrong, hidden(true, 1, 0, 14)) == pytest.approx(4 / 5)  # the neck alone is no head
    assert has_head(hidden(true, 1, 0, 14)).tolist() == [True, False]
    with pytest.raises(ValueError, match="no person with two joints of nose, neck"):
        pckh(true, hidden(hidden(true, 1, 0, 14), 0, 0, 1))
    with pytest.raises(ValueError, match="needed two equal"):
        pckh(true, poses(1))


# A pose estimator


class Known:
    """Finds a pose that it knows, whatever the image shows."""

    name, device = "known", torch.device("cpu")

    def __call__(self, images: list[torch.Tensor]) -> Keypoints:
        assert all(image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1 for image in images)
        return poses(len(images))


def test_estimate_poses_in_batches() -> None:
    found = estimate_poses(PoseEstimator(Known()), pair(count=5)[0], batch_size=2)
    assert found.shape == (5,)
    assert pckh(found, poses(5)) == 1


@pytest.mark.slow
@pytest.mark.skipif("XINGAUG_MARKET1501" not in os.environ, reason="XINGAUG_MARKET1501 names no copy of Market-1501")
def test_the_market_generator_on_its_first_test_pairs() -> None:
    root = Path(os.environ["XINGAUG_MARKET1501"])
    annotations, pairs = patn_file("market-annotation-test.csv"), patn_file("market-pairs-test.csv")
    figures = evaluate(EvaluateConfig("market1501-small", root, annotations, pairs, limit=100), progress=False)
    copied = figures["baselines"]["copy_source"]
    assert figures["ssim"] > copied["ssim"] + 0.1
    assert figures["mask_ssim"] > copied["mask_ssim"] + 0.05
