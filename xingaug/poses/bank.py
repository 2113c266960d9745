"""The pose bank: poses in frame pixels that can be searched by shape, drawn from, and kept on disk."""

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
from xingaug.data.names import paths_agree
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
"""OKS that the candidates are sought above (our choice): of a query's 10 best poses in Market-1501's bank of 13,000,
the last has 0.91 at the median."""

_QUERIES = 256  # searched at a time, so that their candidates take 0.1 GB at most
_CHUNK = 65_536  # poses that are worked on at once while a bank is built: 75 MB of features


@dataclass(frozen=True, eq=False)
class Hits:
    """Result of a search, best first.

    Attributes:
        indices: (B, k) int64, rows of the bank.
        oks: (B, k) float32 in [0, 1], similarity of each to its query.
        mirrored: (B, k) bool, the poses that resemble the query when their left and right are exchanged; all false
            where the search did not ask for it.
    """

    indices: Tensor
    oks: Tensor
    mirrored: Tensor


@dataclass(frozen=True, eq=False)
class PoseBank:
    """Poses with what they are searched by; made by `build` or `load`. The arrays may be read-only memory maps.

    Attributes:
        xy: (N, 18, 2) float32, pixels (x, y) in `frame`; 0 at missing joints.
        visibility: (N, 18) float32 in [0, 1].
        names: (N,) unicode, the image that each pose was seen in; "" where unknown.
        pids: (N,) int64, its identity; -1 where unknown.
        camids: (N,) int64, its camera; -1 where unknown.
        usable: (N,) bool, the poses that pass `is_usable`; the others keep their row but are never found or drawn.
        descriptors: (N, 36) float32, the shape with its missing joints completed; 0 where not usable.
        clusters: (N,) int32, its group among alike poses; -1 where not usable.
        rarity: (N,) float32, 1 over the density of the poses about it, 1 at the median; 0 where not usable.
        statistics: of the usable poses.
        features: what a pose is searched by.
        frame: (height, width) that the poses lie in.
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
        """Makes a bank of poses; row i of the bank is person i of `keypoints`.

        Args:
            keypoints: (N,) persons, in pixels of `frame`.
            names: (N,) names of their images; a source of the same name is never given its own pose.
            pids: (N,) identities.
            camids: (N,) cameras.
            frame: (height, width).
            settings: how the search finds its candidates; None chooses by the number of poses.

        Raises:
            BadInput: there is no pose, or none that is usable.
            ValueError: lengths do not fit.
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
        """One bank of the poses of several, in their order, with the first one's settings.

        Raises:
            BadInput: no bank, frames that differ, or an image that is in more than one of them.
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
        """A bank of these poses and more; statistics, groups and features are taken anew. Arguments as in `build`.

        Raises:
            BadInput: an image that the bank has already.
            ValueError: lengths do not fit.
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
        """SHA-256 of poses, names, identities, cameras, groups, rarity, frame and settings: what draws depend on."""
        digest = hashlib.sha256(f"{FORMAT} {len(self)} {self.frame} {self.settings}".encode())
        for name in ("xy", "visibility", "pids", "camids", "clusters", "rarity"):
            digest.update(np.ascontiguousarray(getattr(self, name), ARRAYS[name][1]).data)
        digest.update("\0".join(self.names.tolist()).encode())
        return digest.hexdigest()

    def keypoints(self, indices: Tensor | np.ndarray | Sequence[int]) -> Keypoints:
        """The poses of rows `indices` (...), on the CPU, in pixels of `frame`.

        Raises:
            ValueError: an index that is no row; -1, which means that no pose was found, is none.
        """
        rows = _as_rows(indices)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"indices: {rows.min()} to {rows.max()}, needed 0 to {len(self) - 1}")
        return Keypoints(torch.from_numpy(np.array(self.xy[rows])), torch.from_numpy(np.array(self.visibility[rows])))

    def positions_named(self, name: str) -> list[int]:
        """Positions in `usable_rows` of the poses seen in image `name`, ascending; none for "".

        A name that the bank does not have stands for those that agree with it, such as a file's for its path.
        """
        exact = self._positions.get(name)
        return self._agreeing(name) if exact is None else exact

    @cached_property
    def by_cluster(self) -> Groups:
        """The positions in `usable_rows` by groups of alike poses."""
        return Groups.of(self.clusters[self.usable_rows])

    @cached_property
    def by_camera(self) -> Groups:
        """The positions in `usable_rows` by camera."""
        return Groups.of(self.camids[self.usable_rows])

    @cached_property
    def cumulative_rarity(self) -> np.ndarray:
        """(U,) float64: running sum of `rarity` over the usable rows."""
        return np.cumsum(self.rarity[self.usable_rows], dtype=np.float64)

    @cached_property
    def near_pools(self) -> dict[tuple[str, bytes], np.ndarray]:
        """What the sampler `near` remembers: by image name and keypoints, the rows that it draws from."""
        return {}

    def least_seen_clusters(self, pid: int, among: np.ndarray | None = None) -> list[int]:
        """Those groups, of `among` (g,) or of all in `by_cluster`, in which identity `pid` has the fewest poses.

        All of them for an identity of which the bank has no pose, or that is unknown (-1).
        """
        rows, counts = self._poses_seen
        groups = self.by_cluster.every if among is None else among
        if pid < 0 or pid not in rows or not len(groups):
            return groups.tolist()
        seen = counts[rows[pid]] if among is None else counts[rows[pid]][groups]
        return groups[seen == seen.min()].tolist()

    def search(self, keypoints: Keypoints, k: int = 5, mirror: bool = False) -> Hits:
        """Finds the usable poses most similar to each query.

        FAISS finds candidates by inner products that stand for OKS (`KernelFeatures`), OKS itself puts them in order,
        equal ones by row. The answer to a query does not depend on the others in the batch.

        Args:
            keypoints: (B,) persons with a torso; their place and size do not matter.
            k: poses for each.
            mirror: also find poses that resemble the query when its left and right are exchanged.

        Raises:
            BadInput: k is larger than the number of usable poses.
            ValueError: k below 1, or a query without a torso.
        """
        if k < 1:
            raise ValueError(f"k: {k}, needed at least 1")
        usable = len(self.usable_rows)
        if k > usable:
            raise BadInput(
                f"k: {k} poses asked for, the bank has {usable} usable ones of {len(self)}; needed k <= {usable}"
            )
        readings = [shapes_with_torsos(keypoints)]
        if mirror:
            readings.append(Shapes.of(keypoints.flip(self.frame[1])))
        starts = range(0, max(len(keypoints), 1), _QUERIES)
        blocks = [self._best([shapes[start : start + _QUERIES] for shapes in readings], k) for start in starts]
        return Hits(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*blocks, strict=True)))

    def oks(self, keypoints: Keypoints, indices: Tensor | np.ndarray) -> np.ndarray:
        """(B, C) float32: OKS of each of (B,) persons to the rows `indices` (B, C).

        0 for a person without a torso and for a row that is not usable.
        """
        return self._oks(Shapes.of(keypoints), _as_rows(indices))

    def uncertainty(self, indices: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
        """(..., 18) float32: how far a completed joint of rows `indices` (...) may be off; 0 where the joint was seen.

        The root of the mean squared distance that the bank's statistics expect, in torso lengths.
        """
        rows = _as_rows(indices)
        flat = shapes_of(self.xy[rows.ravel()], self.visibility[rows.ravel()])
        return self.statistics.uncertainty(flat).reshape(*rows.shape, len(JOINTS)).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes the bank as one directory of .npy files and bank.json with their checksums, atomically.

        A bank that is not scanned is written with its index, which takes minutes to train for a large one.

        Raises:
            BadInput: `path` holds something already, or the settings' index does not fit the poses.
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
        """Whether this very bank is at `path` already, whole, so that it need not be written again."""
        try:
            return PoseBank.load(path).content_hash == self.content_hash
        except BadInput:
            return False

    @classmethod
    def load(cls, path: Path) -> "PoseBank":
        """Opens a bank; its files are memory-mapped.

        Raises:
            BadInput: no bank there, another version, or a file that is missing, changed, truncated or holds NaN.
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
        """What `build` is given of each pose."""
        return {name: getattr(self, name) for name in ("xy", "visibility", "names", "pids", "camids")}

    @classmethod
    def _joined(cls, parts: Sequence[dict[str, np.ndarray]], model: "PoseBank") -> "PoseBank":
        """A bank of the poses whose `_columns` are given, with the frame and the settings of `model`."""
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
        """Rows (B, k), their OKS, and whether they fit the second of the readings, the mirrored one, best first."""
        found = [self._candidates(shapes, k) for shapes in readings]
        rows, similarity = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        mirrored = np.concatenate([np.full(part.shape, bool(number)) for number, (part, _) in enumerate(found)], axis=1)
        if len(found) > 1:
            similarity = np.where(_is_lesser_twin(rows, similarity), np.float32(-1), similarity)
        best = np.lexsort((rows, -similarity), axis=-1)[:, :k]
        rows, similarity, mirrored = (np.take_along_axis(a, best, axis=1) for a in (rows, similarity, mirrored))
        return rows, similarity, mirrored

    def _candidates(self, shapes: Shapes, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B, C) that may be among the k best and their OKS (B, C); OKS is -1 where fewer than C were found."""
        positions = self._index.search(self.features.of_queries(shapes, _OKS_SOUGHT), k)
        rows = self.usable_rows[np.maximum(positions, 0)]
        similarity = np.where(positions >= 0, self._oks(shapes, rows), np.float32(-1))
        for query in np.flatnonzero(positions[:, k - 1] < 0):  # of which the index found fewer than k
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
        """As `positions_named`, for a name that the bank has with more of its path or with less."""
        known = self._named_alike.get(name.rpartition("/")[2], [])
        return sorted(position for other in known if paths_agree(name, other) for position in self._positions[other])

    @cached_property
    def _named_alike(self) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self._positions:
            alike.setdefault(name.rpartition("/")[2], []).append(name)
        return alike

    @cached_property
    def _poses_seen(self) -> tuple[dict[int, int], np.ndarray]:
        """The row of each identity, and how many usable poses of each group the identities have (P, G)."""
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
    """Of `_CHUNK` rows each, one at least."""
    return [slice(start, start + _CHUNK) for start in range(0, max(count, 1), _CHUNK)]


def _as_rows(indices: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
    return np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)


def _columns_of(
    keypoints: Keypoints,
    names: Sequence[str] | np.ndarray | None,
    pids: Sequence[int] | np.ndarray | None,
    camids: Sequence[int] | np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The arrays of a bank that hold what it was given; arguments as in `PoseBank.build`, on the CPU."""
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
    """(count,) array of `values`, or of `unknown` when there are none."""
    array = np.full(count, unknown) if values is None else np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{name}: shape {array.shape}, needed ({count},), one for each pose")
    return array.astype(dtype)


def _spread(values: np.ndarray, usable: np.ndarray, otherwise: int) -> np.ndarray:
    """(N, ...) array with `values` (U, ...) in the usable rows."""
    whole = np.full((len(usable), *values.shape[1:]), otherwise, values.dtype)
    whole[usable] = values
    return whole


def _is_lesser_twin(rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """(B, C) bool: the entries whose row stands elsewhere in `rows` (B, C) with a similarity as large or larger."""
    order = np.lexsort((-similarity, rows), axis=-1)
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros_like(rows, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again
