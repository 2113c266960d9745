"""Targets that the source determines: the target's person, in the source's light, on the source's own ground.

Another camera's picture of a person has a background and a light that the source does not show. A network that is
trained to reproduce them learns the mean of all possible ones, which looks like fog. (Our choice.)
"""

import torch
from torch import Tensor

_MOST_STRETCH = 1.7
"""Largest factor by which a person's contrast is changed; a larger one indicates a wrong mask."""


def composite_target(
    target: Tensor, target_mask: Tensor, source: Tensor, source_mask: Tensor, ground: Tensor, recolour: Tensor
) -> Tensor:
    """Pastes the target's person onto the source's ground.

    Args:
        target: (B, 3, H, W) in [-1, 1].
        target_mask: (B, 1, H, W) in [0, 1], 1 on the person.
        source: as `target`, the same person.
        source_mask: as `target_mask`.
        ground: (B, 3, H, W), the source without its person.
        recolour: (B,) bool, whether the person's colours are matched to the source's: mean and standard deviation of
            each channel inside the masks (Reinhard et al. 2001, in RGB).

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    mean, deviation = _statistics(target, target_mask)
    wanted_mean, wanted_deviation = _statistics(source, source_mask)
    stretch = (wanted_deviation / deviation).clamp(1 / _MOST_STRETCH, _MOST_STRETCH)
    recoloured = ((target - mean) * stretch + wanted_mean).clamp(-1, 1)
    person = torch.where(recolour[:, None, None, None], recoloured, target)
    return torch.lerp(ground.clamp(-1, 1), person, target_mask)


def _statistics(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 3, 1, 1) of the pixels with a mask above 0.5."""
    inside = (mask > 0.5).to(image.dtype)
    count = inside.sum((2, 3), keepdim=True) + 1
    mean = (image * inside).sum((2, 3), keepdim=True) / count
    variance = ((image - mean).square() * inside).sum((2, 3), keepdim=True) / count
    return mean, variance.sqrt() + 0.02
