"""Patterns of file paths, such as `{pid:d}_{camid:d}_*.jpg`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

FieldKind = Literal["number", "text"]
OpenKind = Literal["number", "text", "any", "again"]

_TOKEN = re.compile(r"(\{[^{}]*\}|\*)")
_FIELDS: dict[str, tuple[str, FieldKind]] = {
    "{pid:d}": ("pid", "number"), "{pid}": ("pid", "text"),
    "{camid:d}": ("camid", "number"), "{camid}": ("camid", "text"),
}  # fmt: skip
_DIGITS = re.compile(r"[0-9]{1,15}")

QUICK = 1
"""Up to this many variable-length fields a regular expression is fastest; it backtracks over all their lengths."""

MAX_REPEATED = 4
"""Most fields and `*` in one part of a path if a field is repeated, as every length must then be tried in full."""


@dataclass(frozen=True)
class Open:
    """A field or `*` of a pattern, and the literal text after it.

    Attributes:
        kind: the kind of a new field, `again` for a repeated field, or `any` for a `*`.
        name: name of the field; empty for a `*`.
        then: the literal text up to the next field or `*`, or the end.
    """

    kind: OpenKind
    name: str
    then: str


@dataclass(frozen=True)
class Template:
    """A parsed pattern.

    Attributes:
        text: the pattern as written.
        start: the literal text before the first field or `*`.
        opens: the fields and `*`, in order.
        depth: number of folders above an image.
        kinds: the kinds of `pid` and `camid`, of those that the pattern has.
    """

    text: str
    start: str
    opens: tuple[Open, ...]
    depth: int
    kinds: dict[str, FieldKind]

    def fields(self, path: str) -> dict[str, str] | None:
        """The `pid` and `camid` of a path; None if it does not match as a whole.

        Of several possible matches it is the one of a regular expression: from left to right, numbers and `*` match as
        much as possible, texts as little as possible.
        """
        if self.trials <= QUICK:
            match = self.expression.fullmatch(path)
            return None if match is None else match.groupdict()
        return self.fields_of_many(path)

    @cached_property
    def trials(self) -> int:
        """Number of fields and `*` of variable length, less one per part of the path, whose end fixes that one."""
        parts = "".join(
            {"any": "*", "text": "*"}.get(one.kind, "") + re.sub("[^/]", "", one.then) for one in self.opens
        )
        return sum(max(0, len(part) - 1) for part in parts.split("/"))

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """The pattern as a regular expression, whose groups are its fields."""
        ways = {"any": "[^/]*", "number": r"(?P<%s>\d{1,15})", "text": "(?P<%s>[^/]+?)", "again": "(?P=%s)"}
        parts = [
            (ways[one.kind] % one.name if one.name else ways[one.kind]) + re.escape(one.then) for one in self.opens
        ]
        return re.compile(re.escape(self.start) + "".join(parts), re.ASCII)

    def fields_of_many(self, path: str) -> dict[str, str] | None:
        """As `fields`, for any number of fields and `*`.

        Positions from which a field or `*` cannot match are remembered and not tried again, so that the time grows with
        the length of the path and not with a power of it.
        """
        if not path.startswith(self.start) or not path.endswith(self.opens[-1].then):
            return None
        found: dict[str, str] = {}
        return found if self._fits(path, 0, len(self.start), found, {}) else None

    def _fits(self, path: str, number: int, at: int, found: dict[str, str], failed: dict[object, int]) -> bool:
        """Whether `path` matches from position `at`, where element `number` of `opens` begins; fills `found`.

        Args:
            path: the whole path.
            number: index of the element.
            at: position where it begins.
            found: the fields before it.
            failed: first position at which an element has failed, by its index, the fields repeated after it and,
                for a text or `*`, the end of its part of the path (for others its position): a text or `*` that starts
                later in the same part can only match a subset.
        """
        element, is_last = self.opens[number], number + 1 == len(self.opens)
        end_of_part = path.find("/", at) if element.kind in ("any", "text") else at
        before = [found.get(one.name) for one in self.opens[number:] if one.kind == "again"]
        key = (number, end_of_part, *before)
        if at >= failed.get(key, len(path) + 1):
            return False
        for end in _ends(element, path, at, failed.get(key), found, is_last):
            if element.name:
                found[element.name] = path[at:end]
            if is_last or self._fits(path, number + 1, end + len(element.then), found, failed):
                return True
        failed[key] = at
        return False


def _ends(element: Open, path: str, at: int, failed: int | None, found: dict[str, str], is_last: bool) -> Iterator[int]:
    """Where a field or `*` that begins at `at` may end, followed by its literal text, the preferred end first.

    Ends that a start at `failed` would reach have been tried already.
    """
    then, size = element.then, len(element.then)
    if element.kind == "again":
        low = high = at + len(found[element.name]) if path.startswith(found[element.name], at) else -1
    elif element.kind == "number":
        digits = _DIGITS.match(path, at)
        low, high = at + 1, digits.end() if digits else -1
    else:
        shortest, slash = int(element.kind == "text"), path.find("/", at)
        low, high = at + shortest, len(path) if slash < 0 else slash
        if failed is not None:
            high = min(high, failed + shortest - 1)
    if is_last:
        low, high = max(low, len(path) - size), min(high, len(path) - size)
    if element.kind == "text":
        end = path.find(then, low, high + size)
        while end >= 0:
            yield end
            end = path.find(then, end + 1, high + size)
    else:
        end = path.rfind(then, low, high + size) if low <= high else -1
        while end >= 0:
            yield end
            end = path.rfind(then, low, end + size - 1) if end > low else -1


def parse_template(text: str) -> Template:
    """Parses a pattern.

    `{pid:d}` and `{camid:d}` match digits, `{pid}` and `{camid}` the shortest possible text without `/`, `*` anything
    without `/`; all else is literal. A repeated field must match the same text both times.

    Raises:
        ValueError: an unknown field, no `pid`, fields without text between them, or a path that leaves its folder.
    """
    texts, kinds, opens = [""], dict[str, FieldKind](), list[tuple[OpenKind, str]]()
    for token in (token for token in _TOKEN.split(text) if token):
        is_open = _TOKEN.fullmatch(token) is not None
        if is_open and opens and not texts[-1]:
            raise ValueError(f"pattern: '{text}': '{token}' follows another field; needed text between them")
        if token in _FIELDS:
            name, kind = _FIELDS[token]
            opens.append(("again" if name in kinds else kind, name))
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(f"pattern: '{text}': {name} stands as a number and as text; needed one of them")
        elif token == "*":
            opens.append(("any", ""))
        elif is_open:
            raise ValueError(f"pattern: '{text}': unknown field {token}; known: {', '.join(_FIELDS)}")
        elif "{" in token or "}" in token:
            raise ValueError(f"pattern: '{text}': a brace without its partner; fields: {', '.join(_FIELDS)}")
        else:
            texts[-1] = token
        if is_open:
            texts.append("")
    if "pid" not in kinds:
        raise ValueError(f"pattern: '{text}': says no identity; needed {{pid:d}} or {{pid}}")
    if {"", ".", ".."} & set(text.split("/")):
        raise ValueError(f"pattern: '{text}': needed a path below the folder, without '..' and doubled '/'")
    for part in text.split("/") if any(kind == "again" for kind, _ in opens) else ():
        count = len(_TOKEN.findall(part))
        if count > MAX_REPEATED:
            raise ValueError(
                f"pattern: '{text}': a field stands twice, and {count} fields and * in '{part}', "
                f"needed at most {MAX_REPEATED}"
            )
    elements = tuple(Open(kind, name, then) for (kind, name), then in zip(opens, texts[1:], strict=True))
    return Template(text, texts[0], elements, text.count("/"), kinds)
