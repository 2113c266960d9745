"""The figures of a training as it goes: lines of JSON, and the same numbers for TensorBoard where it is installed."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xingaug.errors import BadInput, say
from xingaug.files import atomic_write
from xingaug.inputs import parse_json, read_bytes

FLUSH_S = 30.0
"""Seconds after which TensorBoard's file is brought up to date (our choice)."""

MAX_BYTES = 10_000_000_000
"""Of lines that are read: of a hundred million steps or so (our choice)."""


class StatsLog:
    """Entries of a run, each a line of its stats file and, its numbers, in TensorBoard's."""

    def __init__(self, path: Path, key: str, done: int, tensorboard: bool = True) -> None:
        """Opens the files; what was written of later steps than `done`, which will be done again, is dropped.

        Args:
            path: of the lines; TensorBoard's files come into a folder of its name beside it.
            key: under which an entry says its step.
            done: the step from which the run goes on; -1 to begin anew.
            tensorboard: whether to write its files.
        """
        self.path, self.key = path, key
        kept = [line for line, entry in _whole_lines(path, key) if entry[key] <= done]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._lines = path.open("a", buffering=1, encoding="utf-8")
        self._events = _event_file(path.parent / "tensorboard", done + 1) if tensorboard else None

    def write(self, entry: Mapping[str, Any], group: str = "") -> None:
        """Adds an entry, which says its step; its numbers stand below `group` in TensorBoard.

        Raises:
            OSError: the disk is full; it names the file.
        """
        with _naming(self.path):
            self._lines.write(json.dumps(entry) + "\n")
        if self._events is not None:
            numbers = {k: v for k, v in entry.items() if k != self.key and isinstance(v, int | float)}
            self._events.write({f"{group}/{k}" if group else k: v for k, v in numbers.items()}, entry[self.key])

    def entries(self) -> list[dict[str, Any]]:
        """All that were written, by this run and those that it goes on from."""
        self.flush()
        return [entry for _, entry in _whole_lines(self.path, self.key)]

    def flush(self) -> None:
        """Before a checkpoint, whose steps are not done again."""
        with _naming(self.path):
            self._lines.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        try:
            with _naming(self.path):
                self._lines.close()
        finally:
            if self._events is not None:
                self._events.close()


class EventFile:
    """A file of TensorBoard's, written by the thread that calls.

    Its own `SummaryWriter` writes in a thread, whose errors, such as of a full disk, come as a traceback and late.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Args: `path`: of the new file; `step`: the run's first one; TensorBoard forgets others from there on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path, self._event = path, Event
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._add(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Adds figures under their names."""
        values = [{"tag": name, "simple_value": float(value)} for name, value in figures.items()]
        self._add(self._event(wall_time=time.time(), step=step, summary={"value": values}))
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Hands all that was added to the system."""
        with _naming(self.path):
            self._records.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        with _naming(self.path):
            self._records.close()

    def _add(self, event: Any) -> None:
        with _naming(self.path):
            self._records.write(event.SerializeToString())


def _event_file(folder: Path, step: int) -> EventFile | None:
    # TensorBoard looks for "tfevents" and takes the files of a folder in the order of their names.
    name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
    try:
        return EventFile(folder / name, step)
    except ImportError:
        say("tensorboard is not installed; figures go to stats.jsonl alone")
        return None


def _whole_lines(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines and what they say; a torn one, without a step under `key`, is passed over."""
    text = read_bytes(path, "figures of a run", MAX_BYTES).decode("utf-8", "replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            entry = parse_json(line, str(path))
            if isinstance(entry[key], int):
                yield line, entry
        except (BadInput, KeyError, TypeError):
            continue


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has an error of the disk's say which file it was."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
