"""XingGAN++ as in the paper (Tang, Shao, Sebe, Van Gool, TPAMI 2025, arXiv 2501.08900).

Two branches, appearance and shape, cross in every stage. Read from top to bottom: the enhanced attention EA, the
crossed attention EMSA and EMAS, one stage, the densely connected co-attention fusion DCCF, the generator. Our additions
are in `light.py`. Axis 0 of `codes` is the branch: 0 is appearance, 1 is shape; axis 0 of anything that each direction
has its own of is the direction: 0 is SA (appearance attends to shape), 1 is AS.

B images, N = h w positions, S keys, M queries (patches) in EA, C and d channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.base import PoseGenerator
from xingaug.generators.layers import (
    KeyTokens,
    Linears,
    Norms,
    attend,
    conv_block,
    patch_matrices,
    patch_side,
    sine_positions,
    times,
    weighted_sum,
)
from xingaug.generators.pose import PoseMaps, Poses
from xingaug.generators.xinggan import decoder, encoder, map_decoder
from xingaug.generators.xinggan_pp_config import XingGANPlusPlusConfig


class EnhancedAttention(nn.Module):
    """EA: the correlation vectors of the keys correct one another before the softmax (section 3.2, after AiATrack).

    Its weights grow with the square of the number of queries, which is therefore fixed. To keep large grids
    affordable, it works on the mean queries of k x k patches, with the smallest k that gives at most
    `enhanced_queries` patches M, and its corrections are interpolated bilinearly to the N positions (our choice);
    k = 1 is exactly the paper's method.
    """

    positions: Tensor
    means: Tensor
    spread: Tensor

    def __init__(self, config: XingGANPlusPlusConfig, directions: int, centres: Tensor) -> None:
        """Args: `config`; `directions`: 1 or 2; `centres`: (S, 2) where the keys are, (y, x) in [0, 1]."""
        super().__init__()
        width = config.enhancement.enhanced_width
        self.grid, self.stride = config.grid, patch_side(config.grid, config.enhancement.enhanced_queries)
        means, spread = patch_matrices(self.grid, self.stride)  # (M, N), (N, M)
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        queries = len(means)
        self.project = Linears(directions, queries, width)
        self.norm_token = Norms(directions, width)
        self.ask = Linears(directions, width, 2 * width, bias=False)  # queries and keys of the inner attention
        self.norm_value = Norms(directions, queries)
        self.out = Linears(directions, queries, queries, bias=False)
        self.scale = nn.Parameter(torch.full((directions, 1, 1, 1), config.enhancement.enhanced_start))
        self.register_buffer("positions", sine_positions(centres, width), persistent=False)
        self.folded = False

    def forward(self, query: Tensor, key: Tensor, factor: float) -> Tensor:
        """Queries (2, B, N, d) and keys (2, B, S, d) to corrected logits (2, B, S, N), one row a key."""
        if query.shape[2] != self.grid[0] * self.grid[1]:
            raise ValueError(f"query: {query.shape[2]} positions, this enhanced attention was built for {self.grid}")
        logits = times(key, query.transpose(2, 3), factor)
        if self.stride == 1:
            return logits + self.correct(logits)
        means, spread = self.means.to(logits.dtype), self.spread.to(logits.dtype)
        # Attention is linear in the queries: the logits' mean over a patch is that of its mean query.
        correction = self.correct(F.linear(logits, means)).flatten(0, 2)
        return torch.addmm(logits.flatten(0, 2), correction, spread.t()).unflatten(0, logits.shape[:3])

    def correct(self, tokens: Tensor) -> Tensor:
        """EA's correction of correlation vectors (2, B, S, M): a token for each key, with its M correlations."""
        z = self.norm_token(self.project(tokens), None if self.folded else self.positions)  # (2, B, S, D)
        inner_query, inner_key = self.ask(z).chunk(2, -1)
        mixed = attend(inner_query, inner_key, self.norm_value(tokens), inner_query.shape[-1] ** -0.5)  # (2, B, S, M)
        return self.out(mixed) if self.folded else self.scale.to(mixed.dtype) * self.out(mixed, add=mixed)

    def fold(self) -> None:
        """For inference: folds the skip connection, the scale and the positions into the weights."""
        if self.folded:
            return
        self.folded = True
        itself = torch.eye(self.out.weight.shape[1], device=self.out.weight.device, dtype=self.out.weight.dtype)
        self.out.weight.data = self.scale[:, 0].detach() * (self.out.weight.data + itself)
        self.norm_token.bias.data = self.norm_token.bias.data + self.positions


