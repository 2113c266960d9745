"""Pose-guided person image generators."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xingaug.generators.store import load_generator as load_generator
    from xingaug.generators.store import save_generator as save_generator
    from xingaug.generators.xinggan_pp import XingGANPlusPlus as XingGANPlusPlus

_HOMES = {
    "XingGANPlusPlus": "xingaug.generators.xinggan_pp",
    "load_generator": "xingaug.generators.store",
    "save_generator": "xingaug.generators.store",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'xingaug.generators' has no attribute '{name}'")
