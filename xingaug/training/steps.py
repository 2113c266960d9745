"""What a training step of any network ends with: one read of its losses, their check, the averaged weights."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Statistics:
    """The buffers of networks, such as a batch norm's means, which a forward pass moves already."""

    def __init__(self, *networks: nn.Module) -> None:
        """Args: `networks`: on their device."""
        self.tensors = [buffer for network in networks for buffer in network.buffers()]
        self._kept = [buffer.clone() for buffer in self.tensors]

    def keep(self) -> None:
        """Remembers them as they are, before a step."""
        torch._foreach_copy_(self._kept, self.tensors)

    def put_back(self) -> None:
        """Makes them what they were when they were kept."""
        torch._foreach_copy_(self.tensors, self._kept)


def read(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures, a number each, as one tensor: of all that a step logs this alone makes the host wait for the device."""
    values = torch.stack([value.detach().float() for value in figures.values()])
    return dict(zip(figures, values.tolist(), strict=True))


def problem_of(losses: Iterable[float], limit: float = math.inf) -> str | None:
    """What is wrong with losses: one is not finite, or further from 0 than the limit; None if nothing is."""
    values = list(losses)
    if not all(math.isfinite(value) for value in values):
        return "the loss is not finite"
    if max(map(abs, values)) > limit:
        return f"the loss exceeds loss_limit {limit:g}"
    return None


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Moves averaged weights, and averaged statistics, towards those of a network after a step.

    torch's own `AveragedModel` reads its counter from the device at every update, and starts from the first weights.

    Args:
        average: of the same class, on the same device.
        network: after the step.
        step: the step, counted from 0. The first ones keep less than `decay`, or the random start would stay for long.
        decay: share of the average that a step keeps, in [0, 1).
    """
    decay = min(decay, (step + 1) / (step + 10))
    # Not `state_dict`, which names a tensor twice that two modules share.
    pairs = list(zip(_tensors(average), _tensors(network), strict=True))
    learned = [pair for pair in pairs if pair[0].is_floating_point()]
    counted = [pair for pair in pairs if not pair[0].is_floating_point()]
    torch._foreach_lerp_([mine for mine, _ in learned], [now for _, now in learned], 1 - decay)
    if counted:
        torch._foreach_copy_([mine for mine, _ in counted], [now for _, now in counted])


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]
