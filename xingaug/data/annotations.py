"""Keypoints of many images: PATN's CSV in and out, and the native .npz.

Both formats put integer coordinate 0 at the centre of the first pixel, which is the convention of `Keypoints`, so
nothing is shifted on the way.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from xingaug.data.findings import Report
from xingaug.data.fitting import require_fitting
from xingaug.data.readers import read_split
from xingaug.data.split import Split, image_sizes
from xingaug.errors import BadInput, first_line
from xingaug.files import atomic_write
from xingaug.images import image_size
from xingaug.inputs import parse_json, read_text
from xingaug.inputs import read_arrays as read_any_arrays
from xingaug.keypoints import JOINTS, Keypoints

_log = logging.getLogger(__name__)

PATN_HEADER = "name:keypoints_y:keypoints_x"
PATN_MISSING = -1
_PATN_ROW = f"`name: [{len(JOINTS)} y]: [{len(JOINTS)} x]` with integers, -1 for a missing joint"
_NPZ_KEYS = ("names", "xy", "visibility")
_NPZ_OPTIONAL = "source"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Keypoints by image name.

    Attributes:
        names: (N,) unicode, the images' names in their dataset, each once: file names without folder in a Market-1501
            tree, paths with forward slashes in any other folder.
        xy: (N, 18, 2) float32, pixels (x, y); non-finite values at missing joints are set to 0.
        visibility: (N, 18) float32 in [0, 1]; 0 is a missing joint.
        source: where the keypoints come from, in words.
        file: the file they were read from, for error messages; "" if there is none.

    Raises:
        ValueError: wrong shapes or ranges, a duplicate name, or a visible joint that is not finite.
    """

    names: np.ndarray
    xy: np.ndarray
    visibility: np.ndarray
    source: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        """Converts the arrays and checks their shapes and ranges."""
        names = np.asarray(self.names)
        if names.ndim != 1 or (names.size and names.dtype.kind != "U"):
            raise ValueError(f"names: {names.dtype} of shape {names.shape}, needed (N,) strings")
        checked = Keypoints(torch.as_tensor(np.array(self.xy)), torch.as_tensor(np.array(self.visibility)))
        if checked.shape != names.shape:
            raise ValueError(f"xy: {checked.shape} persons, needed {names.shape}, one for each name")
        unique, counts = np.unique(names, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"names: {str(unique[counts > 1][0])!r} occurs {counts.max()} times, needed once")
        object.__setattr__(self, "names", names.astype(str))
        object.__setattr__(self, "xy", checked.xy.numpy())
        object.__setattr__(self, "visibility", checked.visibility.numpy())

    def __len__(self) -> int:
        """Number of annotated images."""
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names.tolist())}

    def lookup(self, names: Sequence[str] | np.ndarray) -> np.ndarray:
        """(len(names),) int64: the row of each image name, -1 for an unknown name."""
        return np.fromiter((self._index.get(str(name), -1) for name in names), dtype=np.int64, count=len(names))

    def keypoints(self, indices: Sequence[int] | np.ndarray) -> Keypoints:
        """Keypoints of the rows `indices` (N,).

        Index -1, which `lookup` gives for an unknown name, yields a person whose joints are all missing.

        Raises:
            ValueError: an index below -1 or past the end.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < -1 or rows.max() >= len(self)):
            raise ValueError(f"indices: {rows.min()} to {rows.max()}, needed -1 to {len(self) - 1}")
        found = rows >= 0
        xy = np.zeros((*rows.shape, len(JOINTS), 2), np.float32)
        visibility = np.zeros((*rows.shape, len(JOINTS)), np.float32)
        xy[found], visibility[found] = self.xy[rows[found]], self.visibility[rows[found]]
        return Keypoints(torch.from_numpy(xy), torch.from_numpy(visibility))


def read_annotations(path: Path, frame: tuple[int, int] | None = None) -> Annotations:
    """Reads annotations in the format that the suffix names: .npz or .csv (PATN).

    The report of `read_patn_csv` is logged as warnings; call that function to get it as data.

    Args:
        path: the file.
        frame: (height, width) of the images, used for CSV only; None if unknown.

    Raises:
        BadInput: no such file, an unknown suffix, or invalid contents.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return replace(read_npz(path), file=str(path))
    if path.suffix.lower() == ".csv":
        annotations, report = read_patn_csv(path, frame)
        for line in report.lines():
            _log.warning("%s: %s", path, line)
        return replace(annotations, file=str(path))
    raise BadInput(f"{path}: unknown annotation format {path.suffix!r}; needed .npz (native) or .csv (PATN)")


