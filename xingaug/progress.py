"""How far long work is: a bar on a terminal, else a line every half minute."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from xingaug.errors import say

EVERY = 30.0
"""Seconds between two lines where standard error is no terminal."""

T = TypeVar("T")


class ProgressBar(Generic[T]):
    """Goes over an iterable, or is told by `update`, and shows how far that is; closed at the end of a `with` block."""

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        label: str | None = None,
        total: int | None = None,
        initial: int = 0,
        unit: str = "image",
        shown: bool = True,
        leave: bool = True,
    ) -> None:
        """Starts the clock; where standard error is no terminal, lines take the place of the bar.

        Args:
            iterable: what is gone over, or None.
            label: of the work; None shows nothing.
            total: how many there are; None is the length of the iterable, if it has one.
            initial: how many of them were done before.
            unit: one of them.
            shown: False shows nothing.
            leave: whether the bar stays on the terminal at the end.
        """
        shown = shown and label is not None
        self._iterable, self._label, self._unit = iterable, label, unit
        self._total = len(iterable) if total is None and hasattr(iterable, "__len__") else total  # type: ignore[arg-type]
        self._done = self._initial = initial
        self._started = self._told = time.monotonic()
        self._beside = ""
        self._tells = shown and not sys.stderr.isatty()
        self._bar: Any = tqdm(
            desc=label, total=self._total, initial=initial, unit=unit, leave=leave, disable=not shown or self._tells,
            unit_scale=(self._total or 0) > 100_000,
        )  # fmt: skip

    def update(self, count: int = 1) -> None:
        """Counts so many more as done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._tells and now - self._told >= EVERY:
            self._told = now
            say(self._line(now))

    def beside(self, text: str | Mapping[str, float]) -> None:
        """Shows a text, or some figures, with the next update."""
        self._beside = text if isinstance(text, str) else ", ".join(f"{key} {value:.3f}" for key, value in text.items())
        self._bar.set_postfix_str(self._beside, refresh=False)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def __iter__(self) -> Iterator[T]:
        """The iterable's own, each counted once the next one is asked for."""
        try:
            for item in self._iterable or ():
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> "ProgressBar[T]":
        """This one."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar."""
        self.close()

    def _line(self, now: float) -> str:
        rate = (self._done - self._initial) / max(now - self._started, 1e-9)
        parts = [f"{self._label}: {self._done}" + (f" of {self._total}" if self._total else "") + f" {self._unit}s"]
        if self._total and rate > 0:
            minutes = (self._total - self._done) / rate / 60
            parts += [f"{self._done / self._total:.0%}", f"{rate:.3g}/s", f"about {max(minutes, 0):.1f} min left"]
        return ", ".join([*parts, *([self._beside] if self._beside else [])])
