"""The two ways in which work can end badly, and what a command does about them."""

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
        return command() or 0
    except BadInput as error:
        _complain(error)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; nobody is left to tell
        return 1
    except (WorkFailed, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def _complain(error: Exception | str) -> None:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
