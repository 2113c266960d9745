"""Training statistics: lines of JSON, and the same numbers for TensorBoard if it is installed."""

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
"""Seconds between flushes of TensorBoard's file (our choice)."""

MAX_BYTES = 10_000_000_000
"""Largest file of lines that is read: about a hundred million steps (our choice)."""


class StatsLog:
    """Entries of a run, each a line of its stats file; its numbers also go to TensorBoard."""

    def __init__(self, path: Path, key: str, done: int, tensorboard: bool = True) -> None:
        """Opens the files; entries of steps after `done`, which will be repeated, are dropped.

        Args:
            path: file of the lines; TensorBoard's files go into a folder `tensorboard` beside it.
            key: key of the step in an entry.
            done: the step from which the run continues; -1 to start anew.
            tensorboard: whether to write TensorBoard's files.
        """
        self.path, self.key = path, key
        kept = [line for line, entry in _whole_lines(path, key) if entry[key] <= done]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._lines = path.open("a", buffering=1, encoding="utf-8")
        self._events = _event_file(path.parent / "tensorboard", done + 1) if tensorboard else None

    def write(self, entry: Mapping[str, Any], group: str = "") -> None:
        """Adds an entry, which contains its step; its numbers are below `group` in TensorBoard.

        Raises:
            OSError: the disk is full; the error names the file.
        """
        with _naming(self.path):
            self._lines.write(json.dumps(entry) + "\n")
        if self._events is not None:
            numbers = {k: v for k, v in entry.items() if k != self.key and isinstance(v, int | float)}
            self._events.write({f"{group}/{k}" if group else k: v for k, v in numbers.items()}, entry[self.key])

    def entries(self) -> list[dict[str, Any]]:
        """All entries, by this run and the runs that it continues."""
        self.flush()
        return [entry for _, entry in _whole_lines(self.path, self.key)]

    def flush(self) -> None:
        """Writes all entries to disk; to be called before a checkpoint, whose steps are not repeated."""
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
    """A TensorBoard event file, written in the calling thread.

    TensorBoard's own `SummaryWriter` writes in another thread, whose errors (a full disk) come late, as a traceback.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Args: `path`: the new file; `step`: the run's first step; TensorBoard drops earlier entries from there on."""
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
        """Writes all entries to disk."""
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
    # TensorBoard looks for "tfevents" and reads the files of a folder in the order of their names.
    name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
    try:
        return EventFile(folder / name, step)
    except ImportError:
        say("tensorboard is not installed; figures go to stats.jsonl alone")
        return None


def _whole_lines(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines and their entries; an incomplete line, without a step under `key`, is skipped."""
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
    """Adds the file's name to disk errors."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
