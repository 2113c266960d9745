"""Which images a dataset has: those of its splits, or all in any folder."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from xingaug.data.annotations import Annotations
from xingaug.data.names import SplitName
from xingaug.data.readers import Dataset, layout_of, open_dataset
from xingaug.errors import BadInput
from xingaug.images import SUFFIXES


def list_images(root: Path, splits: Sequence[SplitName] | None = None) -> tuple[list[str], list[Path]]:
    """Names and files of a dataset's images, in an order that depends on the names alone.

    Of a dataset that `open_dataset` knows they are the images of `splits`, under the names that its reader gives them.
    Of any other folder they are all images in it, however deep, named relative to `root` with forward slashes and
    sorted; hidden files and folders, and links to folders, are passed over.

    Args:
        root: the folder, or a YAML file that describes a dataset.
        splits: which splits of a dataset; None is train.

    Raises:
        BadInput: no such folder, no image in it, `splits` for a folder that is no dataset, a folder that holds one
            rather than being one, or a name that two splits share.
    """
    root = Path(root)
    if root.is_file() or (root.is_dir() and _is_dataset(root)):
        return _of_dataset(open_dataset(root), splits or ("train",))  # which explains what is wrong with its parent
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; needed the dataset's root or a folder of images")
    if splits:
        raise BadInput(f"--splits: {root} is a plain folder, which has none; leave the option out")
    names = sorted(_walk(root))
    strange = next((name for name in names if not _is_text(name)), None)
    if strange is not None:
        raise BadInput(f"{root}: {strange!r}, a file name that is not UTF-8; rename the file")
    if not names:
        raise BadInput(f"{root}: holds no dataset and no image ({', '.join(SUFFIXES)}); needed one of them")
    return names, [root / name for name in names]


def named_as(annotations: Annotations, names: Sequence[str]) -> Annotations:
    """The same annotations, under the names that the images of a dataset have.

    A row whose name is that of no image is tried without its folder, and then without suffix too, which OpenPose's
    files do not know. It is renamed where that leads to exactly one image, which no other row claims.

    Args:
        annotations: from any program.
        names: of the dataset's images.
    """
    known, given = set(names), annotations.names.tolist()
    found = {row: name for row, name in enumerate(given) if name in known}
    for key in (_file_name, _stem):
        taken = set(found.values())
        images = _once(key, [name for name in names if name not in taken])
        rows = _once(key, [name for row, name in enumerate(given) if row not in found])
        for row, name in enumerate(given):
            if row not in found and rows.get(key(name)) == name and key(name) in images:
                found[row] = images[key(name)]
    renamed = np.array([found.get(row, name) for row, name in enumerate(given)], dtype=str)
    return Annotations(renamed, annotations.xy, annotations.visibility, annotations.source)


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset of a known layout, or holds one."""
    with os.scandir(folder) as entries:
        inner = any(layout_of(Path(entry)) for entry in entries if os.path.isdir(entry.path))
        return inner or layout_of(folder) is not None


def _of_dataset(dataset: Dataset, splits: Sequence[SplitName]) -> tuple[list[str], list[Path]]:
    files: dict[str, Path] = {}
    for name in splits:
        split = dataset.read(name)
        paths = {str(image): split.path(index) for index, image in enumerate(split.names)}
        both = files.keys() & paths.keys()
        if both:
            raise BadInput(
                f"{dataset.where}: {min(both)!r} is in two of the splits {', '.join(splits)}; annotate them apart"
            )
        files |= paths
    return list(files), list(files.values())


def _walk(root: Path) -> list[str]:
    def fail(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be listed ({error.strerror}); needed a folder that can be read")

    names = []
    for folder, inner, files in os.walk(root, onerror=fail):
        inner[:] = [name for name in inner if not name.startswith(".")]
        above = Path(folder).relative_to(root)
        names += [
            (above / file).as_posix() for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        ]
    return names


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _once(key: Callable[[str], str], names: Sequence[str]) -> dict[str, str]:
    """The names by their keys, but for keys that several share."""
    counts = Counter(map(key, names))
    return {key(name): name for name in names if counts[key(name)] == 1}
