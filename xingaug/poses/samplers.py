"""Samplers: which pose of the bank a source image is rendered in.

Every sampler draws by (seed, epoch, image name), so that an image gets the same pose whatever the batch, the order and
the number of workers. No sampler draws an unusable pose, or one seen in the source image itself. A sampler is named by
a key of `SAMPLERS`, a mixture by names and weights: "uniform=3,near=1".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.descriptor import Shapes
from xingaug.poses.draws import keyed_uniform, keyed_uniforms

NEAR_POOL = 32
"""Number of nearest poses that `near` searches; it draws from the nearer half (our choice)."""

FAR_TRIES = 8
"""Number of uniform draws of which `far` takes the least similar (our choice)."""

_MOST_POOLS = 200_000  # source images whose nearest poses are cached: 140 MB
_MOST_PREPARED = 32_768  # largest bank whose nearest poses are all searched before the first draw: 15 s


@dataclass(frozen=True, eq=False)
class Sources:
    """The images that poses are drawn for.

    Attributes:
        keypoints: (B,) persons.
        keys: (B,) image names.
        pids: (B,) identities, or None.
        camids: (B,) cameras, or None.

    Raises:
        ValueError: lengths differ.
    """

    keypoints: Keypoints
    keys: Sequence[str]
    pids: Sequence[int] | np.ndarray | Tensor | None = None
    camids: Sequence[int] | np.ndarray | Tensor | None = None

    def __post_init__(self) -> None:
        """Checks that all lengths are equal."""
        if self.keypoints.shape != (len(self.keys),):
            raise ValueError(f"keypoints: batch shape {self.keypoints.shape}, needed ({len(self.keys)},) to fit keys")
        for name, values in (("pids", self.pids), ("camids", self.camids)):
            if values is not None and len(values) != len(self.keys):
                raise ValueError(f"{name}: {len(values)} of them, needed {len(self.keys)} to fit keys")

    def part(self, which: np.ndarray) -> "Sources":
        """The images at `which` (n,)."""
        return Sources(
            self.keypoints[torch.from_numpy(which).to(self.keypoints.device)],
            [self.keys[index] for index in which.tolist()],
            None if self.pids is None else np.asarray(self.pids)[which],
            None if self.camids is None else np.asarray(self.camids)[which],
        )


Sampler = Callable[[PoseBank, Sources, int, int], np.ndarray]


def uniform(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """Every usable pose is equally likely.

    Reason: it gives each identity the pose distribution of the whole dataset, without assumptions.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    return _draw_uniform(bank, sources.keys, keyed_uniform(seed, epoch, sources.keys, "uniform"))


