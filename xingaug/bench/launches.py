"""Counts the kernels that a computation would launch on a device and its reads back, without needing a device."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "item", "equal", "is_nonzero")
"""Operations that make the host wait for their result."""

_ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh")


class LaunchCounter(TorchDispatchMode):
    """Counts operations within its context, except views and allocations, which launch nothing.

    Attributes:
        launches: by the operation's name, how often it was called.
        reads: by the operation's name, how often it was called, of those that make the host wait for values.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Number of all launches."""
        return sum(self.launches.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one operation and runs it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _READS:
            self.reads[name] += 1
        if not (name in _ALLOCATES or _is_view(func) or _is_own(out, args, name)):
            self.launches[name] += 1
        return out


def _is_view(func: Any) -> bool:
    """Whether an operation returns a view of its argument, unchanged."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _is_own(out: Any, args: Any, name: str) -> bool:
    """Whether a reshape or an unsafe view, which may copy, returned its argument's memory."""
    if name not in ("_unsafe_view", "_reshape_alias", "detach"):
        return False
    inputs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
    return all(leaf.untyped_storage().data_ptr() in inputs for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


def launches_of(function: Any, *args: Any) -> LaunchCounter:
    """Counts of one call without gradients."""
    with LaunchCounter() as counter, torch.no_grad():
        function(*args)
    return counter
