"""Poses independent of position and scale: shape, similarity (OKS), and a descriptor vector."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xingaug.keypoints import JOINTS, MIN_VISIBLE, Keypoints
from xingaug.poses.spacing import FIT_ROWS, evenly_spaced

MIN_TORSO = 1 / 16
"""Shortest torso of a usable pose, as a share of the frame's height (our choice; in Market-1501 the median is 0.30)."""

PERSON_AREA = 2.0
"""Area of a person in squared torso lengths, the scale of OKS (our choice).

COCO uses the area of the person's segment. Poses have none, so a constant replaces it: the box of a complete pose of
Market-1501 has a median of 3.8 squared torso lengths, and a segment fills about 0.53 of its box.
"""

DESCRIPTOR_LENGTH = 2 * len(JOINTS)

_COCO_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "neck": 0.079, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
OKS_SIGMAS = np.array([_COCO_SIGMAS[joint.removeprefix("right_").removeprefix("left_")] for joint in JOINTS])
"""(18,) COCO's sigma of each joint; the neck, which COCO lacks, has the shoulder's."""

OKS_VARIANCE = PERSON_AREA * (2 * OKS_SIGMAS) ** 2
"""(18,) variance of OKS's Gaussian for each joint's distance, in squared torso lengths."""

_NECK = JOINTS.index("neck")
_SHOULDERS = [JOINTS.index("right_shoulder"), JOINTS.index("left_shoulder")]
_HIPS = [JOINTS.index("right_hip"), JOINTS.index("left_hip")]

_CHUNK = 8192  # rows completed at a time: bounds the memory of their matrices to about 200 MB
_FIT_STEPS = 50
_FIT_TOLERANCE = 1e-3  # largest change of the mean (torso lengths) and covariance (squared) in the last step
_PRIOR_VARIANCE = 0.03  # squared torso lengths; of 0.03 to 1 the best at predicting held-out joints of Market-1501
_PRIOR_ROWS = 38.0  # the prior's weight, in poses: the degrees of freedom of a proper 36-dimensional inverse Wishart


@dataclass(frozen=True, eq=False)
class Shapes:
    """Poses moved to a common root and scaled to a common torso length.

    The torso runs from the neck (without it: the mean of the visible shoulders) to the mean of the visible hips. Its
    middle is the root, its length the unit.

    Attributes:
        xy: (N, 18, 2) float64, in torso lengths relative to the root; 0 where not present.
        present: (N, 18) bool; all false in a row without a torso.
        torso_px: (N,) float64, length of the torso in pixels; 0 if there is none.
    """

    xy: np.ndarray
    present: np.ndarray
    torso_px: np.ndarray

    @classmethod
    def of(cls, keypoints: Keypoints) -> "Shapes":
        """The shapes of (N,) persons, on any device."""
        return shapes_of(keypoints.xy.cpu().numpy(), keypoints.visibility.cpu().numpy())

    def __getitem__(self, rows: Any) -> "Shapes":
        """Indexes the rows, as in numpy."""
        return Shapes(self.xy[rows], self.present[rows], self.torso_px[rows])

    @property
    def has_torso(self) -> np.ndarray:
        """(N,) bool: the rows that have a torso, and so a shape."""
        return self.torso_px > 0


