"""XingGAN++ with our additions to the paper: light stems and decoders, texture attention, limb warp and flow.

Each is independent and a setting of `VariantConfig`; without any of them this is the paper's generator.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.checks import JOINT_MAPS
from xingaug.generators.ground import SourceSplit
from xingaug.generators.layers import conv3, times
from xingaug.generators.pose import PoseMaps, Poses
from xingaug.generators.warp import LimbWarp, ShiftWarp
from xingaug.generators.xinggan import encoder
from xingaug.generators.xinggan_pp import CoAttentionFusion, PaperGenerator
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig


class ImageStem(nn.Module):
    """Image to appearance code at a quarter of the resolution: light (our choice), or XingGAN's encoder."""

    def __init__(self, width: int, released: bool = False, channels: int = 3) -> None:
        """Args: `width`: channels C of the code; `released`: use XingGAN's encoder; `channels`: of the input."""
        super().__init__()
        if released:
            layers = encoder(3, width // 4)
            self.fine, self.coarse = layers[:6], layers[6:]
            return
        # Pixel unshuffle instead of a convolution at full resolution.
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(2), conv3(4 * channels, width // 2), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) to the code (B, C, h, w) and finer features (B, C/2, H/2, W/2)."""
        fine = self.fine(image)
        return self.coarse(fine), fine


class PoseStem(nn.Module):
    """Both poses to a shape code: light (our choice), or XingGAN's encoder.

    The maps are smooth (sigma 6 px), so the light stem loses nothing by starting from their 4x4 means.
    """

    def __init__(self, width: int, joints: int = 18, released: bool = False, hints: int = 0) -> None:
        """Builds the stem.

        Args:
            width: channels C of the code.
            joints: maps per pose.
            released: whether it is XingGAN's encoder.
            hints: channels of further maps of the target pose (the limb warp) for the light stem; 0 for none.
        """
        super().__init__()
        self.mix = encoder(2 * joints, width // 4) if released else nn.Sequential(
            conv3(2 * joints + 16 * hints, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            conv3(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, maps: Tensor, hints: Tensor | None = None) -> Tensor:
        """To the code (B, C, h, w).

        Args:
            maps: of both poses, (B, 36, H, W) for XingGAN's encoder, (B, 36, h, w) 4x4 means for the light one.
            hints: optional (B, hints, H, W).
        """
        return self.mix(maps if hints is None else torch.cat([maps, F.pixel_unshuffle(hints, 4)], 1))


class ShuffleDecoder(nn.Module):
    """Code to full resolution by two pixel shuffles: all heavy convolutions run at low resolution (our choice)."""

    def __init__(self, inputs: int, widths: tuple[int, int], outputs: int, skip: int, last: nn.Module) -> None:
        """Builds the decoder.

        Args:
            inputs: channels of the code.
            widths: channels at half and at full resolution.
            outputs: channels out.
            skip: channels of the features concatenated at half resolution; 0 for none.
            last: final activation, such as a tanh.
        """
        super().__init__()
        self.up1 = shuffle_up(inputs, widths[0])
        self.up2 = shuffle_up(widths[0] + skip, widths[1])
        self.out = nn.Sequential(conv3(widths[1], outputs, bias=True), last)

    def forward(self, code: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and optionally (B, skip, H/2, W/2), to (B, outputs, H, W)."""
        half = self.up1(code)
        return self.out(self.up2(half if skip is None else torch.cat([half, skip], 1)))


def shuffle_up(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, h, w) to (B, outputs, 2h, 2w), computed at the lower resolution."""
    return nn.Sequential(
        conv3(inputs, 4 * outputs), nn.BatchNorm2d(4 * outputs), nn.ReLU(inplace=True), nn.PixelShuffle(2)
    )


class TextureAttention(nn.Module):
    """Moves the source's 4x4 pixel blocks and fine features to where the target pose needs them (our choice).

    Codes at a quarter of the resolution wash out stripes and logos. Here the final shape code attends, from every
    target position, to the source positions of the same piece of clothing, and copies their pixels at full resolution.
    """

    def __init__(self, config: XingGANPlusPlusConfig, joints: int = 18) -> None:
        """Args: `config` of the generator; `joints`: maps per pose."""
        super().__init__()
        self.heads = config.variant.texture_attention
        d = config.crossing.query_channels
        self.query = nn.Conv2d(2 * config.width, self.heads * d, 1)
        self.key = nn.Sequential(
            nn.Conv2d(config.width + 2 * joints, config.width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.width, self.heads * d, 1),
        )
        self.skip_channels = config.width // 4
        self.reduce = nn.Conv2d(config.width // 2, self.skip_channels, 1)

    def forward(
        self, image: Tensor, fine: Tensor, source_code: Tensor, maps: Tensor, shape_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Moves pixels and features to the target pose.

        Args:
            image: (B, 3, H, W), the source.
            fine: (B, C/2, H/2, W/2), the stem's finer features.
            source_code: (B, C, h, w), appearance code before the first stage, aligned with the source.
            maps: (B, 36, h, w), both poses' heatmaps.
            shape_code: (B, 2C, h, w), the last stage's shape code.

        Returns:
            Candidates (B, heads, 3, H, W) and features (B, C/4, H/2, W/2).
        """
        b, _, h, w = source_code.shape
        query = self._split(self.query(shape_code))  # (B, heads, N, d)
        key = self._split(self.key(torch.cat([source_code, maps], 1)))
        pixels = F.pixel_unshuffle(image, 4).flatten(2).transpose(1, 2)  # (B, N, 48)
        features = F.pixel_unshuffle(self.reduce(fine), 2).flatten(2).transpose(1, 2)  # (B, N, C)
        value = torch.cat([pixels.to(features.dtype), features], -1)  # (B, N, 48 + C), shared by all heads
        attention = times(query, key.transpose(2, 3), query.shape[-1] ** -0.5).softmax(-1)  # (B, heads, N, N)
        moved = (attention.flatten(1, 2) @ value).unflatten(1, (self.heads, -1)).transpose(2, 3)
        # (B, heads, 48 + C, N)
        candidates = F.pixel_shuffle(moved[:, :, :48].reshape(b * self.heads, 48, h, w), 4)
        skip = F.pixel_shuffle(moved[:, :, 48:].mean(1).reshape(b, -1, h, w), 2)
        return candidates.unflatten(0, (b, self.heads)), skip

    def _split(self, features: Tensor) -> Tensor:
        """(B, heads * d, h, w) to (B, heads, N, d)."""
        return features.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class FlowCorrection(nn.Module):
    """Learned displacements: two corrections of the limb warp, and one of the unwarped source.

    The last one can fill the ground that the person uncovers with ground from beside it.
    """

    candidates = 3

    def __init__(self, width: int, fine: int) -> None:
        """Args: `width`: C of the codes; `fine`: channels of the features at half resolution."""
        super().__init__()
        self.up = shuffle_up(2 * width, 32)
        last = conv3(48, 2 * self.candidates, bias=True)
        nn.init.normal_(last.weight, std=0.02)  # a tenth of a pixel: enough to make both corrections differ
        self.out = nn.Sequential(conv3(32 + fine, 48), nn.BatchNorm2d(48), nn.ReLU(inplace=True), last)

    def forward(self, shift: Tensor, shape_code: Tensor, fine: Tensor) -> Tensor:
        """Computes the shifts of three warped images.

        Args:
            shift: (B, 2, H, W), of the limb warp.
            shape_code: (B, 2C, h, w), the last stage's.
            fine: (B, fine, H/2, W/2).

        Returns:
            Shifts (B, 6, H, W) float32 for `ShiftWarp`.
        """
        half = self.out(torch.cat([self.up(shape_code), fine], 1)).float()  # (B, 6, H/2, W/2) in pixels
        shifts = F.interpolate(half, scale_factor=2, mode="bilinear")
        shifts.unflatten(1, (self.candidates, 2))[:, :-1].add_(shift[:, None])  # the last one shifts the source itself
        return shifts


class LightFusion(CoAttentionFusion):
    """DCCF with light decoders, and with candidates that move the source's pixels."""

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config` of the generator."""
        super().__init__(config)
        c, variant, candidates = config.width, config.variant, config.fusion.candidates
        seen = variant.hints + 3 * variant.warps + (3 if variant.keep_ground else 0)
        skip = (c // 4 if variant.texture_attention else 0) + (4 * seen if variant.warps else 0)
        maps = 2 * candidates + 1 + variant.texture_attention + variant.warps
        self.decode_appearance = ShuffleDecoder(c, variant.decoder_widths, 3 * candidates, skip, nn.Tanh())
        self.decode_shape = ShuffleDecoder(c, variant.decoder_widths, 3 * candidates, skip, nn.Tanh())
        self.decode_maps = ShuffleDecoder(self.seen(config), variant.map_widths, maps, skip, nn.Identity())


class XingGANPlusPlus(PaperGenerator):
    """The generator with every setting: source image, source pose and target pose in; the person in that pose out."""

    def __init__(self, **config: Any) -> None:
        """Args: `config`: the fields of `XingGANPlusPlusConfig`, nested in sections or flat."""
        super().__init__(XingGANPlusPlusConfig.of(**config))

    def _build_ends(self) -> None:
        c, variant = self.config, self.config.variant
        if variant.is_paper:
            super()._build_ends()
            return
        released = variant.stem == "released"
        self.image_stem = ImageStem(c.width, released, variant.source_channels)
        self.draw = PoseMaps(c.size)
        self.pose_stem = PoseStem(c.width, released=released, hints=variant.hints)
        self.split = SourceSplit() if variant.keep_ground else None
        self.warp = LimbWarp(c.size) if variant.limb_warp else None
        self.warp_pixels = ShiftWarp(c.size)
        seen = variant.hints + variant.source_channels + (3 if variant.keep_ground else 0)
        self.flow = FlowCorrection(c.width, 4 * seen) if variant.limb_warp and variant.flow else None
        self.texture = TextureAttention(c) if variant.texture_attention else None
        self.fusion = CoAttentionFusion(c) if variant.decoder == "released" else LightFusion(c)

    def pose_inputs(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Means of the heatmaps (B, 36, h, w), heatmaps (B, 36, H, W) for a released stem, and the limb warp's output.

        The latter is the shift (B, 2, H, W) and how near a limb each pixel is (B, 1, H, W).
        """
        variant = self.config.variant
        if variant.is_paper:
            return super().pose_inputs(poses, size)
        maps = [self.draw(poses, size)] if variant.stem == "released" else []
        return (self.draw.means(poses, size), *maps, *(() if self.warp is None else self.warp(poses, size)))

    def translate(self, images: Tensor, *seen: Tensor) -> Tensor:
        """As `PoseGenerator.translate`."""
        if self.config.variant.is_paper:
            return super().translate(images, *seen)
        means = seen[0].to(self.dtype)  # (B, 36, h, w)
        maps = seen[1].to(self.dtype) if self.config.variant.stem == "released" else means
        source, ground, hints, fine = images, [], None, []
        if self.split is not None:
            with torch.no_grad():  # the split learns from its own losses only
                mask, behind = self.split(images, means[:, :JOINT_MAPS])  # (B, 1, H, W), (B, 3, H, W)
            source, ground = torch.cat([images, mask], 1), [behind]
        moved = [*ground] or [images]
        image = source.to(self.dtype)
        if self.warp is not None:
            shift, nearness = seen[-2:]  # (B, 2, H, W), (B, 1, H, W)
            moved_source = self.warp_pixels(source, shift)  # (B, 3 or 4, H, W), with the person's mask, if split
            warped, warped_mask = moved_source[:, :3], [moved_source[:, 3:]] if ground else []
            inputs = torch.cat([warped, nearness, *warped_mask, source, *ground], 1).to(self.dtype)
            # (B, 7 or 12, H, W)
            hints, image = inputs.split([self.config.variant.hints, source.shape[1], 3 * len(ground)], 1)[:2]
        appearance, finer = self.image_stem(image)  # (B, C, h, w), (B, C/2, H/2, W/2)
        shape = self.pose_stem(maps, hints)  # (B, C, h, w)
        joined = self.cross(appearance, shape)  # T times (B, 2C, h, w)
        if self.warp is not None:
            more = []
            if self.flow is not None:
                shifts = self.flow(shift, joined[-1], F.pixel_unshuffle(inputs, 2))
                corrected = self.warp_pixels(images, shifts)  # (B, 9, H, W)
                warped, more = corrected[:, :3], [corrected[:, 3:]]
            moved += [warped, *more]
            pixels = torch.cat([warped, nearness, images, *more, *warped_mask, *ground], 1).to(self.dtype)
            fine.append(F.pixel_unshuffle(pixels, 2))  # (B, 28 to 68, H/2, W/2)
        if self.texture is not None:
            candidates, texture = self.texture(image[:, :3], finer, appearance, means, joined[-1])
            moved += candidates.unbind(1)
            fine.append(texture)
        return self.fusion(joined, moved, fine)
