"""Verifies a generated dataset: hashes, labels, counts, and that every image can be read."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xingaug.data.annotations import read_npz
from xingaug.data.market1501 import FOLDERS, parse_name
from xingaug.data.names import MANIFEST_NAME
from xingaug.data.readers import open_dataset
from xingaug.errors import BadInput
from xingaug.images import MAX_BYTES, decode_image
from xingaug.inputs import parse_json, read_bytes
from xingaug.offline.describe import ANNOTATIONS_NAME, REAL_NAME, read_real
from xingaug.offline.formats import SHARDS, hash_of, labels_name, member_name, read_shard
from xingaug.offline.manifest import ManifestLine, read_manifest, synthetic_name
from xingaug.offline.same_layout import DONE_NAME, labels_of
from xingaug.offline.target import CONFIG_NAME, read_facts
from xingaug.progress import ProgressBar

THREADS = 8


@dataclass(frozen=True)
class Verdict:
    """Result of a verification.

    Attributes:
        real: number of real images listed, in a folder those of query and gallery too.
        synthetic: number of synthetic images listed.
        problems: one line each; empty if the dataset is complete and intact.
    """

    real: int
    synthetic: int
    problems: list[str]


def verify(out: Path, progress: bool = True) -> Verdict:
    """Checks a dataset against its manifest and its list of real images; writes nothing.

    Args:
        out: a directory written by `generate`, or by `augment` in a dataset's own layout.
        progress: show a bar if stderr is a terminal.

    Raises:
        BadInput: it is another directory, or the run has not finished.
    """
    facts = read_facts(out)
    if not facts and (out / DONE_NAME).is_file():
        return _verify_own_layout(out, progress)
    if not facts:
        raise BadInput(f"{out}: holds no {CONFIG_NAME} of generate; needed a directory that generate wrote")
    if not (out / MANIFEST_NAME).exists():
        raise BadInput(f"{out}: has no {MANIFEST_NAME} yet; start generate again to finish it, then verify")
    lines, real = read_manifest(out / MANIFEST_NAME), read_real(out)
    wrong = {id(line): list(_wrong_labels(line)) for line in lines}
    problems = [problem for line in lines for problem in wrong[id(line)]]
    problems += _doubled(lines)
    problems += [f"{REAL_NAME}: {file} leaves the directory" for file in real if not _stays_inside(file)]
    hashes = {**real, **{line.file: line.sha256 for line in lines}}
    hashes = {file: sha256 for file, sha256 in hashes.items() if _stays_inside(file)}
    if facts.get("format") == "webdataset":
        problems += _check_shards(out, hashes, {line.file: line for line in lines}, progress)
    else:
        rendered = {line.file for line in lines}
        problems += _check_files(out, hashes, _images_in_folders(out), rendered, progress)
    labelled = [synthetic_name(line.source, line.copy) for line in lines if not wrong[id(line)]]
    problems += _wrong_keypoints(out, labelled)
    return Verdict(len(real), len(lines), problems)


def _verify_own_layout(out: Path, progress: bool) -> Verdict:
    """As `verify`, for a dataset in another layout than Market-1501's, whose reader tells the labels."""
    lines, real, dataset = read_manifest(out / MANIFEST_NAME), read_real(out), open_dataset(out)
    hashes = {**real, **{line.file: line.sha256 for line in lines}}
    problems = _doubled(lines) + [f"{file}: leaves the directory" for file in hashes if not _stays_inside(file)]
    hashes = {file: sha256 for file, sha256 in hashes.items() if _stays_inside(file)}
    splits = dataset.read_all()
    labels = {file: read for split in splits.values() for file, read in labels_of(dataset, split).items()}
    problems += _check_files(out, hashes, labels.keys(), {line.file for line in lines}, progress)
    numbers: dict[tuple[int, int], tuple[str, str]] = {}  # the manifest's, of labels that are text
    for line in lines:
        read = labels.get(line.file)
        if read is not None and numbers.setdefault((line.pid, line.camid), read) != read:
            problems.append(f"{line.file}: labelled {line.pid}, camera {line.camid}, but read as {read}")
        for name in dict.fromkeys((line.source, line.reference)):
            if read is not None and labels.get(name, read) != read:
                problems.append(f"{line.file}: made of {name}, which is of another person or camera")
    if "train" not in splits:
        problems.append(f"{out}: has no training images")
    return Verdict(len(real), len(lines), problems + _wrong_keypoints(out, [line.file for line in lines]))


def _doubled(lines: Sequence[ManifestLine]) -> list[str]:
    count = len(lines) - len({line.file for line in lines})
    return [f"{MANIFEST_NAME}: {count} images have two lines"] if count else []


def _stays_inside(file: str) -> bool:
    path = Path(file)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in file


