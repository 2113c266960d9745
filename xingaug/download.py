"""Downloads a file: on request only, resumable, and kept only if its hash is right."""

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
from xingaug.files import locked
from xingaug.inputs import sha256_of
from xingaug.progress import ProgressBar

MOST_BYTES = 4_000_000_000
"""Largest file (our choice: the largest pose networks have 2.5 GB)."""

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20


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
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
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
        if urlsplit(url).path.endswith(".zip") and target.suffix != ".zip":
            _unpack(part, target.suffix, url)
        found = sha256_of(part, most=MOST_BYTES)
        if not found.startswith(sha256):
            part.unlink()
            raise WorkFailed(f"{url}: gave a file with SHA-256 {found}, needed {sha256}; it was not kept")
        os.replace(part, target)
        lock.unlink(missing_ok=True)
    return target


def _unpack(archive: Path, suffix: str, url: str) -> None:
    """Replaces an archive by its only file with this suffix; removes the archive if there is no such file."""
    unpacked = archive.with_name(f"{archive.name}.unpacked")
    try:
        with zipfile.ZipFile(archive) as opened:
            (entry,) = [one for one in opened.infolist() if one.filename.endswith(suffix)]
            if entry.file_size > MOST_BYTES:
                raise ValueError
            with opened.open(entry) as source, unpacked.open("wb") as stream:
                shutil.copyfileobj(source, stream, _CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        # RuntimeError: an encrypted entry; NotImplementedError: a later version of zip
        archive.unlink()
        unpacked.unlink(missing_ok=True)
        raise WorkFailed(f"{url}: gave no .zip with one {suffix} in it; it was not kept") from None
    os.replace(unpacked, archive)


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
