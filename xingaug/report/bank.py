"""A page about a pose bank: a map of its poses, the size of its clusters, and what each sampler draws from it."""

from pathlib import Path

import numpy as np

from xingaug.errors import BadInput
from xingaug.poses.bank import PoseBank
from xingaug.poses.samplers import SAMPLERS, sample
from xingaug.poses.spacing import evenly_spaced
from xingaug.report.dataset import groups_seen
from xingaug.report.figures import bars_svg, map_png, png_uri, skeleton
from xingaug.report.page import image_rows, image_wall, paragraph, table, write_page

DRAWS = 8
"""Number of epochs whose draws are shown for each sampler."""

_THUMBNAIL = np.array([0.05, 0.1])  # width and height of a skeleton on the map, as a share of the points' extent
_POINTS = 4000  # most points of the map: more only hide each other


def bank_wall(bank: PoseBank, count: int) -> str:
    """Skeletons of `count` usable poses, evenly spaced through the bank, as HTML."""
    rows = bank.usable_rows
    chosen = rows[evenly_spaced(len(rows), min(count, len(rows)))]
    return image_wall([_uri(bank, row) for row in chosen], "pose")


def write_bank_page(bank: PoseBank, path: Path, count: int = 120, name: str | None = None) -> Path:
    """Writes an HTML page about a bank; returns its path.

    Args:
        bank: the poses.
        path: the file, ending in .html.
        count: number of skeletons at the end of the page.
        name: image that every sampler draws for; None is the bank's first image with a name.

    Raises:
        BadInput: a path that does not end in .html, a count below 1, or an image without a usable pose in the bank.
    """
    if path.suffix != ".html":
        raise BadInput(f"{path}: expected a name that ends in .html")
    if count < 1:
        raise BadInput(f"count: {count}, needed at least 1")
    row = _row_of(bank, name)
    groups = len(bank.by_cluster.sizes)
    identities = np.unique(bank.pids[bank.usable & (bank.pids >= 0)])
    lead = paragraph(
        f"{len(bank)} poses, {len(bank.usable_rows)} of them usable, of {len(identities)} identities under "
        f"{len(np.unique(bank.camids[bank.usable & (bank.camids >= 0)]))} cameras, in {groups} clusters of similar "
        "poses."
    )
    sections = [
        ("Map", _map(bank)),
        ("Clusters of similar poses", _groups(bank)),
        ("Cameras", _cameras(bank)),
        *([("Identities", _identities(bank))] if len(identities) else []),
        *([(f"What samplers draw for {bank.names[row]}", _drawn(bank, row))] if row is not None else []),
        (f"{min(count, len(bank.usable_rows))} of the poses", bank_wall(bank, count)),
    ]
    return write_page(path, "Pose bank", lead, sections)


def _uri(bank: PoseBank, row: int) -> str:
    return png_uri(_drawing(bank, row))


def _drawing(bank: PoseBank, row: int) -> np.ndarray:
    return skeleton(bank.xy[row], bank.visibility[row], bank.frame, scale=1)


def _row_of(bank: PoseBank, name: str | None) -> int | None:
    """The row whose draws are shown; None in a bank without names."""
    if name is not None:
        own = bank.positions_named(name)
        if not own:
            raise BadInput(f"name: the bank has no usable pose of '{name}'")
        return int(bank.usable_rows[own[0]])
    named = bank.usable_rows[bank.names[bank.usable_rows] != ""]
    return int(named[0]) if len(named) else None


def _middles(bank: PoseBank) -> list[int]:
    """The row of each cluster whose descriptor is nearest to the cluster's mean."""
    groups, middles = bank.by_cluster, []
    for start, size in zip(groups.starts, groups.sizes, strict=True):
        rows = bank.usable_rows[groups.members[start : start + size]]
        described = bank.descriptors[rows]
        middles.append(int(rows[((described - described.mean(0)) ** 2).sum(1).argmin()]))
    return middles


