"""Reads what `xingaug show` displays, from any dataset or one written by `generate` or `augment`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xingaug.data.annotations import read_annotations
from xingaug.data.names import FOLDERS, MANIFEST_NAME
from xingaug.data.readers import open_dataset
from xingaug.errors import BadInput
from xingaug.offline.describe import ANNOTATIONS_NAME
from xingaug.offline.journal import read_rejected
from xingaug.offline.manifest import read_manifest
from xingaug.report.show import Rendering, write_show_page


@dataclass(frozen=True)
class Shown:
    """Contents of the page.

    Attributes:
        page: its path.
        images: number of training images.
        identities: number of their identities.
        renderings: number of synthetic images among them, by the manifest.
        rejected: number of images that the gate rejected.
    """

    page: Path
    images: int
    identities: int
    renderings: int
    rejected: int


def show_dataset(where: Path, page: Path | None = None, annotations: Path | None = None) -> Shown:
    """Writes a page to click through the training images of a dataset; see `write_show_page`.

    Args:
        where: a dataset's folder, or a YAML file that describes one.
        page: the file, ending in .html; None is `show.html` in the folder.
        annotations: keypoints, .npz or .csv; None is `annotations.npz` in the folder, if there is one.

    Raises:
        BadInput: no such dataset, a damaged manifest, no such annotations, or a page that does not end in .html.
    """
    folder = where if where.is_dir() else where.parent
    page = page or folder / "show.html"
    if page.suffix != ".html":
        raise BadInput(f"--page: {page}, expected a name that ends in .html")
    train = open_dataset(where).read("train")
    prefix = "" if train.folder == "" else f"{train.folder or FOLDERS['train']}/"
    file = annotations or folder / ANNOTATIONS_NAME
    poses = {}
    if annotations is not None or file.exists():
        table = read_annotations(file)
        rows = table.lookup(train.names)
        joints = np.concatenate([table.xy, table.visibility[..., None]], axis=-1)
        poses = {
            f"{prefix}{name}": joints[row] for name, row in zip(train.names, rows.tolist(), strict=True) if row >= 0
        }
    lines = read_manifest(folder / MANIFEST_NAME) if (folder / MANIFEST_NAME).exists() else []
    renderings = {line.file: Rendering(line.reference, line.target_keypoints, line.gate) for line in lines}
    rejected = [entry.name for entry in read_rejected(folder)]
    write_show_page(page, train, poses, renderings, rejected)
    there = sum(train.file(i) in renderings for i in range(len(train)))
    return Shown(page, len(train), len(np.unique(train.pids)), there, len(rejected))
