"""The base class of every generator: checked inputs in, an image out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn

from xingaug.generators.checks import check_inputs
from xingaug.generators.fast import Dtype, optimize
from xingaug.generators.pose import Poses


class PoseGenerator(nn.Module, ABC):
    """A network that renders the source person in the target pose; subclasses implement `pose_inputs` and `translate`.

    Attributes:
        config: the dataclass that it was built from, with `size`, (height, width) in pixels.
        content_hash: identifies its stored weights and configuration; empty unless it was loaded from a file.
        is_fast: whether it is a fast form (`optimize`), which can neither be trained nor saved.
        compiled: `render` compiled by `torch.compile`; not copied or pickled with the generator.
    """

    config: Any
    content_hash: str
    is_fast: bool
    compiled: Callable[[Tensor, Poses], Tensor] | None

    def __init__(self, config: Any) -> None:
        """Args: `config`: of the network."""
        super().__init__()
        self.config = config
        self.content_hash = ""
        self.is_fast = False
        self.compiled = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the compiled code, which cannot be copied."""
        return {**super().__getstate__(), "compiled": None}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images it was built for."""
        size: tuple[int, int] = self.config.size
        return size

    @property
    def required_size(self) -> tuple[int, int] | None:
        """The only size that it accepts, or None if it accepts any with sides divisible by 4."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The type that it computes in; of a fast form perhaps another than float32, the type of its images."""
        return next(self.parameters()).dtype

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data, for storing."""
        return asdict(self.config)

    def optimize(self, dtype: torch.dtype | Dtype = "auto", compile: bool = False, channels_last: bool = True) -> Self:
        """A fast copy for inference; see `xingaug.generators.fast.optimize`."""
        return optimize(self, dtype, compile, channels_last)

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        """Renders the source person in the target pose; `xingaug.generators.render` does it from joints, and faster.

        Args:
            source: (B, 3, H, W) float in [-1, 1], H and W divisible by 4 and at least 8.
            source_heatmaps: (B, 18, H, W) float in [0, 1]. A joint more than a pixel outside the image is taken to lie
                there; `render` takes joints from anywhere.
            target_heatmaps: (B, 18, H, W) float in [0, 1].

        Returns:
            (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: an argument of another shape, type, device, size or range. Inside a user's own `torch.compile`
                ranges are not checked; `optimize(compile=True)` keeps that check.
        """
        check_inputs(source, source_heatmaps, target_heatmaps, self.required_size)
        return self.run(source, Poses.of_heatmaps(source_heatmaps, target_heatmaps))

    def run(self, images: Tensor, poses: Poses) -> Tensor:
        """`render`, in its compiled form if there is one."""
        return (self.compiled or self.render)(images, poses)

    def render(self, images: Tensor, poses: Poses) -> Tensor:
        """The computation itself, on inputs that have been checked: no checks and no device-to-host reads in here.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            poses: of source and target.

        Returns:
            (B, 3, H, W) float32 in [-1, 1].
        """
        return self.translate(images, *self.pose_inputs(poses, (images.shape[-2], images.shape[-1])))

    @abstractmethod
    def pose_inputs(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The network's inputs computed from the poses, in full precision; nothing in it is learned.

        Args:
            poses: `poses.xy` and `poses.present` are always there, maps are drawn by `generators.pose.PoseMaps`.
            size: (height, width) of the images.
        """

    @abstractmethod
    def translate(self, images: Tensor, *seen: Tensor) -> Tensor:
        """The network, applied to images and the output of `pose_inputs`."""
