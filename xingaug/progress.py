"""Progress of long work: a bar on a terminal, else a line every half minute."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from xingaug.errors import say

EVERY = 30.0
"""Seconds between two lines if standard error is not a terminal."""

T = TypeVar("T")


class ProgressBar(Generic[T]):
    """Shows the progress of an iteration, or of calls to `update`; closed at the end of a `with` block."""

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
        """Starts the clock; if standard error is not a terminal, lines replace the bar.

        Args:
            iterable: the items to iterate over, or None.
            label: name of the work; None shows nothing.
            total: number of items; None is the length of the iterable, if it has one.
            initial: number of items that were done before.
            unit: name of an item.
            shown: False shows nothing.
            leave: whether the bar stays on the terminal at the end.
        """
        shown = shown and label is not None
        self._iterable, self._label, self._unit = iterable, label, unit
        self._total = len(iterable) if total is None and hasattr(iterable, "__len__") else total  # type: ignore[arg-type]
        self._done = self._initial = initial
        self._started = self._printed = time.monotonic()
        self._beside = ""
        self._prints_lines = shown and not sys.stderr.isatty()
        self._bar: Any = tqdm(
            desc=label, total=self._total, initial=initial, unit=unit, leave=leave,
            disable=not shown or self._prints_lines,
            unit_scale=(self._total or 0) > 100_000,
        )  # fmt: skip

    def update(self, count: int = 1) -> None:
        """Counts `count` more items as done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._prints_lines and now - self._printed >= EVERY:
            self._printed = now
            say(self._line(now))

    def beside(self, text: str | Mapping[str, float]) -> None:
        """Shows a text, or some figures, beside the bar from the next update on."""
        self._beside = text if isinstance(text, str) else ", ".join(f"{key} {value:.3f}" for key, value in text.items())
        self._bar.set_postfix_str(self._beside, refresh=False)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def __iter__(self) -> Iterator[T]:
        """Yields the items; each counts as done when the next one is requested."""
        try:
            for item in self._iterable or ():
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> "ProgressBar[T]":
        """Returns the bar itself."""
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
