"""A page that shows a pose bank."""

from pathlib import Path

import numpy as np

from xingaug.errors import BadInput
from xingaug.poses.bank import PoseBank
from xingaug.report.figures import png_uri, skeleton
from xingaug.report.page import image_wall, paragraph, write_page


def bank_wall(bank: PoseBank, count: int) -> str:
    """Skeletons of `count` usable poses at equal distances through the bank, as HTML."""
    rows = bank.usable_rows
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    uris = [png_uri(skeleton(bank.xy[row], bank.visibility[row], bank.frame, scale=1)) for row in chosen]
    return image_wall(uris, "pose")


def write_bank_page(bank: PoseBank, path: Path, count: int = 120) -> Path:
    """Writes an HTML page of skeletons; returns its path."""
    if path.suffix != ".html":
        raise BadInput(f"{path}: expected a name that ends in .html")
    if count < 1:
        raise BadInput(f"count: {count}, needed at least 1")
    lead = paragraph(
        f"{len(bank)} poses, {len(bank.usable_rows)} of them usable, {len(np.unique(bank.pids))} identities."
    )
    return write_page(
        path, "Pose bank", lead, [(f"{min(count, len(bank.usable_rows))} of them", bank_wall(bank, count))]
    )
