"""Opens datasets of every known layout: a folder recognised by its files, or a YAML file that describes one."""

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

from xingaug.config import load_config, read_yaml
from xingaug.data import market1501
from xingaug.data.names import FOLDERS, SplitName
from xingaug.data.readers import cuhk03, deepfashion, msmt17, pattern, veri
from xingaug.data.readers.config import DatasetConfig, Layout
from xingaug.data.renderings import renderings_below
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput
from xingaug.files import require_no_links_out
from xingaug.inputs import read_bytes

_log = logging.getLogger(__name__)

_MARKERS: dict[Layout, tuple[str, ...]] = {
    "market1501": (FOLDERS["train"], FOLDERS["gallery"]),  # "query" is a name that any folder may have
    "msmt17": msmt17.MARKERS,
    "cuhk03": cuhk03.MARKERS,
    "veri": veri.MARKERS,
    "deepfashion": deepfashion.MARKERS,
}
"""A folder that holds one of these has the layout; tried in this order."""

DESCRIPTION_NAME = "dataset.yaml"
"""A folder that holds a description of this name is the dataset that it describes."""

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Dataset:
    """A dataset whose layout is known.

    Attributes:
        where: the folder or YAML file that the user passed.
        root: the folder of the images.
        config: the description; built from the recognised layout if the user passed a folder.
    """

    where: Path
    root: Path
    config: DatasetConfig

    def __str__(self) -> str:
        """The folder or YAML file that the user passed."""
        return str(self.where)

    def read(self, split: SplitName) -> Split:
        """The index of one split; opens no image.

        Raises:
            MissingSplit: the dataset has no such split.
            BadInput: files are missing or do not follow the layout.
            ValueError: there is no split of that name.
        """
        if split not in get_args(SplitName):
            raise ValueError(f"split: {split!r}, needed one of {', '.join(get_args(SplitName))}")
        read: dict[Layout, Callable[[], Split]] = {
            "market1501": lambda: market1501.read_split(self.root, split),
            "msmt17": lambda: msmt17.read(self.root, split, self.config.with_val),
            "cuhk03": lambda: cuhk03.read(self.root, split, self.config.kind or "detected"),
            "veri": lambda: veri.read(self.root, split),
            "deepfashion": lambda: deepfashion.read(self.root, split),
            "pattern": lambda: pattern.read(self.config, self.root, split, self.where),
        }
        found = read[self.config.layout]()
        if self.config.layout == "market1501":  # its names tell
            return found
        return replace(found, renderings=self._renderings)

    @cached_property
    def _renderings(self) -> frozenset[str]:
        return renderings_below(self.root)

    def labels(self, split: Split) -> list[tuple[str, str]]:
        """N times identity and camera of a split of this dataset, as its names have them.

        Numbers may differ between two folders of one layout, as texts are numbered over all images that are there.
        """
        return pattern.texts_of(self.config, split) if self.config.layout == "pattern" else split.labels()

    def read_all(self) -> dict[SplitName, Split]:
        """The splits that the dataset has, at least one; a missing list of MSMT17 is logged as a warning.

        Raises:
            BadInput: as `read`, or the dataset has no split.
        """
        found: dict[SplitName, Split] = {}
        missing: list[MissingSplit] = []
        for split in get_args(SplitName):
            try:
                found[split] = self.read(split)
            except MissingSplit as error:
                missing.append(error)
        if not found:
            raise missing[0]
        if missing and self.config.layout == "msmt17":  # MSMT17 is only published with all of its lists
            _log.warning(missing[0])
        return found

    def require_own_images(self, splits: Mapping[SplitName, Split]) -> None:
        """Raises `BadInput` if an image of the dataset's splits is a link out of its folder."""
        paths = (split.path(i) for split in splits.values() for i in range(len(split)))
        require_no_links_out(self.root, paths, "--follow-links")


def open_dataset(where: "Path | Dataset") -> Dataset:
    """Detects the layout of a dataset; an unknown folder is opened as Market-1501, whose reader says what it lacks.

    Args:
        where: the dataset's folder, which may hold its description (`DESCRIPTION_NAME`), a YAML file (see
            `xingaug.data.readers.config.DatasetConfig`), or an opened dataset.

    Raises:
        BadInput: a YAML file that describes no dataset, another file, or a folder whose subfolder is a dataset.
    """
    if isinstance(where, Dataset):
        return where
    where = Path(where)
    if where.suffix in _SUFFIXES and not where.is_dir():
        config = load_config(DatasetConfig, where)
        root = where.parent / config.root
        if not root.is_dir():
            raise BadInput(f"{where}: root: {config.root}, no such folder; it is relative to {where.parent.resolve()}")
        return Dataset(where, root, config)
    if where.is_file():
        raise BadInput(f"{where}: is a file; needed the folder of a dataset, or a .yaml that describes one")
    layout = layout_of(where)
    if layout is None and is_described(where):
        return open_dataset(where / DESCRIPTION_NAME)
    if layout is None:
        require_none_inside(where)
    return Dataset(where, where, DatasetConfig(layout or "market1501"))


def require_none_inside(folder: Path) -> None:
    """Raises `BadInput` if a subfolder of a folder that is no dataset is one."""
    inner = [child for child in sorted(folder.iterdir()) if child.is_dir()] if folder.is_dir() else []
    found = [child for child in inner if layout_of(child)]
    if found:
        raise BadInput(f"{folder}: is no dataset, but {found[0]} is one in the layout {layout_of(found[0])}; name it")


def is_described(folder: Path) -> bool:
    """Whether a folder holds a description of itself, rather than another program's file of that name.

    Raises:
        BadInput: a description that is not YAML.
    """
    file = folder / DESCRIPTION_NAME
    if not file.is_file():
        return False
    try:
        return "layout" in read_yaml(file)
    except BadInput:
        if re.search(rb"^layout\s*:", read_bytes(file, "description"), re.MULTILINE):
            raise
        return False


def layout_of(folder: Path) -> Layout | None:
    """The layout of a folder, detected from its entries; None if unknown."""
    for layout, markers in _MARKERS.items():
        if any(os.path.exists(folder / marker) for marker in markers):  # False, not an error, in a locked folder
            return layout
    if msmt17.is_without_lists(folder):
        return "msmt17"
    return "deepfashion" if deepfashion.is_without_lists(folder) else None


def read_split(where: Path, split: SplitName) -> Split:
    """The index of one split of any dataset that `open_dataset` opens; errors as there and in `Dataset.read`.

    The reader's notes, such as skipped files, are logged as warnings, each once per process.
    """
    found = open_dataset(where).read(split)
    for note in found.notes:
        _warn_once(note)
    return found


@functools.cache
def _warn_once(note: str) -> None:
    _log.warning(note)


def require_market_tree(where: Path, what: str) -> None:
    """Raises `BadInput` for a dataset of another layout; the message says what to do.

    Args:
        where: the dataset.
        what: what needs a Market-1501 tree, for the message.
    """
    if open_dataset(where).config.layout != "market1501" or where.is_file():
        raise BadInput(
            f"{where}: {what} needs a Market-1501 tree; make one of it with `xingaug import {where} --out TREE`"
        )
