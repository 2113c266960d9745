"""Patterns of file paths, such as `{pid:d}_{camid:d}_*.jpg`, as regular expressions."""

import re
from dataclasses import dataclass
from typing import Literal

FieldKind = Literal["number", "text"]

_TOKEN = re.compile(r"(\{[^{}]*\}|\*)")
_FIELDS: dict[str, tuple[str, FieldKind]] = {
    "{pid:d}": ("pid", "number"), "{pid}": ("pid", "text"),
    "{camid:d}": ("camid", "number"), "{camid}": ("camid", "text"),
}  # fmt: skip
_NUMBER, _TEXT = r"\d{1,15}", r"[^/]+?"

MAX_OPEN = 5
"""Fields and `*` in one part of a path: `*{pid}*{camid}*` needs no more, and trying all their lengths takes long."""


@dataclass(frozen=True)
class Template:
    """A pattern, taken apart.

    Attributes:
        text: as it was written.
        expression: fits the whole path of an image; its groups are `pid` and `camid`.
        depth: number of folders above an image.
        kinds: what `pid` and `camid` are; a field that the pattern lacks is not there.
    """

    text: str
    expression: re.Pattern[str]
    depth: int
    kinds: dict[str, FieldKind]


def parse_template(text: str) -> Template:
    """Takes a pattern apart.

    `{pid:d}` and `{camid:d}` stand for digits, `{pid}` and `{camid}` for the shortest text without `/` that fits, `*`
    for anything without `/`; all else for itself. A field that stands twice must be the same text in both places.

    Raises:
        ValueError: an unknown field, no `pid`, fields without text between them, or a path that leaves its folder.
    """
    parts: list[str] = []
    kinds: dict[str, FieldKind] = {}
    last_was_open = False
    for token in (token for token in _TOKEN.split(text) if token):
        is_open = _TOKEN.fullmatch(token) is not None
        if is_open and last_was_open:
            raise ValueError(f"pattern: '{text}': '{token}' follows another field; needed text between them")
        last_was_open = is_open
        if token == "*":
            parts.append("[^/]*")
        elif token in _FIELDS:
            name, kind = _FIELDS[token]
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(f"pattern: '{text}': {name} stands as a number and as text; needed one of them")
            opening = f"(?P={name})" if f"(?P<{name}>" in "".join(parts) else None
            parts.append(opening or f"(?P<{name}>{_NUMBER if kind == 'number' else _TEXT})")
        elif is_open:
            raise ValueError(f"pattern: '{text}': unknown field {token}; known: {', '.join(_FIELDS)}")
        elif "{" in token or "}" in token:
            raise ValueError(f"pattern: '{text}': a brace without its partner; fields: {', '.join(_FIELDS)}")
        else:
            parts.append(re.escape(token))
    for part in text.split("/"):
        count = len(_TOKEN.findall(part))
        if count > MAX_OPEN:
            raise ValueError(f"pattern: '{text}': {count} fields and * in '{part}', needed at most {MAX_OPEN}")
    if "pid" not in kinds:
        raise ValueError(f"pattern: '{text}': says no identity; needed {{pid:d}} or {{pid}}")
    if {"", ".", ".."} & set(text.split("/")):
        raise ValueError(f"pattern: '{text}': needed a path below the folder, without '..' and doubled '/'")
    return Template(text, re.compile("".join(parts), re.ASCII), text.count("/"), kinds)
