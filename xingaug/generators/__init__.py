"""Pose-guided person image generators."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xingaug.generators.light import XingGANPlusPlus as XingGANPlusPlus
    from xingaug.generators.official import load_official_checkpoint as load_official_checkpoint
    from xingaug.generators.sizes import SIZES as SIZES
    from xingaug.generators.store import load_generator as load_generator
    from xingaug.generators.store import save_generator as save_generator
    from xingaug.generators.xinggan import XingGAN as XingGAN

_HOMES = {
    "SIZES": "xingaug.generators.sizes",
    "XingGAN": "xingaug.generators.xinggan",
    "XingGANPlusPlus": "xingaug.generators.light",
    "load_generator": "xingaug.generators.store",
    "load_official_checkpoint": "xingaug.generators.official",
    "save_generator": "xingaug.generators.store",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'xingaug.generators' has no attribute '{name}'")
