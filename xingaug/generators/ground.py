"""Splits the source into person and ground: the person's mask, and the image without the person (our choice).

An augmented image keeps its source's camera, so it keeps its ground, pixel for pixel where the person does not hide it.
The hidden part is inpainted: first by means of its surroundings over ever larger squares, then by a network that
corrects them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEN_PX = 5
"""Side of the square by which a mask is dilated before it is cut out, as pixels at its edge still show the person."""

_LEVELS = 5
"""How often the image is halved; the coarsest mean is over 32x32 pixels."""


class UNet(nn.Module):
    """Half-resolution features to an image, through an eighth of that resolution and back."""

    def __init__(self, inputs: int, joined: int, outputs: int, widths: tuple[int, int, int, int]) -> None:
        """Builds the network.

        Args:
            inputs: channels in, at half the image's resolution.
            joined: channels concatenated at a quarter of it; 0 for none.
            outputs: channels out, at the image's resolution.
            widths: channels at a half, a quarter, an eighth and a sixteenth of it.
        """
        super().__init__()
        a, b, c, d = widths
        self.enter = _conv(inputs, a)
        self.down_quarter, self.mix_quarter = _conv(a, b, stride=2), _conv(b + joined, b)
        self.down_eighth, self.mix_eighth = _conv(b, c, stride=2), _conv(c, c)
        self.down_sixteenth, self.mix_sixteenth = _conv(c, d, stride=2), _conv(d, d)
        self.up_eighth, self.join_eighth = _up(d, 64), _conv(64 + c, c)
        self.up_quarter, self.join_quarter = _up(c, 48), _conv(48 + b, b)
        self.up_half, self.join_half = _up(b, a), _conv(2 * a, a)
        self.leave = nn.Conv2d(a, 4 * outputs, 3, padding=1)

    def forward(self, half: Tensor, quarter: Tensor | None = None) -> Tensor:
        """(B, inputs, H/2, W/2), optionally (B, joined, H/4, W/4), to (B, outputs, H, W); H, W divisible by 16."""
        half = self.enter(half)  # (B, a, H/2, W/2)
        down = self.down_quarter(half)
        fourth = self.mix_quarter(down if quarter is None else torch.cat([down, quarter], 1))  # (B, b, H/4, W/4)
        eighth = self.mix_eighth(self.down_eighth(fourth))  # (B, c, H/8, W/8)
        code = self.mix_sixteenth(self.down_sixteenth(eighth))  # (B, d, H/16, W/16)
        code = self.join_eighth(torch.cat([self.up_eighth(code), eighth], 1))
        code = self.join_quarter(torch.cat([self.up_quarter(code), fourth], 1))
        code = self.join_half(torch.cat([self.up_half(code), half], 1))
        return F.pixel_shuffle(self.leave(code), 2)


class SourceSplit(nn.Module):
    """Splits the source into its person and its ground."""

    def __init__(self, joints: int = 18, widths: tuple[int, int, int, int] = (32, 64, 96, 128)) -> None:
        """Args: `joints`: maps of a pose; `widths`: channels of both networks, see `UNet`."""
        super().__init__()
        self.mask = UNet(12, joints, 1, widths)
        self.ground = UNet(16, 0, 3, widths)

    def forward(self, image: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """The person's mask and the ground.

        Args:
            image: (B, 3, H, W) in [-1, 1], H and W divisible by 16.
            means: (B, 18, H/4, W/4), 4x4 means of the source pose's maps.

        Returns:
            The mask (B, 1, H, W) in [0, 1], 1 on the person, and the ground (B, 3, H, W), both float32.
        """
        mask = self.find(image, means).sigmoid()
        return mask, self.fill(image, widen(mask))

    def find(self, image: Tensor, means: Tensor) -> Tensor:
        """Logits (B, 1, H, W) float32 of the person's mask; arguments as for `forward`."""
        dtype = self.mask.leave.weight.dtype
        logits: Tensor = self.mask(F.pixel_unshuffle(image, 2).to(dtype), means.to(dtype)).float()
        return logits

    def fill(self, image: Tensor, hole: Tensor) -> Tensor:
        """The image with its holes filled.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            hole: (B, 1, H, W) in [0, 1], 1 where the image is hidden.

        Returns:
            (B, 3, H, W) float32, the image itself outside the holes.
        """
        known = image.float() * (1 - hole)
        guess = spread(known, 1 - hole)  # (B, 3, H, W)
        seen = F.pixel_unshuffle(torch.cat([guess, hole], 1), 2)
        correction = self.ground(seen.to(self.ground.leave.weight.dtype)).float()
        return torch.addcmul(known, hole, (guess + correction).clamp(-1.2, 1.2))


def widen(mask: Tensor, side: int = WIDEN_PX) -> Tensor:
    """Dilates a mask (B, 1, H, W) by a square of an odd side in pixels."""
    return F.max_pool2d(mask, side, stride=1, padding=side // 2)


def spread(known: Tensor, weight: Tensor) -> Tensor:
    """Fills unknown pixels with weighted means of known ones, over squares that double until they contain some.

    Args:
        known: (B, 3, H, W) float32, already multiplied by the weight; H, W divisible by 32, or fewer levels are used.
        weight: (B, 1, H, W) in [0, 1], how well each pixel is known.

    Returns:
        (B, 3, H, W) float32.
    """
    levels = [torch.cat([known, weight], 1)]
    while len(levels) <= _LEVELS and not (levels[-1].shape[-1] % 2 or levels[-1].shape[-2] % 2):
        levels.append(F.avg_pool2d(levels[-1], 2))
    filled = levels[-1][:, :3] / levels[-1][:, 3:].clamp(min=1e-3)
    for level in reversed(levels[:-1]):
        coarse = F.interpolate(filled, scale_factor=2, mode="bilinear")
        filled = torch.addcmul(level[:, :3], 1 - level[:, 3:], coarse)
    return filled


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, 4 * outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(4 * outputs), nn.ReLU(inplace=True), nn.PixelShuffle(2))


def split_of(generator: nn.Module) -> SourceSplit | None:
    """The part of a generator that separates person and ground; None without `keep_ground`."""
    split = getattr(generator, "split", None)
    return split if isinstance(split, SourceSplit) else None
