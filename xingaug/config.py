"""Typed configuration: reads YAML into small dataclasses, with helpful errors.

A configuration is any dataclass whose fields are annotated with bool, int, float, str, Path, Literal, lists, tuples,
dicts, other such dataclasses, or unions of these with None. Every key, value and override is checked against it.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from xingaug.errors import BadInput
from xingaug.files import with_home
from xingaug.inputs import read_text

T = TypeVar("T")

_DEEPEST = 32
"""Most levels of nested lists and mappings (our choice: no configuration here has more than 5)."""

_MOST_NODES = 20_000
"""Most keys, values and lists of a file, counting each repetition by an alias (our choice)."""

_MOST_BYTES = 1_000_000
"""Largest file (our choice: the longest here has 4,000 bytes)."""

_INT_LIMIT = 2**63

_LONGEST = 10_000
"""Most characters of a value (our choice)."""


class _Loader(yaml.SafeLoader):
    """The safe loader, except that `3e-4` is a number, a duplicate key is an error, and sizes are limited."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._nodes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """As inherited; counts the nodes that aliases expand to before anything is built."""
        is_alias, line = self.check_event(yaml.AliasEvent), self.peek_event().start_mark.line + 1
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > _DEEPEST:
            raise BadInput(f"line {line}: nested more than {_DEEPEST} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST:
            raise BadInput(f"line {line}: a value of {len(node.value)} characters, needed at most {_LONGEST}")
        if not is_alias:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
            self._nodes[id(node)] = 1 + sum(self._nodes[id(part)] for part in parts)
        # An alias to an enclosing node has no count yet.
        if max(self._count, self._nodes.get(id(node), _MOST_NODES + 1)) > _MOST_NODES:
            raise BadInput(f"line {line}: more than {_MOST_NODES} values, or an alias that holds itself")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise BadInput(f"line {key.start_mark.line + 1}: key '{key.value}' is given twice")
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_config(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Reads a YAML file into `cls`, then applies `key=value` overrides.

    Args:
        cls: a configuration dataclass.
        path: YAML file.
        overrides: such as `train.lr=3e-4`; a dot separates levels, the value is YAML.

    Raises:
        BadInput: unreadable file, invalid YAML, unknown key, wrong type, missing key.
    """
    return from_mapping(cls, override(read_yaml(path), overrides), str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file of at most 1 MB whose top level is a mapping (an empty file is an empty mapping)."""
    text = read_text(path, "configuration", _MOST_BYTES)
    data = _parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadInput(f"{path}: {_kind(data)} at the top level; a configuration is a mapping of key: value")
    return data


def override(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Applies `key=value` overrides to a copy of a mapping and returns it."""
    result: dict[str, Any] = dict(data)
    for item in overrides:
        dotted, equals, text = item.partition("=")
        if not equals or not dotted.strip():
            raise BadInput(f"override '{item}': needed key=value, such as train.lr=3e-4")
        *parents, last = dotted.strip().split(".")
        node = result
        for parent in parents:
            child = node.get(parent)
            node[parent] = dict(child) if isinstance(child, Mapping) else {}
            node = node[parent]
        node[last] = _parse(text, f"override '{item}'")
    return result


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "configuration", prefix: str = "") -> T:
    """Builds `cls` from plain data, checking every key and type.

    Args:
        cls: a configuration dataclass.
        mapping: plain data, as read from YAML.
        where: the file's name, for messages.
        prefix: dotted key of this mapping, for messages.

    Raises:
        BadInput: unknown key (the nearest known one is named), wrong type (key, value, expected), missing key, or a
            value that the class itself refuses with a ValueError.
    """
    nested = getattr(cls, "nested", None)  # a class whose settings have moved into sections also accepts them flat
    mapping = mapping if nested is None else nested(mapping)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in mapping:
        if key not in fields:
            raise BadInput(f"{where}: unknown key '{prefix}{_key(key)}'; {_nearest(_key(key), list(fields))}")
    values = {name: _convert(hints[name], mapping[name], where, prefix + name) for name in fields if name in mapping}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise BadInput(f"{where}: key '{prefix}{name}' is missing; expected {_name(hints[name])}")
    try:
        return cls(**values)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{where}: {prefix.rstrip('.') + ': ' if prefix else ''}{error}") from None


