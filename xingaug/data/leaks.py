"""The leak check: identities and files that are in both training and test, and files with two identities."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.data.matches import explain_no_match, matchable_queries
from xingaug.data.readers import Dataset, open_dataset
from xingaug.data.split import Split
from xingaug.errors import BadInput
from xingaug.images import MAX_BYTES
from xingaug.inputs import open_regular
from xingaug.progress import ProgressBar

_EXAMPLES = 3


@dataclass(frozen=True)
class Leak:
    """Two images with the same bytes.

    Attributes:
        first: path of an image below the root, a training image if there is one.
        second: path of another image with the same bytes.
        pids: identities of both.
    """

    first: str
    second: str
    pids: tuple[int, int]


@dataclass(frozen=True)
class LeakReport:
    """The leaks that were found.

    Attributes:
        identities: training identities that are also in query or gallery, without distractors and junk, ascending.
        files: query or gallery images that are byte for byte a training image.
        contradictions: byte-identical images with two identities, both in training or both in test.
    """

    identities: tuple[int, ...]
    files: tuple[Leak, ...]
    contradictions: tuple[Leak, ...]

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.identities or self.files or self.contradictions)

    def lines(self) -> list[str]:
        """A line for each kind of leak that was found, with the first examples."""
        found = []
        if self.identities:
            examples = ", ".join(map(str, self.identities[:_EXAMPLES]))
            found.append(f"{len(self.identities)} identities are in training and in query or gallery: {examples}")
        if self.files:
            examples = ", ".join(f"{leak.second} is {leak.first}" for leak in self.files[:_EXAMPLES])
            found.append(f"{len(self.files)} images of query or gallery are training images: {examples}")
        if self.contradictions:
            examples = ", ".join(
                f"{leak.first} ({leak.pids[0]}) is {leak.second} ({leak.pids[1]})"
                for leak in self.contradictions[:_EXAMPLES]
            )
            found.append(f"{len(self.contradictions)} images have two identities: {examples}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return asdict(self)


def find_leaks(
    train: Split, query: Split | None = None, gallery: Split | None = None, progress: bool = False
) -> LeakReport:
    """Compares training with query and gallery.

    File sizes are compared first; only files of equal size are read.

    Args:
        train: the training images.
        query: the query images; None if the dataset has none.
        gallery: the gallery images; None if the dataset has none.
        progress: show a bar on a terminal.

    Raises:
        BadInput: an image cannot be read.
    """
    tests = [split for split in (query, gallery) if split is not None]
    tested = np.unique(np.concatenate([np.zeros(0, np.int64), *(split.pids for split in tests)]))
    shared = np.intersect1d(train.pids, tested)
    files, contradictions = [], []
    for same in _identical([train, *tests], progress):
        trained = [(split, i) for split, i in same if split is train]
        others = [(split, i) for split, i in same if split is not train]
        files += [_leak(trained[0], other) for other in others if trained]
        for alike in (trained, others):
            # If an image has several identities, all others are compared with the first.
            pairs = [_leak(alike[0], other) for other in alike[1:]]
            contradictions += [pair for pair in pairs if pair.pids[0] != pair.pids[1] and min(pair.pids) > 0]
    return LeakReport(
        tuple(shared[shared > 0].tolist()),
        tuple(sorted(files, key=lambda leak: leak.second)),
        tuple(sorted(contradictions, key=lambda leak: leak.first)),
    )


def check_dataset(where: Path | Dataset) -> tuple[dict[str, dict[str, int]], LeakReport, str | None, tuple[str, ...]]:
    """Counts the images of a dataset, looks for leaks, and checks that its queries can be matched.

    Args:
        where: its folder, a YAML file, or the dataset itself.

    Returns:
        Images, identities (without distractors and junk) and cameras of each split; the leaks; the reason if no query
        can be matched, else None; notes from the reader and, if only some queries can be matched, their number.

    Raises:
        BadInput: as `find_leaks`, or the dataset cannot be read or has no training split.
    """
    splits = open_dataset(where).read_all()
    if "train" not in splits:
        raise BadInput(f"{where}: has no training split, so nothing could leak from it; needed one")
    counts: dict[str, dict[str, int]] = {
        name: {
            "images": len(split),
            "identities": len(np.unique(split.pids[split.pids > 0])),
            "cameras": len(np.unique(split.camids)),
        }
        for name, split in splits.items()
    }
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.notes))
    unmatched = None
    if "query" in splits and "gallery" in splits:
        query, gallery = splits["query"], splits["gallery"]
        lost = int((~matchable_queries(query.pids, query.camids, gallery.pids, gallery.camids)).sum())
        if lost == len(query):
            unmatched = explain_no_match(query.pids, gallery.pids)
        elif lost:
            notes.append(f"{lost} of {len(query)} queries have no image of another camera in gallery and do not count")
    leaks = find_leaks(splits["train"], splits.get("query"), splits.get("gallery"), progress=True)
    return counts, leaks, unmatched, tuple(notes)


def content_hash(path: str | Path) -> bytes:
    """A hash of an image file's bytes, independent of its name.

    Raises:
        BadInput: it is missing, not a regular file, too large, or cannot be read.
    """
    with open_regular(path, "image", MAX_BYTES) as file:
        try:
            return hashlib.blake2b(file.read(), digest_size=16).digest()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read as image ({error.strerror})") from None


def _identical(splits: Sequence[Split], progress: bool) -> Iterator[list[tuple[Split, int]]]:
    """Groups of images with the same bytes, each ordered by split, then by name."""
    by_size: dict[int, list[tuple[Split, int]]] = defaultdict(list)
    for split in splits:
        for i in range(len(split)):
            with open_regular(split.path(i), "image", MAX_BYTES) as file:
                by_size[os.fstat(file.fileno()).st_size].append((split, i))
    groups = [group for group in by_size.values() if len(group) > 1]
    candidates = [image for group in groups for image in group]
    by_content: dict[bytes, list[tuple[Split, int]]] = defaultdict(list)
    for split, i in ProgressBar(candidates, "comparing files", shown=progress):
        by_content[content_hash(split.path(i))].append((split, i))
    return (group for group in by_content.values() if len(group) > 1)


def _leak(first: tuple[Split, int], second: tuple[Split, int]) -> Leak:
    (a, i), (b, j) = first, second
    return Leak(a.file(i), b.file(j), (int(a.pids[i]), int(b.pids[j])))
