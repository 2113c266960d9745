"""Shared by all commands: the parser, its help, and the printing of figures."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from xingaug.errors import BadInput, printable
from xingaug.files import with_home


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like all others: one line that starts with `error:`."""

    def parse_words(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parses, and also accepts `key=value` words after an option, which argparse does not."""
        args, rest = self.parse_known_args(arguments)
        for name, value in vars(args).items():
            setattr(args, name, self._checked(name, value))
        if rest and (not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        elif rest:
            args.overrides += rest
        return args

    def _checked(self, name: str, value: Any) -> Any:
        """Checks an option's value: integers have at most 64 bits; a leading `~` of a path is expanded."""
        if isinstance(value, list):
            return [self._checked(name, entry) for entry in value]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.error(f"argument --{name.replace('_', '-')}: a number of more than 64 bits")
        try:
            return type(value)(with_home(str(value))) if isinstance(value, str | Path) else value
        except BadInput as error:
            self.error(f"{name.replace('_', '-')}: {error}")

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, printable(f"error: {message}; see {self.prog} --help") + "\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows a default only if there is one, and keeps an example on one line, for copying."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example:") else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def add_command(commands: Any, name: str, run: Any, help_text: str, example: str, torch: bool = True) -> Any:
    """Adds a subparser that calls `run`; `torch`: whether the command imports torch."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=f"example: {example}",
        formatter_class=Help,
    )
    parser.set_defaults(run=run, needs_torch=torch)
    return parser


def is_first_process() -> bool:
    """Whether this process prints the results, among those that torchrun may have started together."""
    return os.environ.get("RANK", "0") == "0"


def print_figures(figures: dict[str, Any], as_json: bool) -> None:
    """Prints one JSON line, or one line per figure."""
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(printable(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints rows in columns below their keys."""
    shown = (["" if value is None else printable(str(value)) for value in row.values()] for row in rows)
    cells = [list(rows[0]), *shown]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
