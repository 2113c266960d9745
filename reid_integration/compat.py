"""The one place that knows where torchreid lives and what it does on import, on stdout and on the network.

Upstream (1.4.0) is rooted at `torchreid`, the packaged 0.2.5 at `torchreid.reid`; everything below is the same.
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
    """Drops what torchreid prints while it builds things."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def without_downloads() -> Iterator[None]:
    """Makes torchreid's model builders fail where they would fetch pretrained weights.

    Weights that an earlier download has left in torch's cache are still found.

    Raises:
        BadInput: inside the block, when a file would have to be fetched; it names the file.
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
