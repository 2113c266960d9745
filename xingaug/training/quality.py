"""How close generated images are to true ones: SSIM and mask-SSIM by PATN's protocol, person SSIM, L1, PSNR, PCKh."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xingaug.keypoints import JOINTS, Keypoints

HEAD = tuple(JOINTS.index(name) for name in ("nose", "neck", "right_eye", "left_eye", "right_ear", "left_ear"))
"""Joints whose bounding box is the head of PCKh, as in PATN: the neck is one of them."""

_SIGMA, _RADIUS = 1.5, 5  # scikit-image's Gaussian window: truncated at 3.5 sigma
_CACHED = 2  # pairs of 128x64 whose SSIM a core's cache holds (measured)
_BLOCK = 16  # rows of the banded matrix that are multiplied at a time


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
    if data_range is None:
        flat = generated.reshape(len(generated), -1)
        data_range = flat.max(1).astype(np.float64) - flat.min(1)
    work = _Workspace(min(_CACHED, len(generated)), generated.shape[1], generated.shape[2])
    found = torch.empty(len(generated), *work.size, dtype=torch.float64)
    scale = torch.from_numpy(np.asarray(data_range, np.float64)).clamp(min=1e-12)
    for start in range(0, len(generated), _CACHED):
        part = slice(start, start + _CACHED)
        work.ssim(torch.from_numpy(generated[part]), torch.from_numpy(true[part]), scale[part], found[part])
    return found.numpy()


class _Workspace:
    """Reused memory for SSIM of a few pairs, small enough for the CPU's cache; allocating it takes as long as SSIM."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.size = (height - 2 * _RADIUS, width - 2 * _RADIUS)
        # Row by row: both images, the sum of their squares, their product.
        self.signals = torch.empty(height, count, 4, 3, width, dtype=torch.float64)
        self.rows = torch.empty(self.size[0], count, 4, 3, width, dtype=torch.float64)
        self.means = torch.empty(self.size[0], count, 4, 3, self.size[1], dtype=torch.float64)
        self.product = torch.empty(self.size[0], count, 3, self.size[1], dtype=torch.float64)

    def ssim(self, generated: Tensor, true: Tensor, scale: Tensor, out: Tensor) -> None:
        """SSIM of two (B, H, W, 3) uint8, B at most `count`, with data ranges (B,), into `out` (B, H - 10, W - 10)."""
        count = len(generated)
        x, y, squares, product = self.signals[:, :count].unbind(2)  # (H, B, 3, W)
        x.copy_(generated.permute(1, 0, 3, 2))
        y.copy_(true.permute(1, 0, 3, 2))
        torch.mul(x, x, out=squares).addcmul_(y, y)
        torch.mul(x, y, out=product)
        self._blur()
        c1, c2 = (((k * scale) ** 2)[:, None, None] for k in (0.01, 0.03))
        x, y, squares, product = self.means[:, :count].unbind(2)  # (H - 10, B, 3, W - 10)
        value = torch.mul(x, y, out=self.product[:, :count])
        product.sub_(value).mul_(2).add_(c2)
        x.square_().addcmul_(y, y)
        squares.sub_(x).add_(c2)
        value.mul_(2).add_(c1).mul_(product).div_(x.add_(c1).mul_(squares))
        torch.mean(value, 2, out=out.transpose(0, 1))

    def _blur(self) -> None:
        """Applies the Gaussian window to `signals` where it fits completely, into `means`.

        Along each axis it is a product with a banded matrix, whose empty corners are skipped.
        """
        band, flat, rows = _band(self.size[0]), self.signals.flatten(1), self.rows.flatten(1)
        for start in range(0, self.size[0], _BLOCK):
            stop = min(start + _BLOCK, self.size[0])
            above = flat[start : stop + 2 * _RADIUS]
            torch.mm(band[start:stop, start : stop + 2 * _RADIUS], above, out=rows[start:stop])
        torch.mm(self.rows.flatten(0, 3), _band(self.size[1]).T, out=self.means.flatten(0, 3))


