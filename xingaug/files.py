"""Paths, and writing files so that a reader never sees half of one."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xingaug.errors import BadInput


def with_home(path: str) -> str:
    """A path in which a leading `~` or `~user` is the home directory, as the shell has it; any other text as it is.

    Raises:
        BadInput: there is no such user.
    """
    if not re.match(r"~[\w.-]*(/|$)", path):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise BadInput(f"{path}: there is no home directory of {path.partition('/')[0]}; write the path without ~")
    return expanded


@contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well it takes the place of `path` in one step.

    Args:
        path: the file to write; its folder is created.
        durable: wait until the disk has it, so that after a power cut it is there in full or as it was before.

    Yields:
        The path to write to. After an exception it is removed and `path` stays as it was.

    Raises:
        BadInput: `path` is a directory, or lies below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; name a file")
    _make_parent(path)
    temporary = _beside(path)
    _create(temporary.touch, path)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a new, empty directory beside `path`; when the block ends well it is renamed to `path`.

    Args:
        path: must not exist, or be an empty directory.

    Yields:
        The directory to fill. After an exception it is removed.

    Raises:
        BadInput: `path` holds something already, or lies below a file.
    """
    path = Path(path)
    require_new_directory(path)
    _make_parent(path)
    temporary = _beside(path)
    _create(temporary.mkdir, path)
    try:
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(lock: Path, busy: str) -> Iterator[None]:
    """Holds a lock of the kernel's on a file while the block runs; it ends with the process, however that ends.

    Args:
        lock: an empty file, which is created with its folder. Its holder may remove both.
        busy: the error message where another process holds it.

    Raises:
        BadInput: another process holds it.
    """
    while True:
        _make_parent(lock)
        _create(lock.touch, lock)
        with lock.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(busy) from None
            if _is_file(handle.fileno(), lock):
                yield
                return


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at `path`, and not one that has been removed there since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def require_no_links_out(root: Path, paths: Iterable[Path], option: str) -> None:
    """Raises `BadInput` where a symbolic link, of a file or of a folder above it, leads out of a tree.

    Who copies such a tree would copy files that its maker may not have meant, or that are not theirs to give away.

    Args:
        root: the tree; it may be a link itself.
        paths: files below `root`.
        option: what the user can say to have them copied all the same, for the message.
    """
    inside = os.path.join(os.path.realpath(root), "")
    folders: dict[str, str] = {}
    found = []
    for path in map(str, paths):
        parent, name = os.path.split(path)
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[parent], name)
        if not real.startswith(inside):
            found.append((path, real))
    if found:
        path, real = found[0]
        raise BadInput(
            f"{path}: leads to {real}, out of {root} ({len(found)} links do); "
            f"take them out, or copy what they lead to by {option}"
        )


def require_new_directory(path: Path) -> None:
    """Raises `BadInput` unless `path` is absent or an empty directory (no link, and not the one we are in)."""
    if path.resolve() == Path.cwd():
        raise BadInput(f"{path}: is the directory you are in, which cannot be replaced; name a new one")
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if path.is_dir() and not path.is_symlink():
        raise BadInput(f"{path}: exists and is not empty; name a new directory, or remove this one first")
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path}: exists and is no directory; name a new one")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"{path}: lies below a file; name a place in a directory") from None
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise BadInput(f"{path}: cannot be written ({error.strerror}); name another place") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk is no mistake of the user's: such errors stay what they are."""


def _create(make: Callable[[], None], path: Path) -> None:
    try:
        make()
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise BadInput(f"{path}: cannot be written ({error.strerror}); name another place") from None


def _beside(path: Path) -> Path:
    """A hidden name in the same folder that nobody else has; `tempfile` would make it readable by its owner alone."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