def read_patn_csv(path: Path, frame: tuple[int, int] | None = (128, 64)) -> tuple[Annotations, Report]:
    """Reads the CSV in which PATN and its followers publish keypoints.

    Args:
        path: a text file with the header `name:keypoints_y:keypoints_x` and rows `name: [18 y]: [18 x]`.
        frame: (height, width) of the images; None keeps joints beyond the right and lower edge (see `keypoints_of`).

    Returns:
        The annotations in the order of the file, with visibility 0 or 1, and a report of the rows and joints that could
        not be used.

    Raises:
        BadInput: the file cannot be read, has another header, a malformed row (named by its line) or no usable row.
    """
    path = Path(path)
    height, width = frame or (np.inf, np.inf)
    report = Report()
    rows: dict[str, np.ndarray] = {}
    for number, line in _numbered_rows(path):
        name, y, x = _parse_row(line, f"{path}:{number}")
        if len(y) != len(JOINTS) or len(x) != len(JOINTS):
            report.wrong_counts.add(f"{name} (line {number}: {len(y)} y, {len(x)} x)")
        elif name in rows:
            report.duplicates.add(f"{name} (line {number})")
        else:
            rows[name] = np.stack([x, y], axis=-1)
    if not rows:
        raise BadInput(f"{path}: no usable row; needed rows {_PATN_ROW}")
    names = np.array(list(rows))
    xy = np.stack(list(rows.values()))
    missing = (xy == PATN_MISSING).all(-1)
    outside = ~missing & ((xy < 0) | (xy >= (width, height))).any(-1)
    for row, joint in np.argwhere(outside):
        x, y = xy[row, joint]
        report.outside_frame.add(f"{names[row]} {JOINTS[joint]} at ({x}, {y})")
    visible = ~missing & ~outside
    xy = np.where(visible[..., None], xy, 0)
    return Annotations(names, xy.astype(np.float32), visible.astype(np.float32), source=f"PATN CSV {path.name}"), report