@lru_cache
def _band(outputs: int) -> Tensor:
    """(outputs, outputs + 10): the window, shifted by one pixel in each row."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    band = torch.zeros(outputs, outputs + 2 * _RADIUS, dtype=torch.float64)
    for row in range(outputs):
        band[row, row : row + 2 * _RADIUS + 1] = weights / weights.sum()
    return band


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
        """Plain data; figures that were not measured are left out."""
        values = asdict(self)
        names = ("pairs", "ssim", "mask_ssim", "person_ssim", "l1", "psnr")
        return {name: values[name] for name in names if values[name] is not None}


def measure(
    generated: np.ndarray,
    true: np.ndarray,
    masks: np.ndarray | None = None,
    chunk: int = 64,
    pose_masks: np.ndarray | None = None,
) -> Quality:
    """Compares images with the true ones.

    Args:
        generated: (N, H, W, 3) uint8.
        true: the same.
        masks: (N, H, W), above 0 where a person stands in the source or in the true image; None leaves
            `person_ssim` out.
        chunk: pairs that a thread takes at a time, which bounds memory.
        pose_masks: (N, H, W), above 0 in the pose mask of the true image (`xingaug.training.masks.pose_mask`); None
            leaves `mask_ssim` out.
    """
    if len(generated) == 0:
        raise ValueError("generated: no images, needed at least one pair")
    columns = (generated, true, masks, pose_masks)
    parts = [
        [None if column is None else column[start : start + chunk] for column in columns]
        for start in range(0, len(generated), chunk)
    ]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch's own threads parallelise this poorly
        sums = sum(pool.map(lambda part: _sums(*part), parts), np.zeros(5))
    ssim, masked, person, l1, psnr = (sums / len(generated)).tolist()
    return Quality(
        len(generated), ssim, None if masks is None else person, l1, psnr, None if pose_masks is None else masked
    )


def _sums(
    generated: np.ndarray, true: np.ndarray, masks: np.ndarray | None, pose_masks: np.ndarray | None
) -> np.ndarray:
    """Sums over pairs of SSIM, mask-SSIM, person SSIM, L1 and PSNR; 0 where a mask is missing."""
    similarity = ssim_map(generated, true)
    masked, person = 0.0, 0.0
    if pose_masks is not None:
        kept = (pose_masks > 0)[..., None]
        masked = ssim_map(generated * kept, true * kept).mean((1, 2)).sum()
    if masks is not None:
        inside = masks[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS] > 0
        person = ((similarity * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)).sum()
    l1, psnr = np.sum([_l1_and_psnr(one, other) for one, other in zip(generated, true, strict=True)], 0)
    return np.array([similarity.mean((1, 2)).sum(), masked, person, l1, psnr])


def _l1_and_psnr(generated: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """L1 and PSNR of one pair, so that intermediate results stay in the CPU's cache."""
    difference = np.subtract(generated, true, dtype=np.float64).ravel()
    squared = max(float(difference @ difference) / difference.size / 255**2, 1e-10)
    return float(np.abs(difference).sum()) / difference.size / 255, -10 * np.log10(squared)


def pckh(predicted: Keypoints, true: Keypoints, threshold: float = 0.5) -> float:
    """Share of correct joints, by PATN's PCKh (its tool for Market-1501, threshold 0.5).

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
    """(...) bool: whether the size of the head for PCKh is known, which needs two of its joints."""
    return keypoints.present[..., list(HEAD)].sum(-1) >= 2


def pck(predicted: Keypoints, true: Keypoints, height: int, threshold: float = 0.2) -> float:
    """Share of correct joints, within a fraction of a torso (PCK, our definition).

    A joint that is present in the true pose is right if the predicted one lies within `threshold` times a quarter of
    the image's height, which is about the torso of a person who fills the image: 6.4 px of 128 at 0.2. So persons whose
    hips are hidden count, too. The neck, which most networks derive from the shoulders, does not count. Leave joints
    that an estimator does not find in the true images out of `true`: their errors are not the generator's.

    Args:
        predicted: (N,) poses; a position counts regardless of its confidence.
        true: (N,) poses, in the same frame.
        height: of the images in pixels.
        threshold: above 0.

    Returns:
        In [0, 1].

    Raises:
        ValueError: the two differ in shape, or there is no joint to count.
    """
    if predicted.shape != true.shape or len(true.shape) != 1:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape}: needed two equal (N,)")
    counts = true.present.clone()
    counts[:, JOINTS.index("neck")] = False
    if not bool(counts.any()):
        raise ValueError("true: no joint but necks, needed at least one")
    near = (predicted.xy - true.xy).norm(dim=-1) <= threshold * height / 4
    return float((near & counts).sum() / counts.sum())


def gradient(images: np.ndarray) -> float:
    """Mean magnitude of the luma's gradient (differences of neighbours) in levels per pixel: how sharp images are.

    Args:
        images: (N, H, W, 3) uint8, H and W at least 2.
    """
    total = 0.0
    for image in images:  # one at a time: whole sets in double precision would be large
        luma = image @ np.array([0.299, 0.587, 0.114])
        inner = luma[:-1, :-1]
        total += float(np.hypot(luma[:-1, 1:] - inner, luma[1:, :-1] - inner).mean())
    return total / len(images)


def sharpness(images: np.ndarray, of_true: float) -> float:
    """`gradient` as a share of the true images', which is 1 for photos and below for blur; 0 where those are flat."""
    return gradient(images) / of_true if of_true else 0.0
