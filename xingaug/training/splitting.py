"""Losses of a generator's split into person and ground, and targets made with it (our choice).

No image shows the ground behind its person, so inpainting cannot be learned there. Instead, the masks of other
persons are laid over the ground beside the person: holes whose true content is known.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.ground import SourceSplit, split_of, widen
from xingaug.training.batches import Batch
from xingaug.training.composites import composite_target


def trained_split(generator: nn.Module) -> SourceSplit:
    """The part of a generator with `keep_ground` that splits its source into person and ground."""
    split = split_of(generator)
    assert split is not None
    return split


@torch.no_grad()
def compose(batch: Batch, split: SourceSplit) -> Batch:
    """Replaces the targets of pairs by composites on the ground that `split` finds.

    Args:
        batch: with `persons`.
        split: in eval mode.
    """
    assert batch.persons is not None
    source, target = batch.persons.split(1, 1)
    ground = split(batch.source, batch.source_means)[1]
    made = composite_target(batch.target, target, batch.source, source, ground, batch.across)
    return replace(batch, target=made)


def split_losses(split: SourceSplit, image: Tensor, means: Tensor, person: Tensor) -> dict[str, Tensor]:
    """Losses of mask and ground.

    Args:
        split: of the generator.
        image: (B, 3, H, W) in [-1, 1].
        means: (B, 18, H/4, W/4), 4x4 means of the pose's maps.
        person: (B, 1, H, W) in [0, 1], the true masks, 1 on the person.

    Returns:
        "mask": cross-entropy with the true mask; "ground": mean absolute difference in the holes whose content is
        known.
    """
    mask = F.binary_cross_entropy_with_logits(split.find(image, means), person)
    hole, known = holes(person)
    difference = (split.fill(image, hole) - image).abs() * known
    return {"mask": mask, "ground": difference.sum() / (3 * known.sum() + 1)}


@torch.no_grad()
def holes(person: Tensor) -> tuple[Tensor, Tensor]:
    """Holes to fill: the person's own mask, and that of the previous row, shifted by a third of the width.

    Rows alternate between shifts to the right and to the left.

    Args:
        person: (B, 1, H, W) in [0, 1].

    Returns:
        The holes (B, 1, H, W) in [0, 1], and where in them the image shows the ground.
    """
    own = widen(person)
    aside = person.shape[-1] // 3
    beside = torch.roll(person, 1, 0)
    beside[::2], beside[1::2] = torch.roll(beside[::2], aside, -1), torch.roll(beside[1::2], -aside, -1)
    other = widen((beside > 0.3).to(person.dtype))
    return torch.maximum(own, other), other * (own < 0.2).to(person.dtype)
