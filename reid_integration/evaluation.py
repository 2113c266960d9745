"""Re-ID evaluation by the Market-1501 protocol: distances, CMC, mAP and mINP."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_integration.compat import load_torchreid, quiet
from xingaug.progress import ProgressBar

QUERIES_PER_CHUNK = 128
"""Queries that a thread ranks at a time; limits memory to a few times this many rows of the distance matrix."""


SHEETS = 100
"""Most queries whose ranked results are drawn."""

Refine = Callable[[Any, Tensor, str], Tensor]
"""Takes a loader, its images' features (N, D) and a name for the progress bar, gives the features to compare."""


@dataclass(frozen=True, eq=False)
class ReidResult:
    """Retrieval figures, each in [0, 1].

    Attributes:
        mAP: mean average precision.
        mINP: mean inverse negative penalty (Ye et al., 2021): how far down the hardest true match is found.
        cmc: (R,) float64; element r is the share of queries with a true match among the first r + 1.
        queries: queries that have a true match in the gallery; only these count.
    """

    mAP: float  # noqa: N815 - the usual name
    mINP: float  # noqa: N815
    cmc: np.ndarray
    queries: int

    def rank(self, k: int) -> float:
        """Rank-k: the CMC at k (1-based); for k above the size of the gallery its last value."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])

    @property
    def rank1(self) -> float:
        """Rank-1."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Rank-5."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Rank-10."""
        return self.rank(10)

    def figures(self) -> dict[str, float]:
        """The five figures of a results table by name."""
        return {
            "mAP": self.mAP, "rank1": self.rank1, "rank5": self.rank5, "rank10": self.rank10, "mINP": self.mINP,
        }  # fmt: skip

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for JSON; `from_mapping` reads it back."""
        return {**self.figures(), "queries": self.queries, "cmc": self.cmc.tolist()}

    @classmethod
    def from_mapping(cls, data: dict[str, Any]) -> "ReidResult":
        """Reads what `to_mapping` gave."""
        return cls(data["mAP"], data["mINP"], np.asarray(data["cmc"], dtype=np.float64), data["queries"])


def evaluate(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
) -> ReidResult:
    """Ranks the gallery for every query (Zheng et al., ICCV 2015, as torchreid computes it).

    Gallery images with the query's own pid and camid are removed from its ranking; every other image, distractors
    included, stays. A query without a true match does not count. Ties are in the order of `np.argsort`, which is
    torchreid's order as well.

    Args:
        distmat: (Q, G) distances, small is similar.
        q_pids: (Q,) identities of the queries.
        g_pids: (G,) identities of the gallery, without the junk images (pid -1).
        q_camids: (Q,) cameras of the queries.
        g_camids: (G,) cameras of the gallery.
        max_rank: length of the CMC curve; at most G is used.

    Raises:
        ValueError: shapes that do not fit, NaN distances, or no query with a true match.
    """
    distmat, q_pids, g_pids, q_camids, g_camids = map(np.asarray, (distmat, q_pids, g_pids, q_camids, g_camids))
    if distmat.ndim != 2:
        raise ValueError(f"distmat: shape {distmat.shape}, needed (Q, G)")
    for name, values, length in (
        ("q_pids", q_pids, distmat.shape[0]), ("q_camids", q_camids, distmat.shape[0]),
        ("g_pids", g_pids, distmat.shape[1]), ("g_camids", g_camids, distmat.shape[1]),
    ):  # fmt: skip
        if values.shape != (length,):
            raise ValueError(f"{name}: shape {values.shape}, needed ({length},) to fit distmat {distmat.shape}")
    if np.isnan(distmat).any():
        raise ValueError("distmat: holds NaN; the features are not finite")
    return _ranked(
        len(distmat),
        min(max_rank, distmat.shape[1]),
        lambda part: _rank_queries(distmat[part], q_pids[part], g_pids, q_camids[part], g_camids),
    )