class CrossedAttention(nn.Module):
    """EMSA and EMAS, both directions side by side (section 3.1): queries of one branch, keys of the other.

    The branch that attends is updated: x <- x + gamma * v(x) softmax(q(x)^T k(other))^T.
    """

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config`; with only one direction the other branch's code stays as it is."""
        super().__init__()
        crossing, pooling = config.crossing, config.pooling
        enabled = (crossing.shape_guided, crossing.appearance_guided)
        self.branches = [branch for branch in (0, 1) if enabled[branch]]
        count = 1 if crossing.shared_projections else max(len(self.branches), 1)
        levels = pooling.pyramid if pooling.multi_scale else None
        self.tokens = KeyTokens(config.grid, levels, pooling.full_resolution, pooling.pyramid_aspect)
        self.query = Linears(count, config.width, crossing.query_channels)
        self.key = Linears(count, config.width, crossing.query_channels)
        self.value = Linears(count, config.width, config.width)
        self.gamma = nn.Parameter(torch.zeros(count, 1, 1, 1))
        self.factor = crossing.query_channels**-0.5 if crossing.scaled else 1.0
        enhanced = config.enhancement.enhanced
        self.enhance = EnhancedAttention(config, count, self.tokens.centres) if enhanced else None
        self.folded = False

    def fold(self) -> None:
        """For inference: folds gamma into the values."""
        if self.folded:
            return
        self.folded = True
        self.value.scale_outputs(self.gamma.detach()[:, 0])

    def forward(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes (2, B, N, C) of both branches on a grid (h, w) to the updated ones."""
        if not self.branches:
            return codes
        tokens = self.tokens(codes, grid)  # (2, B, S, C): regions of several sizes
        first, last = self.branches[0], self.branches[-1] + 1
        own = codes[first:last]
        query = self.query(own)  # (directions, B, N, d)
        key = self.key(tokens.flip(0)[first:last])  # (directions, B, S, d), of the other branch
        value = self.value(tokens[first:last])  # (directions, B, S, C)
        if not self.folded:
            value = self.gamma.to(value.dtype) * value  # here, as there are fewer regions than positions
        if self.enhance is None:
            updated = own + attend(query, key, value, self.factor).to(own.dtype)  # (directions, B, N, C)
        else:
            attention = self.enhance(query, key, self.factor).softmax(2).transpose(2, 3)  # (directions, B, N, S)
            updated = torch.baddbmm(own.flatten(0, 1), attention.flatten(0, 1), value.flatten(0, 1))
            updated = updated.unflatten(0, own.shape[:2])
        if len(self.branches) == 2:
            return updated
        return torch.cat([updated, codes[1:]] if first == 0 else [codes[:1], updated])


class Stage(nn.Module):
    """One of the T stages (figure 1): convolutions in each branch, then both crossed attentions."""

    def __init__(self, config: XingGANPlusPlusConfig, first: bool) -> None:
        """Args: `config`; `first`: whether it is the first stage, whose shape input has C channels, not 2C."""
        super().__init__()
        c, chosen = config.width, config.convolutions
        wide = c if first else 2 * c
        hidden = wide if chosen.wide_shape else c
        self.first, self.residual = first, chosen.residual
        self.appearance = conv_block(c, c, c, chosen.dropout, last_norm=True, padding=chosen.padding)
        self.shape = conv_block(wide, hidden, c, chosen.dropout, last_norm=False, padding=chosen.padding)
        self.crossing = CrossedAttention(config)

    def forward(self, codes: Tensor) -> Tensor:
        """Appearance and shape code, concatenated, (B, 2C, h, w), to the next ones."""
        c, grid = codes.shape[1] // 2, (codes.shape[2], codes.shape[3])
        # Sliced where channels are last, so that they are in the gradient too.
        own, other = (part.movedim(-1, 1) for part in codes.movedim(1, -1).split(c, -1))
        x_i = self.appearance(own)  # (B, C, h, w)
        x_p = self.shape(other if self.first else codes)  # (B, C, h, w)
        x = torch.cat([x_i, x_p], 1)
        # Both directions read x_i and x_p from before the update.
        crossed = self.crossing(by_branch(x + codes if self.residual else x), grid)
        return one_after_the_other(crossed, grid)


def by_branch(codes: Tensor) -> Tensor:
    """(B, 2C, h, w) to (2, B, N, C); a view if channels are last."""
    return codes.flatten(2).unflatten(1, (2, -1)).permute(1, 0, 3, 2)


def one_after_the_other(codes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(2, B, N, C) to (B, 2C, h, w), channels last; a view of what `by_branch` returned."""
    return codes.permute(1, 2, 0, 3).flatten(2).unflatten(1, grid).permute(0, 3, 1, 2)


class StageJoin(nn.Module):
    """A branch's decoder input with DCCF (section 3.3): the codes of all stages, squeezed to C channels."""

    def __init__(self, config: XingGANPlusPlusConfig, channels: int) -> None:
        """Args: `config` of the generator; `channels` of one stage's code."""
        super().__init__()
        weighted = config.fusion.fusion_wiring == "weighted"
        self.logits = nn.Parameter(torch.zeros(config.blocks)) if weighted else None
        self.squeeze = nn.Conv2d((1 if weighted else config.blocks) * channels, config.width, 1)

    def forward(self, codes: list[Tensor]) -> Tensor:
        """T times (B, channels, h, w) to (B, C, h, w)."""
        if self.logits is None:
            return self.squeeze(torch.cat(codes, 1))  # `CoAttentionFusion` does so for both branches at once
        return self.squeeze((torch.stack(codes, -1) * self.logits.softmax(0)).sum(-1))


class LastStage(nn.Module):
    """A branch's decoder input without DCCF, as in XingGAN: the last stage's code, the shape's squeezed to C."""

    def __init__(self, config: XingGANPlusPlusConfig, channels: int) -> None:
        """Args: `config` of the generator; `channels` of one stage's code."""
        super().__init__()
        c = config.width
        squeeze = nn.Sequential(nn.Conv2d(channels, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(inplace=True))
        self.squeeze = squeeze if channels != c else nn.Identity()

    def forward(self, codes: list[Tensor]) -> Tensor:
        """T times (B, channels, h, w) to (B, C, h, w)."""
        code: Tensor = self.squeeze(codes[-1])
        return code


class CoAttentionFusion(nn.Module):
    """DCCF (section 3.3): candidates of both branches and the source, weighted by attention maps that sum to 1."""

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config` of the generator; subclasses replace the released decoders."""
        super().__init__()
        c, self.dense = config.width, config.fusion.dense_fusion
        kind = StageJoin if self.dense else LastStage
        self.join_appearance, self.join_shape = kind(config, c), kind(config, 2 * c)
        self.joins_at_once = self.dense and config.fusion.fusion_wiring == "concat"
        self.join_both: nn.Conv2d | None = None
        candidates = config.fusion.candidates
        self.decode_appearance: nn.Module = decoder(c // 4, candidates)
        self.decode_shape: nn.Module = decoder(c // 4, candidates)
        self.decode_maps: nn.Module = map_decoder(self.seen(config), c // 4, 2 * candidates + 1)

    def fold(self) -> None:
        """For inference: keeps both branches' joins as the one convolution that they are computed as."""
        if self.join_both is not None or not self.joins_at_once:
            return
        weight, bias = (x.detach() for x in self._joins())
        self.join_both = nn.Conv2d(weight.shape[1], weight.shape[0], 1).to(weight).requires_grad_(False)
        self.join_both.load_state_dict({"weight": weight, "bias": bias})

    def _joins(self) -> tuple[Tensor, Tensor]:
        """Weight (2C, 2C T, 1, 1) and bias (2C,) of both branches' joins, zero where one does not see the other."""
        one, two = self.join_appearance, self.join_shape
        assert isinstance(one, StageJoin)
        assert isinstance(two, StageJoin)
        c = one.squeeze.out_channels
        own = F.pad(one.squeeze.weight.unflatten(1, (-1, c)), (0, 0, 0, 0, 0, c)).flatten(1, 2)
        biases = [join.squeeze.bias for join in (one, two) if join.squeeze.bias is not None]
        return torch.cat([own, two.squeeze.weight]), torch.cat(biases)

    @staticmethod
    def seen(config: XingGANPlusPlusConfig) -> int:
        """Input channels of the attention maps' decoder; without DCCF it sees the last shape code unsqueezed."""
        return (2 if config.fusion.dense_fusion else 3) * config.width

    def forward(self, joined: list[Tensor], moved: list[Tensor], fine: list[Tensor]) -> Tensor:
        """Decodes and fuses.

        Args:
            joined: T times (B, 2C, h, w), appearance and shape.
            moved: candidates made of the source's pixels, in the paper only the source; each (B, 3 k, H, W).
            fine: features (B, any, H/2, W/2) for the decoders; none in the paper.

        Returns:
            (B, 3, H, W) float32 in [-1, 1].
        """
        c = joined[0].shape[1] // 2
        if self.joins_at_once:
            codes = torch.cat(joined, 1)
            both = F.conv2d(codes, *self._joins()) if self.join_both is None else self.join_both(codes)
            appearance, shape = both.split(c, 1)  # (B, C, h, w) each
        else:
            appearance = self.join_appearance([code[:, :c] for code in joined])
            shape = self.join_shape(joined)
            both = torch.cat([appearance, shape if self.dense else joined[-1]], 1)  # (B, 2C or 3C, h, w)
        # In the type and layout of what the decoders make of the codes.
        features = [torch.cat(fine, 1).to(both.dtype, memory_format=torch.channels_last)] if fine else []
        rgb = [self.decode_appearance(appearance, *features), self.decode_shape(shape, *features), *moved]
        return weighted_sum(self.decode_maps(both, *features), rgb)


