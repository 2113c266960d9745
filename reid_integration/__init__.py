"""torchreid with `augment: xinggan_pose`: configuration, loader hook, evaluation, training and comparison.

Attributes are imported on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "AugmentConfig": "config",
    "CompareConfig": "compare",
    "add_config": "attach",
    "attach_config": "attach",
    "PoseLoader": "loader",
    "ReidConfig": "config",
    "ReidResult": "evaluation",
    "attach_poses": "loader",
    "evaluate": "evaluation",
    "render_by_path": "by_path",
    "render_fastreid": "by_path",
    "load_reid_config": "config",
    "register_market_folder": "datamanager",
    "run": "train",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports the submodule that holds `name`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
