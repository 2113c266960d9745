"""The directory that a dataset is generated into: one owner at a time, one configuration, nothing half-written."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xingaug.errors import BadInput
from xingaug.files import LOCK_NAME, atomic_write, locked
from xingaug.inputs import read_json

CONFIG_NAME = "config.json"

Facts = Mapping[str, Any]


@contextmanager
def claimed(out: Path, facts: Facts) -> Iterator[None]:
    """Holds `out` for this process while the block runs.

    A directory that is absent or empty is taken and gets its `config.json`; one with the same facts is continued, and
    temporary files that a killed process left are removed. The lock is the kernel's, on an empty file `.lock` that
    stays: it ends with the process, however that ends.

    Args:
        out: the directory.
        facts: everything that the content depends on.

    Raises:
        BadInput: `out` holds something else, belongs to other facts, is in use, or cannot be written.
    """
    _require_ours(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOCK_NAME).touch()
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); name another directory") from None
    with locked(out / LOCK_NAME, f"{out}: another process is generating into it; wait for it or name another one"):
        for leftover in out.rglob(".*.tmp"):
            leftover.unlink()
        if (out / CONFIG_NAME).exists():
            _require_same(out / CONFIG_NAME, facts)
        else:
            with atomic_write(out / CONFIG_NAME, durable=True) as temporary:
                temporary.write_text(json.dumps(dict(facts), indent=2) + "\n", encoding="utf-8")
        yield


def read_facts(out: Path) -> dict[str, Any]:
    """What the content of `out` depends on, as its `config.json` says; empty where there is none that can be read."""
    try:
        facts = read_json(out / CONFIG_NAME, "configuration", 1_000_000)
    except BadInput:
        return {}
    return facts if isinstance(facts, dict) else {}


def require_linkable(folders: Sequence[Path], out: Path) -> None:
    """Raises `BadInput` unless hard links from `out`, which need not exist, to files in `folders` are possible."""
    parent = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    for folder in folders:
        if parent.stat().st_dev != folder.stat().st_dev:
            raise BadInput(f"{out}: on another file system than {folder}, which hard links cannot cross; use real=copy")


def copy_or_link(source: Path, target: Path, link: bool) -> None:
    """Copies or hard-links a file, in place of what may be there."""
    if not link:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(source.resolve(), target)


def _require_ours(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise BadInput(f"{out}: is not a directory; name a new one")
    foreign = [p for p in out.iterdir() if p.name != LOCK_NAME and not (p.name[0] == "." and p.suffix == ".tmp")]
    if foreign and not (out / CONFIG_NAME).exists():
        raise BadInput(f"{out}: not empty and without {CONFIG_NAME}, so not made by generate; name a new directory")


def _require_same(path: Path, facts: Facts) -> None:
    there = read_facts(path.parent)
    if not there:
        raise BadInput(f"{path}: not a configuration of generate; name a new directory")
    different = [key for key in dict.fromkeys([*facts, *there]) if there.get(key) != facts.get(key)]
    if different:
        said = "; ".join(f"{key} = {there.get(key)!s:.200}, now it is {facts.get(key)!s:.200}" for key in different)
        raise BadInput(f"{path}: was made with {said}; use the same to continue, or name a new directory")
