"""The output directory of a generated dataset: one process at a time, one configuration, nothing half-written."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xingaug.errors import BadInput
from xingaug.files import LOCK_NAME, atomic_write, locked
from xingaug.inputs import read_json
from xingaug.runs import require_own, require_same_or_write

CONFIG_NAME = "config.json"
HINT = "use the same to continue, or name a new directory"

Facts = Mapping[str, Any]


@contextmanager
def claimed(out: Path, facts: Facts) -> Iterator[None]:
    """Locks `out` for this process while the block runs.

    An absent or empty directory gets a `config.json`; one with the same facts is continued, and temporary files of a
    killed process are removed. The kernel holds the lock, on an empty file `.lock` that is not deleted: it is released
    when the process ends, however that happens.

    Args:
        out: the directory.
        facts: everything that the content depends on.

    Raises:
        BadInput: `out` holds something else, belongs to other facts, is in use, or cannot be written.
    """
    require_own(out, CONFIG_NAME, HINT)
    with locked(out / LOCK_NAME, f"{out}: another process is generating into it; wait for it or name another one"):
        for leftover in out.rglob(".*.tmp"):
            leftover.unlink()
        require_same_or_write(out / CONFIG_NAME, facts, HINT)
        yield


def read_facts(out: Path) -> dict[str, Any]:
    """The facts in the `config.json` of `out`; empty if it is missing or cannot be read."""
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
    """Copies or hard-links a file, overwriting any old one."""
    if not link:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(source.resolve(), target)
