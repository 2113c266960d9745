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
"""Places with a length to be tried up to which a regular expression is the fastest; it tries all of them together."""

MAX_REPEATED = 4
"""Fields and `*` in one part of a path where a field stands twice: what it is must be tried with every rest."""


@dataclass(frozen=True)
class Open:
    """A place of a pattern that takes any of several texts, and the text behind it.

    Attributes:
        kind: a new field's, `again` for a field that stood before, or `any` for a `*`.
        name: of the field; empty for a `*`.
        then: the text up to the next such place, or the end.
    """

    kind: OpenKind
    name: str
    then: str


@dataclass(frozen=True)
class Template:
    """A pattern, taken apart.

    Attributes:
        text: as it was written.
        start: the text before the first open place.
        opens: the open places.
        depth: number of folders above an image.
        kinds: what `pid` and `camid` are; a field that the pattern lacks is not there.
    """

    text: str
    start: str
    opens: tuple[Open, ...]
    depth: int
    kinds: dict[str, FieldKind]

    def fields(self, path: str) -> dict[str, str] | None:
        """What a whole path says as `pid` and `camid`; None where it does not fit.

        Of several ways to fit it is the one that a regular expression finds: seen from the left, a number and a `*` as
        long as can be, a text as short as can be.
        """
        if self.trials <= QUICK:
            match = self.expression.fullmatch(path)
            return None if match is None else match.groupdict()
        return self.fields_of_many(path)

    @cached_property
    def trials(self) -> int:
        """How many places can have many lengths beside one another; the end of a part of the path says that of one."""
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
        """As `fields`, for any number of open places.

        Where an open place fits nothing from some position on, it is not tried there again, so that the time grows with
        the length and not with its powers.
        """
        if not path.startswith(self.start) or not path.endswith(self.opens[-1].then):
            return None
        found: dict[str, str] = {}
        return found if self._fits(path, 0, len(self.start), found, {}) else None

    def _fits(self, path: str, number: int, at: int, found: dict[str, str], failed: dict[object, int]) -> bool:
        """Whether `path` fits from `at` on, where open place `number` begins; fills `found`.

        Args:
            path: the whole.
            number: of the place.
            at: where it begins.
            found: the fields before it.
            failed: the first position from which a place with these fields before it has not fitted, by the position
                too for one that takes few texts, by the end of its part of the path for one that takes any: from a
                later position that takes no others.
        """
        place, is_last = self.opens[number], number + 1 == len(self.opens)
        end_of_part = path.find("/", at) if place.kind in ("any", "text") else at
        before = [found.get(one.name) for one in self.opens[number:] if one.kind == "again"]
        key = (number, end_of_part, *before)
        if at >= failed.get(key, len(path) + 1):
            return False
        for end in _ends(place, path, at, failed.get(key), found, is_last):
            if place.name:
                found[place.name] = path[at:end]
            if is_last or self._fits(path, number + 1, end + len(place.then), found, failed):
                return True
        failed[key] = at
        return False


def _ends(place: Open, path: str, at: int, failed: int | None, found: dict[str, str], is_last: bool) -> Iterator[int]:
    """Where an open place that begins at `at` may end, with its text behind it, the preferred first.

    From `failed` on, all that it takes has been tried.
    """
    then, size = place.then, len(place.then)
    if place.kind == "again":
        low = high = at + len(found[place.name]) if path.startswith(found[place.name], at) else -1
    elif place.kind == "number":
        digits = _DIGITS.match(path, at)
        low, high = at + 1, digits.end() if digits else -1
    else:
        shortest, slash = int(place.kind == "text"), path.find("/", at)
        low, high = at + shortest, len(path) if slash < 0 else slash
        if failed is not None:
            high = min(high, failed + shortest - 1)
    if is_last:
        low, high = max(low, len(path) - size), min(high, len(path) - size)
    if place.kind == "text":
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
    """Takes a pattern apart.

    `{pid:d}` and `{camid:d}` stand for digits, `{pid}` and `{camid}` for the shortest text without `/` that fits, `*`
    for anything without `/`; all else for itself. A field that stands twice must be the same text in both places.

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
    places = tuple(Open(kind, name, then) for (kind, name), then in zip(opens, texts[1:], strict=True))
    return Template(text, texts[0], places, text.count("/"), kinds)
