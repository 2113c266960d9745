"""Downloads a file: on request only, resumable, and kept only if its hash is right."""

import errno
import lzma
import os
import re
import shutil
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from xingaug.errors import BadInput, WorkFailed
from xingaug.files import atomic_write, locked
from xingaug.inputs import sha256_of
from xingaug.progress import ProgressBar

MOST_BYTES = 4_000_000_000
"""Largest file (our choice: the largest pose networks have 2.5 GB)."""

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError,
    RuntimeError,  # an encrypted file, or, as NotImplementedError, a later version of zip
)  # fmt: skip
"""Errors of a damaged archive, besides `OSError` without a disk's error number."""


def download(url: str, sha256: str, target: Path, progress: bool = True) -> Path:
    """Downloads a file, unless it exists already.

    A stopped download, `<target>.part`, is continued if the server allows it (HTTP ranges). The file is moved to
    `target` only if its hash is right.

    Args:
        url: http or https. Of a .zip the one file with `target`'s suffix is kept, unless `target` is a .zip itself.
        sha256: hash of the file that is kept, 64 hexadecimal digits, or the first 8 or more, as publishers put them in
            names.
        target: where to keep the file.
        progress: show a bar.

    Returns:
        `target`.

    Raises:
        BadInput: an invalid address or hash, another process is fetching it, or `target` cannot be written.
        WorkFailed: no network, the server refuses, the connection broke, the archive is damaged or holds another number
            of such files, or the hash is wrong.
    """
    if not _is_address(url):
        raise BadInput(f"{url}: no address to fetch from; needed https://...")
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise BadInput(f"sha256: '{sha256[:80]}', needed 64 hexadecimal digits in lower case, or at least the first 8")
    if target.is_file() and sha256_of(target, most=MOST_BYTES).startswith(sha256):
        return target
    part, lock = target.with_name(f"{target.name}.part"), target.with_name(f".{target.name}.lock")
    with locked(lock, f"{target}: another process is fetching it; wait for it"):
        try:
            _fetch(url, part, progress)
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            if isinstance(error, OSError) and error.filename is not None and not isinstance(error, HTTPError):
                raise  # a disk error
            raise WorkFailed(f"{url}: cannot be fetched ({_reason(error)}); {_kept(part)}") from None
        if is_archive(url) and target.suffix != ".zip":
            _unpack(part, target, sha256, url)
        else:
            _require_hash(part, part, sha256, url)
            os.replace(part, target)
        lock.unlink(missing_ok=True)
    return target


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed [ of an IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def is_archive(url: str) -> bool:
    """Whether an address names a .zip."""
    return urlsplit(url).path.lower().endswith(".zip")


def _require_hash(file: Path, downloaded: Path, sha256: str, url: str) -> None:
    """Raises `WorkFailed`, and removes what was downloaded, unless a file has this hash."""
    found = sha256_of(file, most=MOST_BYTES)
    if not found.startswith(sha256):
        downloaded.unlink()
        raise WorkFailed(f"{url}: gave a file with SHA-256 {found}, needed {sha256}; it was not kept")


def _unpack(archive: Path, target: Path, sha256: str, url: str) -> None:
    """Moves the archive's only file with `target`'s suffix to `target` if its hash is right; removes the archive."""
    try:
        with zipfile.ZipFile(archive) as opened, atomic_write(target) as temporary:
            with opened.open(_only_entry(opened, target.suffix)) as source, temporary.open("wb") as stream:
                shutil.copyfileobj(source, stream, _CHUNK)
            _require_hash(temporary, archive, sha256, url)
    except (BadInput, WorkFailed):
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # zipfile raises these two
            raise  # a disk error
        archive.unlink()
        raise WorkFailed(f"{url}: gave no .zip with one {target.suffix} in it; it was not kept") from None
    archive.unlink()


def _only_entry(archive: zipfile.ZipFile, suffix: str) -> zipfile.ZipInfo:
    """The one file with a suffix, besides macOS's notes on files; `ValueError` if there is another number of them."""
    named = [(one, one.filename.rpartition("/")[2]) for one in archive.infolist()]
    (entry,) = [one for one, name in named if name.endswith(suffix) and not name.startswith("._")]
    if entry.file_size > MOST_BYTES:
        raise ValueError(f"{entry.file_size} bytes")
    return entry


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Downloads the rest of the file into `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "xingaug", **({"Range": f"bytes={have}-"} if have else {})})
    try:
        answer: Any = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # the file is complete; the hash is checked next
            return
        raise
    with answer:
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        if (total or 0) > MOST_BYTES:
            raise WorkFailed(f"{url}: has {total} bytes, needed at most {MOST_BYTES}")
        with part.open("ab" if have else "wb") as stream, _bar(part, have, total, progress) as bar:
            while chunk := answer.read(_CHUNK):
                stream.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if have > MOST_BYTES:
                    raise WorkFailed(f"{url}: has more than {MOST_BYTES} bytes")
        if total is not None and have < total:
            raise URLError(f"the connection ended after {have} of {total} bytes")


def _bar(part: Path, have: int, total: int | None, progress: bool) -> ProgressBar[None]:
    return ProgressBar(None, f"fetching {part.stem}", total=total, initial=have, unit="byte", shown=progress)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server says {error.code}"
    if isinstance(error, TimeoutError):
        return "no answer"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
    return str(getattr(reason, "strerror", None) or reason)


def _kept(part: Path) -> str:
    if part.exists() and part.stat().st_size:
        return "the part so far is kept, start again to continue"
    return "it needs a network; or fetch the file elsewhere and name its path"