def evaluate_features(
    query: Tensor,
    gallery: Tensor,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    normalize: bool = False,
    max_rank: int = 50,
) -> ReidResult:
    """As `evaluate`, from features; only the distances of some queries are in memory at a time.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        q_pids: identities of the queries, as in `evaluate`.
        g_pids: identities of the gallery.
        q_camids: cameras of the queries.
        g_camids: cameras of the gallery.
        metric: as in `distances`.
        normalize: as in `distances`.
        max_rank: length of the CMC curve.

    Raises:
        ValueError: features that are not finite, or no query with a true match.
    """
    if not bool(query.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("features: NaN or infinite values")
    to_gallery = _distances_to(gallery, metric, normalize)
    return _ranked(
        len(query),
        min(max_rank, len(gallery)),
        lambda part: _rank_queries(to_gallery(query[part]), q_pids[part], g_pids, q_camids[part], g_camids),
    )


Ranked = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rank of the first true match, average precision and inverse negative penalty of each query that has a match."""


def _ranked(queries: int, length: int, rank: Callable[[slice], Ranked]) -> ReidResult:
    """The figures of all queries, ranked in blocks, with one thread per core, at most four."""
    parts = [slice(start, start + QUERIES_PER_CHUNK) for start in range(0, queries, QUERIES_PER_CHUNK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # sorting releases the GIL
        chunks = list(pool.map(rank, parts))
    if not sum(len(first) for first, _, _ in chunks):
        raise ValueError("no query has a true match in the gallery (same pid under another camera)")
    first, precision, penalty = (np.concatenate(columns) for columns in zip(*chunks, strict=True))
    cmc = np.bincount(first - 1, minlength=length).cumsum()[:length] / len(first)
    return ReidResult(float(precision.mean()), float(penalty.mean()), cmc, len(first))


def _rank_queries(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> Ranked:
    order = np.argsort(distmat, axis=1)
    same_pid = g_pids[order] == q_pids[:, None]
    same_view = same_pid & (g_camids[order] == q_camids[:, None])
    query, column = np.nonzero(same_pid & ~same_view)  # the true matches, query by query, best first
    rank = column + 1 - same_view.cumsum(axis=1, dtype=np.int32)[query, column]  # among the images that stay
    total = np.bincount(query, minlength=len(distmat))
    total = total[total > 0]
    last = total.cumsum() - 1
    first = last - total + 1
    found = np.arange(len(rank)) - np.repeat(first, total) + 1
    precision = np.add.reduceat(found / rank, first) / total if len(total) else np.zeros(0)
    return rank[first], precision, total / rank[last]


def distances(
    query: Tensor, gallery: Tensor, metric: Literal["euclidean", "cosine"] = "euclidean", normalize: bool = False
) -> np.ndarray:
    """Distances between all queries and all gallery images.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        metric: `euclidean` is the squared Euclidean distance, as in torchreid; `cosine` is 1 - cosine.
        normalize: L2-normalise the features first (`cosine` does so in any case).

    Returns:
        (Q, G) float32.
    """
    return _distances_to(gallery, metric, normalize)(query)


def _distances_to(
    gallery: Tensor, metric: Literal["euclidean", "cosine"], normalize: bool
) -> Callable[[Tensor], np.ndarray]:
    """A function from (q, D) queries to their distances to a gallery, whose norms are computed once."""
    scaled = normalize or metric == "cosine"
    gallery = F.normalize(gallery.float(), dim=1) if scaled else gallery.float()
    squares = torch.einsum("gd,gd->g", gallery, gallery)

    def of(query: Tensor) -> np.ndarray:
        query = F.normalize(query.float(), dim=1) if scaled else query.float()
        product = query @ gallery.T
        if metric == "cosine":
            return (1 - product).numpy()
        return torch.sub(query.square().sum(1, keepdim=True) + squares, product, alpha=2).numpy()

    return of


@torch.no_grad()
def extract_features(
    model: nn.Module, loader: Iterable[dict[str, Any]], progress: bool = False, label: str = "features"
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Runs a re-ID model over a torchreid test loader.

    Args:
        model: returns (B, D) features in eval mode; it is put into eval mode and back.
        loader: yields torchreid's batches (`img`, `pid`, `camid`).
        progress: show a bar, or lines if there is no terminal.
        label: of the bar.

    Returns:
        (N, D) float32 features on the CPU, (N,) pids, (N,) camids.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    features, pids, camids = [], [], []
    try:
        for batch in ProgressBar(loader, label, unit="batch", shown=progress, leave=False):
            features.append(model(batch["img"].to(device)).float().cpu())
            pids.append(np.asarray(batch["pid"]))
            camids.append(np.asarray(batch["camid"]))
    finally:
        model.train(was_training)
    return torch.cat(features), np.concatenate(pids), np.concatenate(camids)


def evaluate_model(
    model: nn.Module,
    query_loader: Iterable[dict[str, Any]],
    gallery_loader: Iterable[dict[str, Any]],
    metric: Literal["euclidean", "cosine"] = "euclidean",
    normalize: bool = False,
    progress: bool = False,
    rerank: bool = False,
    sheets: Callable[[np.ndarray], None] | None = None,
    refine: Refine | None = None,
    max_rank: int = 50,
) -> ReidResult:
    """Extracts features of query and gallery and evaluates their distances.

    Args:
        model: as in `extract_features`.
        query_loader: torchreid's.
        gallery_loader: torchreid's.
        metric: as in `distances`.
        normalize: as in `distances`.
        progress: show progress bars (on a terminal only).
        rerank: re-rank by k-reciprocal neighbours (Zhong et al., CVPR 2017; torchreid's function, k1 20, k2 6, lambda
            0.3), which needs the distances between all images in memory.
        sheets: called with the (Q, G) distances, to draw ranked results.
        refine: of the features to compare.
        max_rank: as in `evaluate`.
    """
    query, q_pids, q_camids = extract_features(model, query_loader, progress, "query")
    gallery, g_pids, g_camids = extract_features(model, gallery_loader, progress, "gallery")
    if refine is not None:
        query, gallery = refine(query_loader, query, "query"), refine(gallery_loader, gallery, "gallery")
    known = (q_pids, g_pids, q_camids, g_camids)
    if not rerank and sheets is None:
        return evaluate_features(query, gallery, *known, metric, normalize, max_rank)
    distmat = distances(query, gallery, metric, normalize)
    if rerank:
        within = [distances(features, features, metric, normalize) for features in (query, gallery)]
        rerank_module = import_module(f"{load_torchreid().__name__}.utils.rerank")
        distmat = rerank_module.re_ranking(distmat, *within)
    if sheets is not None:
        sheets(distmat)
    return evaluate(distmat, *known, max_rank)


def write_ranked_sheets(
    distmat: np.ndarray, query: Sequence[Any], gallery: Sequence[Any], folder: Path, size: tuple[int, int], top: int
) -> None:
    """Draws up to 100 queries, evenly spaced, each with the top of its ranking; correct images have a green frame.

    Args:
        distmat: (Q, G).
        query: torchreid's entries (path, pid, camid, ...).
        gallery: torchreid's entries.
        folder: for `visrank_<query>.jpg`, drawn by torchreid.
        size: (height, width) of an image.
        top: number of ranked images.
    """
    rows = np.linspace(0, len(query) - 1, min(len(query), SHEETS)).round().astype(int)
    with quiet():
        load_torchreid().utils.visualize_ranked_results(
            distmat[rows], ([query[row] for row in rows], gallery), "image",
            width=size[1], height=size[0], save_dir=str(folder), topk=min(top, len(gallery)),
        )  # fmt: skip
