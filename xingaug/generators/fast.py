"""The fast form of a generator: the same weights, optimised for inference."""

import copy
import functools
import hashlib
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from xingaug.generators.base import PoseGenerator

Network = TypeVar("Network", bound="PoseGenerator")

Dtype = Literal["auto", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("auto", "float32", "bfloat16")
"""Types that a generator can render in; "auto" is bfloat16 where the device has it, else float32."""

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has bfloat16 instructions; without them bfloat16 is far slower than float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return has_amx() or _cpu_has("_is_avx512_bf16_supported")


def has_amx() -> bool:
    """Whether the processor multiplies matrices in tiles (Intel's AMX)."""
    return _cpu_has("_is_amx_tile_supported")


def _cpu_has(name: str) -> bool:
    """The answer of a function of `torch.cpu`; False in versions that lack it."""
    return hasattr(torch.cpu, name) and bool(getattr(torch.cpu, name)())


def resolved_dtype(dtype: torch.dtype | str, device: torch.device | str) -> torch.dtype:
    """The type to compute in on a device.

    Args:
        dtype: a floating point type, or one of `DTYPES`.
        device: to compute on.

    Raises:
        ValueError: another dtype.
    """
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    found = getattr(torch, dtype) if dtype in DTYPES else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype: {dtype}, needed 'auto' or a floating point type such as torch.bfloat16")
    return found


def optimize(
    network: Network,
    dtype: torch.dtype | Dtype = "auto",
    compile: bool = False,
    channels_last: bool = True,
) -> Network:
    """A copy of a generator for inference: batch norms folded into the convolutions, dropout gone.

    Args:
        network: `XingGAN` or `XingGANPlusPlus`; it stays as it is. A fast form can be optimised again in another type.
        dtype: of weights and computation. "auto" is bfloat16 where the device has it, else float32. Images go in and
            come out in full precision, and the candidates are summed in it. In float32 a GPU rounds to TF32 inside
            convolutions as `torch.backends.cudnn.allow_tf32` says.
        compile: use `torch.compile` (needs a C++ compiler on a CPU); the first call then takes a minute.
        channels_last: keep feature maps channels last, which is faster for convolutions on CPUs and GPUs.

    Returns:
        A generator of the same class in eval mode, gradients off, which cannot be trained or saved.

    Raises:
        ValueError: a dtype that is not floating point.
    """
    dtype = resolved_dtype(dtype, next(network.parameters()).device)
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    _fold(fast)
    fast.is_fast = True
    for module in fast.modules():
        fold = getattr(module, "fold", None)
        if callable(fold):
            fold()
    fast = fast.to(dtype).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    _fuse_relu(fast, fuses_relu(next(fast.parameters()).device, dtype))
    if dtype != torch.float32 and fast.content_hash:
        fast.content_hash = hashlib.sha256(f"{fast.content_hash} {dtype}".encode()).hexdigest()  # it gives other images
    if compile:
        fast.compiled = torch.compile(fast.render)  # inputs are checked outside it
    return fast


class ConvRelu(nn.Module):
    """A convolution fused with the ReLU after it (cuDNN or oneDNN), for inference."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Args: `conv`, padded with zeros, on the device and in the type that it will be used in."""
        super().__init__()
        self.conv = conv
        self.home = (conv.weight.device.type, conv.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, K, h', w'), at least 0."""
        traced = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
        if traced or self.home != (x.device.type, x.dtype) or torch.is_autocast_enabled(x.device.type):
            return torch.relu_(self.conv(x))
        return _conv_relu(self.conv, x)


def _conv_relu(conv: nn.Conv2d, x: Tensor) -> Tensor:
    padding, weight, bias = conv.padding, conv.weight, conv.bias
    assert not isinstance(padding, str)
    if x.is_cuda:
        return torch.cudnn_convolution_relu(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)
    fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
    )
    return fused


@functools.lru_cache(maxsize=16)
def fuses_relu(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused convolution and ReLU of a device is available and correct, tried on a small one."""
    if device.type not in ("cpu", "cuda"):
        return False
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=rng) for shape in ((2, 16, 8, 4), (16, 16, 3, 3)))
    conv = nn.Conv2d(16, 16, 3, padding=1)
    conv.weight.data = weight
    conv = conv.to(device, dtype).requires_grad_(False).to(memory_format=torch.channels_last)
    x = x.to(device, dtype).contiguous(memory_format=torch.channels_last)
    try:
        found, expected = _conv_relu(conv, x), conv(x).relu()
    except (RuntimeError, AttributeError):
        return False
    return torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2)


def _fuse_relu(module: nn.Module, wanted: bool) -> None:
    """Fuses convolutions with the ReLU after them, or undoes the fusion of an earlier fast form."""
    for child in module.children():
        _fuse_relu(child, wanted)
    if not isinstance(module, nn.Sequential):
        return
    layers: list[nn.Module] = []
    for layer in module:
        layers += [layer.conv, nn.ReLU(inplace=True)] if isinstance(layer, ConvRelu) else [layer]
    kept: list[nn.Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if wanted and isinstance(layer, nn.ReLU) and type(before) is nn.Conv2d and before.padding_mode == "zeros":
            kept[-1] = ConvRelu(before)
        else:
            kept.append(layer)
    _refill(module, kept)


def _refill(module: nn.Sequential, layers: list[nn.Module]) -> None:
    module._modules.clear()
    for number, layer in enumerate(layers):
        module.add_module(str(number), layer)


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
    _refill(module, kept)
