"""The named sizes: the released network, the paper's, and the small one for online augmentation."""

from xingaug.errors import BadInput
from xingaug.generators.xinggan import XingGANConfig
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig

SIZES: dict[str, XingGANConfig | XingGANPlusPlusConfig] = {
    "xinggan": XingGANConfig(),
    # The paper's: XingGAN's encoders, blocks and decoders, with EMSA and EMAS, EA, and DCCF over all stages.
    "xinggan_pp": XingGANPlusPlusConfig.of(
        width=256, blocks=9, dropout=0.5, residual=False, wide_shape=True, padding="reflect", stem="released",
        decoder="released", enhanced_queries=512, candidates=10, texture_attention=0,
        limb_warp=False,
    ),
    "xinggan_pp_small": XingGANPlusPlusConfig(),
}  # fmt: skip


def size_config(name: str) -> XingGANConfig | XingGANPlusPlusConfig:
    """The configuration of a named size.

    Raises:
        BadInput: no such size.
    """
    if name not in SIZES:
        raise BadInput(f"generator: '{name}', expected one of {', '.join(SIZES)}")
    return SIZES[name]
