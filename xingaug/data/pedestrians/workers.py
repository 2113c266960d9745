"""Spreads work over processes.

The workers are plain child interpreters that read jobs from their standard input. Unlike `multiprocessing` they never
import the caller's main script again and never fork a process that has threads, so they work from scripts, notebooks
and beside torch alike.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from xingaug.errors import WorkFailed
from xingaug.progress import ProgressBar

_MINIMUM_PER_WORKER = 24  # below this many items per worker, starting processes costs more than it saves


def available_cores() -> int:
    """Number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    job: Callable[..., Any],
    shared: tuple[Any, ...],
    items: Sequence[Any],
    workers: int | None = None,
    chunk: int = 16,
    progress: str | None = None,
) -> list[Any]:
    """Compute `job(*shared, items[a:b])` for consecutive chunks of the items.

    Args:
        job: a function at the top level of a module; it gets the shared arguments and a list of items.
        shared: arguments common to all chunks.
        items: the work items; items, arguments and results are pickled.
        workers: number of processes; 1 works in this process, None takes one per core.
        chunk: items per call.
        progress: label of a progress bar over items (silent when not a terminal), or None.

    Returns:
        The results of the chunks, in order.

    Raises:
        ValueError: workers is below 1.
        WorkFailed: a worker process failed; its traceback is a note of the error.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, must be at least 1")
    chunks = [list(items[start : start + chunk]) for start in range(0, len(items), chunk)]
    count = min(workers or available_cores(), len(chunks), max(1, len(items) // _MINIMUM_PER_WORKER))
    with ProgressBar[None](None, progress, total=len(items)) as bar:
        if count <= 1:
            results = []
            for part in chunks:
                results.append(job(*shared, part))
                bar.update(len(part))
            return results
        return _in_processes(job, shared, chunks, count, bar.update)


def _in_processes(
    job: Callable[..., Any],
    shared: tuple[Any, ...],
    chunks: list[list[Any]],
    count: int,
    advance: Callable[[int], object],
) -> list[Any]:
    """Hand the chunks to `count` child processes, each fed by a thread of this process."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-c", "from xingaug.data.pedestrians import workers; workers.serve()"]
    environment = {**os.environ, "PYTHONPATH": paths}
    pipe = subprocess.PIPE
    # In a process group of their own: Ctrl-C reaches this process only, which then ends them.
    children = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, process_group=0) for _ in range(count)
    ]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for child in children:
        idle.put(child)

    def work(part: list[Any]) -> Any:
        """Let an idle child do one chunk."""
        child = idle.get()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            pickle.dump((job, (*shared, part)), child.stdin)
            child.stdin.flush()
            failure, result = pickle.load(child.stdout)
        except (BrokenPipeError, EOFError) as error:
            raise WorkFailed(f"a worker process ended early (exit code {child.wait()})") from error
        finally:
            idle.put(child)
        if failure:
            failed = WorkFailed(f"a worker process failed: {failure.splitlines()[-1]}")
            failed.add_note(failure)
            raise failed
        advance(len(part))
        return result

    pool = ThreadPoolExecutor(count)
    try:
        return list(pool.map(work, chunks))
    except BaseException:
        for child in children:
            child.kill()  # its current result is no longer needed
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for child in children:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a child by closing its input, and wait for it."""
    for end in (child.stdin, child.stdout):
        if end is not None:
            try:
                end.close()
            except BrokenPipeError:
                continue  # it died with unread input; its failure has been reported
    child.wait()


def serve() -> None:
    """Main loop of a worker process: jobs in from standard input, results out to standard output, until one closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends it
    import cv2

    cv2.setNumThreads(1)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a job's own output must not mix with the results
    while True:
        try:
            job, arguments = pickle.load(source)
        except EOFError:
            return
        try:
            answer: tuple[str | None, Any] = (None, job(*arguments))
        except Exception:
            answer = (traceback.format_exc(), None)
        try:
            pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
            sink.flush()
        except BrokenPipeError:  # the parent is gone; _exit keeps Python from flushing the pipe at exit
            os._exit(0)
