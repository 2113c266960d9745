"""Speed, size and recall of pose banks, by their size."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.bench.networks import example_keypoints
from xingaug.bench.timing import Timing, alternate, positive
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import OKS_VARIANCE, Shapes, descriptor
from xingaug.poses.samplers import SAMPLERS, sample
from xingaug.poses.storage import MOST_POSES

QUERIES = 64
"""Number of queries, and of images that a sampler draws for, at a time."""

BEST = 10
"""Number of poses that a search returns."""

_JITTER_PX = 2.0
_HIDDEN = 0.05


def bench_bank(bank: Path | None, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measures build time, size, search and samplers of banks, beside scikit-learn's neighbours and a brute-force scan.

    Banks larger than the given one repeat its poses with every joint moved by Gaussian noise of 2 pixels and one joint
    in twenty hidden. They do not contain the 64 query poses.

    Args:
        bank: a saved bank to take the poses from; None takes standing people with random variations.
        sizes: numbers of poses.
        rounds: measured rounds.

    Returns:
        `banks`: a row for each size: seconds to build and save it, bytes of a pose on disk, and for the bank,
        scikit-learn (the nearest by Euclidean distance of the descriptors) and the scan (OKS to every pose, in torch)
        queries per second and recall of the 10 best by OKS; of ties any counts. `samplers`: a row for each size:
        milliseconds to draw for a batch of 64 new images. `near_again`: the same for images drawn for before;
        `near_prepared_seconds`: preparation before the first draw.

    Raises:
        BadInput: no such bank, a number below 1, fewer than 128 usable poses, or scikit-learn is not installed.
    """
    positive("rounds", rounds)
    for size in sizes:
        if not 2 * QUERIES <= size <= MOST_POSES:
            raise BadInput(f"sizes: {size}, needed at least {2 * QUERIES}, at most {MOST_POSES}")
    poses = _usable_poses(bank)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(poses)))
    queries, known = poses[order[:QUERIES]], poses[order[QUERIES:]]
    rows, drawing = [], []
    for size in sizes:
        built, facts = _build(_enlarged(known, size))
        rows.append({"poses": size, **facts, **_search_figures(built, queries, rounds)})
        drawing.append({"poses": size, **_sampler_figures(built, rounds)})
    return {
        "threads": torch.get_num_threads(),
        "source": str(bank or "standing people"),
        "banks": rows,
        "samplers": drawing,
    }


def _usable_poses(path: Path | None) -> Keypoints:
    if path is None:
        return example_keypoints(4096, (128, 64))
    bank = PoseBank.load(path)
    if len(bank.usable_rows) < 2 * QUERIES:
        raise BadInput(f"{path}: {len(bank.usable_rows)} usable poses, needed at least {2 * QUERIES}")
    return bank.keypoints(bank.usable_rows).resize(bank.frame, (128, 64))


def _enlarged(poses: Keypoints, size: int) -> Keypoints:
    """(size,) poses: the given ones, then perturbed ones."""
    rng = np.random.default_rng(1)
    which = np.concatenate([np.arange(len(poses)), rng.integers(0, len(poses), max(0, size - len(poses)))])[:size]
    xy, visibility = poses.xy.numpy()[which], poses.visibility.numpy()[which]
    new = slice(len(poses), None)
    xy[new] += rng.normal(0, _JITTER_PX, xy[new].shape).astype(np.float32)
    xy = xy.clip((0, 0), (63, 127))
    visibility[new] *= rng.random(visibility[new].shape) >= _HIDDEN
    return Keypoints(torch.from_numpy(xy), torch.from_numpy(visibility))


