"""The image pool: earlier generated images, shown to the discriminators again (Shrivastava et al. 2017)."""

import torch
from torch import Tensor


class ImagePool:
    """A buffer of entries; each is a tuple of tensors of one image, the generated one and its conditions."""

    def __init__(self, size: int) -> None:
        """Args: `size`: most entries; 0 returns each batch unchanged."""
        self.size = size
        self.entries: list[list[Tensor]] = []

    def exchange(self, batch: tuple[Tensor, ...], rng: torch.Generator) -> tuple[Tensor, ...]:
        """Swaps about half of a batch for earlier entries, once the pool is full.

        Args:
            batch: tensors (B, ...), detached.
            rng: on the CPU.

        Returns:
            Tensors of the same shapes.
        """
        if self.size == 0:
            return batch
        out = []
        for entry in zip(*batch, strict=True):
            if len(self.entries) < self.size:
                self.entries.append([tensor.clone() for tensor in entry])
                out.append(list(entry))
            elif torch.rand((), generator=rng) < 0.5:
                chosen = int(torch.randint(self.size, (), generator=rng))
                out.append(self.entries[chosen])
                self.entries[chosen] = [tensor.clone() for tensor in entry]
            else:
                out.append(list(entry))
        return tuple(torch.stack(column) for column in zip(*out, strict=True))
