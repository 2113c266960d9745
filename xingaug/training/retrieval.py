"""Are images taken for the right person? Rank-1 and mAP against a gallery of real images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gallery:
    """Real images that are searched.

    Attributes:
        features: (G, D) of unit length.
        pids: (G,) identities; without junk (-1), with distractors (0).
        camids: (G,) cameras.
    """

    features: Tensor
    pids: np.ndarray
    camids: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Figures in [0, 1] of the queries that have a true match; `queries` is their number."""

    rank1: float
    mean_ap: float
    queries: int


def retrieve(query: Tensor, pids: np.ndarray, camids: np.ndarray, left_out: np.ndarray, gallery: Gallery) -> Retrieval:
    """Searches for every query by cosine, by Market-1501's protocol (Zheng et al. 2015).

    Images of the query's own identity under its own camera are passed over, and so are those that it names. A query
    without a true match among the others does not count. Equal distances come in the order of the gallery.

    Args:
        query: (Q, D) features of unit length.
        pids: (Q,) identities.
        camids: (Q,) cameras.
        left_out: (Q, K) rows of the gallery that are passed over too, such as the source and the target; -1 for none.
        gallery: what is searched.

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
