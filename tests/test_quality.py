import numpy as np
import pytest
from skimage.metrics import structural_similarity

from xingaug.training.quality import measure, ssim_map


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