class PaperGenerator(PoseGenerator):
    """The paper's generator (figure 1): source image, source pose and target pose in; the person in that pose out."""

    config: XingGANPlusPlusConfig

    def __init__(self, config: XingGANPlusPlusConfig) -> None:
        """Args: `config`, whose `variant` this class ignores."""
        super().__init__(config)
        self.stages = nn.ModuleList(Stage(config, first=t == 0) for t in range(config.blocks))
        self._build_ends()

    def _build_ends(self) -> None:
        """Builds the layers before and after the stages."""
        c = self.config
        self.draw = PoseMaps(c.size)
        self.image_stem: nn.Module = encoder(3, c.width // 4)
        self.pose_stem: nn.Module = encoder(36, c.width // 4)
        self.fusion = CoAttentionFusion(c)

    @property
    def required_size(self) -> tuple[int, int] | None:
        """Its own size with EA, whose weights depend on the grid; else any."""
        return self.size if self.config.enhancement.enhanced else None

    def pose_inputs(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The heatmaps of both poses, (B, 36, H, W)."""
        return (self.draw(poses, size),)

    def translate(self, images: Tensor, *seen: Tensor) -> Tensor:
        """As `PoseGenerator.translate`."""
        appearance = self.image_stem(images.to(self.dtype))  # (B, C, h, w)
        shape = self.pose_stem(seen[0].to(self.dtype))  # (B, C, h, w)
        return self.fusion(self.cross(appearance, shape), [images], [])

    def cross(self, appearance: Tensor, shape: Tensor) -> list[Tensor]:
        """All stages: codes (B, C, h, w) of both branches to T times (B, 2C, h, w), appearance and shape."""
        codes, found = torch.cat([appearance, shape], 1), []
        for stage in self.stages:
            codes = stage(codes)
            found.append(codes)
        return found