def to_mapping(config: Any) -> Any:
    """Plain data (dicts, lists, numbers, strings) of a configuration; `from_mapping` reads it back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_mapping(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_mapping(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """YAML text of a configuration, in the order of its fields."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{where}:{line} not valid YAML ({problem})") from None
    except Exception as error:  # the date 2025-02-30, `!!int ""`, `!!timestamp x`: PyYAML can raise anything
        raise BadInput(f"{where}: not valid YAML ({shown(error)})") from None


def shown(value: Any) -> str:
    """A value for a message: long values are cut, nested ones shown to two levels."""
    return _SHORT.repr(value) if not isinstance(value, Exception) else str(value)[:200] or type(value).__name__


def _key(key: Any) -> str:
    return key if isinstance(key, str) else shown(key)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """As inherited, but Python refuses to write out thousands of digits."""
        return super().repr_int(x, level) if abs(x) < 1 << 1000 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 200, 200, 60


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the annotated type `hint`, or BadInput."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, arguments, value, where, key)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        known = ", ".join(map(str, arguments))
        raise BadInput(f"{where}: {key}: {shown(value)}, expected one of {known}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return from_mapping(hint, value, where, f"{key}.")
        raise _wrong_type(where, key, value, "a mapping of keys")
    if origin in (list, tuple, dict):
        return _convert_container(hint, origin, arguments, value, where, key)
    return _convert_scalar(hint, value, where, key)


def _convert_union(hint: Any, options: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    if value is None and type(None) in options:
        return None
    remaining = [option for option in options if option is not type(None)]
    # A mapping can only match a class or a dict, whose own error is more helpful than "none of these".
    if isinstance(value, Mapping):
        shaped = [o for o in remaining if dataclasses.is_dataclass(o) or get_origin(o) is dict]
        remaining = shaped or remaining
        # Of several classes the one that has most of the keys is used, so that a misspelt key is reported as such.
        if all(dataclasses.is_dataclass(option) for option in remaining):
            remaining = [max(remaining, key=lambda option: _known_keys(option, value))]
    if len(remaining) == 1:
        return _convert(remaining[0], value, where, key)
    for option in remaining:
        try:
            return _convert(option, value, where, key)
        except BadInput:
            continue
    raise _wrong_type(where, key, value, _name(hint))


def _known_keys(cls: Any, mapping: Mapping[Any, Any]) -> int:
    """Number of keys of a mapping that a class has, exactly or nearly."""
    names = [f.name for f in dataclasses.fields(cls)]
    return sum(bool(difflib.get_close_matches(key, names, n=1, cutoff=0.8)) for key in mapping if isinstance(key, str))


def _convert_container(hint: Any, origin: Any, arguments: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, key, value, _name(hint))
        return {
            _convert(arguments[0], k, where, f"{key} (key)"): _convert(arguments[1], v, where, f"{key}.{_key(k)}")
            for k, v in value.items()
        }
    if not isinstance(value, list | tuple):
        raise _wrong_type(where, key, value, _name(hint))
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        return origin(_convert(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong_type(where, key, value, f"{len(arguments)} values, {_name(hint)}")
    return tuple(_convert(a, v, where, f"{key}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
        raise _wrong_type(where, key, value, f"{_name(hint)}, of 64 bits at most")
    if hint is float and is_number:
        if not math.isfinite(value):
            raise _wrong_type(where, key, value, "a finite number")
        return float(value)
    if hint in (Path, str) and isinstance(value, str):
        try:
            return hint(with_home(value))  # only paths start with `~/`
        except BadInput as error:
            raise BadInput(f"{where}: {key}: {error}") from None
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise _wrong_type(where, key, value, _name(hint))


def _wrong_type(where: str, key: str, value: Any, expected: str) -> BadInput:
    return BadInput(f"{where}: {key}: {shown(value)} ({_kind(value)}), expected {expected}")


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "a string", bool: "true/false", int: "a whole number"}
    return "nothing" if value is None else kinds.get(type(value), "a number" if isinstance(value, float) else "a value")


def _name(hint: Any) -> str:
    """A type in words for users."""
    simple = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path",
        type(None): "null",
    }  # fmt: skip
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(a) for a in arguments)
    if origin in (list, tuple):
        inner = [_name(a) for a in arguments if a is not Ellipsis]
        return f"a list of ({', '.join(dict.fromkeys(inner))})"
    if origin is dict:
        return "a mapping"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    return simple.get(hint, "a mapping" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint)))
