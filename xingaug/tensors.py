"""Reads third-party weights files: all .pth, .pt and .safetensors files are read here.

No code in such a file is run (`weights_only`), and the error for an unreadable file says what it is.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xingaug.errors import BadInput
from xingaug.inputs import open_regular

MAX_BYTES = 20_000_000_000
"""Largest weights file that is read (our choice)."""

_HEAD = 512
"""Bytes at the start of a file from which its format is detected."""

_OTHER_FORMATS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes it"),
    (b"\xff\xd8\xff", "it is a picture"),
    (b"\x89PNG", "it is a picture"),
    (b"\x93NUMPY", "it is an array of NumPy"),
    (b"\x1f\x8b", "it is packed with gzip; unpack it"),
    (b"7z\xbc\xaf", "it is packed with 7-Zip; unpack it"),
    (b"Rar!", "it is packed with RAR; unpack it"),
    (b"BZh", "it is packed with bzip2; unpack it"),
    (b"\xfd7zXZ", "it is packed with xz; unpack it"),
    (b"%PDF", "it is a PDF document"),
)


def read_tensors(path: str | Path, needed: str, device: torch.device | str = "cpu") -> Any:
    """Reads a file saved by torch or safetensors; the format is detected from the content.

    Besides tensors and plain data, NumPy scalars and arrays are read, which training scripts keep in checkpoints.

    Args:
        path: the file.
        needed: what it should be, for the error message.
        device: the device of the tensors.

    Returns:
        A dict of tensors for safetensors, the saved object for torch.

    Raises:
        BadInput: no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file; needed {needed}")
    with open_regular(path, "file of weights", MAX_BYTES) as file:
        head = file.read(_HEAD)
    reason = _other_format(path, head)
    if reason is None:
        try:
            if _is_safetensors(head):
                return load_file(path, device=str(device))
            with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
                warnings.simplefilter("ignore")  # about other formats; the error says it
                return torch.load(path, map_location=device, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise anything
            reason = _reason(error)
    raise BadInput(f"{path}: cannot be read as tensors saved by torch, needed {needed} ({reason})")


def state_dict_of(path: Path, saved: Any, needed: str) -> dict[str, Tensor]:
    """The state dict in the result of `read_tensors`: the result itself, or under a key that training scripts use.

    Raises:
        BadInput: there is none, or it holds anything but named tensors, or sparse, quantised or complex ones, or
            numbers that are not finite.
    """
    if isinstance(saved, dict):
        saved = next((saved[key] for key in _HOLDERS if isinstance(saved.get(key), dict)), saved)
    if not isinstance(saved, dict) or not saved:
        raise BadInput(f"{path}: holds {_called(saved)}, needed {needed}")
    for name, value in saved.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadInput(f"{path}: '{_shown(name)}' holds {_called(value)}, needed {needed}, tensors under names")
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise BadInput(f"{path}: '{_shown(name)}' is sparse, quantised or complex, needed plain numbers")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise BadInput(f"{path}: '{_shown(name)}' has values that are not finite; the file is unusable")
    return saved


def misfit(state: Mapping[str, Tensor], network: nn.Module) -> str:
    """The first mismatch between a state dict and a network; empty if it fits.

    `num_batches_tracked`, which inference does not need, may be missing.
    """
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name in state and state[name].shape != value.shape:
            return f"'{_shown(name)}' is {tuple(state[name].shape)}, needed {tuple(value.shape)}"
        if name not in state and not name.endswith(".num_batches_tracked"):
            return f"'{_shown(name)}' is missing"
    return next((f"'{_shown(name)}' is none of its arrays" for name in state if name not in wanted), "")


_HOLDERS = ("state_dict", "model", "model_state_dict")


def _other_format(path: Path, head: bytes) -> str | None:
    """Why a file cannot hold tensors; None if only its reader can tell."""
    if not head:
        return "it is empty"
    for start, what in _OTHER_FORMATS:
        if head.startswith(start):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is a web page; a download went wrong"
    if head.startswith(b"PK"):
        return _other_zip(path)
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "it is a text file"
    return None


def _other_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # NotImplementedError: a later version of zip
        return "it is cut off or damaged"
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript program, which holds code; save the state dict alone"
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "it is a zip archive that torch has not written"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "it is compressed, as torch writes none"
    return None


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _numpy_globals() -> list[Any]:
    """The globals of pickled NumPy scalars and arrays, under the names of NumPy 1 and 2."""
    makers = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    named = [(make, f"numpy.{part}.multiarray.{name}") for name, make in makers.items() for part in ("core", "_core")]
    kinds = (np.bool_, *np.sctypeDict.values())
    numbers = {kind for kind in kinds if issubclass(kind, np.bool_ | np.number)}
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in numbers}]


def _reason(error: Exception) -> str:
    """Why torch or safetensors refused a file, in our words."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"it holds {refused[1]}, and such objects could run code; save the state dict alone"
    return "it is cut off or damaged, or of another format"


def _called(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def _shown(name: Any) -> str:
    """A key for an error message."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(name)[:80])
