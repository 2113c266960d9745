"""Paths, atomic writing of files and directories, and locks on directories."""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xingaug.errors import BadInput, WorkFailed

LOCK_NAME = ".lock"
"""Lock file in a directory that one process at a time may write into."""

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.xingaug\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, which is not a mistake in the user's input: they stay `OSError`."""

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""

_swept: set[tuple[int, int]] = set()
"""Folders, by device and inode, from which this process has removed leftovers."""


def _release_in_child() -> None:
    """Releases the parent's locks in a forked child, which may live longer."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)


def with_home(path: str) -> str:
    """Expands a leading `~` or `~user` of a path to the home directory, as the shell does; other text is unchanged.

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
    """Yields a temporary path beside `path`; when the block succeeds, it replaces `path` atomically.

    Leftovers of killed processes are removed before the first file is written into a folder.

    Args:
        path: the file to write; its folder is created.
        durable: wait until it is on disk, so that after a power cut either the old or the complete new file is there.

    Yields:
        The path to write to. After an exception it is removed and `path` is unchanged.

    Raises:
        BadInput: `path` is a directory, or lies below a file.
        OSError: the disk is full, even if a library raised its own error for it.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; name a file")
    with _temporary(path, Path.touch) as temporary, _disk_errors(path, temporary):
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a new, empty directory beside `path`; when the block succeeds, it is renamed to `path`.

    Args:
        path: must not exist, or be an empty directory.

    Yields:
        The directory to fill. After an exception it is removed.

    Raises:
        BadInput: `path` is not empty, before the block or after it, or lies below a file.
        OSError: as for `atomic_write`.
    """
    path = Path(path)
    require_new_directory(path)
    with _temporary(path, os.mkdir) as temporary, _disk_errors(path, temporary / "room"):
        yield temporary
        require_new_directory(path)  # another process may have written there meanwhile
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)


@contextmanager
def locked(lock: Path, busy: str) -> Iterator[None]:
    """Holds a kernel lock on a file while the block runs; it is released when the process ends, however that happens.

    Args:
        lock: an empty file, which is created with its folder. Its holder may remove both.
        busy: the error message if another process holds it.

    Raises:
        BadInput: another process holds it.
    """
    while True:
        _make_parent(lock, lock.parent)  # the user named the folder, not the lock in it
        _create(lock.touch, lock.parent)
        try:
            descriptor = _open(lock)
        except FileNotFoundError:  # its holder removed it just now
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(busy) from None
            if _is_at(descriptor, lock):
                yield
                return
        finally:
            _release(descriptor)


@contextmanager
def claimed_directory(folder: Path, doing: str) -> Iterator[None]:
    """Locks a directory for this process while the block runs, and removes leftovers of killed processes in it.

    Args:
        folder: created if absent, and removed at the end if it is empty.
        doing: what the process does there, for the message, such as "training".

    Raises:
        BadInput: another process holds it, or it cannot be made.
    """
    created = [above for above in (folder, *folder.parents) if not above.exists()]
    lock = folder / LOCK_NAME
    try:
        with locked(lock, f"{folder}: another process is {doing} into it; wait for it or name another directory"):
            try:
                for inner, _, _ in os.walk(folder):
                    sweep(Path(inner))
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # stops at the first one that is not empty
            for above in created:
                above.rmdir()


def sweep(folder: Path) -> None:
    """Removes temporary files and directories of this module in `folder` that no running process is writing."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if _LEFTOVER.fullmatch(name):
                _remove_if_left(folder / name)


def require_no_links_out(root: Path, paths: Iterable[Path], option: str) -> None:
    """Raises `BadInput` if a symbolic link, of a file or of a folder above it, points outside a tree.

    Copying such a tree would also copy files that were not meant to be in it, or that must not be passed on.

    Args:
        root: the tree; it may be a link itself.
        paths: files below `root`.
        option: the option that allows such links, for the message.
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


