"""The processes that share a run, a training or the making of a dataset: one by default, several under torchrun."""

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Module = TypeVar("Module", bound=nn.Module)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process's rank among those of the run, and their number.

    Attributes:
        rank: of this process.
        count: of all.
        device: of this process.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of them share this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.count > 1 else 1

    def prepare(self, module: Module) -> Module:
        """Moves a module to the device; on several GPUs its batch norms are synchronised."""
        if self.count > 1 and self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return module.to(self.device).to(memory_format=torch.channels_last)

    def share(self, module: nn.Module) -> nn.Module:
        """Wraps a module so that its gradients are averaged over the processes."""
        if self.count == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, **_own_buffers())

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces floating-point tensors by their mean over the processes, in one all-reduce."""
        chosen = [t for t in tensors if t.is_floating_point()]
        if self.count == 1 or not chosen:
            return
        flat = torch.cat([t.detach().float().flatten() for t in chosen])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(chosen, flat.split([t.numel() for t in chosen]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def highest(self, *numbers: int) -> list[int]:
        """The largest value over the processes, of each number separately."""
        if self.count == 1:
            return list(numbers)
        shared = torch.tensor(numbers, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def total(self, number: int) -> int:
        """The sum of the processes' numbers; all wait for one another."""
        if self.count == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared)
        return int(shared)

    def broadcast(self, message: str) -> str:
        """The first process's message; all wait for it."""
        if self.count == 1:
            return message
        received = [message]
        dist.broadcast_object_list(received)
        return received[0]

    def portion_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of some items."""
        return items[self.rank :: self.count]

    def gather(self, value: object) -> list[object]:
        """The value of every process, in order; empty on all but the first."""
        if self.count == 1:
            return [value]
        found: list[object] = [None] * self.count
        dist.gather_object(value, found if self.is_first else None)
        return found if self.is_first else []

    def wait(self) -> None:
        """Waits until all processes have reached this call."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes_of(device: str, backend: str | None = None, timeout: timedelta | None = None) -> Iterator[Processes]:
    """Joins the other processes that torchrun started, if it did, and leaves them at the end.

    Args:
        device: as configured; under torchrun "cuda" becomes the GPU of the local rank.
        backend: of torch.distributed; None is nccl for GPUs, else gloo.
        timeout: how long one waits for another; None is torch's default.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    own_device = torch.device(device)
    if count == 1:
        yield Processes(0, 1, own_device)
        return
    if own_device.type == "cuda":
        own_device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own_device)
    dist.init_process_group(backend or ("nccl" if own_device.type == "cuda" else "gloo"), timeout=timeout)
    try:
        yield Processes(dist.get_rank(), count, own_device)
    finally:
        dist.destroy_process_group()


def _own_buffers() -> dict[str, Any]:
    """The argument that keeps batch statistics local to each process; torch 2.15 renamed it."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
