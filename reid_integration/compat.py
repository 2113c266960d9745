"""The only module that handles torchreid's import path, its output on import and stdout, and its downloads.

Upstream (1.4.0) has its packages in `torchreid`, the packaged 0.2.5 in `torchreid.reid`; the rest is the same.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn
from unittest import mock

from xingaug.errors import BadInput, WorkFailed


@functools.cache
def load_torchreid() -> ModuleType:
    """The package that holds torchreid's `data`, `engine`, `losses`, `metrics`, `models`, `optim` and `utils`.

    Its warnings on import (a missing Cython evaluation, which `reid_integration.evaluation` replaces) are dropped here.

    Raises:
        WorkFailed: torchreid, or something that it imports without declaring it, is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            root = importlib.import_module("torchreid")
            packaged = importlib.util.find_spec("torchreid.reid") is not None
            return importlib.import_module("torchreid.reid") if packaged else root
        except ImportError as error:
            raise WorkFailed(f"torchreid cannot be imported ({error}); pip install 'torchreid==0.2.5'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses torchreid's output while a block runs."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def without_downloads() -> Iterator[None]:
    """Makes torchreid's model builders fail where they would fetch pretrained weights.

    Weights in torch's cache from an earlier download are still found.

    Raises:
        BadInput: inside the block, if a file would have to be fetched; it names the file.
    """
    import gdown
    import torch

    def refuse(_url: str, destination: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise BadInput(
            f"model.pretrained: {destination} is not there, and nothing is downloaded here; put torchreid's ImageNet "
            "weights there, give model.load_weights=FILE, or set model.pretrained=false"
        )

    with mock.patch.object(gdown, "download", refuse), mock.patch.object(torch.hub, "download_url_to_file", refuse):
        yield
