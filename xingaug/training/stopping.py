"""SIGINT, SIGTERM and SIGHUP: the current step is finished and saved before the run ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from xingaug.errors import WorkFailed, let_echoes_pass

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal to end the run was received.

    Attributes:
        signal: its number; 0 before that.
    """

    signal: int = 0

    def end(self, number: int, step: int) -> None:
        """Ends the program as callers expect after that signal, which another process may have received.

        Raises:
            KeyboardInterrupt: for SIGINT.
            Terminated: for any other.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(f"terminated after step {step}, which is saved; the same command goes on from there")


class Terminated(WorkFailed):
    """The run was stopped by SIGTERM or SIGHUP, with all its work saved."""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Records the first signal; later ones are ignored, except a second Ctrl-C, which interrupts at once.

    Signals are not handled outside the main thread, and neither is SIGHUP under nohup.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        let_echoes_pass(before)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
