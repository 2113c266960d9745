"""The two ways in which work can end badly, and what a command does about them."""

import os
import sys
from collections.abc import Callable


class BadInput(ValueError):
    """What the user gave cannot be used; exit code 2.

    The message is one line: what is wrong, where (file, line or key), what would be right.
    """


class WorkFailed(RuntimeError):
    """The input was fine, but the work could not be finished; exit code 1."""


def guarded(command: Callable[[], int | None]) -> int:
    """Runs a command and turns its errors into one line on stderr and an exit code.

    Returns:
        What `command` returned (None counts as 0), 2 for `BadInput`, 1 for `WorkFailed` and operating system errors,
        130 when the user interrupted it. Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        code = command() or 0
        sys.stdout.flush()  # here, where a failure can still be answered
        return code
    except BadInput as error:
        _complain(error)
        return 2
    except BrokenPipeError:
        # The reader of a pipe has gone; what is left to print goes nowhere, or Python would complain on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (WorkFailed, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def printable(text: str) -> str:
    """A text as one line that a terminal and any encoding can show.

    Whatever is not printable, such as the escape character or the bytes of a file name that is not UTF-8, stands as
    Python writes it in a string.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


def say(message: str) -> None:
    """Tells the user something on standard error, as one line."""
    print(printable(message), file=sys.stderr)


def _complain(error: Exception | str) -> None:
    say(f"error: {error}")
