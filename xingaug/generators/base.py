"""What every generator is: checked inputs in, an image out."""

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
    """A network that renders the source person in the target pose; subclasses say how, in `render`.

    Attributes:
        config: the dataclass that it was built from, with `size`, (height, width) in pixels.
        content_hash: tells its stored weights and configuration apart; empty unless it was loaded from a file.
        is_fast: whether it is a fast form (`optimize`), which can neither be trained nor saved.
        compiled: what `torch.compile` made of `render`; a copy goes without.
    """

    config: Any
    content_hash: str
    is_fast: bool
    compiled: Callable[[Tensor, Poses], Tensor] | None

    def __init__(self, config: Any) -> None:
        """Args: `config`: the network's."""
        super().__init__()
        self.config = config
        self.content_hash = ""
        self.is_fast = False
        self.compiled = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the compiled code, which belongs to this object."""
        return {**super().__getstate__(), "compiled": None}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images it was built for."""
        size: tuple[int, int] = self.config.size
        return size

    @property
    def required_size(self) -> tuple[int, int] | None:
        """The one size that it takes, or None where it takes any with sides divisible by 4."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; of a fast form perhaps another than the images', which come and go as float32."""
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
            source_heatmaps: (B, 18, H, W) float in [0, 1].
            target_heatmaps: (B, 18, H, W) float in [0, 1].

        Returns:
            (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: an argument of another shape, type, device, size or range. Inside a user's own `torch.compile`
                ranges are not looked at; `optimize(compile=True)` keeps that check.
        """
        check_inputs(source, source_heatmaps, target_heatmaps, self.required_size)
        return self.run(source, Poses.of_heatmaps(source_heatmaps, target_heatmaps))

    def run(self, images: Tensor, poses: Poses) -> Tensor:
        """`render`, compiled where it was."""
        return (self.compiled or self.render)(images, poses)

    def render(self, images: Tensor, poses: Poses) -> Tensor:
        """What the network computes, on inputs that have been checked: no checks, no reads by the host in here.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            poses: of source and target.

        Returns:
            (B, 3, H, W) float32 in [-1, 1].
        """
        return self.translate(images, *self.pose_inputs(poses, (images.shape[-2], images.shape[-1])))

    @abstractmethod
    def pose_inputs(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """What the network sees of the poses, in full precision; nothing in it is learned.

        Args:
            poses: `poses.xy` and `poses.present` are always there, maps are drawn by `generators.pose.PoseMaps`.
            size: (height, width) of the images.
        """

    @abstractmethod
    def translate(self, images: Tensor, *seen: Tensor) -> Tensor:
        """`render` from what `pose_inputs` gives."""
