"""Generates an augmented dataset: the real images, and each of them re-rendered in poses from a bank.

The work is a fixed list of synthetic images, split into parts: the pose of each one depends on the seed and its
source's name, its batch on its position in the list. So a part has the same bytes whichever process renders it, and
however often. Images that the quality gate rejects are tried again in other poses, round by round. The manifest is
written last, atomically.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xingaug.data.names import MANIFEST_NAME
from xingaug.errors import BadInput, WorkFailed
from xingaug.offline.config import GenerateConfig
from xingaug.offline.describe import UNREADABLE_NAME, Outcome, describe, write_unreadable
from xingaug.offline.engines import join_processes, run_ray
from xingaug.offline.formats import Expected
from xingaug.offline.job import Job, prepare
from xingaug.offline.journal import Journal
from xingaug.offline.manifest import ManifestLine, read_manifest
from xingaug.offline.plan import Items, replacements
from xingaug.offline.real import place_real
from xingaug.offline.render import Progress, Renderer, WorkPart
from xingaug.offline.resources import free_bytes, require_room
from xingaug.offline.target import claimed, read_facts
from xingaug.poses.spacing import evenly_spaced
from xingaug.progress import ProgressBar
from xingaug.training.processes import Processes


@dataclass(frozen=True)
class Summary:
    """Result of a run.

    Attributes:
        real: number of real training images in the new dataset.
        synthetic: number of synthetic images in the new dataset.
        rendered: synthetic images written by this run; the others existed already.
        rejected: images that the quality gate rejected, of all that were tried.
        given_up: synthetic images that are missing, as the gate rejected all tries.
        without_annotation: real images that have no keypoints.
        unusable_keypoints: real images with fewer than 8 joints inside the image.
        copies_without_pose: synthetic images for which the sampler found no valid pose.
        rendering: dtype, runtime and device, such as "bfloat16 by torch on cpu".
        seconds: duration of the whole run.
        images_per_second: images rendered by this run, kept or not, per second of decoding, rendering and writing.
    """

    real: int
    synthetic: int
    rendered: int
    rejected: int
    given_up: int
    without_annotation: int
    unusable_keypoints: int
    copies_without_pose: int
    rendering: str
    seconds: float
    images_per_second: float


class UnreadableImages(WorkFailed):
    """Some images cannot be read; all else is done."""

    def __init__(self, data: Path, names: Sequence[str], out: Path, summary: Mapping[str, Any]) -> None:
        """Takes what was done.

        Args:
            data: where the images are.
            names: of training images, and paths of test images, as `data` has them.
            out: directory whose unreadable.txt lists them.
            summary: the counts of the run, as of `Summary`.
        """
        self.names, self.summary = list(names), dict(summary)
        super().__init__(
            f"{data}: {len(names)} images cannot be read ({', '.join(names[:3])}), "
            f"all are listed in {out / UNREADABLE_NAME}; everything else is done"
        )


@dataclass(frozen=True)
class Estimate:
    """Size and duration of a run that has not been started.

    Attributes:
        real: number of real training images in the new dataset.
        synthetic: number of synthetic images to render, before the quality gate.
        identities: number of identities with synthetic images.
        parts: number of parts: batches in a folder, or shards.
        batch_size: images per batch.
        bytes: size of the new dataset on disk.
        free_bytes: free space on the disk.
        images_per_second: speed of this machine, from files to encoded images.
        seconds: duration of rendering on this machine.
    """

    real: int
    synthetic: int
    identities: int
    parts: int
    batch_size: int
    bytes: int
    free_bytes: int
    images_per_second: float
    seconds: float


def generate(
    config: GenerateConfig,
    progress: bool = True,
    generator: nn.Module | None = None,
    sections: Sequence[tuple[str, str]] = (),
) -> Summary:
    """Writes an augmented dataset; an interrupted run is continued by the same call.

    Beside the images: `annotations.npz` (keypoints of every annotated training image, real and synthetic),
    `manifest.jsonl` (a line per synthetic image, see `ManifestLine`), `config.json` (all that the content depends on),
    `report.html` (an overview), `real.sha256`, with a gate `rejected.jsonl`, and `unreadable.txt` if an image cannot be
    read. The same configuration and batch size give the same bytes on the same kind of processor. Synthetic images have
    the generator's size. Copy n of an image has the pose that `XingPose` draws for it in epoch n.

    Args:
        config: what to generate.
        progress: show a bar if stderr is a terminal.
        generator: a loaded generator on `config.device`; `config.generator` is then not read.
        sections: headings and HTML at the start of the page.

    Returns:
        Counts and times; under torchrun, those of all processes.

    Raises:
        BadInput: unusable input or output directory; nothing has been written.
        UnreadableImages: some images cannot be read; all else is done.
        WorkFailed: a write failed.
    """
    started = time.perf_counter()
    if config.engine == "ray":
        config = config.with_whole_paths()
    with join_processes(config) as processes:
        job = prepare(config, processes, generator)
        try:
            with ExitStack() as stack:
                _claim(job, processes, stack)
                return _generated(job, processes, started, progress and processes.is_first, generator, sections)
        except OSError as error:
            where = f"{error.filename or config.out}: {error.strerror or error}"
            raise WorkFailed(f"{where}; the finished images are kept, start again to continue") from None


def estimate(config: GenerateConfig, generator: nn.Module | None = None) -> Estimate:
    """Estimates size and duration of `generate` on this machine; writes nothing.

    Args:
        config: as for `generate`.
        generator: as for `generate`.

    Raises:
        BadInput: as `generate`, except for the output directory, which is not checked.
    """
    job = prepare(config, Processes(0, 1, torch.device(config.device)), generator)
    probed = 2 * job.renderer.batch_size * max(1, torch.get_num_threads())
    rate = job.renderer.rate(job.items[evenly_spaced(len(job.items), min(len(job.items), probed))])
    return Estimate(
        real=len(job.real),
        synthetic=len(job.items),
        identities=len(np.unique(job.sources.split.pids[job.items.sources])),
        parts=-(-len(job.items) // job.renderer.store.part_size),
        batch_size=job.renderer.batch_size,
        bytes=job.bytes,
        free_bytes=free_bytes(config.out),
        images_per_second=rate,
        seconds=len(job.items) / rate,
    )


def _claim(job: Job, processes: Processes, stack: ExitStack) -> None:
    """Locks the directory in the first process; every process ends if that fails, or if its own facts differ."""
    refused = ""
    if processes.is_first:
        try:
            if not read_facts(job.config.out):
                require_room(job.config.out, job.bytes)
            stack.enter_context(claimed(job.config.out, job.facts))
        except BadInput as error:
            refused = str(error)
    refused, facts = json.loads(processes.broadcast(json.dumps([refused, job.facts])))
    if refused:
        raise BadInput(refused)
    for key, value in facts.items():
        if job.facts[key] != value:
            raise BadInput(
                f"engine: process {processes.rank} has {key} = {job.facts[key]}, the first one {value}; "
                "needed the same files on every host"
            )


def _generated(
    job: Job,
    processes: Processes,
    started: float,
    progress: bool,
    generator: nn.Module | None,
    sections: Sequence[tuple[str, str]],
) -> Summary:
    job.renderer.journal = Journal(job.config.out, _manifest(job.config.out))
    real = place_real(job, progress) if processes.is_first else {}
    outcome = Outcome()
    items, tried = job.items, job.tried.copy()
    requested = written = 0
    rendering = 0.0
    for _ in range(job.config.tries):
        parts = _cut(items, job.renderer.store.part_size, len(outcome.parts))
        todo = [part for part in processes.portion_of(parts) if not _is_done(part, job.renderer)]
        begin = time.perf_counter()
        for done in _shown(_run(job, todo, generator), job, processes.portion_of(parts), todo, progress):
            requested, written = requested + done.requested, written + done.kept
        rendering += time.perf_counter() - begin
        processes.total(0)  # a barrier: all parts are written
        outcome.add(parts, job.renderer)
        of_identity = job.config.per_identity is not None
        items = replacements(
            job.renderer.aug, job.sources, outcome.rejected_last(), tried, of_identity, job.config.reference
        )
        if not len(items):
            break
    requested, written = processes.total(requested), processes.total(written)
    if processes.is_first:
        describe(job, outcome, real, sections, is_new=requested > 0)
    lost = sorted({str(job.sources.split.names[row]) for row in outcome.lost()} | job.unreadable())
    if processes.is_first:
        write_unreadable(job.config.out, lost)
    summary = Summary(
        real=len(job.real),
        synthetic=outcome.count("kept"),
        rendered=written,
        rejected=outcome.count("rejected"),
        given_up=len(job.items) - outcome.count("kept") - outcome.count("lost"),
        without_annotation=job.sources.without_annotation,
        unusable_keypoints=job.sources.unusable_keypoints,
        copies_without_pose=job.without_pose,
        rendering=job.renderer.aug.core.describe(),
        seconds=time.perf_counter() - started,
        images_per_second=requested / rendering if requested else 0.0,
    )
    if lost:
        raise UnreadableImages(job.config.data, lost, job.config.out, asdict(summary))
    return summary


def _manifest(out: Path) -> list[ManifestLine] | None:
    """The lines of a finished run; None if the manifest is missing or damaged, and images are then rendered again."""
    try:
        return read_manifest(out / MANIFEST_NAME)
    except BadInput:
        return None


def _cut(items: Items, size: int, first: int) -> list[WorkPart]:
    starts = range(0, len(items), size)
    return [WorkPart(first + number, items[start : start + size]) for number, start in enumerate(starts)]


def _is_done(part: WorkPart, renderer: Renderer) -> bool:
    """Whether the journal has all images of a part, and the store has those that were kept."""
    names = part.items.names(renderer.sources)
    known = {entry.name: entry.sha256 for entry in renderer.journal.entries(part.number, names)}
    if len(known) < len(names):
        return False
    labelled = zip(names, renderer.about(part.items), strict=True)
    expected = {name: Expected(sha256, about) for name, about in labelled if (sha256 := known[name]) is not None}
    return renderer.store.holds(part.number, expected)


def _run(job: Job, todo: Sequence[WorkPart], generator: nn.Module | None) -> Iterator[Progress]:
    if todo and job.config.engine == "ray":
        return run_ray(job.config, job.renderer, todo, generator)
    return job.renderer.run(todo)


def _shown(
    done: Iterator[Progress], job: Job, parts: Sequence[WorkPart], todo: Sequence[WorkPart], progress: bool
) -> Iterator[Progress]:
    """Passes progress on and shows it in a bar, with the share of images that the gate keeps."""
    total, left = (sum(len(part.items) for part in several) for several in (parts, todo))
    requested = kept = 0
    with ProgressBar[None](None, "rendering", total=total, initial=total - left, shown=progress) as bar:
        for part in done:
            requested, kept = requested + part.requested, kept + part.kept
            if job.config.gate is not None and requested:
                bar.beside(f"kept {kept / requested:.1%}")
            bar.update(part.requested)
            yield part
