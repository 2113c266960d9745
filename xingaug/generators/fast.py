"""The fast form of a generator: the same weights, arranged for inference."""

import copy
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xingaug.generators.winograd import WinogradConv

Network = TypeVar("Network", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 by instructions of its own; without them it is far slower than float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))


def optimize(
    network: Network,
    dtype: torch.dtype | Literal["auto"] = "auto",
    compile: bool = False,
    channels_last: bool = True,
) -> Network:
    """A copy of a generator for inference: batch norms folded into the convolutions, dropout gone.

    Args:
        network: `XingGAN` or `XingGANPlusPlus`; it stays as it is. A fast form may be made again in another type.
        dtype: of weights and computation. "auto" is bfloat16 where the device has it, else float32. Images go in and
            come out in full precision, and the candidates are summed in it. float32 with channels last on a processor
            with no more than AVX2 has its wide 3x3 convolutions done by Winograd's method.
        compile: hand it to `torch.compile` (needs a C++ compiler on a CPU); the first call then takes a minute.
        channels_last: keep feature maps with channels last, as the convolutions of CPUs and GPUs like them.

    Returns:
        A generator of the same class in eval mode, gradients off, which cannot be trained or saved.

    Raises:
        ValueError: a dtype that is not floating point.
    """
    if dtype == "auto":
        parameter = next(network.parameters())
        dtype = torch.bfloat16 if has_bfloat16(parameter.device) else torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: {dtype}, needed 'auto' or a floating point type such as torch.bfloat16")
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    fast.__dict__.pop("render", None)  # of a compiled one, which would go on with its own weights
    _fold(fast)
    if channels_last and dtype == torch.float32 and _is_starved(next(fast.parameters()).device):
        _replace_wide_convolutions(fast)
    fast.is_fast = True  # type: ignore[assignment]
    fast = fast.to(dtype).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if compile:
        fast.render = torch.compile(fast.render)  # type: ignore[assignment, arg-type]  # inputs are checked outside it
    return fast


def _is_starved(device: torch.device) -> bool:
    """Whether a device has no more than AVX2, where multiplications are what a convolution waits for (measured)."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _replace_wide_convolutions(module: nn.Module) -> None:
    for name, child in module.named_children():
        if WinogradConv.fits(child):
            module.add_module(name, WinogradConv(child))
        else:
            _replace_wide_convolutions(child)


def _fold(module: nn.Module) -> None:
    """Folds every batch norm into the convolution before it and drops dropout, in eval mode an identity."""
    for child in module.children():
        _fold(child)
    if not isinstance(module, nn.Sequential):
        return
    kept: list[nn.Module] = []
    for layer in module:
        if isinstance(layer, nn.BatchNorm2d) and kept and isinstance(kept[-1], _CONVOLUTIONS):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer, transpose=isinstance(kept[-1], nn.ConvTranspose2d))
        elif not isinstance(layer, nn.Dropout):
            kept.append(layer)
    module._modules.clear()
    for number, layer in enumerate(kept):
        module.add_module(str(number), layer)
