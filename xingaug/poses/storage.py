"""A pose bank's directory: one .npy file for each array, and bank.json with what they are and their checksums."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS
from xingaug.poses.descriptor import DESCRIPTOR_LENGTH
from xingaug.poses.kernel import FEATURES, LANDMARKS

FORMAT, VERSION = "xingaug-pose-bank", 2
INDEX_FILE = "index.faiss"
"""The trained FAISS index of a bank that is too large to be scanned; absent from smaller banks."""

_MANIFEST = "bank.json"

# What each file holds: its shape beside the axis of poses, its dtype on disk, whether it has an axis of poses.
ARRAYS: dict[str, tuple[tuple[int, ...], str, bool]] = {
    "xy": ((len(JOINTS), 2), "<f4", True),
    "visibility": ((len(JOINTS),), "<f4", True),
    "names": ((), "U", True),
    "pids": ((), "<i8", True),
    "camids": ((), "<i8", True),
    "usable": ((), "|b1", True),
    "descriptors": ((DESCRIPTOR_LENGTH,), "<f4", True),
    "clusters": ((), "<i4", True),
    "rarity": ((), "<f4", True),
    "mean": ((DESCRIPTOR_LENGTH,), "<f8", False),
    "covariance": ((DESCRIPTOR_LENGTH, DESCRIPTOR_LENGTH), "<f8", False),
    "landmarks": ((len(JOINTS), LANDMARKS, 2), "<f4", False),
    "projection": ((len(JOINTS), LANDMARKS, FEATURES), "<f4", False),
}


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> None:
    """Fills a new directory.

    Args:
        folder: an empty directory, in which the index may lie already.
        arrays: one for each name in `ARRAYS`.
        described: what bank.json holds beside the format and the checksums.
    """
    for name, (_, dtype, _) in ARRAYS.items():
        array = np.asarray(arrays[name], dtype=None if dtype == "U" else dtype)
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    checksums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "version": VERSION, **described, "sha256": checksums}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Memory-maps the arrays of a bank after checking all of its files.

    Returns:
        The arrays by name, read-only, and bank.json.

    Raises:
        BadInput: no bank there, another version, or a file that is missing, changed, truncated or holds NaN.
    """
    manifest = _read_manifest(path)
    if INDEX_FILE in manifest["sha256"] or (path / INDEX_FILE).exists():
        _require_intact(path / INDEX_FILE, manifest)
    return {name: _load_array(path, name, manifest) for name in ARRAYS}, manifest


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
        and isinstance(manifest.get("index"), dict)
    ):  # fmt: skip
        raise BadInput(f"{file}: frame, poses, index or sha256 is missing or malformed; build the bank again")
    return manifest


def _require_intact(file: Path, manifest: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise BadInput(f"{file}: missing from the pose bank; build the bank again")
    try:
        intact = _sha256(file) == manifest["sha256"].get(file.name)
    except OSError as error:
        raise BadInput(f"{file}: not readable ({error}); build the bank again") from None
    if not intact:
        raise BadInput(f"{file}: truncated or changed, its SHA-256 is not that in {_MANIFEST}; build the bank again")


def _load_array(path: Path, name: str, manifest: Mapping[str, Any]) -> np.ndarray:
    """Memory-maps one array after checking its bytes, shape, dtype and values."""
    file = path / f"{name}.npy"
    shape, dtype, per_pose = ARRAYS[name]
    _require_intact(file, manifest)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise BadInput(f"{file}: not readable ({error}); build the bank again") from None
    expected = (manifest["poses"], *shape) if per_pose else shape
    if array.shape != expected or (array.dtype.kind != "U" if dtype == "U" else array.dtype != np.dtype(dtype)):
        raise BadInput(f"{file}: {array.dtype} {array.shape}, needed {dtype} {expected}; build the bank again")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"{file}: NaN or infinite values; build the bank again")
    return array