def _map(bank: PoseBank) -> str:
    """The bank's first two principal components, coloured by rarity, with a skeleton for each cluster."""
    usable = bank.usable_rows
    rows = usable[evenly_spaced(len(usable), min(_POINTS, len(usable)))]
    centre = bank.descriptors[rows].mean(0)
    described = bank.descriptors[rows] - centre
    spread, axes = np.linalg.eigh(described.T @ described)  # ascending
    axes = axes[:, :-3:-1]
    points = described @ axes
    by_size = np.array(_middles(bank))[np.argsort(-np.array(bank.by_cluster.sizes), kind="stable")]
    positions = (bank.descriptors[by_size] - centre) @ axes
    kept = _apart(positions, np.ptp(points, axis=0).max() * _THUMBNAIL)
    picture = map_png(points, bank.rarity[rows], positions[kept], [_drawing(bank, row) for row in by_size[kept]])
    share = spread[-2:].sum() / max(float(spread.sum()), 1e-12)
    return (
        paragraph(
            f"The first two principal components of the descriptors, {share:.0%} of their variance. A point is a pose, "
            "yellow if it is rare; a skeleton is the middle of its cluster, shown where there is room.",
            "soft",
        )
        + f'<img style="width:100%" src="{picture}" alt="map of the bank">'
    )


def _apart(positions: np.ndarray, size: np.ndarray) -> list[int]:
    """Indices of positions (n, 2), chosen in order, whose boxes of `size` (2,) do not overlap."""
    kept: list[int] = []
    for index, position in enumerate(positions):
        if all((np.abs(position - positions[other]) >= size).any() for other in kept):
            kept.append(index)
    return kept


def _groups(bank: PoseBank) -> str:
    sizes = np.array(bank.by_cluster.sizes)
    order = np.argsort(-sizes, kind="stable")
    middles = _middles(bank)
    text = (
        f"The middle pose of each cluster, from the largest ({sizes.max()} poses) to the smallest "
        f"({sizes.min()}). The sampler diverse draws all clusters equally often, gap those that an identity lacks."
    )
    labels = [f"{sizes[group] / sizes.sum():.1%}" for group in order]
    return paragraph(text, "soft") + image_wall([_uri(bank, middles[group]) for group in order], "cluster", labels)


def _cameras(bank: PoseBank) -> str:
    camids, clusters = bank.camids[bank.usable_rows], bank.clusters[bank.usable_rows]
    groups = len(bank.by_cluster.sizes)
    rows = []
    for camid in np.unique(camids).tolist():
        here = camids == camid
        rarity = float(np.median(bank.rarity[bank.usable_rows][here]))
        seen = len(np.unique(clusters[here]))
        label = f"camera {camid}" if camid >= 0 else "unknown"
        rows.append([label, str(here.sum()), f"{here.mean():.1%}", f"{seen} of {groups}", f"{rarity:.2f}"])
    return table(["", "poses", "share", "clusters seen", "median rarity"], rows)


def _identities(bank: PoseBank) -> str:
    """Number of clusters in which the identities were seen."""
    pids, clusters = bank.pids[bank.usable_rows], bank.clusters[bank.usable_rows]
    covered = groups_seen(pids[pids >= 0], clusters[pids >= 0])
    groups = len(bank.by_cluster.sizes)
    text = (
        f"Half of the identities were seen in at most {int(np.median(covered))} of {groups} clusters, the best covered "
        f"in {covered.max()}."
    )
    counts = np.bincount(covered, minlength=covered.max() + 1)[1:]
    return paragraph(text, "soft") + bars_svg(counts, "clusters that an identity was seen in", "identities")


def _drawn(bank: PoseBank, row: int) -> str:
    """The source's skeleton, and the draws of every sampler in the first epochs."""
    name = str(bank.names[row])
    source = bank.keypoints([row])
    parts = []
    for sampler in SAMPLERS:
        drawn = [
            int(sample(bank, sampler, source, [name], bank.pids[[row]], bank.camids[[row]], epoch=epoch)[0])
            for epoch in range(DRAWS)
        ]
        uris = [_uri(bank, found) for found in (row, *drawn) if found >= 0]
        labels = ["source", *(f"epoch {epoch}" for epoch, found in enumerate(drawn) if found >= 0)]
        parts.append(paragraph(sampler) + image_rows([uris], labels, wide=True))
    return "".join(parts)
