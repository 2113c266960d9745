"""Lists the images of a dataset's splits, or all images of any other folder."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from xingaug.data.annotations import Annotations
from xingaug.data.names import SplitName, masks_among
from xingaug.data.readers import Dataset, layout_of, open_dataset
from xingaug.data.split import is_text
from xingaug.errors import BadInput
from xingaug.images import SUFFIXES, size_or_none

_log = logging.getLogger(__name__)


def list_images(root: Path, splits: Sequence[SplitName] | None = None) -> tuple[list[str], list[Path]]:
    """Names and files of a dataset's images, in an order that depends on the names alone.

    For a dataset that `open_dataset` recognises, these are the images of `splits`, under the names from its reader. For
    any other folder, they are all images in it at any depth, named relative to `root` with forward slashes and sorted;
    hidden files and folders, and links to folders, are skipped. Other files are counted in a warning.

    Args:
        root: the folder, or a YAML file that describes a dataset.
        splits: which splits of a dataset; None is train.

    Raises:
        BadInput: no such folder, no image in it, `splits` for a folder that is not a dataset, a folder that contains a
            dataset, or a name that occurs in two splits.
    """
    root = Path(root)
    if root.is_file() or (root.is_dir() and _is_dataset(root)):
        return _of_dataset(open_dataset(root), splits or ("train",))  # explains the error for a dataset's parent folder
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; needed the dataset's root or a folder of images")
    if splits:
        raise BadInput(f"--splits: {root} is a plain folder, which has none; leave the option out")
    names, others = walk_images(root)
    names.sort()
    strange = next((name for name in names if not is_text(name)), None)
    if strange is not None:
        raise BadInput(f"{root}: {strange!r}, a file name that is not UTF-8; rename the file")
    if not names:
        raise BadInput(f"{root}: holds no dataset and no image ({', '.join(SUFFIXES)}); needed one of them")
    if others:
        examples = ", ".join(sorted(others)[:3]) + ", ..." * (len(others) > 3)
        suffixes = ", ".join(SUFFIXES)
        _log.warning("%s: %d files are no images (%s) or their masks: %s", root, len(others), suffixes, examples)
    return names, [root / name for name in names]


def named_as(annotations: Annotations, names: Sequence[str], paths: Sequence[Path]) -> Annotations:
    """Renames annotations to the image names of a dataset; see `matched`.

    Args:
        annotations: annotations from any program.
        names: names of the dataset's images.
        paths: their files.
    """
    given = annotations.names.tolist()
    found = {row: names[image] for row, image in matched(given, names, paths).items()}
    # A row without an image keeps its name, unless a renamed row now has that name.
    taken = set(found.values())
    kept = [row for row, name in enumerate(given) if row in found or name not in taken]
    renamed = np.array([found.get(row, given[row]) for row in kept], dtype=str)
    return replace(annotations, names=renamed, xy=annotations.xy[kept], visibility=annotations.visibility[kept])


def sizes_by_name(
    names: Sequence[str], paths: Sequence[Path]
) -> Callable[[Sequence[str]], list[tuple[int, int] | None]]:
    """A function that looks up the sizes (height, width) of a dataset's images by another program's names for them."""

    def sizes_of(given: Sequence[str]) -> list[tuple[int, int] | None]:
        images = matched(given, names, paths)
        return [size_or_none(paths[images[row]]) if row in images else None for row in range(len(given))]

    return sizes_of


def matched(given: Sequence[str], names: Sequence[str], paths: Sequence[Path]) -> dict[int, int]:
    """Finds the image that each name written by another program refers to.

    An exact match with a name of the dataset comes first. Any other name is compared as a path, from its end: either
    all of its folders must agree with the image's path, or all those of the image's name, at least one, must agree
    with it; a folder that contradicts is no match. The longest match wins; ambiguous matches are dropped. Names still
    unmatched are compared again without suffixes, which OpenPose's file names do not contain.

    Args:
        given: names or paths, each once.
        names: names of the dataset's images.
        paths: their files.

    Returns:
        Indices into `names` by indices into `given`.
    """
    known = {name: image for image, name in enumerate(names)}
    found = {row: known[name] for row, name in enumerate(given) if name in known}
    for cut in (_whole, _without_suffix):
        # Compare with all images, also those already matched: being the only one left does not make a match.
        taken = set(found.values())
        images = _Paths({image: cut(_with_folder(name, paths[image])) for image, name in enumerate(names)})
        claims: dict[int, list[tuple[int, int]]] = {}
        for row, name in enumerate(given):
            hit = None if row in found else images.find(cut(name))
            if hit is not None and hit[0] not in taken:
                claims.setdefault(hit[0], []).append((hit[1], row))
        for image, rows in claims.items():
            longest = [row for length, row in rows if length == max(rows)[0]]
            if len(longest) == 1:
                found[longest[0]] = image
    return found


class _Paths:
    """Paths of images, looked up by their ends."""

    def __init__(self, paths: dict[int, str]) -> None:
        self.whole = _once((path, image) for image, path in paths.items())
        self.ends = _once((end, image) for image, path in paths.items() for end in _ends(path))

    def find(self, name: str) -> tuple[int, int] | None:
        """The image, and the length of the path that it shares with the name."""
        if name in self.ends:  # all of the name's folders agree
            image = self.whole.get(name)
            image = self.ends[name] if image is None else image
            return None if image is None else (image, len(name))
        for end in _ends(name):  # all of the image's folders agree
            image = self.whole.get(end)
            if image is not None:
                return image, len(end)
        return None


def _once(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    """Images by key; None for a key that several images share."""
    found: dict[str, int | None] = {}
    for key, image in pairs:
        found[key] = None if key in found else image
    return found


def _ends(path: str) -> Iterator[str]:
    """The path itself, then without its first folder, without the first two, and so on."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _with_folder(name: str, path: Path) -> str:
    """An image's name, prefixed with the image's folder if the name has no folder."""
    return name if "/" in name else f"{path.absolute().parent.name}/{name}"


def _whole(path: str) -> str:
    return path


def _without_suffix(path: str) -> str:
    return path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix) else path


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset of a known layout, or holds one."""
    with os.scandir(folder) as entries:
        inner = any(layout_of(Path(entry)) for entry in entries if os.path.isdir(entry.path))
        return inner or layout_of(folder) is not None


def _of_dataset(dataset: Dataset, splits: Sequence[SplitName]) -> tuple[list[str], list[Path]]:
    files: dict[str, Path] = {}
    for name in splits:
        split = dataset.read(name)
        for note in split.notes:
            _log.warning(note)
        paths = {str(image): split.path(index) for index, image in enumerate(split.names)}
        both = files.keys() & paths.keys()
        if both:
            raise BadInput(
                f"{dataset.where}: {min(both)!r} is in two of the splits {', '.join(splits)}; annotate them apart"
            )
        files |= paths
    return list(files), list(files.values())


def walk_images(root: Path) -> tuple[list[str], list[str]]:
    """Paths below a folder of its images, unordered, and of the files that are skipped: other files, and masks.

    Raises:
        BadInput: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be listed ({error.strerror}); needed a folder that can be read")

    names: list[str] = []
    others: list[str] = []
    for folder, inner, files in os.walk(root, onerror=fail):
        inner[:] = [name for name in inner if not name.startswith(".")]
        above = Path(folder).relative_to(root)
        for file in files:
            if not file.startswith("."):
                (names if file.lower().endswith(SUFFIXES) else others).append((above / file).as_posix())
    masks = masks_among(names)
    return [name for name in names if name not in masks], [*others, *masks]
