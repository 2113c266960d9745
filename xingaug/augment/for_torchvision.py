"""`XingPose` as a torchvision v2 transform, for datasets and pipelines of tv_tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from xingaug.augment.adapter import SampleAdapter
from xingaug.augment.transform import XingPose
from xingaug.keypoints import Keypoints


class RenderPose(SampleAdapter, v2.Transform):
    """Re-renders the person of a sample, or those of a collated batch.

    A sample is a mapping with `image`, a tv_tensors.Image (3, H, W) or (B, 3, H, W), uint8 or float in [0, 1];
    `keypoints`, tv_tensors.KeyPoints (18, 2) or (B, 18, 2); `visibility` (18,) or (B, 18) in [0, 1]; `key`, the image's
    name or B names; and for samplers that need them `pid` and `camid`. It is returned with the same types, image and
    keypoints of selected rows replaced, and `is_synthetic`, a bool or (B,) bool, added.

    Draws are keyed by (seed, epoch, key), not by torch's RNG; `set_epoch` reaches worker processes too. Every process
    has its own reuse cache, so use `reuse` only where one process renders the batches.
    """

    def __init__(self, augment: XingPose) -> None:
        """Wraps a transform.

        Args:
            augment: in mode "replace".

        Raises:
            ValueError: another mode.
        """
        super().__init__()
        self._hold(augment)

    def forward(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample, or batch of samples, re-rendered.

        Raises:
            ValueError: a field is missing, or not of the type or shape described above.
        """
        image, keypoints = _field(sample, "image", tv_tensors.Image), _field(sample, "keypoints", tv_tensors.KeyPoints)
        visibility, key = _field(sample, "visibility", Tensor), _field(sample, "key", (str, list, tuple))
        size = (image.shape[-2], image.shape[-1])
        for name, values in (("keypoints", keypoints), ("visibility", visibility)):
            if not values.is_floating_point():
                raise ValueError(f"{name}: {values.dtype}, needed floating point, for poses lie between pixels")
        if tuple(keypoints.canvas_size) != size:
            raise ValueError(f"keypoints: canvas size {tuple(keypoints.canvas_size)}, needed the image's, {size}")
        one = image.ndim == 3
        plain = image.as_subclass(Tensor)
        unit = plain.float() / 255 if plain.dtype == torch.uint8 else plain
        persons = Keypoints(keypoints.as_subclass(Tensor), visibility)
        pid, camid = sample.get("pid"), sample.get("camid")
        if one:
            unit, persons, key = unit[None], Keypoints(persons.xy[None], persons.visibility[None]), [key]
            pid, camid = (None if value is None else [int(value)] for value in (pid, camid))
        out = self.augment(unit, persons, key, pid, camid, self._epoch.get())
        images, xy, seen = out.images, out.keypoints.xy, out.keypoints.visibility
        if plain.dtype == torch.uint8:
            images = (images * 255).round().to(torch.uint8)
        if one:
            images, xy, seen = images[0], xy[0], seen[0]
        return {
            **sample,
            "image": tv_tensors.wrap(images, like=image),
            "keypoints": tv_tensors.wrap(xy.to(keypoints.dtype), like=keypoints),
            "visibility": seen.to(visibility.dtype),
            "is_synthetic": bool(out.is_synthetic) if one else out.is_synthetic,
        }


def _field(sample: Mapping[str, Any], name: str, kind: Any) -> Any:
    if not isinstance(sample, Mapping) or not isinstance(sample.get(name), kind):
        came = type(sample.get(name)).__name__ if isinstance(sample, Mapping) else type(sample).__name__
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"sample: {name} is {came}, needed a mapping whose '{name}' is {wanted}")
    return sample[name]
