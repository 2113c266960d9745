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
    """What is counted.

    Attributes:
        real: real training images.
        synthetic: synthetic ones.
        images_of_identity: (I, 2) real and all training images of each identity.
        groups: groups of alike poses in the bank.
        before: (2, N) identity and group of each real image; group -1 where it is unknown.
        after: (2, M) the same of all images.
        counts: what the quality gate let through, by identity; None without a gate.
        unused: real images that could not be rendered, by reason, and copies that were not.
        rejected: some of the images that the gate did not let through.
        sections: headings and HTML of what comes before all this.
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
    """A synthetic image and what it was made from.

    Attributes:
        source: uint8 (H, W, 3).
        pose: () the joints asked for, in its frame.
        image: uint8 (H, W, 3), the synthetic one.
    """

    source: np.ndarray
    pose: Keypoints
    image: np.ndarray


def write_dataset_page(path: Path, figures: DatasetFigures, samples: Sequence[PersonRow]) -> Path:
    """Writes the page; the same figures and samples give the same bytes.

    Args:
        path: ends in .html.
        figures: what is counted.
        samples: what is shown.
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
    """For each identity that has one at all, ascending, how many groups of alike poses its images are in.

    Args:
        pids: (N,) identity of each image.
        groups: (N,) its group; -1 counts as none.
    """
    pairs = np.unique(np.stack([pids, groups])[:, groups >= 0], axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def _coverage(figures: DatasetFigures) -> str:
    before, after = groups_seen(*figures.before), groups_seen(*figures.after)
    real, both = figures.images_of_identity.T
    rows = [
        ["images", "before", *_spread(real)],
        ["", "after", *_spread(both)],
        [f"groups of alike poses, of {figures.groups}", "before", *_spread(before)],
        ["", "after", *_spread(after)],
    ]
    bars = "".join(
        paragraph(head) + bars_svg(np.bincount(seen, minlength=int(after.max()) + 1)[1:], _ACROSS, "identities")
        for head, seen in (("Before", before), ("After", after))
        if len(seen)
    )
    return table(["of an identity", "", "least", "median", "mean", "most"], rows) + bars


_ACROSS = "groups of alike poses that an identity is seen in"


def _spread(counts: np.ndarray) -> list[str]:
    if not len(counts):
        return ["-"] * 4
    return [str(counts.min()), f"{np.median(counts):g}", f"{counts.mean():.1f}", str(counts.max())]


def _gate(counts: KeptCounts) -> str:
    judged, kept = counts.judged.total(), counts.kept.total()
    text = f"Of {judged} rendered images {kept} were kept ({kept / max(judged, 1):.1%})."
    worst = [(pid, share) for pid, share in counts.shares().items() if share < 1][:_WORST]
    if not worst:
        return paragraph(text)
    rows = [[str(pid), str(counts.judged[pid]), f"{share:.0%}"] for pid, share in worst]
    return paragraph(f"{text} The identities that lost most:") + table(["identity", "rendered", "kept"], rows)


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
