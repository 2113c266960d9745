"""Networks of other people, read as programs that `torch.export` has saved."""

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from xingaug.errors import BadInput


def load_program(path: str | Path, what: str, device: torch.device | str = "cpu") -> nn.Module:
    """Loads a network without the code that defined it.

    Loading runs what the file says, so open only files that you trust. The network is in the mode in which it was
    exported and has neither `train()` nor `eval()`.

    Args:
        path: as `torch.export.save` wrote it, usually `.pt2`.
        what: what the file should hold, for the error messages, such as "a pose estimator".
        device: where it will run, whatever device it was exported on.

    Returns:
        A module to be called with the tensors that the program takes.

    Raises:
        BadInput: no such file, or no program that this torch can load.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; needed {what} saved by torch.export.save")
    if not zipfile.is_zipfile(path):  # told here, because torch.export takes seconds to import
        raise BadInput(f"{path}: no program of torch.export; needed {what} saved by torch.export.save")
    import torch.export.passes

    try:
        with _silence():
            program = torch.export.load(path)
            return torch.export.passes.move_to_device_pass(program, torch.device(device)).module()
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the reader fail anywhere
        reason = first_line(error)
        raise BadInput(f"{path}: cannot be loaded as {what} saved by torch.export.save ({reason})") from None


def run_program(program: nn.Module, path: str | Path, images: Tensor) -> Tensor:
    """Applies a program to images.

    Args:
        program: from `load_program`.
        path: its file, for the error messages.
        images: (B, 3, H, W).

    Returns:
        What the program returns.

    Raises:
        BadInput: the program does not take these images, or returns something else than one tensor.
    """
    shape = tuple(images.shape)
    try:
        result = program(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        hint = "export it for this size and any batch"
        raise BadInput(f"{path}: does not take images {shape} ({first_line(error)}); {hint}") from None
    if not isinstance(result, Tensor):
        raise BadInput(f"{path}: returns a {type(result).__name__} for images {shape}, needed one tensor")
    return result


def first_line(error: Exception) -> str:
    """What an error says, cut to fit into one line of another."""
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


@contextmanager
def _silence() -> Iterator[None]:
    """Without what torch logs and warns of on its way to an error, which says it too."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
