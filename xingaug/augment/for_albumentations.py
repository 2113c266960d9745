"""`XingPose` as an albumentations transform, for pipelines that run on CPU workers."""

import os
import warnings
from typing import Any, Self

import numpy as np
import torch

from xingaug.augment.adapter import SampleAdapter
from xingaug.augment.transform import XingPose
from xingaug.images import bytes_to_unit, unit_to_bytes
from xingaug.keypoints import JOINTS, Keypoints

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import looks online for a newer version
import albumentations


class RenderPose(SampleAdapter, albumentations.DualTransform):
    """Re-renders the person of an image; its keypoints become those of the new pose.

    For `albumentations.Compose([RenderPose(augment), ...], keypoint_params=KEYPOINTS)`, called with `image` (H, W, 3)
    uint8 or float32 in [0, 1], `keypoints` (18, 2), `visibility` (18,) in [0, 1], and `key`, the image's name.

    Draws are keyed by (seed, epoch, key), not by albumentations' RNG; `set_epoch` reaches worker processes too. A
    sampler that needs identity or camera looks them up in the bank, by the image's name. albumentations' own flips
    mirror the keypoints but do not swap left and right joints in the list.

    `ReplayCompose` records pose and pixels of a sample, and `ReplayCompose.replay` returns them for the same image.
    """

    def __init__(self, augment: XingPose | None = None) -> None:
        """Wraps a transform.

        Args:
            augment: in mode "replace", with its generator on the CPU; None, as albumentations builds it for a replay,
                only replays recordings.

        Raises:
            ValueError: another mode.
        """
        super().__init__(p=1.0)
        if augment is not None:
            self._hold(augment)

    def set_deterministic(self, flag: bool, save_key: str = "replay") -> Self:
        """As inherited, without the warning about replays for another image, which are refused here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            super().set_deterministic(flag, save_key)
        return self

    @property
    def targets_as_params(self) -> list[str]:
        """The inputs that a draw depends on."""
        return ["image", "keypoints", "key"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Renders the sample.

        Raises:
            ValueError: not 18 keypoints, or no visibility with them; or there is no transform to render with.
        """
        if not hasattr(self, "augment"):
            raise ValueError("augment: None, and nothing to replay; needed a XingPose")
        image, table, key = data["image"], np.asarray(data["keypoints"]), data["key"]
        if table.ndim != 2 or len(table) != len(JOINTS) or table.shape[1] != _COLUMNS:
            raise ValueError(
                f"keypoints: {table.shape}, needed {len(JOINTS)} with their visibility; give "
                "Compose(keypoint_params=xingaug.augment.for_albumentations.KEYPOINTS) and visibility=..."
            )
        persons = Keypoints(torch.tensor(table[None, :, :2]), torch.tensor(table[None, :, -1]))
        is_bytes = image.dtype == np.uint8
        tensor = torch.from_numpy(np.ascontiguousarray(image))[None]
        out = self.augment(
            bytes_to_unit(tensor) if is_bytes else tensor.movedim(-1, 1), persons, [key], epoch=self._epoch.get()
        )
        if not bool(out.is_synthetic):
            return {"source": image, "rendered": None, "table": table}
        rendered = unit_to_bytes(out.images) if is_bytes else out.images.movedim(1, -1)
        posed = table.copy()
        posed[:, :2], posed[:, -1] = out.keypoints.xy[0].numpy(), out.keypoints.visibility[0].numpy()
        return {"source": image, "rendered": np.ascontiguousarray(rendered[0].numpy()), "table": posed}

    def apply(self, img: np.ndarray, source: np.ndarray, rendered: np.ndarray | None, **params: Any) -> np.ndarray:
        """The rendered image, or the real one if it was not selected.

        Raises:
            ValueError: another target than the image, or a replay for another image.
        """
        if not np.array_equal(img, source):
            if self.replay_mode:
                raise ValueError("RenderPose: not the recorded image; a replay returns the recorded image's pose")
            raise ValueError("RenderPose: renders `image` alone; masks and additional targets cannot follow a new pose")
        return img if rendered is None else rendered

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """Raises ValueError: a mask cannot follow a new pose."""
        return self.apply(mask, np.empty(0), None)

    def apply_to_keypoints(self, keypoints: np.ndarray, table: np.ndarray, **params: Any) -> np.ndarray:
        """The keypoints of the returned image."""
        return table

    def get_base_init_args(self) -> dict[str, Any]:
        """Empty: the class has no `p` of its own."""
        return {}

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Empty: its argument cannot be serialised."""
        return ()


_COLUMNS = 6
"""Columns of a keypoint: albumentations' x, y, z, angle and scale, and the visibility."""

KEYPOINTS = albumentations.KeypointParams(format="xy", label_fields=["visibility"], remove_invisible=False)
"""`keypoint_params` for `Compose`: joints outside the image stay in the list."""
