"""XingGAN as released (Tang, Bai, Zhang, Torr, Sebe, ECCV 2020, arXiv 2007.09278).

Written plainly, one operation a line: the reference for faster forms. Read from top to bottom: the configuration,
encoders and decoders, one block, the generator.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.checks import JOINT_MAPS, MOST_BLOCKS, check_numbers, check_size
from xingaug.generators.pose import PoseMaps, Poses

CANDIDATES = 10
"""RGB candidates of each branch."""


@dataclass(frozen=True)
class XingGANConfig:
    """Sizes of the generator; the defaults are the released network.

    Attributes:
        size: (height, width) in pixels, both divisible by 4, at which it is used; any other such size works too.
        blocks: T, number of crossed blocks.
        width: channels after the first convolution, even; both codes have four times as many.
        dropout: inside a block.
    """

    size: tuple[int, int] = (128, 64)
    blocks: int = 9
    width: int = 64
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Checks what types alone cannot."""
        check_size(self.size)
        if not 1 <= self.blocks <= MOST_BLOCKS:
            raise ValueError(f"blocks: {self.blocks}, needed at least 1 and at most {MOST_BLOCKS}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width: {self.width}, needed a positive even number")
        check_numbers(self.blocks * 1100 * self.width**2)  # a block's convolutions, by far the largest part
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout}, needed in [0, 1)")


def _conv(inputs: int, outputs: int, kernel: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect", bias=bias)


def _normed(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return _normed(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), outputs)


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    double = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return _normed(double, outputs)


def encoder(inputs: int, width: int) -> nn.Sequential:
    """(B, inputs, H, W) to a code (B, 4 * width, H/4, W/4)."""
    return nn.Sequential(
        *_normed(_conv(inputs, width, 7), width), *_down(width, 2 * width), *_down(2 * width, 4 * width)
    )


def decoder(width: int, candidates: int) -> nn.Sequential:
    """A code (B, 4 * width, h, w) to candidates (B, 3 * candidates, H, W) in [-1, 1]."""
    return nn.Sequential(
        *_up(4 * width, 2 * width), *_up(2 * width, width), _conv(width, 3 * candidates, 7, bias=True), nn.Tanh()
    )


def map_decoder(inputs: int, width: int, maps: int) -> nn.Sequential:
    """Both codes (B, inputs, h, w) to the logits (B, maps, H, W) of the attention maps."""
    return nn.Sequential(
        *_up(inputs, 4 * width),
        *_up(4 * width, 2 * width),
        nn.ConvTranspose2d(2 * width, maps, 1, bias=False),
    )


class CrossedBlock(nn.Module):
    """Convolutions in each branch, then both crossed attentions, which share their 1x1 convolutions and gamma."""

    def __init__(self, channels: int, first: bool, dropout: float) -> None:
        """Builds the block.

        Args:
            channels: C of the appearance code.
            first: whether the shape code coming in has C channels; in later blocks it has 2C.
            dropout: probability after the first ReLU of each branch.
        """
        super().__init__()
        wide = channels if first else 2 * channels
        self.appearance = nn.Sequential(
            *_normed(_conv(channels, channels, 3), channels),
            nn.Dropout(dropout),
            _conv(channels, channels, 3),
            nn.BatchNorm2d(channels),
        )
        self.shape = nn.Sequential(*_normed(_conv(wide, wide, 3), wide), nn.Dropout(dropout), _conv(wide, channels, 3))
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, appearance: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Appearance (B, C, h, w) and shape (B, C or 2C, h, w) to the next appearance and shape (B, 2C, h, w)."""
        x_i = self.appearance(appearance)  # (B, C, h, w)
        x_p = self.shape(shape)  # (B, C, h, w)
        # Both directions read x_i and x_p from before the update.
        next_appearance = self._attend(x_i, x_p)
        return next_appearance, torch.cat([next_appearance, self._attend(x_p, x_i)], 1)

    def _attend(self, x: Tensor, other: Tensor) -> Tensor:
        """Updates `x`, which attends to `other`: queries and values of `x`, keys of `other`; no 1/sqrt(d)."""
        query = self.query(x).flatten(2).transpose(1, 2)  # (B, N, C/8)
        key = self.key(other).flatten(2)  # (B, C/8, N)
        value = self.value(x).flatten(2)  # (B, C, N)
        attention = (query @ key).softmax(-1)  # (B, N queries, N keys)
        return x + self.gamma * (value @ attention.transpose(1, 2)).reshape(x.shape)


class XingGAN(PoseGenerator):
    """The released generator: source image, source pose and target pose in; the person in the target pose out."""

    config: XingGANConfig

    def __init__(self, **config: Any) -> None:
        """Args: `config`: the fields of `XingGANConfig`."""
        super().__init__(XingGANConfig(**config))
        width, code = self.config.width, 4 * self.config.width
        self.pose_maps = PoseMaps(self.config.size)
        self.appearance_encoder = encoder(3, width)
        self.shape_encoder = encoder(2 * JOINT_MAPS, width)
        self.blocks = nn.ModuleList(
            CrossedBlock(code, first=t == 0, dropout=self.config.dropout) for t in range(self.config.blocks)
        )
        self.appearance_decoder = decoder(width, CANDIDATES)
        self.shape_squeeze = nn.Sequential(*_normed(nn.ConvTranspose2d(2 * code, code, 1, bias=False), code))
        self.shape_decoder = decoder(width, CANDIDATES)
        self.map_decoder = map_decoder(3 * code, width, 2 * CANDIDATES + 1)
        self.apply(_initialise)

    def pose_inputs(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The heatmaps of both poses, (B, 36, H, W)."""
        return (self.pose_maps(poses, size),)

    def translate(self, images: Tensor, *seen: Tensor) -> Tensor:
        """As `PoseGenerator.translate`."""
        heatmaps = seen[0]  # (B, 36, H, W)
        appearance = self.appearance_encoder(images.to(self.dtype))  # (B, C, h, w)
        shape = self.shape_encoder(heatmaps.to(self.dtype))  # (B, C, h, w)
        for block in self.blocks:
            appearance, shape = block(appearance, shape)  # (B, C, h, w), (B, 2C, h, w)
        rgb = [
            self.appearance_decoder(appearance).unflatten(1, (CANDIDATES, 3)),
            self.shape_decoder(self.shape_squeeze(shape)).unflatten(1, (CANDIDATES, 3)),
            images.unsqueeze(1),
        ]
        candidates = torch.cat([r.float() for r in rgb], 1)  # (B, 21, 3, H, W)
        maps = self.map_decoder(torch.cat([appearance, shape], 1)).float().softmax(1)  # (B, 21, H, W)
        return (maps.unsqueeze(2) * candidates).sum(1)


def _initialise(module: nn.Module) -> None:
    """Initialises as the released training: convolutions N(0, 0.02), scales of norms N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