def _build(poses: Keypoints) -> tuple[PoseBank, dict[str, Any]]:
    """Builds and saves a bank and loads it again; returns it with the figures of that."""
    count = len(poses)
    names = np.array([f"{i:08d}.jpg" for i in range(count)])
    pids, camids = np.arange(count) // 16, np.arange(count) % 6 + 1
    start = time.perf_counter()
    bank = PoseBank.build(poses, names, pids, camids)
    with TemporaryDirectory() as folder:
        bank.save(Path(folder) / "bank")
        seconds = time.perf_counter() - start
        stored = sum(file.stat().st_size for file in (Path(folder) / "bank").iterdir())
    return bank, {"build_seconds": round(seconds, 1), "bytes_per_pose": round(stored / count)}


def _search_figures(bank: PoseBank, queries: Keypoints, rounds: int) -> dict[str, Any]:
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        raise BadInput("scikit-learn is not installed, needed for comparison; pip install scikit-learn") from None
    rows = bank.usable_rows
    neighbours = NearestNeighbors(n_neighbors=BEST).fit(bank.descriptors[rows])
    scan = _Scan(bank)
    described = descriptor(queries, bank.statistics)
    timed = alternate(
        {
            "bank": lambda: bank.search(queries, k=BEST),
            "sklearn": lambda: neighbours.kneighbors(described),
            "scan": lambda: scan.best(queries),
        },
        rounds,
    )
    least = scan.best(queries)[:, -1:].numpy() - 1e-6  # OKS of the tenth
    found = {
        "bank": bank.search(queries, k=BEST).oks.numpy(),
        "sklearn": bank.oks(queries, rows[neighbours.kneighbors(described)[1]]),
    }
    return {
        **{f"{name}_queries_per_second": _rate(timing) for name, timing in timed.items()},
        **{f"{name}_recall_at_10": round(float((oks >= least).mean()), 4) for name, oks in found.items()},
        "ratio_to_sklearn": round(timed["sklearn"].median / timed["bank"].median, 2),
        "ratio_to_scan": round(timed["scan"].median / timed["bank"].median, 2),
    }


def _rate(timing: Timing) -> float:
    return round(QUERIES / timing.median, 1)


class _Scan:
    """OKS to every usable pose, one query after the other."""

    def __init__(self, bank: PoseBank) -> None:
        rows = bank.usable_rows
        self.xy = torch.from_numpy(bank.descriptors[rows]).reshape(len(rows), -1, 2)
        self.present = torch.from_numpy(bank.visibility[rows] > 0)
        self.scale = torch.from_numpy(-1 / (2 * OKS_VARIANCE)).float()

    def best(self, queries: Keypoints) -> Tensor:
        """(B, 10) float32: the largest OKS of each query."""
        shapes = Shapes.of(queries)
        best = []
        for xy, present in zip(torch.from_numpy(shapes.xy).float(), torch.from_numpy(shapes.present), strict=True):
            both = self.present & present
            similarity = ((self.xy - xy).square().sum(-1) * self.scale).exp_() * both
            best.append((similarity.sum(1) / both.sum(1).clamp(min=1)).topk(BEST).values)
        return torch.stack(best)


def _sampler_figures(bank: PoseBank, rounds: int) -> dict[str, float]:
    """Milliseconds per batch; every round draws for other images."""
    rows = itertools.cycle(np.random.default_rng(2).permutation(bank.usable_rows).tolist())

    def draw(name: str, rows: np.ndarray) -> Callable[[], object]:
        people, keys = bank.keypoints(rows), bank.names[rows].tolist()
        return lambda: sample(bank, name, people, keys, bank.pids[rows], bank.camids[rows])

    figures: dict[str, float] = {}
    for name in SAMPLERS:
        start = time.perf_counter()
        draw(name, bank.usable_rows[:1])()  # computes what is needed once for the bank
        if name == "near":
            figures["near_prepared_seconds"] = round(time.perf_counter() - start, 2)
        times = []
        for _ in range(rounds):
            run = draw(name, np.fromiter(itertools.islice(rows, QUERIES), np.int64))
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        figures[f"{name}_ms"] = round(1000 * float(np.median(times)), 2)
        if name == "near":
            start = time.perf_counter()
            run()
            figures["near_again_ms"] = round(1000 * (time.perf_counter() - start), 2)
    return figures
