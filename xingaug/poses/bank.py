"""The pose bank: poses in frame pixels that can be searched by shape, drawn from, and kept on disk."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.descriptor import DESCRIPTOR_LENGTH, Shapes, Statistics, descriptor, is_usable, oks, shapes_of

FORMAT, VERSION = "xingaug-pose-bank", 1
_MANIFEST = "bank.json"
# Above 20 queries (older releases; 128,000 in 1.15) FAISS uses a formula whose rounding depends on their number.
_QUERIES_AT_ONCE = 16

# What each file holds: its shape beside the axis of poses, its dtype on disk, whether it has an axis of poses.
_ARRAYS: dict[str, tuple[tuple[int, ...], str, bool]] = {
    "xy": ((len(JOINTS), 2), "<f4", True),
    "visibility": ((len(JOINTS),), "<f4", True),
    "names": ((), "U", True),
    "pids": ((), "<i8", True),
    "camids": ((), "<i8", True),
    "usable": ((), "|b1", True),
    "descriptors": ((DESCRIPTOR_LENGTH,), "<f4", True),
    "mean": ((DESCRIPTOR_LENGTH,), "<f8", False),
    "covariance": ((DESCRIPTOR_LENGTH, DESCRIPTOR_LENGTH), "<f8", False),
}


@dataclass(frozen=True, eq=False)
class Hits:
    """Result of a search, best first.

    Attributes:
        indices: (B, k) int64, rows of the bank.
        oks: (B, k) float32 in [0, 1], similarity of each to its query.
    """

    indices: Tensor
    oks: Tensor


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
        descriptors: (N, 36) float32, 0 where not usable.
        statistics: of the usable poses.
        frame: (height, width) that the poses lie in.
    """

    xy: np.ndarray
    visibility: np.ndarray
    names: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    usable: np.ndarray
    descriptors: np.ndarray
    statistics: Statistics
    frame: tuple[int, int]

    @classmethod
    def build(
        cls,
        keypoints: Keypoints,
        names: Sequence[str] | np.ndarray | None = None,
        pids: Sequence[int] | np.ndarray | None = None,
        camids: Sequence[int] | np.ndarray | None = None,
        frame: tuple[int, int] = (128, 64),
    ) -> "PoseBank":
        """Makes a bank of poses; row i of the bank is person i of `keypoints`.

        Args:
            keypoints: (N,) persons, in pixels of `frame`.
            names: (N,) names of their images; a source of the same name is never given its own pose.
            pids: (N,) identities.
            camids: (N,) cameras.
            frame: (height, width).

        Raises:
            BadInput: there is no pose, or none that is usable.
            ValueError: lengths do not fit.
        """
        if len(keypoints.shape) != 1:
            raise ValueError(f"keypoints: batch shape {keypoints.shape}, needed (N,)")
        count = len(keypoints)
        usable = is_usable(keypoints, frame)
        if not usable.any():
            needed = "needed one with 8 visible joints, a torso, and all joints inside the frame"
            raise BadInput(f"pose bank: none of {count} poses is usable in a frame of {frame[0]}x{frame[1]}; {needed}")
        statistics = Statistics.fit(_shapes(keypoints)[usable])
        descriptors = np.zeros((count, DESCRIPTOR_LENGTH), np.float32)
        descriptors[usable] = descriptor(keypoints[torch.from_numpy(usable)], statistics)
        return cls(
            xy=keypoints.xy.where(keypoints.present[..., None], 0).cpu().numpy(),
            visibility=keypoints.visibility.cpu().numpy(),
            names=_column("names", names, count, "", str),
            pids=_column("pids", pids, count, -1, np.int64),
            camids=_column("camids", camids, count, -1, np.int64),
            usable=usable,
            descriptors=descriptors,
            statistics=statistics,
            frame=(int(frame[0]), int(frame[1])),
        )

    def __len__(self) -> int:
        """Number of poses, usable or not."""
        return len(self.xy)

    @cached_property
    def usable_rows(self) -> np.ndarray:
        """(U,) int64: the rows that may be found and drawn, ascending."""
        return np.flatnonzero(self.usable)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the poses, names, identities, cameras and frame: what a draw depends on beside its key."""
        digest = hashlib.sha256(f"{FORMAT} {len(self)} {self.frame}".encode())
        for array, dtype in ((self.xy, "<f4"), (self.visibility, "<f4"), (self.pids, "<i8"), (self.camids, "<i8")):
            digest.update(np.ascontiguousarray(array, dtype).data)
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
        """Positions in `usable_rows` of the poses seen in image `name`, ascending; none for ""."""
        return self._positions.get(name, [])

    def search(self, keypoints: Keypoints, k: int = 5) -> Hits:
        """Finds the usable poses most similar to each query.

        FAISS finds the max(4 k, 64) nearest descriptors exactly; OKS puts them in order, equal ones by row. The answer
        to a query does not depend on the others in the batch.

        Args:
            keypoints: (B,) persons with a torso; their place and size do not matter.
            k: poses for each.

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
        queries = descriptor(keypoints, self.statistics)
        candidates = np.empty((len(queries), min(max(4 * k, 64), usable)), np.int64)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            chunk = slice(start, start + _QUERIES_AT_ONCE)
            candidates[chunk] = self._index.search(queries[chunk], candidates.shape[1])[1]
        rows = self.usable_rows[candidates]
        similarity = self.oks(keypoints, rows)
        best = np.lexsort((rows, -similarity), axis=-1)[:, :k]
        return Hits(
            torch.from_numpy(np.take_along_axis(rows, best, axis=1)),
            torch.from_numpy(np.take_along_axis(similarity, best, axis=1)),
        )

    def oks(self, keypoints: Keypoints, indices: Tensor | np.ndarray) -> np.ndarray:
        """(B, C) float32: OKS of each of (B,) persons to the rows `indices` (B, C); 0 for a person without a torso."""
        rows = _as_rows(indices)
        theirs = shapes_of(self.xy[rows.ravel()], self.visibility[rows.ravel()])
        by_query = Shapes(
            theirs.xy.reshape(*rows.shape, len(JOINTS), 2),
            theirs.present.reshape(*rows.shape, len(JOINTS)),
            theirs.torso_px.reshape(rows.shape),
        )
        return oks(_shapes(keypoints)[:, None], by_query)

    def save(self, path: Path) -> None:
        """Writes the bank as one directory of .npy files and bank.json with their checksums, atomically.

        Raises:
            BadInput: `path` holds something already.
        """
        with atomic_directory(Path(path)) as folder:
            checksums = {}
            for name, (_, dtype, _) in _ARRAYS.items():
                array = getattr(self.statistics if name in ("mean", "covariance") else self, name)
                file = folder / f"{name}.npy"
                np.save(file, np.asarray(array, dtype=None if dtype == "U" else dtype), allow_pickle=False)
                checksums[file.name] = _sha256(file)
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "poses": len(self),
                "usable": len(self.usable_rows),
                "frame": list(self.frame),
                "sha256": checksums,
            }
            (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "PoseBank":
        """Opens a bank; its files are memory-mapped.

        Raises:
            BadInput: no bank there, another version, or a file that is missing, changed, truncated or holds NaN.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        arrays = {name: _load_array(path, name, manifest) for name in _ARRAYS}
        statistics = Statistics(np.array(arrays.pop("mean")), np.array(arrays.pop("covariance")))
        height, width = manifest["frame"]
        return cls(**arrays, statistics=statistics, frame=(height, width))

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        positions: dict[str, list[int]] = {}
        for position, name in enumerate(self.names[self.usable_rows].tolist()):
            if name:
                positions.setdefault(name, []).append(position)
        return positions

    @cached_property
    def _index(self) -> Any:
        with warnings.catch_warnings():  # its SWIG types lack __module__, of which Python 3.12 warns
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
        index = faiss.IndexFlatL2(DESCRIPTOR_LENGTH)
        index.add(np.ascontiguousarray(self.descriptors[self.usable_rows]))
        return index


def _shapes(keypoints: Keypoints) -> Shapes:
    return shapes_of(keypoints.xy.cpu().numpy(), keypoints.visibility.cpu().numpy())


def _as_rows(indices: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
    return np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)


def _column(name: str, values: Sequence[Any] | np.ndarray | None, count: int, unknown: Any, dtype: Any) -> np.ndarray:
    """(count,) array of `values`, or of `unknown` when there are none."""
    array = np.full(count, unknown) if values is None else np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{name}: shape {array.shape}, needed ({count},), one for each pose")
    return array.astype(dtype)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            f"{path}: no pose bank here ({_MANIFEST} is missing); needed a directory that save wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: not readable as JSON ({error}); build the bank again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadInput(f"{file}: not the description of a pose bank; needed the format {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise BadInput(f"{file}: version {manifest.get('version')}, needed {VERSION}; build the bank again")
    frame, poses, checksums = (manifest.get(key) for key in ("frame", "poses", "sha256"))
    if not (
        isinstance(frame, list) and len(frame) == 2 and all(type(side) is int and side > 0 for side in frame)
        and type(poses) is int and poses > 0
        and isinstance(checksums, dict)
    ):  # fmt: skip
        raise BadInput(f"{file}: frame, poses or sha256 is missing or malformed; build the bank again")
    return manifest


def _load_array(path: Path, name: str, manifest: dict[str, Any]) -> np.ndarray:
    """Memory-maps one array after checking its bytes, shape, dtype and values."""
    file = path / f"{name}.npy"
    shape, dtype, per_pose = _ARRAYS[name]
    if not file.is_file():
        raise BadInput(f"{file}: missing from the pose bank; build the bank again")
    try:
        intact = _sha256(file) == manifest["sha256"].get(file.name)
        array = np.load(file, mmap_mode="r", allow_pickle=False) if intact else None
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"{file}: not readable ({error}); build the bank again") from None
    if array is None:
        raise BadInput(f"{file}: truncated or changed, its SHA-256 is not that in {_MANIFEST}; build the bank again")
    expected = (manifest["poses"], *shape) if per_pose else shape
    if array.shape != expected or (array.dtype.kind != "U" if dtype == "U" else array.dtype != np.dtype(dtype)):
        raise BadInput(f"{file}: {array.dtype} {array.shape}, needed {dtype} {expected}; build the bank again")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"{file}: NaN or infinite values; build the bank again")
    return array
