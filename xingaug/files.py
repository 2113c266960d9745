"""Paths, writing files so that a reader never sees half of one, and holding a directory meanwhile."""

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
"""An empty file in a directory that one process at a time may write into."""

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.xingaug\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk is no mistake of the user's: such errors stay what they are."""

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""

_swept: set[tuple[int, int]] = set()
"""Folders, by device and inode, in which this process has looked for what others left."""


def _let_go_in_child() -> None:
    """A forked child does not go on holding what its parent holds: it may live longer."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


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

    What killed processes left in the folder is removed before the first file is written there.

    Args:
        path: the file to write; its folder is created.
        durable: wait until the disk has it, so that after a power cut it is there in full or as it was before.

    Yields:
        The path to write to. After an exception it is removed and `path` stays as it was.

    Raises:
        BadInput: `path` is a directory, or lies below a file.
        OSError: the disk is full, also where a library says so in an error of its own.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: is a directory; name a file")
    with _temporary(path, Path.touch) as temporary, _telling_of_disk(path, temporary):
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a new, empty directory beside `path`; when the block ends well it is renamed to `path`.

    Args:
        path: must not exist, or be an empty directory.

    Yields:
        The directory to fill. After an exception it is removed.

    Raises:
        BadInput: `path` holds something already, or lies below a file.
        OSError: as of `atomic_write`.
    """
    path = Path(path)
    require_new_directory(path)
    with _temporary(path, os.mkdir) as temporary, _telling_of_disk(path, temporary / "room"):
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)


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
            _let_go(descriptor)


@contextmanager
def claimed_directory(folder: Path, doing: str) -> Iterator[None]:
    """Holds a directory for this process while the block runs, and sweeps what killed processes left in it.

    Args:
        folder: is made if absent, and removed at the end if nothing else came into it.
        doing: what the holder does, for the message, such as "training".

    Raises:
        BadInput: another process holds it, or it cannot be made.
    """
    made = [above for above in (folder, *folder.parents) if not above.exists()]
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
        with suppress(OSError):  # the first one that holds something
            for above in made:
                above.rmdir()


def sweep(folder: Path) -> None:
    """Removes temporary files and directories of this module's in `folder` that no living process writes."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if _LEFTOVER.fullmatch(name):
                _remove_if_left(folder / name)


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


def require_writable(path: Path, option: str = "") -> None:
    """Raises `BadInput` unless a file could be written at `path`; for what would be noticed only after hours of work.

    Args:
        path: the file; its folder need not exist.
        option: its name for the message, such as "--preview".
    """
    said = f"{option}: {path}" if option else str(path)
    if path.is_dir():
        raise BadInput(f"{said}: is a directory; name a file")
    parent = next(above for above in path.absolute().parents if os.path.lexists(above))
    if not parent.is_dir():
        raise BadInput(f"{said}: lies below a file; name a place in a directory")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise BadInput(f"{said}: cannot be written ({error.strerror}); name another place") from None


@contextmanager
def _temporary(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A new file or directory beside `path`, locked as long as it lives, so that nobody takes it for a leftover."""
    _make_parent(path)
    _sweep_once(path.parent)
    # A hidden name that nobody else has; `tempfile` would make it readable by its owner alone.
    shown = os.fsdecode(os.fsencode(path.name)[:150])
    temporary = path.with_name(f".{shown}.{secrets.token_hex(4)}.xingaug.tmp")
    descriptor = -1
    try:
        while descriptor < 0:
            _create(lambda: make(temporary), path)
            descriptor = _hold_new(temporary)
        yield temporary
    finally:
        _let_go(descriptor)
        _remove(temporary)


def _hold_new(path: Path) -> int:
    """Locks what was just made; -1 where somebody has swept it in between."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # a file system without locks, on which nothing is swept
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if _is_at(descriptor, path):
        return descriptor
    _let_go(descriptor)
    return -1


@contextmanager
def _telling_of_disk(path: Path, probe: Path) -> Iterator[None]:
    """Has a full disk be an `OSError` that names `path`, whatever a library made of it."""
    try:
        yield
    except (BadInput, WorkFailed):
        raise
    except Exception as error:  # torch, safetensors, FAISS and Pillow tell of it in words of their own
        number = error.errno if isinstance(error, OSError) and error.errno else _refusal(probe)
        if number not in _FULL:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _refusal(probe: Path) -> int:
    """The error's number where the disk does not take another 16 MB; else 0."""
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
    """Removes what is not locked: its process has ended."""
    if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:  # its writer lives
        return
    finally:
        _let_go(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _open(path: Path) -> int:
    """A descriptor to be locked, which ends with this process and not with its children."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    _held.add(descriptor)
    return descriptor


def _let_go(descriptor: int) -> None:
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at `path`, and not one that has been removed there since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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


def _create(make: Callable[[], object], path: Path) -> None:
    try:
        make()
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise BadInput(f"{path}: cannot be written ({error.strerror}); name another place") from None
