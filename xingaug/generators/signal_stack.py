"""Keeps a thread's alternate signal stack (sigaltstack) while a library replaces it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restores this thread's signal stack at the end.

    OpenVINO sets its own signal stack in the thread that loads it and frees it later, though after loading two networks
    it may still be in use: the next signal, such as SIGCHLD from a loader's worker, then kills the process silently.
    Does nothing except on Linux.
    """
    before = current_signal_stack()
    try:
        yield
    finally:
        if before is not None:  # the call fails if it is too small for this processor; then the library's stays
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)


def current_signal_stack() -> _Stack | None:
    """This thread's signal stack; None except on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found
