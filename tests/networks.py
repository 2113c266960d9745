"""Small generators whose every part shows in the image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xingaug.generators import XingGAN, XingGANPlusPlus
from xingaug.generators.base import PoseGenerator
from xingaug.generators.layers import Linears
from xingaug.generators.xinggan import CrossedBlock
from xingaug.generators.xinggan_pp import CrossedAttention, EnhancedAttention

SIZE = (32, 16)

TINY = {
    "size": SIZE, "width": 8, "blocks": 2, "query_channels": 4, "enhanced_width": 8, "candidates": 2,
    "decoder_widths": (8, 4), "map_widths": (4, 4), "pyramid": (1, 2), "texture_attention": 1,
}  # fmt: skip

PAPER = {
    "stem": "released", "decoder": "released", "padding": "reflect", "wide_shape": True, "residual": False,
    "texture_attention": 0, "limb_warp": False,
}  # fmt: skip

BUILDERS: dict[str, Callable[[], PoseGenerator]] = {
    "xinggan": lambda: XingGAN(size=SIZE, blocks=2, width=4),
    "light": lambda: XingGANPlusPlus(**{**TINY, "dropout": 0.3}),
    "paper": lambda: XingGANPlusPlus(**{**TINY, **PAPER, "dropout": 0.5}),
    "plain attention": lambda: XingGANPlusPlus(**{**TINY, "enhanced": False, "multi_scale": False}),
    "patches": lambda: XingGANPlusPlus(**{**TINY, "enhanced_queries": 8}),
    "last stage": lambda: XingGANPlusPlus(**{**TINY, "dense_fusion": False}),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(build: Callable[[], PoseGenerator]) -> PoseGenerator:
    """A network in which nothing is at its neutral start: weights, batch statistics, gamma, EA's factor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, Linears):
                for weight in module.weight.data:
                    nn.init.kaiming_normal_(weight)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "scale")):
                parameter.data.fill_(0.9)
            elif name == "flow.out.3.weight":
                parameter.data.normal_(0, 0.005)  # about a pixel; in a picture of noise no rounding is small
    return network


PARTS: dict[str, Callable[[nn.Module], list[Tensor]]] = {
    "attention": lambda m: [m.gamma] if isinstance(m, CrossedAttention | CrossedBlock) else [],
    "enhanced attention": lambda m: [m.scale] if isinstance(m, EnhancedAttention) else [],
    "appearance": lambda m: list(m.appearance.parameters()) if hasattr(m, "appearance") else [],
    "shape": lambda m: list(m.shape.parameters()) if hasattr(m, "shape") else [],
}
"""Parameters which, set to 0, switch off a part of the blocks."""


def least_effect(network: PoseGenerator, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """How far the image moves at most when that part of the blocks is switched off which matters least."""
    effects = []
    with torch.no_grad():
        image = network.eval()(*batch)
        for parameters_of in PARTS.values():
            found = [p for m in network.modules() for p in parameters_of(m)]
            before = [p.detach().clone() for p in found]
            for p in found:
                p.zero_()
            if found:
                effects.append(float((network(*batch) - image).abs().max()))
            for p, value in zip(found, before, strict=True):
                p.copy_(value)
    return min(effects)
