"""Errors, and how a command reports them: one line on stderr and an exit code."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_NO_MEMORY = re.compile("can't allocate memory|out of memory")
"""torch's message when memory runs out, on a CPU and on a GPU."""

_WORKER_ENDED = re.compile(r"DataLoader worker \(pid")
"""torch's message when a DataLoader worker is gone."""

_LONGEST = 1500
"""Most characters of a message, which may repeat the content of a file."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, cut to fit into one of ours."""
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


class BadInput(ValueError):
    """The user's input cannot be used; exit code 2.

    The message is one line: what is wrong, where (file, line or key), what would be right.
    """

    def __init__(self, message: object = "") -> None:
        """Takes the message; if a DataLoader worker has wrapped it into a traceback, only the original one."""
        super().__init__(_unwrapped(message))


class WorkFailed(RuntimeError):
    """The input was fine, but the work could not be finished; exit code 1."""

    def __init__(self, message: object = "") -> None:
        """Takes the message, as `BadInput` does."""
        super().__init__(_unwrapped(message))


_IN_WORKER = re.compile(r"Caught \w+ in .*?\.\nOriginal Traceback .*\n(?:[\w.]+\.)?\w+: (.*)", re.DOTALL)
"""The message with which torch raises a DataLoader worker's error again, in the same class."""


def _unwrapped(message: object) -> str:
    wrapped = _IN_WORKER.fullmatch(str(message))
    return " ".join((wrapped[1].rstrip() if wrapped else str(message)).splitlines())


class Ended(BaseException):
    """A signal requested the process to end; it cleans up first, as after an interrupt."""

    def __init__(self, number: int) -> None:
        """Args: `number`: number of the signal."""
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def guarded(command: Callable[[], int | None]) -> int:
    """Runs a command and turns its errors into one line on stderr and an exit code.

    Returns:
        The result of `command` (None counts as 0), 2 for `BadInput`, 1 for `WorkFailed`, operating system errors and
        lack of memory, 130 if the user interrupted it, 128 plus the signal's number if SIGTERM or SIGHUP ended it. Any
        other exception is a bug and keeps its traceback.
    """
    try:
        with _ending_in_order(), _warnings_on_stderr():
            code = command() or 0
            if sys.stdout is not None:  # a daemon's may be closed
                sys.stdout.flush()  # here, where a failure can still be handled
        return code
    except BadInput as error:
        _complain(error)
        return 2
    except BrokenPipeError:
        # The reader of the pipe is gone; the remaining output is discarded, or Python would report an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
        return 1
    except WorkFailed as error:
        _complain(error)
        return 1
    except MemoryError as error:
        _complain(f"not enough memory ({error})" if str(error) else "not enough memory")
        return 1
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            _complain(f"not enough memory ({str(error).splitlines()[0]})")
        elif _WORKER_ENDED.match(str(error)):
            _complain(
                "a process that loads images was ended from outside, perhaps for lack of memory; use fewer workers"
            )
        else:
            raise
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except Ended as error:
        _complain(error)
        return 128 + error.number


def printable(text: str) -> str:
    """A text as one line that a terminal and any encoding can show.

    Characters that are not printable, such as escape characters or the bytes of a file name that is not UTF-8, are
    written as escapes, as in a Python string.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Prints warnings logged by our own modules in the same way as other messages."""
    handler = _SayHandler(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("xingaug", "reid_integration")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class _SayHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say(message: str) -> None:
    """Prints a message to standard error, as one line."""
    print(printable(message), file=sys.stderr)


def _complain(error: BaseException | str) -> None:
    message = str(error)
    say(f"error: {message if len(message) <= _LONGEST else message[: _LONGEST - 6] + ' [...]'}")


ECHO_S = 0.3
"""Seconds in which a repeated signal is ignored, because `timeout` signals a process and its group (our choice)."""


def let_echoes_pass(numbers: Iterable[int]) -> None:
    """Called in a signal handler: ignores the signals `numbers` from now on, and waits for repeated ones."""
    for number in numbers:
        signal.signal(number, _ignore)
    time.sleep(ECHO_S)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Used instead of `SIG_IGN`, with which Python reports signals that had already arrived."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into `Ended`, unless they already have handlers or are ignored.

    Signals after the first one do not interrupt the clean-up, except for a second Ctrl-C.
    """
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # signals are handled in the main thread only
    usual = (signal.SIG_DFL, signal.default_int_handler)  # nohup ignores SIGHUP
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) in usual}

    def end(number: int, frame: FrameType | None) -> None:
        let_echoes_pass(before)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            raise KeyboardInterrupt
        raise Ended(number)

    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
