"""Rank-1 and mAP of images against a gallery of real images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gallery:
    """The real images that are searched.

    Attributes:
        features: (G, D) of unit length.
        pids: (G,) identities, including distractors (0) but no junk (-1).
        camids: (G,) cameras.
    """

    features: Tensor
    pids: np.ndarray
    camids: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Figures in [0, 1], means over the queries that have a true match; `queries` is their number."""

    rank1: float
    mean_ap: float
    queries: int


def retrieve(query: Tensor, pids: np.ndarray, camids: np.ndarray, left_out: np.ndarray, gallery: Gallery) -> Retrieval:
    """Ranks the gallery for every query by cosine similarity, by Market-1501's protocol (Zheng et al. 2015).

    Images of the query's own identity and camera are ignored, and so are its `left_out` rows. A query without a true
    match among the others does not count. Ties keep the order of the gallery.

    Args:
        query: (Q, D) features of unit length.
        pids: (Q,) identities.
        camids: (Q,) cameras.
        left_out: (Q, K) rows of the gallery that are ignored too, such as the source and the target; -1 for none.
        gallery: to search.

    Raises:
        ValueError: no query has a true match.
    """
    hits, precisions = [], []
    for i, feature in enumerate(query):
        same = gallery.pids == pids[i]
        keep = ~(same & (gallery.camids == camids[i]))
        keep[left_out[i][left_out[i] >= 0]] = False
        if not (same & keep).any():
            continue
        near = torch.mv(gallery.features, feature).numpy()[keep]
        found = same[keep][np.argsort(-near, kind="stable")]
        places = np.flatnonzero(found) + 1
        hits.append(float(found[0]))
        precisions.append((np.arange(1, len(places) + 1) / places).mean())
    if not hits:
        raise ValueError("no query has a true match: another image of its identity under another camera")
    return Retrieval(float(np.mean(hits)), float(np.mean(precisions)), len(hits))