def require_apart(what: str, path: Path, data: Path) -> None:
    """Raises `BadInput` if a directory to write, which the option `what` names, and a dataset contain one another."""
    out, root = path.resolve(), data.resolve()
    if out.is_relative_to(root) or root.is_relative_to(out):
        raise BadInput(f"{what}: {path} and the dataset {data} contain one another; name a directory outside")


def require_new_directory(path: Path) -> None:
    """Raises `BadInput` unless `path` is absent or an empty directory (not a link, and not the working directory)."""
    if path.resolve() == Path.cwd():
        raise BadInput(f"{path}: is the directory you are in, which cannot be replaced; name a new one")
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if path.is_dir() and not path.is_symlink():
        raise BadInput(f"{path}: exists and is not empty; name a new directory, or remove this one first")
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path}: exists and is no directory; name a new one")


def require_writable(path: Path, option: str = "") -> None:
    """Raises `BadInput` unless a file can be written at `path`, to fail before hours of work and not after.

    Args:
        path: the file; its folder need not exist.
        option: its name for the message, such as "--preview".
    """
    where = f"{option}: {path}" if option else str(path)
    if path.is_dir():
        raise BadInput(f"{where}: is a directory; name a file")
    parent = next(above for above in path.absolute().parents if os.path.lexists(above))
    if not parent.is_dir():
        raise BadInput(f"{where}: lies below a file; name a place in a directory")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise BadInput(f"{where}: cannot be written ({error.strerror}); name another place") from None


@contextmanager
def _temporary(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A new file or directory beside `path`, locked while it exists, so that it is not removed as a leftover."""
    _make_parent(path, path)
    _sweep_once(path.parent)
    # A unique hidden name; `tempfile` would make it readable by its owner only.
    shown = os.fsdecode(os.fsencode(path.name)[:150])
    temporary = path.with_name(f".{shown}.{secrets.token_hex(4)}.xingaug.tmp")
    descriptor = -1
    try:
        while descriptor < 0:
            _create(lambda: make(temporary), path)
            descriptor = _hold_new(temporary)
        yield temporary
    finally:
        _release(descriptor)
        _remove(temporary)


def _hold_new(path: Path) -> int:
    """Locks a new file or directory; -1 if another process has removed it in between."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # a file system without locks, where leftovers are not removed
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if _is_at(descriptor, path):
        return descriptor
    _release(descriptor)
    return -1


@contextmanager
def _disk_errors(path: Path, probe: Path) -> Iterator[None]:
    """Reports a full disk as an `OSError` that names `path`, whatever error a library raised."""
    try:
        yield
    except (BadInput, WorkFailed):
        raise
    except Exception as error:  # torch, safetensors, FAISS and Pillow raise errors of their own
        number = error.errno if isinstance(error, OSError) and error.errno else _refusal(probe)
        if number not in _FULL:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _refusal(probe: Path) -> int:
    """The error number if another 16 MB cannot be written to the disk; else 0."""
    try:
        with probe.open("ab") as stream:
            for _ in range(16):
                stream.write(bytes(1 << 20))
    except OSError as error:
        return error.errno or 0
    return 0


def _sweep_once(folder: Path) -> None:
    with suppress(OSError):
        status = folder.stat()
        if (status.st_dev, status.st_ino) not in _swept:
            _swept.add((status.st_dev, status.st_ino))
            sweep(folder)


def _remove_if_left(path: Path) -> None:
    """Removes a leftover unless it is locked by a running process."""
    if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:  # its writer is still running
        return
    finally:
        _release(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _open(path: Path) -> int:
    """Opens a file to be locked; children do not inherit the lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    _held.add(descriptor)
    return descriptor


def _release(descriptor: int) -> None:
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`, and has not been removed or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _make_parent(path: Path, named: Path) -> None:
    """Creates the folder of `path`; errors name `named`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"{named}: lies below a file; name a place in a directory") from None
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise BadInput(f"{named}: cannot be written ({error.strerror}); name another place") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(make: Callable[[], object], path: Path) -> None:
    try:
        make()
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise BadInput(f"{path}: cannot be written ({error.strerror}); name another place") from None
