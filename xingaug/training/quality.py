"""How close generated images are to true ones: SSIM and mask-SSIM by PATN's protocol, person SSIM, L1, PSNR, PCKh."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.keypoints import JOINTS, Keypoints

HEAD = tuple(JOINTS.index(name) for name in ("nose", "neck", "right_eye", "left_eye", "right_ear", "left_ear"))
"""Joints whose box is the head of PCKh, as PATN has it: the neck is one of them."""

_SIGMA, _RADIUS = 1.5, 5  # scikit-image's Gaussian window: truncated at 3.5 sigma


def ssim_map(generated: np.ndarray, true: np.ndarray, data_range: np.ndarray | None = None) -> np.ndarray:
    """Structural similarity of every pixel, averaged over the colour channels.

    PATN's protocol: Gaussian window of sigma 1.5, population covariance, data range = the generated image's max - min.
    Equal to scikit-image's `structural_similarity(true, generated, gaussian_weights=True,
    use_sample_covariance=False)`, whose outermost 5 pixels on each side do not count and are left out here.

    Args:
        generated: (N, H, W, 3) uint8.
        true: the same.
        data_range: (N,), in place of the generated image's own.

    Returns:
        (N, H - 10, W - 10) float64.
    """
    if generated.shape != true.shape or generated.ndim != 4 or min(generated.shape[1:3]) <= 2 * _RADIUS:
        needed = f"two equal (N, H, W, 3), H and W above {2 * _RADIUS}"
        raise ValueError(f"generated {generated.shape} and true {true.shape}: needed {needed}")
    x, y = _planes(generated), _planes(true)
    if data_range is None:
        flat = generated.reshape(len(generated), -1)
        data_range = flat.max(1).astype(np.float64) - flat.min(1)
    scale = torch.from_numpy(np.asarray(data_range, np.float64)).clamp(min=1e-12)[:, None, None, None]
    c1, c2 = (0.01 * scale) ** 2, (0.03 * scale) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.mean(1).numpy()


def _planes(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).double()


def _blur(x: Tensor) -> Tensor:
    """Gaussian window over the pixels where it fits wholly."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype)
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    n, c, h, w = x.shape
    flat = x.reshape(n * c, 1, h, w)
    flat = F.conv2d(F.conv2d(flat, weights[None, None, :, None]), weights[None, None, None, :])
    return flat.reshape(n, c, *flat.shape[2:])


@dataclass(frozen=True)
class Quality:
    """Means over image pairs.

    Attributes:
        pairs: number of pairs.
        ssim: SSIM over the image.
        person_ssim: SSIM map averaged inside the union of both person masks; None without masks.
        l1: mean absolute difference in [0, 1].
        psnr: decibels, of each image, averaged.
        mask_ssim: SSIM over both images with all outside the true image's pose mask set to 0; None without pose masks.
    """

    pairs: int
    ssim: float
    person_ssim: float | None
    l1: float
    psnr: float
    mask_ssim: float | None = None

    def to_json(self) -> dict[str, float | int]:
        """Plain data, SSIMs together; what is not known is left out."""
        values = asdict(self)
        names = ("pairs", "ssim", "mask_ssim", "person_ssim", "l1", "psnr")
        return {name: values[name] for name in names if values[name] is not None}


def measure(
    generated: np.ndarray,
    true: np.ndarray,
    masks: np.ndarray | None = None,
    chunk: int = 256,
    pose_masks: np.ndarray | None = None,
) -> Quality:
    """Compares images with the true ones.

    Args:
        generated: (N, H, W, 3) uint8.
        true: the same.
        masks: (N, H, W), above 0 where a person stands in the source or in the true image; None leaves
            `person_ssim` out.
        chunk: pairs at a time, which bounds memory.
        pose_masks: (N, H, W), above 0 in the pose mask of the true image (`xingaug.training.masks.pose_mask`); None
            leaves `mask_ssim` out.
    """
    if len(generated) == 0:
        raise ValueError("generated: no images, needed at least one pair")
    sums = np.zeros(5)
    for start in range(0, len(generated), chunk):
        rows = slice(start, start + chunk)
        similarity = ssim_map(generated[rows], true[rows])
        difference = generated[rows].astype(np.float64) / 255 - true[rows].astype(np.float64) / 255
        squared = np.maximum((difference**2).mean((1, 2, 3)), 1e-10)
        sums[0] += similarity.mean((1, 2)).sum()
        sums[3] += np.abs(difference).mean((1, 2, 3)).sum()
        sums[4] += (-10 * np.log10(squared)).sum()
        if pose_masks is not None:
            kept = pose_masks[rows, ..., None] > 0
            sums[1] += ssim_map(generated[rows] * kept, true[rows] * kept).mean((1, 2)).sum()
        if masks is not None:
            inside = masks[rows, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS] > 0
            sums[2] += ((similarity * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)).sum()
    ssim, masked, person, l1, psnr = (sums / len(generated)).tolist()
    return Quality(
        len(generated), ssim, None if masks is None else person, l1, psnr, None if pose_masks is None else masked
    )


def pckh(predicted: Keypoints, true: Keypoints, threshold: float = 0.5) -> float:
    """Share of the joints that lie where they should, by PATN's PCKh (its tool for Market-1501, threshold 0.5).

    The head of a person is the box of the true nose, neck, eyes and ears. A joint that is present in the true pose is
    right if it is predicted at all, and its distance is below `threshold` times the head's width along x and below
    `threshold` times its height along y. All persons' joints count alike. A person with fewer than two of the head's
    joints does not count.

    Args:
        predicted: (N,) poses.
        true: (N,) poses, in the same frame.
        threshold: above 0.

    Returns:
        In [0, 1].

    Raises:
        ValueError: the two differ in shape, or no person has two of the head's joints.
    """
    if predicted.shape != true.shape or len(true.shape) != 1:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape}: needed two equal (N,)")
    counts = has_head(true)
    if not bool(counts.any()):
        raise ValueError("true: no person with two joints of nose, neck, eyes and ears, which PCKh needs")
    predicted, true = predicted[counts], true[counts]
    head, seen = true.xy[:, list(HEAD)], true.present[:, list(HEAD), None]
    far = float("inf")
    box = head.where(seen, -far).amax(1) - head.where(seen, far).amin(1)  # (N, 2)
    near = ((predicted.xy - true.xy).abs() < threshold * box[:, None]).all(-1)
    return float((near & predicted.present & true.present).sum() / true.present.sum())


def has_head(keypoints: Keypoints) -> Tensor:
    """(...) bool: whether PCKh can tell the size of the head, which takes two of its joints."""
    return keypoints.present[..., list(HEAD)].sum(-1) >= 2