def near(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """One of the poses most similar to the source's: the nearer half, by OKS, of the 32 nearest, each equally likely.

    Reason: the less the body has to turn, the less the generator has to invent, so images are the most faithful. A
    source without a torso gets a uniform draw. Nearest poses are searched once and cached: for the bank's own images
    before the first draw, which takes seconds; in banks of more than 32,768 poses, and for other images, on first use.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    numbers = keyed_uniform(seed, epoch, sources.keys, "near")
    rows = _draw_uniform(bank, sources.keys, numbers)
    searchable = np.flatnonzero(Shapes.of(sources.keypoints).has_torso & (rows >= 0))
    for index, pool in zip(searchable.tolist(), _near_pools(bank, sources, searchable), strict=True):
        rows[index] = pool[int(numbers[index] * len(pool))]
    return rows


def far(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """The least similar, by OKS, of 8 uniform draws.

    Reason: it shows the re-ID model the poses that this image says least about, without always drawing the few outliers
    that are far from every pose. A source without a torso gets a uniform draw.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    keys = sources.keys
    drawn = _draw_uniform(bank, keys, keyed_uniforms(seed, epoch, keys, "far", FAR_TRIES))
    similarity = bank.oks(sources.keypoints, np.maximum(drawn, 0))
    # The first of equal ones; a row with a -1 is all -1.
    return drawn[np.arange(len(drawn)), similarity.argmin(axis=1)]


def diverse(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """Every cluster of similar poses is equally likely, and within it every pose.

    Reason: most people in a dataset walk past; here the few who ride, sit or turn round get the same weight.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    clusters = bank.by_cluster
    keys = sources.keys
    which, within = (keyed_uniform(seed, epoch, keys, f"diverse/{part}").tolist() for part in ("group", "pose"))
    positions = []
    for index, key in enumerate(keys):
        own = bank.positions_named(key)
        held = clusters.holding_others(own)
        chosen = [int(held[int(which[index] * len(held))])] if len(held) else []
        positions.append(clusters.draw(chosen, within[index], own))
    return _rows(bank, positions)


def inverse_density(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """Draws a pose with a probability proportional to `PoseBank.rarity` (at most ten times the median).

    Reason: as `diverse`, without cluster borders; outliers are drawn more often than there.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.
    """
    numbers = keyed_uniform(seed, epoch, sources.keys, "inverse-density").tolist()
    return _rows(bank, [_draw_rare(bank, key, number) for key, number in zip(sources.keys, numbers, strict=True)])


def gap(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """A pose from the clusters in which the source's identity has the fewest images, mostly none.

    Reason: it adds exactly the poses that the identity lacks, which is the purpose of the augmentation.

    Returns:
        (B,) int64 rows; -1 where no other image's usable pose exists.

    Raises:
        BadInput: no identities were given, and the bank does not know a source.
    """
    pids = _known(bank, "gap", "pids", sources.keys, sources.pids)
    numbers = keyed_uniform(seed, epoch, sources.keys, "gap").tolist()
    clusters, positions = bank.by_cluster, []
    for pid, key, number in zip(pids, sources.keys, numbers, strict=True):
        own = bank.positions_named(key)
        position = clusters.draw(bank.least_seen_clusters(pid), number, own)
        if position < 0:  # these clusters hold only poses of the source image
            position = clusters.draw(bank.least_seen_clusters(pid, clusters.holding_others(own)), number, own)
        positions.append(position)
    return _rows(bank, positions)


def camera(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """A pose from another camera than the source's, each equally likely.

    Reason: cameras see people from different sides and heights, and matching across cameras needs exactly the poses of
    the other cameras.

    Returns:
        (B,) int64 rows; -1 where no other camera's usable pose exists.

    Raises:
        BadInput: no cameras were given, and the bank does not know a source.
    """
    camids = _known(bank, "camera", "camids", sources.keys, sources.camids)
    seen = bank.by_camera.values
    others = {camid: np.flatnonzero((seen != camid) & (seen >= 0)).tolist() for camid in set(camids)}
    numbers = keyed_uniform(seed, epoch, sources.keys, "camera").tolist()
    positions = [
        bank.by_camera.draw(others[camid], number, bank.positions_named(key))
        for camid, key, number in zip(camids, sources.keys, numbers, strict=True)
    ]
    return _rows(bank, positions)


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
    "near": near,
    "far": far,
    "diverse": diverse,
    "inverse-density": inverse_density,
    "gap": gap,
    "camera": camera,
}


@lru_cache(maxsize=64)
def parse_sampler(text: str) -> tuple[tuple[str, float], ...]:
    """The names and shares of a sampler or a mixture.

    Args:
        text: a name in `SAMPLERS`, or several with weights, such as "uniform=3,near=1".

    Returns:
        For each (name, share), the shares adding up to 1.

    Raises:
        BadInput: no such sampler, one that is named twice, or a weight that is not a number above 0.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if name not in SAMPLERS:
            raise BadInput(f"sampler: unknown '{name}'; known: {', '.join(SAMPLERS)}, or a mixture 'uniform=3,near=1'")
        if name in shares:
            raise BadInput(f"sampler: '{name}' is given twice in '{text}', needed once")
        try:
            shares[name] = float(weight) if "=" in part else 1.0
        except ValueError:
            shares[name] = 0.0
        if not 1e-9 <= shares[name] <= 1e9:
            raise BadInput(f"sampler: weight '{weight}' of '{name}', needed a number above 0, 1e-9 to 1e9")
    total = sum(shares.values())
    return tuple((name, share / total) for name, share in shares.items())


def sample(
    bank: PoseBank,
    sampler: str,
    keypoints: Keypoints,
    keys: Sequence[str],
    pids: Sequence[int] | np.ndarray | Tensor | None = None,
    camids: Sequence[int] | np.ndarray | Tensor | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> Tensor:
    """Draws a pose for each source image.

    Args:
        bank: the poses.
        sampler: a name in `SAMPLERS`, or a mixture (`parse_sampler`).
        keypoints: (B,) persons of the source images, on any device.
        keys: (B,) names of the source images.
        pids: (B,) their identities, for samplers that need them.
        camids: (B,) their cameras, for samplers that need them.
        seed: seed of the run.
        epoch: epoch of the run.

    Returns:
        (B,) int64 on the CPU: rows of the bank; -1 where no usable pose of another image exists.

    Raises:
        BadInput: no such sampler, or one that needs pids or camids that were not given.
        ValueError: lengths differ.
    """
    parts = parse_sampler(sampler)
    sources = Sources(keypoints, keys, pids, camids)
    if len(parts) == 1:
        return torch.from_numpy(SAMPLERS[parts[0][0]](bank, sources, seed, epoch))
    rows = np.full(len(keys), -1, np.int64)
    bounds = np.cumsum([share for _, share in parts])
    chosen = np.searchsorted(bounds[:-1], keyed_uniform(seed, epoch, keys, "mixture"), side="right")
    for number, (name, _) in enumerate(parts):
        which = np.flatnonzero(chosen == number)
        if len(which):
            rows[which] = SAMPLERS[name](bank, sources.part(which), seed, epoch)
    return torch.from_numpy(rows)


def _rows(bank: PoseBank, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rows of the bank at `positions` (B, ...) in `usable_rows`; -1 where the position is -1."""
    found = np.asarray(positions, np.int64)
    return np.where(found >= 0, bank.usable_rows[found], -1)


def _draw_uniform(bank: PoseBank, keys: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Usable rows, not the source's own, in the shape of the uniform `numbers` (B, ...); -1 if there is none."""
    own = [bank.positions_named(key) for key in keys]
    others = len(bank.usable_rows) - np.array([len(positions) for positions in own], np.int64)
    others = others.reshape(-1, *[1] * (numbers.ndim - 1))
    positions = (numbers * others).astype(np.int64)
    for index, skipped in enumerate(own):
        for position in skipped:  # ascending: skips the source's own poses
            positions[index] += positions[index] >= position
    return _rows(bank, np.where(others > 0, positions, -1))


def _draw_rare(bank: PoseBank, key: str, number: float) -> int:
    """A position drawn by rarity, not the source's own; -1 if there is none."""
    own, cumulative = bank.positions_named(key), bank.cumulative_rarity
    if len(own) == len(cumulative):
        return -1
    spans = [(cumulative[p - 1] if p else 0.0, cumulative[p]) for p in own]
    target = number * (cumulative[-1] - sum(end - start for start, end in spans))
    for start, end in spans:  # ascending: skips the source's own poses
        target += (end - start) * (target >= start)
    position = min(int(np.searchsorted(cumulative, target, side="right")), len(cumulative) - 1)
    while position in own:  # after rounding at the border of one of them
        position = (position + 1) % len(cumulative)
    return position


def _known(
    bank: PoseBank, sampler: str, column: str, keys: Sequence[str], given: Sequence[int] | np.ndarray | Tensor | None
) -> list[int]:
    """(B,) identities or cameras, as given or looked up in the bank by image name."""
    if given is not None:
        return np.asarray(given).tolist()
    rows = [bank.positions_named(key)[:1] for key in keys]
    if not all(rows):
        unknown = keys[rows.index([])]
        raise BadInput(f"sampler: '{sampler}' needs {column}, and the bank has no image '{unknown}'")
    return getattr(bank, column)[bank.usable_rows[np.array(rows, np.int64).reshape(len(keys))]].tolist()


def _near_pools(bank: PoseBank, sources: Sources, which: np.ndarray) -> list[np.ndarray]:
    """The poses that `near` draws from, for the images at `which` (n,)."""
    rows = bank.usable_rows
    if not bank.near_pools and len(rows) <= _MOST_PREPARED:
        _searched_pools(bank, Sources(bank.keypoints(rows), bank.names[rows].tolist()), np.arange(len(rows)))
    return _searched_pools(bank, sources, which)


def _searched_pools(bank: PoseBank, sources: Sources, which: np.ndarray) -> list[np.ndarray]:
    """As `_near_pools`; searches the pools that are not in `PoseBank.near_pools` yet and adds them."""
    keypoints = sources.keypoints.to("cpu")
    values = np.concatenate([keypoints.xy.flatten(1).numpy(), keypoints.visibility.numpy()], axis=1)
    keys = [(sources.keys[i], values[i].tobytes()) for i in which.tolist()]
    own = np.array([len(bank.positions_named(name)) for name, _ in keys], dtype=np.int64)
    new = np.array([key not in bank.near_pools for key in keys], dtype=bool)
    # Grouped by k, because k changes which candidates are searched: it must depend on the image alone.
    for extra in np.unique(own[new]).tolist():
        group = np.flatnonzero(new & (own == extra))
        hits = bank.search(keypoints[torch.from_numpy(which[group])], k=min(NEAR_POOL + extra, len(bank.usable_rows)))
        for index, found in zip(group.tolist(), hits.indices.numpy(), strict=True):
            pool = found[~np.isin(found, bank.usable_rows[bank.positions_named(keys[index][0])])][:NEAR_POOL]
            bank.near_pools[keys[index]] = pool[: (len(pool) + 1) // 2].copy()  # not a view of all hits
    pools = [bank.near_pools[key] for key in keys]
    while len(bank.near_pools) > _MOST_POOLS:
        del bank.near_pools[next(iter(bank.near_pools))]  # the oldest
    return pools
