"""Whether a generated dataset is whole: hashes, labels, counts, and that every image can be read."""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from xingaug.data.annotations import read_npz
from xingaug.data.market1501 import DISTRACTOR, FOLDERS, JUNK, parse_name
from xingaug.errors import BadInput
from xingaug.offline.describe import ANNOTATIONS_NAME, MANIFEST_NAME
from xingaug.offline.formats import SHARDS, hash_of, member_name, read_shard
from xingaug.offline.manifest import ManifestLine, read_manifest, synthetic_name
from xingaug.offline.target import CONFIG_NAME, read_facts

THREADS = 8


@dataclass(frozen=True)
class Verdict:
    """What was looked at and what is wrong.

    Attributes:
        real: real images that were read.
        synthetic: synthetic ones.
        problems: one line each; empty if the dataset is whole.
    """

    real: int
    synthetic: int
    problems: list[str]


def verify(out: Path, progress: bool = True) -> Verdict:
    """Checks a dataset against its manifest; writes nothing.

    Args:
        out: the directory that `generate` wrote.
        progress: shows a bar where stderr is a terminal.

    Raises:
        BadInput: it is no such directory, or the run into it has not come to its end.
    """
    facts = read_facts(out)
    if not facts:
        raise BadInput(f"{out}: holds no {CONFIG_NAME} of generate; needed a directory that generate wrote")
    if not (out / MANIFEST_NAME).exists():
        raise BadInput(f"{out}: has no {MANIFEST_NAME} yet; start generate again to finish it, then verify")
    lines = read_manifest(out / MANIFEST_NAME)
    labels = [(line, list(_wrong_labels(line))) for line in lines]
    problems = [problem for _, wrong in labels for problem in wrong]
    doubled = len(lines) - len({line.file for line in lines})
    if doubled:
        problems.append(f"{MANIFEST_NAME}: {doubled} images have two lines")
    safe = [line for line in lines if _stays_inside(line.file)]
    check = _check_shards if facts.get("format") == "webdataset" else _check_folder
    real, found = check(out, facts, safe, progress)
    problems += found
    problems += _wrong_keypoints(out, [line for line, wrong in labels if not wrong])
    return Verdict(real, len(lines), problems)


def _stays_inside(file: str) -> bool:
    path = Path(file)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in file


def _wrong_labels(line: ManifestLine) -> Iterator[str]:
    """What does not fit in a line by itself."""
    if not _stays_inside(line.file):
        yield f"{line.file}: leaves the directory"
        return
    try:
        source, expected = parse_name(line.source), synthetic_name(line.source, line.copy)
    except ValueError as error:
        yield f"{line.file}: {error}"
        return
    if Path(line.file).name not in (expected, member_name(expected)):
        yield f"{line.file}: copy {line.copy} of {line.source} is named {expected}"
    if (source.pid, source.camid) != (line.pid, line.camid):
        yield f"{line.file}: labelled {line.pid}, camera {line.camid}, its source {source.pid}, camera {source.camid}"


def _check_folder(out: Path, facts: dict[str, Any], lines: list[ManifestLine], progress: bool) -> tuple[int, list[str]]:
    hashes: dict[str, str | None] = {line.file: line.sha256 for line in lines}
    real = [
        f"{folder}/{path.name}"
        for folder in FOLDERS.values()
        for path in sorted((out / folder).glob("*.jpg"))
        if f"{folder}/{path.name}" not in hashes
    ]
    hashes |= dict.fromkeys(real)
    problems = _wrong_counts(out, facts, real)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda file: _wrong_file(out / file, file, hashes[file]), hashes)
        bar = tqdm(found, "verifying", total=len(hashes), unit="image", disable=None if progress else True)
        problems += [problem for problem in bar if problem]
    return len(real), problems


def _wrong_counts(out: Path, facts: dict[str, Any], real: list[str]) -> list[str]:
    """Whether every split has the real images that it had when the dataset was made, junk aside."""
    problems = []
    for split, folder in FOLDERS.items():
        names = [parse_name(Path(file).name) for file in real if file.startswith(f"{folder}/")]
        unlisted = [name for name in names if name.synthetic is not None]
        if unlisted:
            problems.append(f"{folder}: {len(unlisted)} synthetic images have no line in {MANIFEST_NAME}")
        least = {"train": DISTRACTOR + 1, "query": JUNK, "gallery": JUNK + 1}[split]
        count = sum(name.synthetic is None and name.pid >= least for name in names)
        expected = 0 if split == "train" and facts.get("real") == "omit" else facts.get("images", {}).get(split)
        if count != expected:
            problems.append(f"{folder}: {count} real images, {expected} when the dataset was made")
    return problems


def _wrong_file(path: Path, file: str, sha256: str | None) -> str | None:
    try:
        return _wrong_image(path.read_bytes(), file, sha256)
    except OSError as error:
        return f"{file}: {error.strerror or error}"


def _wrong_image(data: bytes, file: str, sha256: str | None) -> str | None:
    if sha256 is not None and hash_of(data) != sha256:
        return f"{file}: not the image that {MANIFEST_NAME} describes"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return f"{file}: not an image"
    except (OSError, SyntaxError, ValueError) as error:
        return f"{file}: not a readable image ({str(error).splitlines()[0]})"
    return None


def _check_shards(out: Path, facts: dict[str, Any], lines: list[ManifestLine], progress: bool) -> tuple[int, list[str]]:
    hashes = {line.file: line.sha256 for line in lines}
    present = [f"{SHARDS}/{path.name}" for path in sorted((out / SHARDS).glob("*.tar"))]
    shards = sorted({*present, *(file.rpartition("/")[0] for file in hashes)})
    problems, real, seen = [], 0, set()
    for shard in tqdm(shards, "verifying", unit="shard", disable=None if progress else True):
        try:
            members = read_shard(out / shard)
        except (OSError, tarfile.TarError) as error:
            problems.append(f"{shard}: cannot be read ({error})")
            continue
        for name, data in members.items():
            file = f"{shard}/{name}"
            if not name.endswith(".jpg"):
                continue
            seen.add(file)
            is_real = shard.startswith(f"{SHARDS}/real-")
            real += is_real
            if not is_real and file not in hashes:
                problems.append(f"{file}: has no line in {MANIFEST_NAME}")
            wrong = _wrong_image(data, file, hashes.get(file))
            problems += [wrong] if wrong else []
    problems += [f"{file}: missing" for file in hashes if file not in seen]
    expected = 0 if facts.get("real") == "omit" else facts.get("images", {}).get("train")
    if real != expected:
        problems.append(f"{SHARDS}: {real} real images, {expected} when the dataset was made")
    return real, problems


def _wrong_keypoints(out: Path, lines: list[ManifestLine]) -> list[str]:
    """Synthetic images without a row in the annotations."""
    try:
        known = set(read_npz(out / ANNOTATIONS_NAME).names.tolist())
    except BadInput as error:
        return [str(error)]
    lacking = [line for line in lines if synthetic_name(line.source, line.copy) not in known]
    if not lacking:
        return []
    return [f"{ANNOTATIONS_NAME}: lacks {len(lacking)} synthetic images, such as {lacking[0].file}"]
