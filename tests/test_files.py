import errno
import fcntl
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from xingaug import errors, files
from xingaug.errors import BadInput, guarded
from xingaug.files import (
    atomic_directory,
    atomic_write,
    claimed_directory,
    locked,
    require_new_directory,
    require_writable,
    with_home,
)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Stop(Exception):
    """Ends a block."""


def fail_in(manager: AbstractContextManager[Path], error: type[BaseException], work: Callable[[Path], object]) -> None:
    """Does some work in a block that then fails."""

    def block() -> None:
        with manager as temporary:
            work(temporary)
            raise error

    with pytest.raises(error):
        block()


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_write_replaces_in_one_step(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent  # another file system could not be renamed from
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert everything(tmp_path) == ["deep", "deep/er", "deep/er/a.txt"]


def test_write_keeps_what_was_there_when_the_block_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    fail_in(atomic_write(path), Stop, lambda temporary: temporary.write_text("half"))
    assert path.read_text() == "before"
    assert everything(tmp_path) == ["a.txt"]


def test_write_leaves_nothing_when_interrupted(tmp_path):
    fail_in(atomic_write(tmp_path / "a.txt"), KeyboardInterrupt, lambda temporary: temporary.write_text("half"))
    assert everything(tmp_path) == []


def test_directory_appears_whole(tmp_path):
    path = tmp_path / "deep" / "out"
    with atomic_directory(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
        assert not path.exists()
        assert folder.parent == path.parent
    assert everything(tmp_path) == ["deep", "deep/out", "deep/out/sub", "deep/out/sub/a"]


def test_directory_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert everything(tmp_path) == ["out", "out/a"]


def test_the_second_of_two_that_fill_one_directory_is_told(tmp_path):
    def fill_twice() -> None:
        with atomic_directory(tmp_path / "out") as second:
            (second / "late").touch()
            with atomic_directory(tmp_path / "out") as first:
                (first / "a").touch()

    with pytest.raises(BadInput, match=r"out: .*not empty"):
        fill_twice()
    assert everything(tmp_path) == ["out", "out/a"]


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_directory_is_removed_when_the_block_fails(tmp_path, error):
    def fill(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("half")

    fail_in(atomic_directory(tmp_path / "out"), error, fill)
    assert everything(tmp_path) == []


def test_mode_follows_the_umask(tmp_path, umask):
    with atomic_write(tmp_path / "a") as temporary:
        temporary.touch()
    with atomic_directory(tmp_path / "d"):
        pass
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o777 & ~umask
    assert os.umask(umask) == umask  # it was only looked at


def test_new_directory_is_absent_or_empty(tmp_path):
    require_new_directory(tmp_path / "none" / "such")
    (tmp_path / "empty").mkdir()
    require_new_directory(tmp_path / "empty")


def test_refused_directories(tmp_path, monkeypatch):
    full, file, link, dangling, here = (tmp_path / name for name in ("full", "file", "link", "dangling", "here"))
    full.mkdir()
    (full / ".hidden").touch()
    file.touch()
    here.mkdir()
    link.symlink_to(here)
    dangling.symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(here)
    before = everything(tmp_path)
    for path, message in (
        (full, f"{full}: exists and is not empty; name a new directory, or remove this one first"),
        (file, f"{file}: exists and is no directory; name a new one"),
        (dangling, f"{dangling}: exists and is no directory; name a new one"),
        (Path("."), ".: is the directory you are in, which cannot be replaced; name a new one"),
    ):
        for call in (require_new_directory, lambda p: atomic_directory(p).__enter__()):
            with pytest.raises(BadInput) as caught:
                call(path)
            assert str(caught.value) == message
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="link: exists and is no directory"):
        require_new_directory(link)  # it could not be renamed over
    assert everything(tmp_path) == before


def test_a_place_below_a_file_or_a_directory_as_file_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for manager in (atomic_write, atomic_directory):
        for path in (tmp_path / "file" / "x", tmp_path / "file" / "y" / "x"):
            with pytest.raises(BadInput, match="lies below a file; name a place in a directory"), manager(path):
                pass
    with pytest.raises(BadInput, match="folder: is a directory; name a file"), atomic_write(tmp_path / "folder"):
        pass
    assert everything(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_lock_is_held_by_one_and_survives_the_removal_of_its_file(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with locked(lock, "first"):
        with pytest.raises(BadInput, match=r"^busy$"), locked(lock, "busy"):
            pass
        lock.unlink()
        with locked(lock, "another file"):
            assert lock.exists()
    with locked(lock, "free again"):
        assert lock.read_bytes() == b""


def test_a_lock_that_was_removed_while_waiting_is_taken_again(tmp_path, monkeypatch):
    lock, removed = tmp_path / ".lock", []
    flock = fcntl.flock

    def remove_first(*arguments: Any) -> None:
        if not removed:  # its holder ends between the opening and the locking
            removed.append(lock.unlink())
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(lock, "mine"):
        assert lock.exists()
        monkeypatch.undo()
        with pytest.raises(BadInput, match=r"^busy$"), locked(lock, "busy"):
            pass


def test_home_directories(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert [with_home(path) for path in ("~", "~/x", "x/~", "~x y", "a")] == ["/h", "/h/x", "x/~", "~x y", "a"]
    with pytest.raises(BadInput, match=r"^~nobody-here/x: there is no home directory of ~nobody-here"):
        with_home("~nobody-here/x")


# What killed processes leave

KILLED = """
import os, sys
from pathlib import Path
from xingaug.files import atomic_directory, atomic_write, claimed_directory
out = Path(sys.argv[1])
with claimed_directory(out / "run", "training"), atomic_write(out / "a.txt") as file, atomic_directory(out / "d") as d:
    with atomic_write(out / "run" / "checkpoints" / "1.pt") as checkpoint:
        file.write_text("half"), (d / "x").write_text("half"), checkpoint.write_text("half")
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that writes a file, a directory and a checkpoint, and does not end by itself."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
        child.kill()


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, writer, monkeypatch):
    def start_anew() -> None:
        monkeypatch.setattr(files, "_swept", set())
        with atomic_write(tmp_path / "other"):
            pass

    (tmp_path / ".mine.0123abcd.tmp").touch()  # another program's
    before = everything(tmp_path)
    assert sum(name.endswith(".xingaug.tmp") for name in before) == 3
    start_anew()
    assert everything(tmp_path) == sorted([*before, "other"])
    with pytest.raises(BadInput, match="another process is training into it"):
        claimed_directory(tmp_path / "run", "training").__enter__()
    writer.kill()
    writer.wait()
    start_anew()
    with claimed_directory(tmp_path / "run", "training"):
        assert everything(tmp_path / "run") == [".lock", "checkpoints"]
    assert everything(tmp_path) == [".mine.0123abcd.tmp", "other", "run", "run/checkpoints"]


def live_until(ready: int, end: int) -> None:
    os.write(ready, b"x")
    os.read(end, 1)


def test_a_child_does_not_go_on_holding_a_lock(tmp_path):
    (ready, its_ready), (its_end, end) = os.pipe(), os.pipe()
    child = multiprocessing.get_context("fork").Process(target=live_until, args=(its_ready, its_end))
    with locked(tmp_path / ".lock", "busy"):
        child.start()
        os.read(ready, 1)
    with locked(tmp_path / ".lock", "busy"):
        assert child.is_alive()
    os.write(end, b"x")
    child.join()
    for descriptor in (ready, its_ready, its_end, end):
        os.close(descriptor)


def test_a_claimed_directory_that_stays_empty_is_removed_with_the_parents_that_were_made(tmp_path):
    with claimed_directory(tmp_path / "a" / "b", "training"):
        assert everything(tmp_path) == ["a", "a/b", "a/b/.lock"]
    assert everything(tmp_path) == []
    with claimed_directory(tmp_path / "a" / "b", "training"):
        (tmp_path / "a" / "c").touch()
    assert everything(tmp_path) == ["a", "a/c"]


# Signals and a full disk


def test_a_signal_cleans_up_as_an_interrupt_does(tmp_path, capsys):
    def command(number: int) -> None:
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "half").touch()
            try:
                os.kill(os.getpid(), number)
                raise AssertionError
            finally:
                os.kill(os.getpid(), number)  # as `timeout` does; it must not cut the cleaning short
                (folder / "cleaned").touch()
                done.append(number)

    done: list[int] = []

    for number in (signal.SIGTERM, signal.SIGHUP):
        before = signal.signal(number, signal.SIG_DFL)  # nohup has SIGHUP ignored
        assert guarded(lambda number=number: command(number)) == 128 + number
        assert capsys.readouterr().err == f"error: ended by {signal.Signals(number).name}\n"
        assert signal.signal(number, before) is signal.SIG_DFL
    assert done == [signal.SIGTERM, signal.SIGHUP]
    assert everything(tmp_path) == []


def test_a_second_ctrl_c_that_comes_with_the_first_is_the_same_one(monkeypatch, capsys):
    waits = errors.time.sleep

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def meanwhile(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        waits(0.01)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has another
    try:
        monkeypatch.setattr(errors.time, "sleep", meanwhile)
        assert guarded(work) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err == "error: interrupted\n"


class TornError(Exception):
    """What a library makes of a full disk."""


@pytest.mark.parametrize("raised", [TornError(), OSError("encoder error -2"), OSError(errno.ENOSPC, "full", "f")])
def test_a_full_disk_is_one_line_whatever_a_library_says(tmp_path, monkeypatch, capsys, raised):
    def work() -> None:
        with atomic_write(tmp_path / "a.pt"):
            raise raised

    if not getattr(raised, "errno", None):
        with pytest.raises(type(raised)):
            work()  # the disk is not full
        monkeypatch.setattr(files, "_refusal", lambda probe: errno.ENOSPC)
    assert guarded(lambda: work()) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'a.pt'}: No space left on device\n"
    assert everything(tmp_path) == []


def test_places_that_cannot_be_written_are_known_before(tmp_path):
    (tmp_path / "file").touch()
    require_writable(tmp_path / "new" / "deep" / "page.html")
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "file" / "page.html", "lies below a file")):
        with pytest.raises(BadInput, match=f"^--preview: {path}: {reason}"):
            require_writable(path, "--preview")
    with pytest.raises(BadInput, match=r"^/proc/x/page\.html: cannot be written"):
        require_writable(Path("/proc/x/page.html"))