@dataclass(frozen=True, eq=False)
class Statistics:
    """Gaussian over the shapes of a bank, used to complete missing joints.

    Attributes:
        mean: (36,) float64, x and y of each joint in torso lengths.
        covariance: (36, 36) float64, positive definite.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, shapes: Shapes) -> "Statistics":
        """Expectation-maximisation for a Gaussian with missing values (our choice).

        The covariance is the posterior mode under an inverse Wishart prior, which acts as a ridge: it stays well
        conditioned in small banks and if a joint is never seen. At most 8,192 rows, evenly spaced, are used.

        Args:
            shapes: (N,) rows; those without a torso are skipped.
        """
        rows = np.flatnonzero(shapes.has_torso)
        rows = rows[evenly_spaced(len(rows), min(len(rows), FIT_ROWS))]
        chosen = shapes[rows]
        seen = np.maximum(chosen.present.sum(0), 1)[:, None]
        statistics = cls((chosen.xy.sum(0) / seen).ravel(), np.eye(DESCRIPTOR_LENGTH) * _PRIOR_VARIANCE)
        for _ in range(_FIT_STEPS):
            updated = statistics._step(chosen)
            moved = max(
                np.abs(updated.mean - statistics.mean).max(), np.abs(updated.covariance - statistics.covariance).max()
            )
            statistics = updated
            if moved < _FIT_TOLERANCE:
                break
        return statistics

    def complete(self, shapes: Shapes) -> np.ndarray:
        """(N, 36) float64: the shapes with missing joints at their conditional mean given the present ones."""
        filled = np.empty((len(shapes.xy), DESCRIPTOR_LENGTH))
        for chunk, gains, pattern in self._chunks(shapes):
            filled[chunk] = self._fill(shapes[chunk], gains[pattern])
        return filled

    def uncertainty(self, shapes: Shapes) -> np.ndarray:
        """(N, 18) float64: root of the expected squared distance of each completed joint, in torso lengths; 0 if seen.

        From the Gaussian's conditional covariance, which depends on which joints are present, not on their positions.
        """
        spread = np.empty((len(shapes.xy), len(JOINTS)))
        for chunk, gains, pattern in self._chunks(shapes):
            left = np.diag(self.covariance) - np.einsum("pij,ji->pi", gains, self.covariance)
            spread[chunk] = np.sqrt(left.clip(0).reshape(-1, len(JOINTS), 2).sum(-1))[pattern]
        return np.where(shapes.present, 0, spread)

    def _step(self, shapes: Shapes) -> "Statistics":
        """One step of expectation-maximisation."""
        filled = np.empty((len(shapes.xy), DESCRIPTOR_LENGTH))
        uncertainty = np.zeros_like(self.covariance)
        for chunk, gains, pattern in self._chunks(shapes):
            filled[chunk] = self._fill(shapes[chunk], gains[pattern])
            # Covariance of the missing joints given the present ones, summed over the rows.
            weight = np.bincount(pattern, minlength=len(gains))
            mean_gain = np.tensordot(weight, gains, axes=1)
            uncertainty += len(pattern) * self.covariance - mean_gain @ self.covariance
        mean = filled.mean(0)
        scatter = (filled - mean).T @ (filled - mean) + uncertainty
        prior = np.eye(DESCRIPTOR_LENGTH) * (_PRIOR_VARIANCE * _PRIOR_ROWS)
        covariance = (scatter + prior) / (len(filled) + _PRIOR_ROWS)
        return Statistics(mean, (covariance + covariance.T) / 2)

    def _chunks(self, shapes: Shapes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Chunks of rows, the gain (P, 36, 36) of each presence pattern in a chunk, and each row's pattern."""
        for start in range(0, len(shapes.xy), _CHUNK):
            chunk = np.arange(start, min(start + _CHUNK, len(shapes.xy)))
            codes = shapes.present[chunk] @ (1 << np.arange(len(JOINTS)))
            _, first, pattern = np.unique(codes, return_index=True, return_inverse=True)
            yield chunk, self._gains(shapes.present[chunk][first]), pattern

    def _gains(self, present: np.ndarray) -> np.ndarray:
        """(P, 36, 36) G with E[all | present] = mean + G (x - mean), for the presence patterns `present` (P, 18).

        G = covariance[:, o] inverse(covariance[o, o]) for the present coordinates o; its other columns are 0.
        """
        observed = np.repeat(present, 2, axis=1).astype(np.float64)
        inner = self.covariance * observed[:, :, None] * observed[:, None, :]
        inner += np.eye(DESCRIPTOR_LENGTH) * (1 - observed)[:, :, None]
        across = self.covariance * observed[:, :, None]
        return np.linalg.solve(inner, across).transpose(0, 2, 1)

    def _fill(self, shapes: Shapes, gains: np.ndarray) -> np.ndarray:
        observed = np.repeat(shapes.present, 2, axis=1)
        given = shapes.xy.reshape(-1, DESCRIPTOR_LENGTH)
        # einsum and not a matrix product: a row's rounding must not depend on the other rows.
        expected = self.mean + np.einsum("nij,nj->ni", gains, np.where(observed, given - self.mean, 0))
        return np.where(observed, given, expected)


