import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from xingaug.errors import BadInput
from xingaug.files import atomic_directory, atomic_write, locked, require_new_directory


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
