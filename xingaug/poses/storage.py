"""A pose bank's directory: one .npy file per array, and bank.json with metadata and checksums."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xingaug.errors import BadInput, first_line
from xingaug.inputs import is_text_array, read_json, sha256_of
from xingaug.keypoints import JOINTS, Keypoints
from xingaug.poses.descriptor import DESCRIPTOR_LENGTH, is_usable
from xingaug.poses.kernel import FEATURES, LANDMARKS

FORMAT, VERSION = "xingaug-pose-bank", 2
INDEX_FILE = "index.faiss"
"""The trained FAISS index of a bank that is too large for an exhaustive scan; absent from smaller banks."""

MOST_POSES = 5_000_000
"""Most poses of a bank that is read: 3.3 GB on disk (our choice)."""

_MANIFEST = "bank.json"
_MOST_SIDE = 65_535  # pixels of a frame's side, as in JPEG
_LONGEST_NAME = 4096  # characters, as in a path
_MOST_HEADER = 10_000  # bytes of a .npy file before its values
_MOST_INDEX_BYTES = 8_000_000_000
_CHUNK = 65_536

# Each file's shape without the axis of poses, its dtype on disk, and whether it has an axis of poses.
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
        folder: a directory that is empty, except perhaps for the index.
        arrays: one for each name in `ARRAYS`.
        described: the contents of bank.json besides format and checksums.
    """
    for name, (_, dtype, _) in ARRAYS.items():
        array = np.asarray(arrays[name], dtype=None if dtype == "U" else dtype)
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    checksums = {file.name: sha256_of(file, most=_MOST_INDEX_BYTES) for file in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "version": VERSION, **described, "sha256": checksums}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Memory-maps the arrays of a bank after checking all of its files.

    Returns:
        The arrays by name, read-only, and bank.json.

    Raises:
        BadInput: no bank at `path`, another version, a file that is missing, changed, truncated or holds NaN, or
            invalid values: no usable pose, an unusable pose marked as usable, a visibility outside [0, 1].
    """
    manifest = _read_manifest(path)
    arrays = {name: _load_array(path, name, manifest) for name in ARRAYS}
    if INDEX_FILE in manifest["sha256"] or (path / INDEX_FILE).exists():
        _require_intact(path / INDEX_FILE, manifest, _MOST_INDEX_BYTES)
    wrong = next(_wrong_values(arrays, tuple(manifest["frame"])), None)
    if wrong:
        raise BadInput(f"{path / wrong}; build the bank again")
    return arrays, manifest


def _wrong_values(arrays: Mapping[str, np.ndarray], frame: tuple[int, int]) -> Iterator[str]:
    """Invalid values, file by file; checksums cannot reveal them."""
    if not arrays["usable"].any():
        yield "usable.npy: no pose is usable, needed one at least"
    values = np.linalg.eigvalsh(arrays["covariance"])
    if not (values.min() > 1e-9 and values.max() < 1e6):
        yield "covariance.npy: not positive definite"
    for name, least, most in (
        ("xy", -1e6, 1e6), ("visibility", 0, 1), ("descriptors", -1e4, 1e4), ("mean", -1e4, 1e4), ("rarity", 0, 1e6),
        ("landmarks", -1e4, 1e4), ("projection", -1e6, 1e6),
    ):  # fmt: skip
        if arrays[name].min() < least or arrays[name].max() > most:
            yield f"{name}.npy: values outside [{least:g}, {most:g}]"
    for start in range(0, len(arrays["usable"]), _CHUNK):
        rows = slice(start, start + _CHUNK)
        poses = Keypoints(*(torch.from_numpy(np.array(arrays[name][rows])) for name in ("xy", "visibility")))
        marked = arrays["usable"][rows]
        if (marked & ~is_usable(poses, frame)).any():
            yield "usable.npy: a pose is marked usable that has too few joints, no torso, or joints outside the frame"
        if (arrays["clusters"][rows][marked] < 0).any():
            yield "clusters.npy: a usable pose without a group"


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    if not file.exists():
        raise BadInput(f"{path}: no pose bank here ({_MANIFEST} is missing); needed a directory that save wrote")
    manifest = read_json(file, "description of a pose bank", 1_000_000)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BadInput(f"{file}: not the description of a pose bank; needed the format {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise BadInput(f"{file}: version {manifest.get('version')}, needed {VERSION}; build the bank again")
    frame, poses, checksums = (manifest.get(key) for key in ("frame", "poses", "sha256"))
    if not (
        isinstance(frame, list) and len(frame) == 2
        and all(type(side) is int and 0 < side <= _MOST_SIDE for side in frame)
        and type(poses) is int and 0 < poses <= MOST_POSES
        and isinstance(checksums, dict)
        and isinstance(manifest.get("index"), dict)
    ):  # fmt: skip
        raise BadInput(f"{file}: frame, poses, index or sha256 is missing or malformed; build the bank again")
    return manifest


def _require_intact(file: Path, manifest: Mapping[str, Any], most: int) -> None:
    if not file.is_file():
        raise BadInput(f"{file}: missing from the pose bank; build the bank again")
    size = file.stat().st_size
    if size > most:
        raise BadInput(f"{file}: truncated or changed, it has {size} bytes, at most {most} fit; build the bank again")
    try:
        intact = sha256_of(file, "file of a pose bank", most) == manifest["sha256"].get(file.name)
    except OSError as error:
        raise BadInput(f"{file}: not readable ({error}); build the bank again") from None
    if not intact:
        raise BadInput(f"{file}: truncated or changed, its SHA-256 is not that in {_MANIFEST}; build the bank again")


def _load_array(path: Path, name: str, manifest: Mapping[str, Any]) -> np.ndarray:
    """Memory-maps one array after checking its size, bytes, shape, dtype and values."""
    file = path / f"{name}.npy"
    shape, dtype, per_pose = ARRAYS[name]
    expected = (manifest["poses"], *shape) if per_pose else shape
    each = 4 * _LONGEST_NAME if dtype == "U" else 8  # bytes per element, at most
    _require_intact(file, manifest, _MOST_HEADER + each * math.prod(expected))
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is a Python expression, which may fail in any way
        reason = first_line(error)
        raise BadInput(f"{file}: not readable ({reason}); build the bank again") from None
    if array.shape != expected or (array.dtype.kind != "U" if dtype == "U" else array.dtype != np.dtype(dtype)):
        raise BadInput(f"{file}: {array.dtype} {array.shape}, needed {dtype} {expected}; build the bank again")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"{file}: NaN or infinite values; build the bank again")
    if array.dtype.kind == "U" and not is_text_array(array):
        raise BadInput(f"{file}: names with numbers that are no characters; build the bank again")
    return array
