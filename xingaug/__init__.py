"""Pose augmentation for person re-identification.

Takes images and keypoints and renders the same identities in poses drawn from a bank. Names are imported on first use,
so that `import xingaug` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xingaug.augment.gate import QualityGate as QualityGate
    from xingaug.augment.grounds import Grounds as Grounds
    from xingaug.augment.references import References as References
    from xingaug.augment.transform import XingPose as XingPose
    from xingaug.errors import BadInput as BadInput
    from xingaug.errors import WorkFailed as WorkFailed
    from xingaug.generators.store import load_generator as load_generator
    from xingaug.generators.store import save_generator as save_generator
    from xingaug.keypoints import Keypoints as Keypoints
    from xingaug.keypoints import render_heatmaps as render_heatmaps
    from xingaug.poses.bank import PoseBank as PoseBank

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "xingaug.errors",
    "Grounds": "xingaug.augment.grounds",
    "Keypoints": "xingaug.keypoints",
    "PoseBank": "xingaug.poses.bank",
    "QualityGate": "xingaug.augment.gate",
    "References": "xingaug.augment.references",
    "WorkFailed": "xingaug.errors",
    "XingPose": "xingaug.augment.transform",
    "load_generator": "xingaug.generators.store",
    "render_heatmaps": "xingaug.keypoints",
    "save_generator": "xingaug.generators.store",
}
_PACKAGES = ("augment", "data", "generators", "offline", "poses", "report", "training")

__all__ = [*_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"xingaug.{name}")
    raise AttributeError(f"module 'xingaug' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
