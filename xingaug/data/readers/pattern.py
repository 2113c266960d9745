"""Folders of any layout, described by a pattern of the paths in them.

```yaml
layout: pattern
root: crops                   # relative to the YAML file
train:   {folder: train, pattern: "{pid:d}_{camid:d}_*.jpg"}
query:   {folder: query, pattern: "{pid:d}_{camid:d}_*.jpg"}
gallery: {folder: test,  pattern: "{pid:d}_{camid:d}_*.jpg"}
```

For a split whose paths contain no camera, `camid: N` beside the pattern sets one for all of its images.
"""

from pathlib import Path
from typing import get_args

import numpy as np

from xingaug.data.names import SplitName
from xingaug.data.readers.config import DatasetConfig
from xingaug.data.readers.index import Index, read_index
from xingaug.data.readers.template import Template, parse_template
from xingaug.data.split import MissingSplit, Split
from xingaug.errors import BadInput


def read(config: DatasetConfig, root: Path, split: SplitName, where: Path) -> Split:
    """Reads the index of one split; opens no image.

    Identities and cameras that are text are numbered from 1 in alphabetical order over all splits, so that a number
    means the same in each. Names are paths below `root`.

    Args:
        config: the description.
        root: the dataset's folder.
        split: which one.
        where: the YAML file, for messages.

    Raises:
        MissingSplit: it is not described, or has no folder.
        BadInput: no file matches, or an identity or camera is 0 where that is not allowed.
    """
    described = getattr(config, split)
    if described is None:
        raise MissingSplit(f"{where}: describes no {split}; add `{split}: {{folder: ..., pattern: ...}}`")
    template = parse_template(described.pattern)
    if split != "train" and described.camid is None and "camid" not in template.kinds:
        raise BadInput(
            f"{where}: {split}: '{template.text}' has no camera, and evaluation ignores gallery images of the query's "
            "own camera; needed {camid:d} or {camid} in it, or `camid: N` beside it, with different numbers for query "
            "and gallery"
        )
    folder = root / described.folder
    index = read_index(folder, template)
    if not len(index.names):
        example = f"{index.stray_count} files there, such as {index.strays[0]}" if index.stray_count else "no file"
        raise BadInput(f"{folder}: nothing fits '{template.text}' of {where} ({example})")
    notes = [] if not index.stray_count else [_strays_note(folder, template, index)]
    pids, camids = index.pids, index.camids
    if described.camid is not None:
        camids = np.full(len(index.names), described.camid, np.int64)
    if template.kinds["pid"] == "text":
        pids = _numbered("pid", pids, config, root, split, notes)
    if template.kinds.get("camid") == "text":
        camids = _numbered("camid", camids, config, root, split, notes)
    _require_usable(index, pids, camids, split, f"{where}: {split}")
    prefix = "" if described.folder == "." else f"{described.folder}/"
    names = index.names if not prefix else np.char.add(prefix, index.names)
    return Split(root, split, names, pids, camids, "", tuple(notes))


def texts_of(config: DatasetConfig, split: Split) -> list[tuple[str, str]]:
    """N times identity and camera: the text of the path where the pattern has one, else the number."""
    described = getattr(config, split.split)
    template = parse_template(described.pattern)
    prefix = "" if described.folder == "." else f"{described.folder}/"
    labels = []
    for name, (pid, camid) in zip(split.names.tolist(), split.labels(), strict=True):
        fields = template.fields(name.removeprefix(prefix)) or {}
        texts = {field: fields[field] for field, kind in template.kinds.items() if kind == "text" and field in fields}
        labels.append((texts.get("pid", pid), texts.get("camid", camid)))
    return labels


def _strays_note(folder: Path, template: Template, index: Index) -> str:
    examples = ", ".join(index.strays.tolist())
    return f"{folder}: {index.stray_count} files do not fit '{template.text}' or are no images: {examples}"


def _numbered(
    field: str, texts: np.ndarray, config: DatasetConfig, root: Path, split: SplitName, notes: list[str]
) -> np.ndarray:
    """Numbers the texts of a split from 1, by their alphabetical order over all splits."""
    everywhere = [texts]
    for other in get_args(SplitName):
        described = getattr(config, other)
        if described is not None and other != split:
            template = parse_template(described.pattern)
            if field in template.kinds and (root / described.folder).is_dir():
                index = read_index(root / described.folder, template)
                everywhere.append(index.pids if field == "pid" else index.camids)
    known = np.unique(np.concatenate(everywhere))
    what = {"pid": "identities", "camid": "cameras"}[field]
    notes.append(f"{what} are numbered in the order of their names, 1 is {known[0]}, {len(known)} is {known[-1]}")
    return np.searchsorted(known, texts).astype(np.int64) + 1


def _require_usable(index: Index, pids: np.ndarray, camids: np.ndarray, split: SplitName, where: str) -> None:
    """Raises `BadInput` for identity 0 (a distractor) outside the gallery, and for camera 0."""
    if split != "gallery" and (pids == 0).any():
        name = index.names[pids == 0][0]
        raise BadInput(f"{where}: {name} has identity 0, which means a distractor; {{pid}} numbers them from 1")
    if (camids == 0).any():
        raise BadInput(f"{where}: {index.names[camids == 0][0]} has camera 0; {{camid}} numbers them from 1")
