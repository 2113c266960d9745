"""Names and metadata of synthetic images: the file-name rule and `manifest.jsonl`."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from xingaug.config import shown
from xingaug.data.market1501 import parse_name
from xingaug.data.renderings import MAX_LINE, MAX_MANIFEST_BYTES
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.inputs import open_regular, parse_json
from xingaug.keypoints import JOINTS

MAX_COPIES = 1000
"""Most copies of one source, as file names have three digits for them."""


@dataclass(frozen=True)
class ManifestLine:
    """Metadata of one synthetic image.

    Attributes:
        file: path below the dataset's directory, with forward slashes; in a shard, the shard's path and the member's
            name.
        sha256: hash of the image file, hexadecimal.
        source: name of the real image.
        pid: the source's identity.
        camid: the source's camera, 1-based as in the name.
        copy: number of this image among those of its source, from 0.
        bank_row: row of the pose in the bank.
        target_keypoints: 18 times (x, y, visibility), pixels of this image.
        sampler: the sampler that drew the pose.
        fit: how the pose was placed, see `xingaug.poses.placing`.
        seed: seed of the draws.
        gate: the quality gate's scores, by name, to four digits; empty without a gate.
        generator: content hash of the generator.
        bank: content hash of the pose bank.
        reference: name of the real image that was rendered, the source or another of its person and camera; manifests
            of earlier versions lack it, and it is the source.
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
    reference: str


_KINDS: dict[str, type] = {name: get_origin(hint) or hint for name, hint in get_type_hints(ManifestLine).items()}


def synthetic_name(source: str, copy: int) -> str:
    """Name of copy number `copy` of an image: `0002_c1s1_000451_03.jpg` -> `0002_c1s1_000451_03_x000.jpg`.

    Raises:
        BadInput: `source` is not an image name (such as one that leaves its directory), or is synthetic itself.
        ValueError: `copy` outside 0..999.
    """
    if not 0 <= copy < MAX_COPIES:
        raise ValueError(f"copy: {copy}, needed 0..{MAX_COPIES - 1}")
    if Path(source).name != source or "\\" in source:
        raise BadInput(f"{source}: would leave the dataset's directory; needed a plain image name")
    if parse_name(source).synthetic is not None:
        raise BadInput(f"{source}: is synthetic itself; needed a real image's name")
    return f"{source.rpartition('.')[0]}_x{copy:03d}.jpg"


def write_manifest(path: Path, lines: Iterable[ManifestLine]) -> None:
    """Writes the whole manifest atomically, one JSON object per line."""
    with atomic_write(path, durable=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for line in lines:
            stream.write(json.dumps(dataclasses.asdict(line)) + "\n")


def read_manifest(path: Path) -> list[ManifestLine]:
    """Reads a manifest.

    Raises:
        BadInput: no such file, or a line that `write_manifest` does not write.
    """
    lines: list[ManifestLine] = []
    with open_regular(path, "manifest", MAX_MANIFEST_BYTES) as stream:
        while line := stream.readline(MAX_LINE + 1):
            lines.append(_parse(line, f"{path}, line {len(lines) + 1}"))
    return lines


def _parse(line: bytes, where: str) -> ManifestLine:
    if len(line) > MAX_LINE:
        raise BadInput(f"{where}: longer than {MAX_LINE} bytes; needed a line of a manifest")
    try:
        fields: Any = parse_json(line.decode(), where)
    except UnicodeDecodeError:
        raise BadInput(f"{where}: not UTF-8 text") from None
    if isinstance(fields, dict) and "source" in fields:
        fields.setdefault("reference", fields["source"])
    names = [field.name for field in dataclasses.fields(ManifestLine)]
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise BadInput(f"{where}: needed an object with the keys {', '.join(names)}")
    for name, kind in _KINDS.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise BadInput(f"{where}: {name}: {shown(fields[name])}, needed {kind.__name__}")
        if kind is int and not -(2**63) <= fields[name] < 2**63:
            raise BadInput(f"{where}: {name}: {shown(fields[name])}, needed a number of 64 bits")
    joints = fields["target_keypoints"]
    if len(joints) != len(JOINTS) or not all(isinstance(joint, list) and _are_numbers(joint, 3) for joint in joints):
        raise BadInput(f"{where}: target_keypoints: {shown(joints)}, needed {len(JOINTS)} times x, y, visibility")
    if not _are_numbers(list(fields["gate"].values()), len(fields["gate"])):
        raise BadInput(f"{where}: gate: {shown(fields['gate'])}, needed numbers by name")
    return ManifestLine(**fields)


def _are_numbers(values: list[Any], count: int) -> bool:
    return len(values) == count and all(type(v) in (int, float) and abs(v) < 1e9 and math.isfinite(v) for v in values)
