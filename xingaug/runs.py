"""Checks that a run directory is absent, empty, or holds an earlier run with the same settings."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xingaug.config import from_mapping, read_yaml, to_mapping, to_yaml
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.inputs import read_json, read_text

SHOWN = 4
"""Most differences that a message lists."""

_MOST_BYTES = 1_000_000

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")


def require_own(folder: Path, marker: str, hint: str) -> None:
    """Raises `BadInput` unless a folder is absent, empty, or holds a run's file `marker`.

    Hidden files, such as locks and leftovers of killed processes, do not count.

    Args:
        folder: the run directory.
        marker: the file with the run's settings.
        hint: what to do otherwise, for the message.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise BadInput(f"{folder}: is no directory; {hint}")
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if there and marker not in there:
        raise BadInput(f"{folder}: not empty and without {marker}, but holds {there[0]}; {hint}")


def require_same(where: Path, before: Mapping[str, Any], now: Mapping[str, Any], hint: str) -> None:
    """Raises `BadInput` unless a run was made with the same settings.

    Args:
        where: the file or directory of the settings, for the message.
        before: the settings of the existing run.
        now: the settings of this command.
        hint: what to do otherwise, for the message.
    """
    # Hashes say least: counts and settings first.
    different = sorted(differences(before, now), key=lambda one: _HASH.search(one) is not None)
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise BadInput(f"{where}: was made with {'; '.join(different[:SHOWN])}{more}; {hint}")


def settings_of(file: Path, kind: type[Any]) -> dict[str, Any]:
    """The settings in the YAML file of a run; those that its version did not have yet get their defaults.

    Args:
        file: the configuration that the run wrote.
        kind: the configuration's class.
    """
    written = read_yaml(file)
    try:
        settings: dict[str, Any] = to_mapping(from_mapping(kind, written, str(file)))
    except BadInput:  # of a version with other keys, which are then named as a difference
        return written
    return settings


def require_same_config(file: Path, config: Any, hint: str) -> None:
    """As `require_same`, for the YAML file with a run's configuration."""
    if read_text(file, "configuration") != to_yaml(config):
        require_same(file.parent, settings_of(file, type(config)), to_mapping(config), hint)


def require_same_or_write(file: Path, now: Mapping[str, Any], hint: str) -> None:
    """As `require_same`, for the JSON file with a run's settings, which is written if it is missing."""
    if not file.exists():
        with atomic_write(file, durable=True) as temporary:
            temporary.write_text(json.dumps(dict(now), indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = read_json(file, "settings of a run", _MOST_BYTES)
    except BadInput:
        before = None
    if not isinstance(before, dict):
        raise BadInput(f"{file}: does not say what it was made with; {hint}")
    require_same(file, before, now, hint)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """Differences between two nested settings, each in half a sentence; `above`: dotted key prefix."""
    found = []
    for key in dict.fromkeys([*now, *before]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{above}{key}.")
        elif old != new:
            found.append(f"{above}{key} = {old!s:.200}, now it is {new!s:.200}")
    return found
