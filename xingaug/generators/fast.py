"""The fast form of a generator: the same weights, arranged for inference."""

import copy
import hashlib
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xingaug.generators.winograd import WinogradConv, is_starved

if TYPE_CHECKING:
    from xingaug.generators.base import PoseGenerator

Network = TypeVar("Network", bound="PoseGenerator")

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
            come out in full precision, and the candidates are summed in it. In float32 with channels last a processor
            with no more than AVX2 does wide 3x3 convolutions by Winograd's method; a GPU rounds to TF32 inside
            convolutions as `torch.backends.cudnn.allow_tf32` says.
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
    _fold(fast)
    fast.is_fast = True
    fast = fast.to(dtype).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    device = next(fast.parameters()).device
    _use_winograd(fast, channels_last and dtype == torch.float32 and is_starved(device))
    if dtype != torch.float32 and fast.content_hash:
        fast.content_hash = hashlib.sha256(f"{fast.content_hash} {dtype}".encode()).hexdigest()  # it gives other images
    if compile:
        fast.compiled = torch.compile(fast.render)  # inputs are checked outside it
    return fast


def _use_winograd(module: nn.Module, wanted: bool) -> None:
    """Wraps the wide 3x3 convolutions, or unwraps those of an earlier fast form."""
    for name, child in module.named_children():
        if isinstance(child, WinogradConv):
            module.add_module(name, WinogradConv(child.conv) if wanted else child.conv)
        elif wanted and WinogradConv.fits(child):
            module.add_module(name, WinogradConv(child))
        else:
            _use_winograd(child, wanted)


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
