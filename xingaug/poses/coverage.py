"""Clusters of similar poses in a bank, and how rare each pose is."""

import warnings

import numpy as np
import torch

from xingaug.poses.spacing import evenly_spaced

CLUSTERS = 64
"""Most clusters (our choice: an identity of Market-1501 has 17 images, which cover about a fifth)."""

REFERENCES = 2048
"""Number of poses used to estimate density (our choice)."""

_LEAST_IN_A_CLUSTER = 8  # poses per cluster on average, so that small banks have fewer clusters
_NEIGHBOUR = 16  # the kernel width is the median distance of the references to their 16th neighbour
_MOST_RARE = 10.0  # times the median: a pose unlike all others is more likely an estimator's error than a rare pose
_CHUNK = 16384


def clusters_of(descriptors: np.ndarray) -> np.ndarray:
    """Clusters poses by k-means on their descriptors, with a fixed seed.

    Args:
        descriptors: (U, 36) float32.

    Returns:
        (U,) int32 in 0 .. 63; at most one cluster for every 8 poses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    groups = max(1, min(CLUSTERS, len(descriptors) // _LEAST_IN_A_CLUSTER))
    kmeans = faiss.Kmeans(descriptors.shape[1], groups, niter=20, seed=0, min_points_per_centroid=1)
    kmeans.train(np.ascontiguousarray(descriptors, np.float32))
    return kmeans.index.search(np.ascontiguousarray(descriptors, np.float32), 1)[1][:, 0].astype(np.int32)


def rarity_of(descriptors: np.ndarray) -> np.ndarray:
    """Inverse density of the poses around each pose.

    A kernel density over 2,048 evenly spaced poses, with a Gaussian whose width is the median distance of these poses
    to their 16th neighbour among themselves; the rarity is capped at ten times its median (our choice).

    Args:
        descriptors: (U, 36) float32.

    Returns:
        (U,) float32 in (0, 10], 1 at the median.
    """
    poses = torch.from_numpy(np.array(descriptors, np.float32))
    references = poses[evenly_spaced(len(poses), min(len(poses), REFERENCES))]
    among = torch.cdist(references, references).sort(dim=1).values
    width = among[:, min(_NEIGHBOUR, len(references) - 1)].median().clamp(min=1e-6)
    density = torch.cat(
        [torch.exp(-(torch.cdist(chunk, references) / width).square() / 2).mean(1) for chunk in poses.split(_CHUNK)]
    )
    rarity = density.median() / density.clamp(min=1e-12)
    return rarity.clamp(max=_MOST_RARE).numpy()