def shapes_of(xy: np.ndarray, visibility: np.ndarray) -> Shapes:
    """Normalises poses in pixels to shapes.

    Args:
        xy: (N, 18, 2) pixels.
        visibility: (N, 18); above 0 is present.
    """
    present = visibility > 0
    root, torso = torsos_of(xy, visibility)
    present = present & (torso > 0)[:, None]
    centred = (xy - root[:, None]) / np.where(torso > 0, torso, 1)[:, None, None]
    return Shapes(np.where(present[..., None], centred, 0), present, torso)


def torsos_of(xy: np.ndarray, visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles (N, 2) and lengths (N,) float64 of torsos in pixels, 0 if there is none; arguments as in `shapes_of`."""
    present = visibility > 0
    xy = np.where(present[..., None], xy, 0).astype(np.float64)
    shoulders, shoulder_seen = _mean_of(xy, present, _SHOULDERS)
    hips, hip_seen = _mean_of(xy, present, _HIPS)
    neck_seen = present[:, _NECK]
    top = np.where(neck_seen[:, None], xy[:, _NECK], shoulders)
    whole = (neck_seen | shoulder_seen) & hip_seen
    return (top + hips) / 2 * whole[:, None], np.linalg.norm(top - hips, axis=-1) * whole


def is_usable(keypoints: Keypoints, frame: tuple[int, int]) -> np.ndarray:
    """Which poses may serve as targets (our choice).

    At least 8 visible joints, a torso (neck or shoulder, and hip) of at least 1/16 of the frame's height, and every
    visible joint inside the frame.

    Args:
        keypoints: (N,) persons.
        frame: (height, width) of the poses' frame.

    Returns:
        (N,) bool.
    """
    shapes = Shapes.of(keypoints)
    inside = (keypoints.inside(frame) | ~keypoints.present).all(-1).cpu().numpy()
    return (shapes.present.sum(1) >= MIN_VISIBLE) & (shapes.torso_px >= MIN_TORSO * frame[0]) & inside


def descriptor(keypoints: Keypoints, statistics: Statistics) -> np.ndarray:
    """Vectors whose Euclidean distance compares poses independent of position and scale.

    Args:
        keypoints: (N,) persons.
        statistics: statistics of the bank that is searched.

    Returns:
        (N, 36) float32: x and y of each joint in torso lengths from the middle of the torso, missing joints completed.

    Raises:
        ValueError: a person has no torso.
    """
    return statistics.complete(shapes_with_torsos(keypoints)).astype(np.float32)


def shapes_with_torsos(keypoints: Keypoints) -> Shapes:
    """Shapes (N,) of persons who must all have a torso.

    Raises:
        ValueError: not a batch (N,), or a person without a torso.
    """
    if len(keypoints.shape) != 1:
        raise ValueError(f"keypoints: batch shape {keypoints.shape}, needed (N,)")
    shapes = Shapes.of(keypoints)
    if not shapes.has_torso.all():
        row = int(np.argmin(shapes.has_torso))
        raise ValueError(
            f"keypoints: row {row} has no torso; needed a neck or shoulder, and a hip, apart from each other"
        )
    return shapes


def oks(first: Shapes, second: Shapes) -> np.ndarray:
    """Object keypoint similarity (COCO) of two poses with a common root and scale.

    The mean over the joints present in both of exp(-d^2 / (2 s^2 k^2)), with k twice COCO's sigma and s^2
    `PERSON_AREA`. As both are shapes, it is independent of position and scale, and symmetric.

    Args:
        first: (..., 18) joints.
        second: joints that broadcast against the first.

    Returns:
        (...) float32 in [0, 1]; 0 if no joint is present in both.
    """
    both = first.present & second.present
    squared = ((first.xy - second.xy) ** 2).sum(-1)
    similarity = np.exp(-squared / (2 * OKS_VARIANCE)) * both
    return (similarity.sum(-1) / np.maximum(both.sum(-1), 1)).astype(np.float32)


def _mean_of(xy: np.ndarray, present: np.ndarray, joints: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N, 2) of the present ones among `joints`, and whether there is any (N,)."""
    seen = present[:, joints]
    total = (xy[:, joints] * seen[..., None]).sum(1)
    return total / np.maximum(seen.sum(1), 1)[:, None], seen.sum(1) > 0
