"""A page about an augmented dataset: how many images and poses each identity has before and after, and samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xingaug.augment.gate import KeptCounts
from xingaug.keypoints import Keypoints
from xingaug.report.figures import bars_svg, png_uri, skeleton
from xingaug.report.page import image_rows, paragraph, table, write_page

_WORST = 10  # identities of the gate's table


@dataclass(frozen=True, eq=False)
class DatasetFigures:
    """The figures of the page.

    Attributes:
        real: number of real training images.
        synthetic: number of synthetic training images.
        images_of_identity: (I, 2) number of real and of all training images of each identity.
        groups: number of clusters of similar poses in the bank.
        before: (2, N) identity and cluster of each real image; cluster -1 if unknown.
        after: (2, M) the same for all images.
        counts: images kept by the quality gate, by identity; None without a gate.
        unused: number of real images or copies that could not be rendered, by reason.
        rejected: some of the images that the gate rejected.
        sections: headings and HTML at the start of the page.
    """

    real: int
    synthetic: int
    images_of_identity: np.ndarray
    groups: int
    before: np.ndarray
    after: np.ndarray
    counts: KeptCounts | None
    unused: Mapping[str, int] = field(default_factory=dict)
    rejected: Sequence["PersonRow"] = ()
    sections: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class PersonRow:
    """A synthetic image with its source and target pose.

    Attributes:
        source: uint8 (H, W, 3), the real image.
        pose: () the target pose, in its frame.
        image: uint8 (H, W, 3), the synthetic image.
    """

    source: np.ndarray
    pose: Keypoints
    image: np.ndarray


def write_dataset_page(path: Path, figures: DatasetFigures, samples: Sequence[PersonRow]) -> Path:
    """Writes the page; the same figures and samples give the same bytes.

    Args:
        path: the file, ending in .html.
        figures: the figures.
        samples: the images to show.
    """
    lead = paragraph(
        f"{figures.real} real and {figures.synthetic} synthetic training images of "
        f"{len(figures.images_of_identity)} identities."
    )
    sections = [*figures.sections, ("Images and poses of an identity", _coverage(figures))]
    if samples:
        sections.append(("Samples", _samples(samples)))
    if figures.counts is not None:
        shown = _samples(figures.rejected) if figures.rejected else ""
        sections.append(("Quality gate", _gate(figures.counts) + shown))
    unused = [[reason, str(count)] for reason, count in figures.unused.items() if count]
    if unused:
        sections.append(("Not rendered", table(["", "count"], unused)))
    return write_page(path, "Augmented dataset", lead, sections)


def groups_seen(pids: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Number of clusters in which each identity is seen, by ascending identity; identities in none are left out.

    Args:
        pids: (N,) identity of each image.
        groups: (N,) its cluster; -1 counts as none.
    """
    pairs = np.unique(np.stack([pids, groups])[:, groups >= 0], axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def _coverage(figures: DatasetFigures) -> str:
    before, after = groups_seen(*figures.before), groups_seen(*figures.after)
    real, both = figures.images_of_identity.T
    rows = [
        ["images", "before", *_spread(real)],
        ["", "after", *_spread(both)],
        [f"clusters of similar poses, of {figures.groups}", "before", *_spread(before)],
        ["", "after", *_spread(after)],
    ]
    bars = "".join(
        paragraph(head) + bars_svg(np.bincount(seen, minlength=int(after.max()) + 1)[1:], _ACROSS, "identities")
        for head, seen in (("Before", before), ("After", after))
        if len(seen)
    )
    return table(["per identity", "", "least", "median", "mean", "most"], rows) + bars


_ACROSS = "clusters of similar poses that an identity is seen in"


def _spread(counts: np.ndarray) -> list[str]:
    if not len(counts):
        return ["-"] * 4
    return [str(counts.min()), f"{np.median(counts):g}", f"{counts.mean():.1f}", str(counts.max())]


def _gate(counts: KeptCounts) -> str:
    judged, kept = counts.judged.total(), counts.kept.total()
    text = f"{kept} of {judged} rendered images were kept ({kept / max(judged, 1):.1%})."
    worst = [(pid, share) for pid, share in counts.shares().items() if share < 1][:_WORST]
    if not worst:
        return paragraph(text)
    rows = [[str(pid), str(counts.judged[pid]), f"{share:.0%}"] for pid, share in worst]
    return paragraph(f"{text} Identities with the lowest share:") + table(["identity", "rendered", "kept"], rows)


def _samples(samples: Sequence[PersonRow]) -> str:
    size = samples[0].source.shape[:2]
    rows = [
        [
            png_uri(sample.source),
            png_uri(skeleton(sample.pose.xy.numpy(), sample.pose.visibility.numpy(), (size[0], size[1]), scale=1)),
            png_uri(sample.image),
        ]
        for sample in samples
    ]
    return image_rows(rows, ["real", "pose", "synthetic"])
