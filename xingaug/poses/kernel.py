"""OKS as an inner product, so that FAISS can search by the measure that ranks the hits (our choice).

OKS is the mean, over the joints present in both poses, of a Gaussian of the distance between them. A Gaussian is an
inner product of features (Nystroem's method: Williams and Seeger, NIPS 2000), so the sum over the joints is one too.
The mean is not, because the number of joints that both poses have differs from pair to pair. But a pose whose mean is
above a threshold t is one whose sum of (Gaussian - t) is positive, and that is an inner product with one more
coordinate for each joint: 1 in the poses, -t in the query, and 0 where the joint is missing. With t at the k-th best
OKS the k best poses are exactly the positive ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xingaug.keypoints import JOINTS
from xingaug.poses.descriptor import OKS_VARIANCE, Shapes
from xingaug.poses.spacing import FIT_ROWS, evenly_spaced

FEATURES = 15
"""Coordinates of one joint's Gaussian. On Market-1501's poses, 256 candidates by inner product then contain 99.8 % of
the 10 best by OKS."""

LENGTH = len(JOINTS) * (FEATURES + 1)
"""Coordinates of a pose: those of its joints one after the other, each followed by whether it is present."""

LANDMARKS = 64
"""Landmarks (positions of a joint) in the expansion of its Gaussian."""

_RIDGE = 1e-6  # keeps the inverse bounded if two landmarks coincide
_QUERIES_AT_ONCE = 32
_CHUNK = 8192  # rows at a time: limits the memory of the landmarks' Gaussians to about 80 MB


@dataclass(frozen=True, eq=False)
class KernelFeatures:
    """The expansion of each joint's Gaussian.

    Attributes:
        landmarks: (18, L, 2) float32, in torso lengths relative to the root.
        projection: (18, L, FEATURES) float32, from the Gaussians about the landmarks to coordinates.
    """

    landmarks: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, shapes: Shapes) -> "KernelFeatures":
        """Chooses landmarks among the poses, and the directions in which the poses vary most.

        Args:
            shapes: (N,) rows; at most 8,192 of them, evenly spaced, are used.
        """
        rows = np.flatnonzero(shapes.has_torso)
        chosen = shapes[rows[evenly_spaced(len(rows), min(len(rows), FIT_ROWS))]]
        fitted = [_fit_joint(chosen.xy[chosen.present[:, j], j], float(OKS_VARIANCE[j])) for j in range(len(JOINTS))]
        landmarks, projection = (torch.stack(parts).float() for parts in zip(*fitted, strict=True))
        return cls(landmarks, projection)

    def of_poses(self, shapes: Shapes) -> np.ndarray:
        """(N, LENGTH) float32: the vectors stored in the index."""
        return self._features(shapes, np.ones(len(shapes.xy)))

    def of_queries(self, shapes: Shapes, threshold: np.ndarray | float) -> np.ndarray:
        """(B, LENGTH) float32: the query vectors, with which poses of an OKS above `threshold` (B,) come first.

        The features of a query do not depend on the others.
        """
        count = len(shapes.xy)
        # Matrix products round differently with another number of rows, so the number is constant.
        rows = np.resize(np.arange(count), -(-count // _QUERIES_AT_ONCE) * _QUERIES_AT_ONCE)
        last = -np.broadcast_to(np.asarray(threshold, np.float64), count)[rows]
        return self._features(shapes[rows], last, _QUERIES_AT_ONCE)[:count]

    def _features(self, shapes: Shapes, last: np.ndarray, at_once: int = _CHUNK) -> np.ndarray:
        out = np.empty((len(shapes.xy), len(JOINTS), FEATURES + 1), np.float32)
        variance = torch.from_numpy(OKS_VARIANCE).float()[:, None, None]
        for start in range(0, len(out), at_once):
            rows = slice(start, start + at_once)
            xy = torch.from_numpy(shapes.xy[rows]).float().transpose(0, 1)  # (18, n, 2)
            near = torch.exp(-torch.cdist(xy, self.landmarks).square() / (2 * variance))  # (18, n, L)
            out[rows, :, :FEATURES] = torch.bmm(near, self.projection).transpose(0, 1).numpy()
        out[:, :, FEATURES] = last[:, None]
        out *= shapes.present[..., None]
        return out.reshape(len(out), LENGTH)


def _fit_joint(positions: np.ndarray, variance: float) -> tuple[Tensor, Tensor]:
    """Landmarks (L, 2) and projection (L, FEATURES) of one joint, fitted to its visible `positions` (n, 2)."""
    if not len(positions):
        positions = np.zeros((1, 2))  # a joint that is never seen is never compared
    seen = torch.from_numpy(positions)
    landmarks = seen[evenly_spaced(len(seen), LANDMARKS)]
    values, vectors = torch.linalg.eigh(_gaussian(landmarks, landmarks, variance))
    whitened = vectors * (values.clamp(min=0) + _RIDGE).rsqrt()  # (L, L)
    filled = _gaussian(seen, landmarks, variance) @ whitened  # (n, L)
    _, directions = torch.linalg.eigh(filled.T @ filled)
    return landmarks, whitened @ directions[:, -FEATURES:]


def _gaussian(first: Tensor, second: Tensor, variance: float) -> Tensor:
    return torch.exp(-torch.cdist(first, second).square() / (2 * variance))
