"""Stores for synthetic images: a folder, or tar shards that webdataset and others read."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xingaug.data.market1501 import FOLDERS
from xingaug.errors import BadInput, first_line
from xingaug.files import atomic_write
from xingaug.images import MAX_BYTES
from xingaug.inputs import open_regular, read_bytes

SHARDS = "shards"

MAX_SHARD_BYTES = 2_000_000_000
"""Largest shard that is read, as it is held in memory (our choice: 350,000 images of Market-1501's size)."""


@dataclass(frozen=True)
class Sample:
    """An image of the new dataset.

    Attributes:
        name: its file name.
        image: the file's content.
        about: labels, stored beside it if the format supports them.
    """

    name: str
    image: bytes
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """An image that should be in a store: the SHA-256 of its file, and its labels."""

    sha256: str
    about: Mapping[str, Any]


class Store(Protocol):
    """Writes and reads the images of a part.

    Attributes:
        part_size: images per part.
    """

    part_size: int

    def file(self, part: int, name: str) -> str:
        """An image's path below the dataset's directory, as in the manifest."""

    def write(self, part: int, samples: Sequence[Sample]) -> None:
        """Writes the images of a part, overwriting any old ones."""

    def read(self, part: int, name: str) -> bytes:
        """The content of an image file."""

    def holds(self, part: int, expected: Mapping[str, Expected]) -> bool:
        """Whether the images of a part are stored as expected, by name."""


class FolderStore:
    """Images beside the real ones, in Market-1501's layout; a part is a batch."""

    def __init__(self, out: Path, batch_size: int) -> None:
        """Stores into `out`."""
        self.out, self.part_size = out, batch_size

    def file(self, part: int, name: str) -> str:
        """As in `Store`."""
        return f"{FOLDERS['train']}/{name}"

    def write(self, part: int, samples: Sequence[Sample]) -> None:
        """As in `Store`."""
        for sample in samples:
            with atomic_write(self.out / self.file(part, sample.name)) as temporary:
                temporary.write_bytes(sample.image)

    def read(self, part: int, name: str) -> bytes:
        """As in `Store`."""
        return read_bytes(self.out / self.file(part, name), "image", MAX_BYTES)

    def holds(self, part: int, expected: Mapping[str, Expected]) -> bool:
        """As in `Store`."""
        try:
            return all(hash_of(self.read(part, name)) == known.sha256 for name, known in expected.items())
        except BadInput:  # missing, or not a regular file
            return False


class ShardStore:
    """Tar files with pairs of `<key>.jpg` and `<key>.json`; a part is a shard."""

    def __init__(self, out: Path, shard_size: int, kind: str = "synthetic") -> None:
        """Stores into shards `out/shards/<kind>-NNNNNN.tar`."""
        self.out, self.part_size, self.kind = out, shard_size, kind

    def shard(self, part: int) -> str:
        """A shard's path below the dataset's directory."""
        return f"{SHARDS}/{self.kind}-{part:06d}.tar"

    def file(self, part: int, name: str) -> str:
        """As in `Store`."""
        return f"{self.shard(part)}/{member_name(name)}"

    def write(self, part: int, samples: Sequence[Sample]) -> None:
        """As in `Store`; a part without images has no shard."""
        path = self.out / self.shard(part)
        if not samples:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                member = member_name(sample.name)
                _add(tar, member, sample.image)
                _add(tar, labels_name(member), _labels(sample.about))

    def read(self, part: int, name: str) -> bytes:
        """As in `Store`."""
        return read_shard(self.out / self.shard(part))[member_name(name)]

    def holds(self, part: int, expected: Mapping[str, Expected]) -> bool:
        """As in `Store`."""
        if not expected:
            return not (self.out / self.shard(part)).exists()
        try:
            found = {name: hash_of(data) for name, data in read_shard(self.out / self.shard(part)).items()}
        except BadInput:
            return False
        members = {member_name(name): known for name, known in expected.items()}
        return found == {
            **{name: known.sha256 for name, known in members.items()},
            **{labels_name(name): hash_of(_labels(known.about)) for name, known in members.items()},
        }


def member_name(name: str) -> str:
    """A file's name in a shard; webdataset's key ends at the first dot, so the only dot is that of `.jpg`."""
    return name.rpartition(".")[0].replace(".", "_") + ".jpg"


def labels_name(member: str) -> str:
    """The name of the labels beside an image in a shard."""
    return member.removesuffix(".jpg") + ".json"


def read_shard(path: Path) -> dict[str, bytes]:
    """The files of a shard by name.

    Raises:
        BadInput: no such shard, it is damaged, compressed or too large, or holds a duplicate name, a link or a sparse
            file.
    """
    with open_regular(path, "shard", MAX_SHARD_BYTES) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                return _members(tar, path)
        except BadInput:
            raise
        except Exception as error:  # a damaged header can raise anything
            reason = first_line(error)
            raise BadInput(f"{path}: not a readable shard ({reason})") from None


def _members(tar: tarfile.TarFile, path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for member in tar:
        # Links and sparse files have more content than their bytes in the archive.
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise BadInput(f"{path}: {member.name!r:.200} is no plain file; needed a shard that generate wrote")
        stream = tar.extractfile(member)
        data = b"" if stream is None else stream.read()
        if member.name in files or len(data) != member.size:
            raise BadInput(f"{path}: {member.name!r:.200} occurs twice, or is truncated")
        files[member.name] = data
    return files


def hash_of(data: bytes) -> str:
    """SHA-256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _labels(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Without time and owner: the same images give the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
