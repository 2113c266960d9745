"""Names and facts of synthetic images: the file-name rule and `manifest.jsonl`."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from xingaug.data.market1501 import parse_name
from xingaug.errors import BadInput
from xingaug.files import atomic_write

MAX_COPIES = 1000
"""Three digits number the copies of one source."""


@dataclass(frozen=True)
class ManifestLine:
    """What is known of one synthetic image.

    Attributes:
        file: path below the dataset's directory, with forward slashes; of an image in a shard, the shard's path and the
            member's name.
        sha256: of the image file's bytes, hexadecimal.
        source: name of the real image.
        pid: the source's identity.
        camid: the source's camera, 1-based as in the name.
        copy: number of this image among those of its source, from 0.
        bank_row: the bank's row that gave the pose.
        target_keypoints: 18 times (x, y, visibility), pixels of this image.
        sampler: how the pose was chosen.
        fit: how it was placed.
        seed: of the draws.
        gate: what the quality gate saw, by name, to four digits; empty without a gate.
        generator: content hash of the generator.
        bank: content hash of the pose bank.
    """

    file: str
    sha256: str
    source: str
    pid: int
    camid: int
    copy: int
    bank_row: int
    target_keypoints: list[list[float]]
    sampler: str
    fit: str
    seed: int
    gate: dict[str, float]
    generator: str
    bank: str


_KINDS: dict[str, type] = {name: get_origin(hint) or hint for name, hint in get_type_hints(ManifestLine).items()}


def synthetic_name(source: str, copy: int) -> str:
    """Name of copy number `copy` of an image: `0002_c1s1_000451_03.jpg` -> `0002_c1s1_000451_03_x000.jpg`.

    Raises:
        BadInput: `source` is no image name (such as one that leaves its directory), or is synthetic itself.
        ValueError: `copy` outside 0..999.
    """
    if not 0 <= copy < MAX_COPIES:
        raise ValueError(f"copy: {copy}, needed 0..{MAX_COPIES - 1}")
    if Path(source).name != source or "\\" in source:
        raise BadInput(f"{source}: would leave the dataset's directory; needed a plain image name")
    if parse_name(source).synthetic is not None:
        raise BadInput(f"{source}: is synthetic itself; needed a real image's name")
    stem, _, suffix = source.rpartition(".")
    return f"{stem}_x{copy:03d}.{suffix}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(path: Path, lines: Iterable[ManifestLine]) -> None:
    """Writes the whole manifest atomically, one JSON object per line."""
    with atomic_write(path, durable=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for line in lines:
            stream.write(json.dumps(dataclasses.asdict(line)) + "\n")


def read_manifest(path: Path) -> list[ManifestLine]:
    """Reads a manifest.

    Raises:
        BadInput: no such file, or a line that is not one of `write_manifest`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"{path}: cannot read the manifest ({reason})") from None
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(text.splitlines(), start=1)]


def _parse(text: str, where: str) -> ManifestLine:
    try:
        fields: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg})") from None
    names = [field.name for field in dataclasses.fields(ManifestLine)]
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise BadInput(f"{where}: needed an object with the keys {', '.join(names)}")
    for name, kind in _KINDS.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise BadInput(f"{where}: {name}: {fields[name]!r}, needed {kind.__name__}")
    return ManifestLine(**fields)
