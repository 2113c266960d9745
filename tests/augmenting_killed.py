"""What test_augment.py runs in a process of its own: augmenting_killed.py ROOT OUT WORK LAYOUT KILLS.

One child after the other augments ROOT and is killed, the n-th before its KILLS[n]-th file takes its place; the last
one is not. The children are forked, so that torch is imported once.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from xingaug.augmenting import FolderConfig, augment_folder
from xingaug.errors import guarded


def killed_before(number: int) -> None:
    replace, done = os.replace, 0

    def counted(*args: Any, **options: Any) -> None:
        nonlocal done
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        replace(*args, **options)

    os.replace = counted  # type: ignore[assignment]


def main(root: str, out: str, work: str, layout: Any, kills: str) -> int:
    config = FolderConfig(
        Path(root), Path(out), layout=layout, work=Path(work), generator="pedestrians-small",
        generating={"per_image": 1, "batch_size": 4},
    )  # fmt: skip
    for number in [*map(int, kills.split(",")), None]:
        child = os.fork()
        if not child:
            if number is not None:
                killed_before(number)
            os._exit(guarded(lambda: None if augment_folder(config, progress=False) else 1))
        status = os.waitpid(child, 0)[1]
        if number is not None and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            print(f"the child that was to be killed at {number} ended with {status}", file=sys.stderr)
            return 1
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