def read_npz(path: Path) -> Annotations:
    """Reads the native format: the keys `names`, `xy`, `visibility` and optionally `source` of `Annotations`.

    Raises:
        BadInput: no such file, not an .npz, other keys, pickled objects, or arrays that `Annotations` refuses.
    """
    return annotations_from_arrays(Path(path), read_arrays(Path(path)))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an annotation .npz, unchecked; errors as in `xingaug.inputs.read_arrays`."""
    return read_any_arrays(path, "annotation")


def annotations_from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Annotations:
    """Annotations from the arrays of a native .npz that was read from `path`.

    Raises:
        BadInput: wrong keys, or arrays that `Annotations` refuses.
    """
    if set(arrays) - {_NPZ_OPTIONAL} != set(_NPZ_KEYS):
        raise BadInput(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; needed {', '.join(_NPZ_KEYS)}")
    try:
        source = str(arrays.get(_NPZ_OPTIONAL, ""))
        return Annotations(arrays["names"], arrays["xy"], arrays["visibility"], source)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: not an annotation .npz ({first_line(error)})") from None


def write_npz(
    path: Path,
    names: Sequence[str] | np.ndarray,
    xy: np.ndarray,
    visibility: np.ndarray,
    source: str = "",
) -> None:
    """Writes the native format atomically; arguments as in `Annotations`, which checks them. Same data, same bytes.

    Raises:
        ValueError: as `Annotations`.
    """
    checked = Annotations(np.asarray(names, dtype=str), xy, visibility, source)
    # A handle, because numpy appends .npz to a path that lacks it.
    with atomic_write(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle, names=checked.names, xy=checked.xy, visibility=checked.visibility, source=np.array(source)
        )


def keypoints_of(annotations: Annotations, split: Split, size: tuple[int, int]) -> Keypoints:
    """Keypoints (N,) of a split's images, scaled from the size of each stored image to `size` (height, width).

    An image without annotation gets a person with all joints missing; joints outside their image are missing too.

    Raises:
        BadInput: an image cannot be read, or the keypoints belong to images of another size (see `require_fitting`).
    """
    return bring_to(size, annotations.keypoints(annotations.lookup(split.names)), image_sizes(split), annotations.file)


def bring_to(size: tuple[int, int], keypoints: Keypoints, frames: np.ndarray, where: str = "") -> Keypoints:
    """Scales keypoints (N,) of images of sizes `frames` (N, 2) height, width to `size`; joints outside are missing.

    Raises:
        BadInput: they belong to images of another size (see `require_fitting`); the message begins with `where`.
    """
    require_fitting(keypoints, frames, where)
    xy, visibility = keypoints.xy.clone(), keypoints.visibility.clone()
    for height, width in np.unique(frames, axis=0).tolist():
        rows = torch.from_numpy((frames == (height, width)).all(1))
        moved = keypoints[rows].crop(0, 0, (height, width)).resize((height, width), size)
        xy[rows], visibility[rows] = moved.xy, moved.visibility
    return Keypoints(xy, visibility)


def require_somebody(annotations: Annotations, where: Path) -> None:
    """Raises `BadInput` where no joint is visible in any image."""
    if not (annotations.visibility > 0).any():
        raise BadInput(f"{where}: every joint of all {len(annotations)} images is missing; needed visible joints")


def annotated_training(root: Path, annotations: Path) -> tuple[Split, Annotations]:
    """The real training images of a dataset that have a row in an annotation file, and the file's content.

    Raises:
        BadInput: unreadable input, or no real training image is annotated.
    """
    split = read_split(root, "train")
    table = read_annotations(annotations)
    known = (table.lookup(split.names) >= 0) & ~split.synthetic
    if not known.any():
        raise BadInput(f"{annotations}: annotates none of the {len(split)} training images of {root}")
    return split.select(known), table


def match(annotations: Annotations, names: Sequence[str] | np.ndarray, paths: Sequence[Path]) -> Report:
    """Compares annotations with the images of a dataset; reads only the images' headers.

    Args:
        annotations: the annotations to check.
        names: (N,) names of the images.
        paths: (N,) their files.

    Returns:
        A report with `without_image`, `without_row`, `unreadable` and `outside_frame` filled in. Junk images of
        Market-1501 count as without image, because reading a split drops them.

    Raises:
        BadInput: the keypoints belong to images of another size (see `require_fitting`).
    """
    report = Report()
    images = set(map(str, names))
    for name in annotations.names.tolist():
        if name not in images:
            report.without_image.add(name)
    rows, sizes = [], []
    for name, path, row in zip(names, paths, annotations.lookup(names).tolist(), strict=True):
        if row < 0:
            report.without_row.add(str(name))
            continue
        try:
            sizes.append(image_size(path))
        except BadInput:
            report.unreadable.add(str(name))
            continue
        rows.append(row)
    persons, frames = annotations.keypoints(rows), np.array(sizes, np.int64).reshape(-1, 2)
    require_fitting(persons, frames, annotations.file)
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        outside = persons[number].present & ~persons[number].inside(size)
        for joint in outside.nonzero()[:, 0].tolist():
            x, y = persons.xy[number, joint].tolist()
            report.outside_frame.add(f"{annotations.names[row]} {JOINTS[joint]} at ({x:g}, {y:g})")
    return report


def _numbered_rows(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines after the header, with their line numbers."""
    lines = read_text(path, "annotation file").splitlines()
    if not lines or lines[0].strip() != PATN_HEADER:
        first = lines[0].strip()[:80] if lines else ""
        raise BadInput(f"{path}:1: header {first!r}; needed {PATN_HEADER!r}")
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            yield number, line


def _parse_row(line: str, where: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The name and the integer arrays y and x of one row, of any length."""
    try:
        name, *lists = line.rsplit(":", 2)  # from the right: a name may hold a colon
        y, x = (np.array(parse_json(text, where)) for text in lists)
        well_formed = bool(name.strip()) and all(v.ndim == 1 and (v.dtype.kind == "i" or not v.size) for v in (x, y))
    except (ValueError, OverflowError):
        well_formed = False
    if not well_formed:
        raise BadInput(f"{where}: malformed row {line.strip()[:60]!r}; needed {_PATN_ROW}")
    return name.strip(), y, x
