"""Runs a pose estimator over a whole dataset: images decoded ahead, in batches, resumable."""

import csv
import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xingaug.data.annotations import Annotations, write_npz
from xingaug.data.fitting import MOST_OUTSIDE
from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write
from xingaug.images import bytes_to_unit, read_image
from xingaug.keypoints import JOINTS, MIN_VISIBLE, Keypoints
from xingaug.poses.estimators import Estimator
from xingaug.poses.parts import Parts, PosePart
from xingaug.progress import ProgressBar

NOBODY = "nobody found"
"""Reason for rejecting a readable image in which no joint was found."""

_PART = 64  # images per part, about: a killed run loses at most one part

# An image, or the reason why it cannot be read.
_Decoded = np.ndarray | str


@dataclass(frozen=True, eq=False)
class Annotated:
    """Result of annotating a dataset.

    Attributes:
        annotations: keypoints of the images in which a person was found, in the order of the names.
        unreadable: the reason why an image could not be read, by name.
        joints_outside: number of joints found outside their image; they count as missing.
        resumed: number of images done by an earlier, interrupted run.
        images_per_second: speed of this run, decoding included; 0 if nothing was left to do.
    """

    annotations: Annotations
    unreadable: dict[str, str]
    joints_outside: int
    resumed: int
    images_per_second: float


def annotate(
    names: list[str],
    paths: Sequence[Path],
    estimator: Estimator,
    out: Path,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    restart: bool = False,
) -> Annotated:
    """Finds the joints of the person in each image and writes the native .npz.

    Finished parts are kept in `<out>.parts` until `out` is written, so a killed run continues when it is started again,
    and writes the same bytes as an uninterrupted one. An image that cannot be read does not stop the run. Images that
    are unreadable or show nobody are left out of the file; a person with fewer than `MIN_VISIBLE` joints is kept, but
    pose banks skip it.

    Args:
        names: (N,) names of the images, each once.
        paths: (N,) their files.
        estimator: the pose estimator.
        out: the .npz to write.
        settings: everything else the result depends on, as JSON; a run with other settings does not continue this one.
        batch_size: images per batch; another size may change results by rounding, so it counts as a setting.
        workers: threads that decode ahead; None is one per core, 8 at most.
        restart: discard the work of an interrupted run.

    Raises:
        BadInput: a number out of range, `out` cannot be written, its parts belong to another run or are in use, or the
            estimator does not return pixels of the images.
        WorkFailed: nobody was found in any image.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise BadInput(f"batch_size {batch_size}, workers {workers}: needed both at least 1")
    if out.is_dir():
        raise BadInput(f"{out}: is a directory; name a file")
    facts = {
        "estimator": estimator.name,
        **(settings or {}),
        "batch_size": batch_size,
        "images": len(names),
        "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "files_sha256": hashlib.sha256("\n".join(map(_state, paths)).encode()).hexdigest(),
    }
    parts = Parts(out.with_name(out.name + ".parts"))
    with parts.claimed(facts, restart):
        rows = _rows_of_parts(len(names), batch_size)
        todo = [number for number, part in enumerate(rows) if parts.read(number, len(part)) is None]
        left = sum(len(rows[number]) for number in todo)
        start = time.perf_counter()
        _work(todo, rows, paths, estimator, parts, batch_size, workers or min(8, os.cpu_count() or 1))
        rate = left / max(time.perf_counter() - start, 1e-9)
        whole = _join(parts, rows)
        wrong = _not_pixels(whole)
        if wrong:
            parts.remove()  # must not block a run with another estimator
            raise BadInput(f"{estimator.name}: {wrong}; needed pixels of each image")
        found = (whole.visibility > 0).any(1)
        unreadable = {names[row]: str(whole.unreadable[row]) for row in np.flatnonzero(whole.unreadable != "")}
        if not found.any():
            first = next(iter(unreadable.items()), None)
            parts.remove()  # must not block a run with other settings
            reason = f"; {len(unreadable)} are unreadable, the first {first[0]}: {first[1]}" if first else ""
            raise WorkFailed(f"nobody was found in any of {len(names)} images{reason}")
        annotations = Annotations(
            np.array(names, dtype=str)[found],
            whole.xy[found],
            whole.visibility[found],
            source_of(estimator, facts),
        )
        write_npz(out, annotations.names, annotations.xy, annotations.visibility, annotations.source)
        parts.remove()
    return Annotated(annotations, unreadable, int(whole.outside.sum()), len(names) - left, rate)


def _not_pixels(whole: PosePart) -> str | None:
    """Why an estimator's output cannot be pixels, or None; same rules as `xingaug.data.fitting.require_fitting`."""
    seen, outside = whole.visibility > 0, int(whole.outside.sum())
    total = int(seen.sum()) + outside
    if outside > MOST_OUTSIDE * total:
        return f"puts {outside} of {total} joints outside their images"
    if seen.any() and np.abs(whole.xy[seen]).max() <= 1:
        return "gives no coordinate beyond 1, as shares of an image's size are"
    return None


