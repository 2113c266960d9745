"""The journal of a run, so that a killed run continues where it stopped.

The work is split into parts. When a part's images are on disk, its journal file records the result of each; so
processes and hosts need not communicate. A part without that file is rendered again as a whole: each image then has the
same neighbours in its batch as in an uninterrupted run, and so the same bytes. At the end the manifest replaces the
journal.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.inputs import parse_json, read_text
from xingaug.offline.manifest import ManifestLine

FOLDER = ".journal"
REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True)
class Entry:
    """The result for one image.

    Attributes:
        name: the image's name.
        sha256: hash of its file; None if the gate rejected it.
        gate: the gate's scores, by name; empty without a gate.
    """

    name: str
    sha256: str | None
    gate: dict[str, float]


class Journal:
    """The entries of a run, part by part."""

    def __init__(self, out: Path, manifest: Iterable[ManifestLine] | None = None) -> None:
        """Opens the journal of a run into `out`; that of a finished run is read from manifest and rejected images."""
        self.folder = out / FOLDER
        self._finished: dict[str, Entry] = {}
        for line in manifest or ():
            name = line.file.rpartition("/")[2]
            self._finished[name] = Entry(name, line.sha256, line.gate)
        rejected = out / REJECTED_NAME
        if manifest is not None and rejected.exists():
            self._finished |= {entry.name: entry for entry in _read(rejected)}

    def entries(self, part: int, names: Sequence[str]) -> list[Entry]:
        """The entries of the images `names`, which are those of a part, in order; images without one are left out."""
        path = self._path(part)
        known = {entry.name: entry for entry in _read(path)} if path.exists() else self._finished
        return [known[name] for name in names if name in known]

    def write(self, part: int, entries: Sequence[Entry]) -> None:
        """Records the results of a part; images that could not be rendered are left out."""
        write_entries(self._path(part), entries)

    def remove(self) -> None:
        """Deletes the journal."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        # A thousand per folder: a million files in one folder are slow.
        return self.folder / f"{part // 1000:06d}" / f"{part:09d}.jsonl"


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Writes entries atomically, one JSON object per line."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for entry in entries:
            stream.write(json.dumps({"name": entry.name, "sha256": entry.sha256, "gate": entry.gate}) + "\n")


def read_rejected(out: Path) -> list[Entry]:
    """The images that the gate rejected, of a finished run; none if it had no gate."""
    return _read(out / REJECTED_NAME) if (out / REJECTED_NAME).exists() else []


def _read(path: Path) -> list[Entry]:
    """The entries of a file; none if it is damaged, as after a power cut, and its images are then rendered again."""
    try:
        found = [parse_json(line, str(path)) for line in read_text(path, "journal").splitlines()]
        entries = [Entry(**fields) for fields in found]
    except (BadInput, TypeError):
        return []
    return entries if all(_is_whole(entry) for entry in entries) else []


def _is_whole(entry: Entry) -> bool:
    return isinstance(entry.name, str) and isinstance(entry.sha256, str | None) and isinstance(entry.gate, dict)
