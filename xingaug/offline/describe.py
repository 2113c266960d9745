"""Writes what describes a generated dataset: keypoints, manifest, and an HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from xingaug.augment.gate import KeptCounts
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import write_npz
from xingaug.data.names import MANIFEST_NAME
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.images import read_image
from xingaug.inputs import read_text
from xingaug.offline.coverage import groups_of
from xingaug.offline.job import Job
from xingaug.offline.journal import REJECTED_NAME, Entry, write_entries
from xingaug.offline.manifest import ManifestLine, write_manifest
from xingaug.offline.plan import Items
from xingaug.offline.render import Renderer, WorkPart, decode, rounded, threads_of
from xingaug.poses.spacing import evenly_spaced
from xingaug.report.dataset import DatasetFigures, PersonRow, write_dataset_page

ANNOTATIONS_NAME = "annotations.npz"
PAGE_NAME = "report.html"
REAL_NAME = "real.sha256"
UNREADABLE_NAME = "unreadable.txt"

_MAX_LIST_BYTES = 500_000_000

SHOWN = 12
"""Synthetic images on the page."""

_STATES = {"lost": -1, "rejected": 0, "kept": 1}


class Outcome:
    """The state of every requested image: kept, rejected by the gate, or lost (its reference cannot be decoded).

    Attributes:
        parts: the parts of all rounds.
    """

    def __init__(self) -> None:
        """Starts empty, before the first round."""
        self.parts: list[WorkPart] = []
        self._states: list[np.ndarray] = []  # one (n,) int8 per part
        self._last = 0

    def add(self, parts: Sequence[WorkPart], renderer: Renderer) -> None:
        """Adds the results of a round from the journal."""
        self._last = len(self.parts)
        for part in parts:
            names = part.items.names(renderer.sources)
            known = {
                entry.name: int(entry.sha256 is not None) for entry in renderer.journal.entries(part.number, names)
            }
            self.parts.append(part)
            self._states.append(np.array([known.get(name, _STATES["lost"]) for name in names], np.int8))

    def count(self, state: str) -> int:
        """How many images are in a state."""
        return sum(int((states == _STATES[state]).sum()) for states in self._states)

    def items(self, state: str, first: int = 0) -> Items:
        """The images in a state, in the parts from `first` on."""
        found = [
            part.items[states == _STATES[state]]
            for part, states in zip(self.parts[first:], self._states[first:], strict=True)
        ]
        return Items.of(found)

    def positions(self, state: str) -> np.ndarray:
        """(n, 2) positions of the images in a state: in `parts`, and within the part."""
        rows = [np.flatnonzero(states == _STATES[state]) for states in self._states]
        return np.concatenate([np.stack([np.full(len(r), number), r], axis=1) for number, r in enumerate(rows)])

    def rejected_last(self) -> Items:
        """The images of the last round that the gate rejected."""
        return self.items("rejected", self._last)

    def lost(self) -> list[int]:
        """Rows of the images that could not be decoded."""
        return np.unique(self.items("lost").references).tolist()


def describe(
    job: Job, outcome: Outcome, real: Mapping[str, str], sections: Sequence[tuple[str, str]] = (), is_new: bool = True
) -> None:
    """Writes keypoints, page, the hashes of real images and, last of all, the manifest; then deletes the journal.

    Args:
        job: the run.
        outcome: the states of its synthetic images.
        real: SHA-256 of its real ones, by path.
        sections: headings and HTML at the start of the page.
        is_new: whether this run rendered any image; if not, the page of a finished dataset is left unchanged.
    """
    config, renderer = job.config, job.renderer
    kept = outcome.items("kept")
    poses = renderer.poses(kept)
    rows = job.annotations.lookup(job.real.names)
    rows = rows[rows >= 0]
    write_npz(
        config.out / ANNOTATIONS_NAME,
        [*job.annotations.names[rows].tolist(), *kept.names(job.sources)],
        np.concatenate([job.annotations.xy[rows], poses.xy.numpy()]),
        np.concatenate([job.annotations.visibility[rows], poses.visibility.numpy()]),
        source="xingaug generate",
    )
    if is_new or not all((config.out / name).exists() for name in (PAGE_NAME, MANIFEST_NAME)):
        _write_page(job, outcome, kept, sections)
    if config.gate is not None:
        write_entries(config.out / REJECTED_NAME, _rejected(job, outcome))
    write_real(config.out, real)
    write_manifest(config.out / MANIFEST_NAME, _lines(job, outcome))
    renderer.journal.remove()


def write_unreadable(out: Path, names: Sequence[str]) -> None:
    """Lists the images that could not be read; no list if there are none."""
    if not names:
        (out / UNREADABLE_NAME).unlink(missing_ok=True)
        return
    with atomic_write(out / UNREADABLE_NAME) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")


def write_real(out: Path, hashes: Mapping[str, str]) -> None:
    """Lists the real images, as paths below `out`, with their SHA-256; `sha256sum --check` reads it in a folder."""
    with atomic_write(out / REAL_NAME) as temporary:
        lines = "".join(f"{sha256}  {file}\n" for file, sha256 in hashes.items())
        temporary.write_text(lines, encoding="utf-8", newline="\n")


def read_real(out: Path) -> dict[str, str]:
    """SHA-256 of the real images by path, as written by `describe`.

    Raises:
        BadInput: no such list.
    """
    try:
        lines = read_text(out / REAL_NAME, "list of real images", _MAX_LIST_BYTES).splitlines()
    except BadInput as error:
        raise BadInput(f"{error}; start generate again to write it") from None
    pairs = (line.partition("  ") for line in lines)
    return {file: sha256 for sha256, _, file in pairs}


def _entries(job: Job, part: WorkPart) -> list[Entry]:
    return job.renderer.journal.entries(part.number, part.items.names(job.sources))


def _rejected(job: Job, outcome: Outcome) -> Iterator[Entry]:
    for part in outcome.parts:
        yield from (entry for entry in _entries(job, part) if entry.sha256 is None)


def _lines(job: Job, outcome: Outcome) -> Iterator[ManifestLine]:
    aug, store, split = job.renderer.aug, job.renderer.store, job.sources.split
    for part in outcome.parts:
        known = {entry.name: entry for entry in _entries(job, part)}
        sources = part.items.sources
        poses = rounded(job.renderer.poses(part.items))
        for i, name in enumerate(part.items.names(job.sources)):
            entry = known.get(name)
            if entry is None or entry.sha256 is None:
                continue
            yield ManifestLine(
                file=store.file(part.number, name),
                sha256=entry.sha256,
                source=str(split.names[sources[i]]),
                pid=int(split.pids[sources[i]]),
                camid=int(split.camids[sources[i]]),
                copy=int(part.items.copies[i]),
                reference=str(split.names[part.items.references[i]]),
                bank_row=int(part.items.bank_rows[i]),
                target_keypoints=poses[i],
                sampler=job.config.sampler,
                fit=job.config.fit,
                seed=job.config.seed,
                gate=entry.gate,
                generator=str(aug.generator.content_hash),
                bank=aug.bank.content_hash,
            )


def _write_page(job: Job, outcome: Outcome, kept: Items, sections: Sequence[tuple[str, str]]) -> None:
    bank, split = job.renderer.aug.bank, job.sources.split
    before = np.stack([split.pids, groups_of(bank, split.names.tolist(), job.sources.keypoints, job.renderer.aug.size)])
    after = np.concatenate([before, np.stack([split.pids[kept.sources], bank.clusters[kept.bank_rows]])], axis=1)
    counts = KeptCounts()
    counts.add(split.pids[kept.sources].tolist(), [True] * len(kept))
    rejected = outcome.items("rejected")
    counts.add(split.pids[rejected.sources].tolist(), [False] * len(rejected))
    figures = DatasetFigures(
        real=len(job.real),
        synthetic=len(kept),
        images_of_identity=_images_of_identity(job, kept),
        groups=len(bank.by_cluster.sizes),
        before=before,
        after=after,
        counts=counts if job.config.gate is not None else None,
        unused={
            "real images without annotation": job.sources.without_annotation,
            "real images with fewer than 8 joints inside them": job.sources.unusable_keypoints,
            "images that cannot be read": len(job.unreadable()),
            "copies for which the sampler found no pose": job.without_pose,
        },
        rejected=_shown_rejected(job, rejected),
        sections=sections,
    )
    write_dataset_page(job.config.out / PAGE_NAME, figures, _shown(job, outcome))


def _shown_rejected(job: Job, rejected: Items) -> list[PersonRow]:
    """Some images that the gate rejected, rendered again because rejected images are not stored."""
    if not len(rejected):
        return []
    items = rejected[evenly_spaced(len(rejected), min(SHOWN, len(rejected)))]
    aug = job.renderer.aug
    ungated = XingPose(
        aug.generator, aug.bank, p=1.0, sampler=aug.sampler, seed=aug.seed, fit=aug.fit,
        dtype=aug.core.dtype, runtime=aug.core.runtime,
    )  # fmt: skip
    renderer = Renderer(ungated, job.sources, job.renderer.store, job.renderer.journal, job.renderer.batch_size)
    with threads_of(renderer.device):
        pictures = {entry.name: sample for entry, sample in renderer.batch(items) if sample is not None}
    poses, rows = renderer.poses(items), []
    for i, (name, row) in enumerate(zip(items.names(job.sources), items.references.tolist(), strict=True)):
        if name in pictures:
            real = read_image(job.sources.split.path(row), aug.size)
            rows.append(PersonRow(real, poses[i], decode(pictures[name].image)))
    return rows


def _images_of_identity(job: Job, kept: Items) -> np.ndarray:
    """(identities, 2) number of real and of all training images of each."""
    pids = np.unique(job.train.pids)
    real = np.searchsorted(pids, job.real.pids)
    synthetic = np.searchsorted(pids, job.sources.split.pids[kept.sources])
    of_real = np.bincount(real, minlength=len(pids))
    return np.stack([of_real, of_real + np.bincount(synthetic, minlength=len(pids))], axis=1)


def _shown(job: Job, outcome: Outcome) -> list[PersonRow]:
    """Some synthetic images with their sources and poses, evenly spaced through the dataset."""
    positions, rows = outcome.positions("kept"), []
    for index in evenly_spaced(len(positions), min(SHOWN, len(positions))).tolist() if len(positions) else []:
        part, i = outcome.parts[positions[index][0]], positions[index][1]
        item = part.items[i : i + 1]
        (name,) = item.names(job.sources)
        rows.append(
            PersonRow(
                source=read_image(job.sources.split.path(int(item.references[0])), job.renderer.aug.size),
                pose=job.renderer.poses(item)[0],
                image=decode(job.renderer.store.read(part.number, name)),
            )
        )
    return rows