def rejected(
    annotations: Annotations, names: Sequence[str], unreadable: Mapping[str, str], absent: str
) -> list[tuple[str, str]]:
    """The images without a usable pose, in order, each with the reason.

    Args:
        annotations: the annotations.
        names: names of all images.
        unreadable: reasons for unreadable images, by name.
        absent: the reason for every other image without annotation: `NOBODY`, or that it has no row.
    """
    rows = annotations.lookup(names)
    counts = np.append((annotations.visibility > 0).sum(1), 0)[rows]  # row -1 is none
    reasons = []
    for name, row, count in zip(names, rows.tolist(), counts.tolist(), strict=True):
        if name in unreadable:
            reasons.append((name, f"unreadable: {unreadable[name]}"))
        elif row < 0:
            reasons.append((name, absent))
        elif count == 0:
            reasons.append((name, NOBODY))
        elif count < MIN_VISIBLE:
            reasons.append((name, f"too few joints: {count}, needed {MIN_VISIBLE}"))
    return reasons


def count_rejected(reasons: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number of rejected images by reason, such as `nobody_found` or `too_few_joints`; the most frequent first."""
    kinds = Counter(reason.partition(":")[0].replace(" ", "_") for _, reason in reasons)
    return dict(kinds.most_common())


def write_rejected(path: Path, reasons: Sequence[tuple[str, str]]) -> None:
    """Writes a CSV `name,reason`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("name", "reason"), *reasons])


def _state(path: Path) -> str:
    """Size and modification time of a file, to notice that it was changed without reading it."""
    try:
        found = path.stat()
    except OSError:
        return ""  # reported when the image is read
    return f"{found.st_size} {found.st_mtime_ns}"


def _rows_of_parts(count: int, batch_size: int) -> list[range]:
    step = batch_size * max(1, _PART // batch_size)
    return [range(first, min(first + step, count)) for first in range(0, count, step)]


def _work(
    todo: Sequence[int],
    rows: Sequence[range],
    paths: Sequence[Path],
    estimator: Estimator,
    parts: Parts,
    batch_size: int,
    workers: int,
) -> None:
    """Computes and writes the parts `todo`."""
    left = sum(len(rows[number]) for number in todo)
    images = _decoded((paths[row] for number in todo for row in rows[number]), workers, batch_size + workers)
    count = sum(map(len, rows))
    with ProgressBar[None](None, "annotate", total=count, initial=count - left) as bar:
        for number in todo:
            batches = []
            for first in range(0, len(rows[number]), batch_size):
                size = min(batch_size, len(rows[number]) - first)
                batches.append(_part_of(estimator, [next(images) for _ in range(size)]))
                bar.update(size)
            parts.write(number, _concatenate(batches))


def _part_of(estimator: Estimator, decoded: Sequence[_Decoded]) -> PosePart:
    """The estimator's result for a batch, in which some images may be unreadable."""
    xy = np.zeros((len(decoded), len(JOINTS), 2), np.float32)
    visibility = np.zeros((len(decoded), len(JOINTS)), np.float32)
    outside = np.zeros(len(decoded), np.int64)
    unreadable = np.array([image if isinstance(image, str) else "" for image in decoded])
    readable = [(row, image) for row, image in enumerate(decoded) if not isinstance(image, str)]
    if readable:
        tensors = [bytes_to_unit(torch.from_numpy(image)) for _, image in readable]
        alike = len({tensor.shape for tensor in tensors}) == 1
        persons = estimator(torch.stack(tensors) if alike else tensors).to("cpu")
        for (row, image), person in zip(readable, _each(persons), strict=True):
            kept = person.crop(0, 0, (image.shape[0], image.shape[1]))
            outside[row] = int((person.present & ~kept.present).sum())
            visibility[row] = kept.visibility.numpy()
            xy[row] = kept.xy.where(kept.present[:, None], 0).numpy()
    return PosePart(xy, visibility, outside, unreadable)


def _each(persons: Keypoints) -> list[Keypoints]:
    return [Keypoints(xy, visibility) for xy, visibility in zip(persons.xy, persons.visibility, strict=True)]


def _decoded(paths: Iterable[Path], workers: int, ahead: int) -> Iterator[_Decoded]:
    """The images in order, at most `ahead` of them decoded and not yet taken."""
    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Decoded]] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(_decode, path))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode(path: Path) -> _Decoded:
    try:
        return read_image(path)
    except BadInput as error:
        return str(error).removeprefix(f"{path}: ")


def _join(parts: Parts, rows: Sequence[range]) -> PosePart:
    """Joins all parts, without holding them in memory twice."""
    count = sum(map(len, rows))
    xy = np.zeros((count, len(JOINTS), 2), np.float32)
    visibility = np.zeros((count, len(JOINTS)), np.float32)
    outside = np.zeros(count, np.int64)
    unreadable = np.full(count, "", dtype=object)
    for number, span in enumerate(rows):
        part = parts.read(number, len(span))
        if part is None:
            raise WorkFailed(f"{parts.folder}: part {number} was removed while the work went on; start it again")
        here = slice(span.start, span.stop)
        xy[here], visibility[here] = part.xy, part.visibility
        outside[here], unreadable[here] = part.outside, part.unreadable
    return PosePart(xy, visibility, outside, unreadable)


def _concatenate(batches: Sequence[PosePart]) -> PosePart:
    keys = ("xy", "visibility", "outside", "unreadable")
    return PosePart(*(np.concatenate([getattr(batch, key) for batch in batches]) for key in keys))


def source_of(estimator: Estimator, settings: Mapping[str, Any]) -> str:
    """One line for the file: the estimator, and the minimum confidence if one was set."""
    least = settings.get("min_confidence")
    return estimator.name + (f", confidence {least:g} and above" if least is not None else "")
