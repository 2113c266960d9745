"""The pose bank: poses in frame pixels that can be searched by shape, drawn from, and stored on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.config import from_mapping
from xingaug.data.names import Alike
from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.coverage import clusters_of, rarity_of
from xingaug.poses.descriptor import (
    DESCRIPTOR_LENGTH,
    Shapes,
    Statistics,
    is_usable,
    oks,
    shapes_of,
    shapes_with_torsos,
)
from xingaug.poses.groups import Groups
from xingaug.poses.index import CandidateIndex, IndexSettings, require_factory, training_rows
from xingaug.poses.kernel import KernelFeatures
from xingaug.poses.spacing import FIT_ROWS, evenly_spaced
from xingaug.poses.storage import ARRAYS, FORMAT, INDEX_FILE, read_arrays, write_arrays

_OKS_SOUGHT = 0.9
"""OKS threshold for candidates (our choice): in Market-1501's bank of 13,000 poses, the median OKS of a query's 10th
best pose is 0.91."""

_QUERIES = 256  # queries searched at a time, so that their candidates take 0.1 GB at most
_CHUNK = 65_536  # poses processed at a time while a bank is built: 75 MB of features


@dataclass(frozen=True, eq=False)
class Hits:
    """Result of a search, best first.

    Attributes:
        indices: (B, k) int64, rows of the bank.
        oks: (B, k) float32 in [0, 1], similarity of each to its query.
        mirrored: (B, k) bool, the poses that match the query after swapping left and right; all false if the search
            was without `mirror`.
    """

    indices: Tensor
    oks: Tensor
    mirrored: Tensor


@dataclass(frozen=True, eq=False)
class PoseBank:
    """Poses and their search features; made by `build` or `load`. The arrays may be read-only memory maps.

    Attributes:
        xy: (N, 18, 2) float32, pixels (x, y) in `frame`; 0 at missing joints.
        visibility: (N, 18) float32 in [0, 1].
        names: (N,) unicode, the image that each pose was seen in; "" if unknown.
        pids: (N,) int64, its identity; -1 if unknown.
        camids: (N,) int64, its camera; -1 if unknown.
        usable: (N,) bool, the poses that pass `is_usable`; the others keep their row but are never found or drawn.
        descriptors: (N, 36) float32, the shape with its missing joints completed; 0 if not usable.
        clusters: (N,) int32, its cluster of similar poses; -1 if not usable.
        rarity: (N,) float32, inverse density of poses around it, 1 at the median; 0 if not usable.
        statistics: the Gaussian over the usable poses.
        features: the kernel features used for search.
        frame: (height, width) of the frame, in pixels.
        settings: how the search finds its candidates.
        path: directory that it was loaded from, or None.
    """

    xy: np.ndarray
    visibility: np.ndarray
    names: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    usable: np.ndarray
    descriptors: np.ndarray
    clusters: np.ndarray
    rarity: np.ndarray
    statistics: Statistics
    features: KernelFeatures
    frame: tuple[int, int]
    settings: IndexSettings = field(default_factory=IndexSettings)
    path: Path | None = None

    @classmethod
    def build(
        cls,
        keypoints: Keypoints,
        names: Sequence[str] | np.ndarray | None = None,
        pids: Sequence[int] | np.ndarray | None = None,
        camids: Sequence[int] | np.ndarray | None = None,
        frame: tuple[int, int] = (128, 64),
        settings: IndexSettings | None = None,
    ) -> "PoseBank":
        """Builds a bank; row i of the bank is person i of `keypoints`.

        Args:
            keypoints: (N,) persons, in pixels of `frame`.
            names: (N,) names of their images; a source of the same name is never given its own pose.
            pids: (N,) identities.
            camids: (N,) cameras.
            frame: (height, width).
            settings: how the search finds its candidates; None chooses by the number of poses.

        Raises:
            BadInput: there is no pose, or no usable one.
            ValueError: lengths differ.
        """
        keypoints = keypoints.to("cpu")
        columns = _columns_of(keypoints, names, pids, camids)
        count = len(keypoints)
        usable = np.concatenate([is_usable(keypoints[rows], frame) for rows in _slices(count)])
        if not usable.any():
            needed = "needed one with 8 visible joints, a torso, and all joints inside the frame"
            raise BadInput(f"pose bank: none of {count} poses is usable in a frame of {frame[0]}x{frame[1]}; {needed}")
        rows = np.flatnonzero(usable)
        fitted = Shapes.of(keypoints[rows[evenly_spaced(len(rows), min(len(rows), FIT_ROWS))]])
        statistics = Statistics.fit(fitted)
        descriptors = np.empty((len(rows), DESCRIPTOR_LENGTH), np.float32)
        for part in _slices(len(rows)):
            descriptors[part] = statistics.complete(Shapes.of(keypoints[rows[part]]))
        return cls(
            **columns,
            usable=usable,
            descriptors=_spread(descriptors, usable, 0),
            clusters=_spread(clusters_of(descriptors), usable, -1),
            rarity=_spread(rarity_of(descriptors), usable, 0),
            statistics=statistics,
            features=KernelFeatures.fit(fitted),
            frame=(int(frame[0]), int(frame[1])),
            settings=settings or IndexSettings(),
            path=None,
        )

    @classmethod
    def merge(cls, banks: Sequence["PoseBank"]) -> "PoseBank":
        """Merges the poses of several banks, in order, with the settings of the first.

        Raises:
            BadInput: no bank, frames that differ, or an image that is in more than one bank.
        """
        if not banks:
            raise BadInput("pose bank: none to merge, needed one or more")
        frames = sorted({bank.frame for bank in banks})
        if len(frames) > 1:
            raise BadInput(f"pose bank: frames {frames[0]} and {frames[1]} (height, width), needed one and the same")
        return cls._joined([bank._columns for bank in banks], banks[0])

    def append(
        self,
        keypoints: Keypoints,
        names: Sequence[str] | np.ndarray | None = None,
        pids: Sequence[int] | np.ndarray | None = None,
        camids: Sequence[int] | np.ndarray | None = None,
    ) -> "PoseBank":
        """A new bank with additional poses; statistics, clusters and features are recomputed. Arguments as in `build`.

        Raises:
            BadInput: an image that the bank has already.
            ValueError: lengths differ.
        """
        return PoseBank._joined([self._columns, _columns_of(keypoints.to("cpu"), names, pids, camids)], self)

    def __len__(self) -> int:
        """Number of poses, usable or not."""
        return len(self.xy)

    @cached_property
    def usable_rows(self) -> np.ndarray:
        """(U,) int64: the rows that may be found and drawn, ascending."""
        return np.flatnonzero(self.usable)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all that draws depend on: poses, names, identities, cameras, clusters, rarity, frame, settings."""
        digest = hashlib.sha256(f"{FORMAT} {len(self)} {self.frame} {self.settings}".encode())
        for name in ("xy", "visibility", "pids", "camids", "clusters", "rarity"):
            digest.update(np.ascontiguousarray(getattr(self, name), ARRAYS[name][1]).data)
        digest.update("\0".join(self.names.tolist()).encode())
        return digest.hexdigest()

    def keypoints(self, indices: Tensor | np.ndarray | Sequence[int]) -> Keypoints:
        """The poses of rows `indices` (...), on the CPU, in pixels of `frame`.

        Raises:
            ValueError: an index outside the bank; so is -1, which stands for "no pose found".
        """
        rows = _as_rows(indices)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"indices: {rows.min()} to {rows.max()}, needed 0 to {len(self) - 1}")
        return Keypoints(torch.from_numpy(np.array(self.xy[rows])), torch.from_numpy(np.array(self.visibility[rows])))

    def positions_named(self, name: str) -> list[int]:
        """Positions in `usable_rows` of the poses seen in image `name`, ascending; none for "".

        A name that the bank does not have is matched by `paths_agree`: a file name matches its full path.
        """
        exact = self._positions.get(name)
        return self._agreeing(name) if exact is None else exact

    @cached_property
    def by_cluster(self) -> Groups:
        """The positions in `usable_rows`, grouped by cluster of similar poses."""
        return Groups.of(self.clusters[self.usable_rows])

    @cached_property
    def by_camera(self) -> Groups:
        """The positions in `usable_rows`, grouped by camera."""
        return Groups.of(self.camids[self.usable_rows])

    @cached_property
    def cumulative_rarity(self) -> np.ndarray:
        """(U,) float64: running sum of `rarity` over the usable rows."""
        return np.cumsum(self.rarity[self.usable_rows], dtype=np.float64)

    @cached_property
    def near_pools(self) -> dict[tuple[str, bytes], np.ndarray]:
        """Cache of the sampler `near`: the rows that it draws from, by image name and keypoints."""
        return {}

    def least_seen_clusters(self, pid: int, among: np.ndarray | None = None) -> list[int]:
        """The clusters, among `among` (g,) or all, in which identity `pid` has the fewest poses.

        All of them if the identity is unknown (-1) or has no pose in the bank.
        """
        rows, counts = self._poses_seen
        groups = self.by_cluster.every if among is None else among
        if pid < 0 or pid not in rows or not len(groups):
            return groups.tolist()
        seen = counts[rows[pid]] if among is None else counts[rows[pid]][groups]
        return groups[seen == seen.min()].tolist()

    def search(self, keypoints: Keypoints, k: int = 5, mirror: bool = False) -> Hits:
        """Finds the usable poses most similar to each query.

        FAISS finds candidates by inner products that approximate OKS (`KernelFeatures`); they are then sorted by exact
        OKS, equal ones by row. The result for a query does not depend on the others in the batch.

        Args:
            keypoints: (B,) persons with a torso; position and scale do not matter.
            k: number of poses per query.
            mirror: also find poses that match the query after swapping left and right.

        Raises:
            BadInput: k is larger than the number of usable poses.
            ValueError: k below 1, or a query without a torso.
        """
        if k < 1:
            raise ValueError(f"k: {k}, needed at least 1")
        usable = len(self.usable_rows)
        if k > usable:
            raise BadInput(
                f"k: {k} poses requested, the bank has {usable} usable ones of {len(self)}; needed k <= {usable}"
            )
        readings = [shapes_with_torsos(keypoints)]
        if mirror:
            readings.append(Shapes.of(keypoints.flip(self.frame[1])))
        starts = range(0, max(len(keypoints), 1), _QUERIES)
        blocks = [self._best([shapes[start : start + _QUERIES] for shapes in readings], k) for start in starts]
        return Hits(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*blocks, strict=True)))

    def oks(self, keypoints: Keypoints, indices: Tensor | np.ndarray) -> np.ndarray:
        """(B, C) float32: OKS of each of (B,) persons to the rows `indices` (B, C).

        0 for a person without a torso and for an unusable row.
        """
        return self._oks(Shapes.of(keypoints), _as_rows(indices))

    def uncertainty(self, indices: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
        """(..., 18) float32: expected error of the completed joints of rows `indices` (...); 0 for a visible joint.

        Root mean squared distance under the bank's statistics, in torso lengths.
        """
        rows = _as_rows(indices)
        flat = shapes_of(self.xy[rows.ravel()], self.visibility[rows.ravel()])
        return self.statistics.uncertainty(flat).reshape(*rows.shape, len(JOINTS)).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes the bank as one directory of .npy files and bank.json with their checksums, atomically.

        Unless search is an exhaustive scan, the index is written too; training it takes minutes for a large bank.

        Raises:
            BadInput: `path` is not empty, or the settings' index does not fit the number of poses.
        """
        arrays = {
            "mean": self.statistics.mean,
            "covariance": self.statistics.covariance,
            "landmarks": self.features.landmarks.numpy(),
            "projection": self.features.projection.numpy(),
        }
        described = {
            "poses": len(self),
            "usable": len(self.usable_rows),
            "frame": list(self.frame),
            "index": asdict(self.settings),
        }
        with atomic_directory(Path(path)) as folder:
            if self.settings.factory_for(len(self.usable_rows)) != "Flat":
                self._index.write(folder / INDEX_FILE)
            write_arrays(folder, arrays | {name: getattr(self, name) for name in ARRAYS.keys() - arrays}, described)

    def is_saved_as(self, path: Path) -> bool:
        """Whether `path` already holds this bank, complete, so that it need not be written again."""
        try:
            return PoseBank.load(path).content_hash == self.content_hash
        except BadInput:
            return False

    @classmethod
    def load(cls, path: Path) -> "PoseBank":
        """Opens a bank; its files are memory-mapped.

        Raises:
            BadInput: no bank at `path`, another version, or a file that is missing, changed, truncated or holds NaN.
        """
        path = Path(path)
        arrays, manifest = read_arrays(path)
        statistics = Statistics(np.array(arrays.pop("mean")), np.array(arrays.pop("covariance")))
        expansion = [torch.from_numpy(np.array(arrays.pop(name))) for name in ("landmarks", "projection")]
        settings = from_mapping(IndexSettings, manifest["index"], str(path / "bank.json"), "index.")
        require_factory(settings.factory_for(int(arrays["usable"].sum())), int(arrays["usable"].sum()))
        height, width = manifest["frame"]
        return cls(
            **arrays, statistics=statistics, features=KernelFeatures(*expansion), frame=(height, width),
            settings=settings, path=path,
        )  # fmt: skip

    @property
    def _columns(self) -> dict[str, np.ndarray]:
        """The arrays passed to `build`, by name."""
        return {name: getattr(self, name) for name in ("xy", "visibility", "names", "pids", "camids")}

    @classmethod
    def _joined(cls, parts: Sequence[dict[str, np.ndarray]], model: "PoseBank") -> "PoseBank":
        """Builds a bank from the `_columns` of several, with the frame and settings of `model`."""
        named = np.concatenate([np.unique(part["names"][part["names"] != ""]) for part in parts])
        names, times = np.unique(named, return_counts=True)
        if (times > 1).any():
            raise BadInput(
                f"pose bank: {int((times > 1).sum())} images are in more than one of them, such as "
                f"'{names[times > 1][0]}'; needed each in one"
            )
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        keypoints = Keypoints(torch.from_numpy(joined.pop("xy")), torch.from_numpy(joined.pop("visibility")))
        return cls.build(keypoints, **joined, frame=model.frame, settings=model.settings)

    def _best(self, readings: Sequence[Shapes], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (B, k), their OKS, and whether they match the second, mirrored reading of the query; best first."""
        found = [self._candidates(shapes, k) for shapes in readings]
        rows, similarity = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        mirrored = np.concatenate([np.full(part.shape, bool(number)) for number, (part, _) in enumerate(found)], axis=1)
        if len(found) > 1:
            similarity = np.where(_is_lesser_twin(rows, similarity), np.float32(-1), similarity)
        best = np.lexsort((rows, -similarity), axis=-1)[:, :k]
        rows, similarity, mirrored = (np.take_along_axis(a, best, axis=1) for a in (rows, similarity, mirrored))
        return rows, similarity, mirrored

    def _candidates(self, shapes: Shapes, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidate rows (B, C) for the k best and their OKS (B, C); OKS is -1 where fewer than C were found."""
        positions = self._index.search(self.features.of_queries(shapes, _OKS_SOUGHT), k)
        rows = self.usable_rows[np.maximum(positions, 0)]
        similarity = np.where(positions >= 0, self._oks(shapes, rows), np.float32(-1))
        for query in np.flatnonzero(positions[:, k - 1] < 0):  # the index found fewer than k
            every = self._oks(shapes[[query]], self.usable_rows[None])[0]
            best = np.argsort(-every, kind="stable")[: rows.shape[1]]
            rows[query], similarity[query] = self.usable_rows[best], every[best]
        return rows, similarity

    def _oks(self, shapes: Shapes, rows: np.ndarray) -> np.ndarray:
        present = (self.visibility[rows] > 0) & self.usable[rows][..., None]
        xy = self.descriptors[rows].reshape(*rows.shape, len(JOINTS), 2)
        return oks(shapes[:, None], Shapes(xy, present, np.ones(rows.shape)))

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        positions: dict[str, list[int]] = {}
        for position, name in enumerate(self.names[self.usable_rows].tolist()):
            if name:
                positions.setdefault(name, []).append(position)
        return positions

    def _agreeing(self, name: str) -> list[int]:
        """As `positions_named`, for a name that the bank has with a longer or shorter path."""
        return sorted(position for other in self._named_alike.of(name) for position in self._positions[other])

    @cached_property
    def _named_alike(self) -> Alike:
        return Alike(self._positions)

    @cached_property
    def _poses_seen(self) -> tuple[dict[int, int], np.ndarray]:
        """The row of each identity, and the number of usable poses per identity and cluster (P, G)."""
        identities, who = np.unique(self.pids[self.usable_rows], return_inverse=True)
        counts = np.zeros((len(identities), len(self.by_cluster.sizes)), np.int64)
        np.add.at(counts, (who, self.by_cluster.group_of), 1)
        return {pid: row for row, pid in enumerate(identities.tolist())}, counts

    @cached_property
    def _index(self) -> CandidateIndex:
        if self.path is not None and (self.path / INDEX_FILE).exists():
            return CandidateIndex.read(self.path / INDEX_FILE, len(self.usable_rows), self.settings)
        sample = self._features(self.usable_rows[training_rows(len(self.usable_rows))])
        return CandidateIndex.build(self._feature_chunks(), sample, len(self.usable_rows), self.settings)

    def _feature_chunks(self) -> Iterator[np.ndarray]:
        for part in _slices(len(self.usable_rows)):
            yield self._features(self.usable_rows[part])

    def _features(self, rows: np.ndarray) -> np.ndarray:
        xy = self.descriptors[rows].reshape(-1, len(JOINTS), 2)
        return self.features.of_poses(Shapes(xy, self.visibility[rows] > 0, np.ones(len(rows))))


def _slices(count: int) -> list[slice]:
    """Slices of `_CHUNK` rows each; at least one."""
    return [slice(start, start + _CHUNK) for start in range(0, max(count, 1), _CHUNK)]


def _as_rows(indices: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
    return np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)


def _columns_of(
    keypoints: Keypoints,
    names: Sequence[str] | np.ndarray | None,
    pids: Sequence[int] | np.ndarray | None,
    camids: Sequence[int] | np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The checked input arrays of a bank; arguments as in `PoseBank.build`, on the CPU."""
    if len(keypoints.shape) != 1:
        raise ValueError(f"keypoints: batch shape {keypoints.shape}, needed (N,)")
    count = len(keypoints)
    return {
        "xy": keypoints.xy.where(keypoints.present[..., None], 0).numpy(),
        "visibility": keypoints.visibility.numpy(),
        "names": _column("names", names, count, "", str),
        "pids": _column("pids", pids, count, -1, np.int64),
        "camids": _column("camids", camids, count, -1, np.int64),
    }


def _column(name: str, values: Sequence[Any] | np.ndarray | None, count: int, unknown: Any, dtype: Any) -> np.ndarray:
    """(count,) array of `values`, or filled with `unknown` if None."""
    array = np.full(count, unknown) if values is None else np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{name}: shape {array.shape}, needed ({count},), one for each pose")
    return array.astype(dtype)


def _spread(values: np.ndarray, usable: np.ndarray, otherwise: int) -> np.ndarray:
    """(N, ...) array with `values` (U, ...) in the usable rows and `otherwise` in the others."""
    whole = np.full((len(usable), *values.shape[1:]), otherwise, values.dtype)
    whole[usable] = values
    return whole


def _is_lesser_twin(rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """(B, C) bool: duplicate entries of `rows` (B, C), except the one with the highest similarity."""
    order = np.lexsort((-similarity, rows), axis=-1)
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros_like(rows, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again
