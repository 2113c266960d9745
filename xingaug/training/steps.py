"""The end of a training step of any network: one read of its losses, their check, the averaged weights."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Statistics:
    """The buffers of networks, such as a batch norm's means, which a forward pass already changes."""

    def __init__(self, *networks: nn.Module) -> None:
        """Args: `networks`: already on their device."""
        self.tensors = [buffer for network in networks for buffer in network.buffers()]
        self._kept = [buffer.clone() for buffer in self.tensors]

    def keep(self) -> None:
        """Copies the buffers before a step."""
        torch._foreach_copy_(self._kept, self.tensors)

    def put_back(self) -> None:
        """Restores the copied buffers."""
        torch._foreach_copy_(self.tensors, self._kept)


def read(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Reads scalar figures as one tensor, so that logging a step makes the host wait for the device only once."""
    values = torch.stack([value.detach().float() for value in figures.values()])
    return dict(zip(figures, values.tolist(), strict=True))


def problem_of(losses: Iterable[float], limit: float = math.inf) -> str | None:
    """The error of losses: one is not finite, or its magnitude exceeds the limit; None if all is well."""
    values = list(losses)
    if not all(math.isfinite(value) for value in values):
        return "the loss is not finite"
    if max(map(abs, values)) > limit:
        return f"the loss exceeds loss_limit {limit:g}"
    return None


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Updates the moving average of a network's weights and statistics after a step.

    torch's own `AveragedModel` reads its counter from the device at every update, and starts from the initial weights.

    Args:
        average: of the same class, on the same device.
        network: after the step.
        step: counted from 0. The first steps use less than `decay`, or the random start would linger.
        decay: share of the average that a step keeps, in [0, 1).
    """
    decay = min(decay, (step + 1) / (step + 10))
    # Not `state_dict`, which lists a tensor shared by two modules twice.
    pairs = list(zip(_tensors(average), _tensors(network), strict=True))
    learned = [pair for pair in pairs if pair[0].is_floating_point()]
    counted = [pair for pair in pairs if not pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in learned], [value for _, value in learned], 1 - decay)
    if counted:
        torch._foreach_copy_([mean for mean, _ in counted], [value for _, value in counted])


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*module.parameters(), *module.buffers()]
