"""The memory that signal handlers of a thread run in, kept while a library would replace it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Gives this thread its stack for signals back at the end.

    OpenVINO gives the thread that loads it one of its own and frees that later, though it may still be in use where two
    networks were loaded: the next signal, such as that a loader's worker has ended, then kills the process without a
    word. Elsewhere than on Linux nothing is done.
    """
    before = current_signal_stack()
    try:
        yield
    finally:
        if before is not None:  # refused where it is too small for this processor; then the library's stays
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def current_signal_stack() -> _Stack | None:
    """This thread's; None elsewhere than on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found