def _wrong_labels(line: ManifestLine) -> Iterator[str]:
    """Contradictions within a line."""
    if not _stays_inside(line.file):
        yield f"{line.file}: leaves the directory"
        return
    try:
        source, expected = parse_name(line.source), synthetic_name(line.source, line.copy)
        rendered = parse_name(line.reference)
    except ValueError as error:
        yield f"{line.file}: {error}"
        return
    if Path(line.file).name not in (expected, member_name(expected)):
        yield f"{line.file}: copy {line.copy} of {line.source} is named {expected}"
    if (source.pid, source.camid) != (line.pid, line.camid):
        yield f"{line.file}: labelled {line.pid}, camera {line.camid}, its source {source.pid}, camera {source.camid}"
    if (rendered.pid, rendered.camid) != (source.pid, source.camid):
        yield f"{line.file}: rendered from {line.reference}, needed an image of the person and camera of {line.source}"


def _images_in_folders(out: Path) -> set[str]:
    return {
        f"{folder}/{path.name}"
        for folder in FOLDERS.values()
        for path in (out / folder).glob("*")
        if path.suffix.lower() in (".jpg", ".jpeg")  # a .png may be a mask
    }


def _check_files(
    out: Path, hashes: Mapping[str, str], present: Set[str], rendered: Set[str], progress: bool
) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda file: _wrong_file(out, file, hashes[file], file in rendered), hashes)
        bar = ProgressBar(found, "verifying", total=len(hashes), shown=progress)
        problems = [problem for problem in bar if problem]
    return problems + [_unlisted(file) for file in sorted(present - hashes.keys())]


def _check_shards(out: Path, hashes: Mapping[str, str], lines: Mapping[str, ManifestLine], progress: bool) -> list[str]:
    present = {f"{SHARDS}/{path.name}" for path in (out / SHARDS).glob("*.tar")}
    shards = sorted(present | {file.rpartition("/")[0] for file in hashes})
    problems, seen = [], set()
    for shard in ProgressBar(shards, "verifying", unit="shard", shown=progress):
        try:
            members = read_shard(out / shard)
        except (BadInput, OSError) as error:
            problems.append(f"{shard}: cannot be read ({error})")
            continue
        for file, data in ((f"{shard}/{name}", data) for name, data in members.items() if name.endswith(".jpg")):
            seen.add(file)
            wrong = _wrong_image(data, file, hashes[file], file in lines) if file in hashes else _unlisted(file)
            problems += [wrong] if wrong else []
            if not _fits(members.get(labels_name(file.rpartition("/")[2])), file, lines.get(file)):
                problems.append(f"{labels_name(file)}: missing, or its labels do not match the image")
    return problems + [f"{file}: missing" for file in hashes if file not in seen]


def _fits(labels: bytes | None, file: str, line: ManifestLine | None) -> bool:
    """Whether the labels of an image in a shard match its name, or its line in the manifest."""
    try:
        about = parse_json((labels or b"").decode(), file)
        if line is not None:
            expected = {key: getattr(line, key) for key in ("pid", "camid", "source", "copy")}
            expected |= {"synthetic": True, "keypoints": line.target_keypoints}
            return bool(about == expected)
        name = Path(file).name
        pid, camid = re.fullmatch(r"(-?\d+)_c(\d+).*", name).groups()  # type: ignore[union-attr]
        return (about["pid"], about["camid"], about["synthetic"]) == (int(pid), int(camid), False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _unlisted(file: str) -> str:
    return f"{file}: neither in {MANIFEST_NAME} nor in {REAL_NAME}"


def _wrong_file(out: Path, file: str, sha256: str, is_rendered: bool) -> str | None:
    try:
        return _wrong_image(read_bytes(out / file, "image", MAX_BYTES), file, sha256, is_rendered)
    except (BadInput, OSError) as error:
        return str(error).removeprefix(f"{out}/")


def _wrong_image(data: bytes, file: str, sha256: str, is_rendered: bool) -> str | None:
    if hash_of(data) != sha256:
        return f"{file}: has changed since it was written"
    try:
        image = decode_image(data, file)
    except BadInput as error:
        return str(error)
    if is_rendered and (image == image[0, 0]).all():
        return f"{file}: has one colour throughout and shows no person; generate it with other weights"
    return None


def _wrong_keypoints(out: Path, names: Sequence[str]) -> list[str]:
    """Synthetic images without a row in the annotations."""
    try:
        known = set(read_npz(out / ANNOTATIONS_NAME).names.tolist())
    except BadInput as error:
        return [str(error)]
    lacking = [name for name in names if name not in known]
    if not lacking:
        return []
    return [f"{ANNOTATIONS_NAME}: lacks {len(lacking)} synthetic images, such as {lacking[0]}"]
