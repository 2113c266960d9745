"""The limb warp, the source's limbs laid over the target's skeleton, and what a network corrects of it (our choice).

A convolution moves pixels badly, and where a limb goes is known: both poses say it. So every limb is carried by the
similarity that takes it from one skeleton to the other, as Siarohin et al. (Deformable GANs, CVPR 2018) carry feature
maps, with weights that fall off from the bone as in linear blend skinning. What the skeleton does not say, how cloth
slides round a body that turns and what an arm hides, the network learns as displacements on top.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.layers import conv3, shuffle_up
from xingaug.keypoints import JOINTS


@dataclass(frozen=True)
class Bone:
    """A limb: the mean of the joints at its start and at its end, and how far its flesh reaches.

    Attributes:
        start: names of joints; those that are visible in both poses are averaged.
        end: likewise.
        radius: in body lengths (`body_length`).
        flat: whether it gets narrower when the person turns, as the torso does and a leg does not.
    """

    start: tuple[str, ...]
    end: tuple[str, ...]
    radius: float
    flat: bool = False


_SHOULDERS, _HIPS = ("right_shoulder", "left_shoulder"), ("right_hip", "left_hip")
_HEAD = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")

BONES = (
    Bone(("neck",), _HEAD, 0.24),
    Bone(("neck",), _HIPS, 0.30, flat=True),
    *(Bone((f"{side}_shoulder",), (f"{side}_elbow",), 0.11) for side in ("right", "left")),
    *(Bone((f"{side}_elbow",), (f"{side}_wrist",), 0.10) for side in ("right", "left")),
    *(Bone((f"{side}_hip",), (f"{side}_knee",), 0.17) for side in ("right", "left")),
    *(Bone((f"{side}_knee",), (f"{side}_ankle",), 0.14) for side in ("right", "left")),
)

_COUNTERPARTS = [0, 1, *(k + 1 if k % 2 == 0 else k - 1 for k in range(2, len(BONES)))]
"""The bone of the other side; right and left ones alternate after the two in the middle."""

_FAR = 40.0
"""Squared distance, in radii, from which on a pixel is not near a limb at all."""

_SHARPNESS = 4.0
"""How abruptly one limb's motion gives way to the next one's (our choice)."""


def joints_of(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Where the joints of heatmaps lie: the vertex of a parabola through the logarithm, which is exact for a Gaussian.

    Args:
        heatmaps: (B, 18, H, W), one Gaussian of any width each, H and W at least 3.

    Returns:
        (B, 18, 2) pixels (x, y), and (B, 18) bool: whether the joint is there.
    """
    peak_x, peak_y = heatmaps.amax(-2), heatmaps.amax(-1)  # (B, 18, W), (B, 18, H)
    xy = torch.stack([_vertex(peak_x), _vertex(peak_y)], -1)
    return xy, peak_x.amax(-1) > 0


def _vertex(profile: Tensor) -> Tensor:
    """(B, 18, L) to the position of the maximum (B, 18), between pixels too."""
    centre = profile.argmax(-1, keepdim=True).clamp(1, profile.shape[-1] - 2)
    before, here, after = (profile.gather(-1, centre + k).clamp(min=1e-9).log() for k in (-1, 0, 1))
    curvature = (2 * here - before - after).clamp(min=1e-6)
    return (centre + ((after - before) / (2 * curvature)).clamp(-2, 2)).squeeze(-1)


def carry(image: Tensor, shift: Tensor) -> Tensor:
    """Takes every pixel from a place of its own, between pixels by bilinear weights, beyond the border from the border.

    Args:
        image: (B, 3, H, W).
        shift: (B, 2, H, W), from each pixel to the place it is taken from, (x, y) in pixels.

    Returns:
        (B, 3, H, W) float32.
    """
    height, width = image.shape[-2:]
    x, y = (torch.arange(n, device=image.device, dtype=torch.float32) + 0.5 for n in (width, height))
    grid = torch.stack([(shift[:, 0] + x) * (2 / width), (shift[:, 1] + y[:, None]) * (2 / height)], -1) - 1
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False)


class LimbWarp(nn.Module):
    """Where in the source each pixel of the target pose comes from; it has nothing to learn."""

    members: Tensor
    radius: Tensor
    flat: Tensor

    def __init__(self) -> None:
        """Turns the names of `BONES` into tensors."""
        super().__init__()
        members = torch.zeros(2, len(BONES), len(JOINTS))
        for k, bone in enumerate(BONES):
            for end, names in enumerate((bone.start, bone.end)):
                members[end, k, [JOINTS.index(name) for name in names]] = 1
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("radius", torch.tensor([bone.radius for bone in BONES]), persistent=False)
        self.register_buffer("flat", torch.tensor([bone.flat for bone in BONES]), persistent=False)

    @torch.no_grad()
    def forward(self, source_heatmaps: Tensor, target_heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Moves the limbs.

        Args:
            source_heatmaps: (B, 18, H, W), H and W even.
            target_heatmaps: (B, 18, H, W).

        Returns:
            The shift (B, 2, H, W) of each pixel of the target pose, for `carry`, and (B, 1, H, W) in [0, 1]: how near
            a limb it is. A limb of the target that the source does not show takes its counterpart on the other side;
            one without either is left out, and where there is none at all the shift and the nearness are 0.
        """
        height, width = source_heatmaps.shape[-2:]
        maps, distance = self._bones_and_distances(source_heatmaps.float(), target_heatmaps.float(), height, width)
        share = (-_SHARPNESS * distance).softmax(1)  # (B, K, H/2, W/2)
        motion = torch.einsum("bkhw,bkn->bnhw", share, maps.flatten(2))  # (B, 6, H/2, W/2)
        x, y = _centres(width, motion), _centres(height, motion)[:, None]
        shift = [motion[:, 3 * i] * x + motion[:, 3 * i + 1] * y + motion[:, 3 * i + 2] - (x, y)[i] for i in (0, 1)]
        nearest = distance.amin(1).clamp(max=_FAR)
        nearness = (-nearest / 2).exp().masked_fill(nearest >= _FAR, 0)
        # At half resolution up to here; the motion is as good as linear between two of its positions.
        fields = F.interpolate(torch.stack([*shift, nearness], 1), scale_factor=2, mode="bilinear")
        return fields[:, :2], fields[:, 2:]

    def _bones_and_distances(
        self, source_heatmaps: Tensor, target_heatmaps: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Of every bone the map (B, K, 2, 3) from target to source, and its distance (B, K, H/2, W/2) in radii."""
        (s_xy, s_present), (t_xy, t_present) = joints_of(source_heatmaps), joints_of(target_heatmaps)
        s_start, s_end, s_known = self._bones(s_xy, s_present)
        t_start, t_end, t_known = self._bones(t_xy, t_present)
        s_length, t_length = (
            _body_length(a, b, known, height) for a, b, known in ((s_start, s_end, s_known), (t_start, t_end, t_known))
        )
        s_width, t_width = (
            _body_width(xy, seen, n) for xy, seen, n in ((s_xy, s_present, s_length), (t_xy, t_present, t_length))
        )
        other = s_known.unsqueeze(-1)
        s_start, s_end = (torch.where(other, end, end[:, _COUNTERPARTS]) for end in (s_start, s_end))
        known = t_known & (s_known | s_known[:, _COUNTERPARTS])
        scale = (s_length / t_length)[:, None]  # (B, 1)
        across = torch.where(self.flat, (s_width / t_width)[:, None], scale)  # (B, K)
        maps = _similarities(s_start, s_end, t_start, t_end, scale, across)
        maps = torch.where(known[..., None, None], maps, maps.new_tensor([[1.0, 0, 0], [0, 1, 0]]))
        turned = (t_width / (0.6 * t_length)).clamp(0.6, 1.0)[:, None]
        radius = self.radius.float() * t_length[:, None] * torch.where(self.flat, turned, torch.ones_like(turned))
        distance = _squared_distances(t_start, t_end, height, width) / (radius**2)[..., None, None]
        return maps, distance.masked_fill(~known[..., None, None], 100 * _FAR)

    def _bones(self, xy: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Start and end (B, K, 2) of every bone, and whether both are known (B, K)."""
        weight = self.members.float()[:, None] * present[:, None].float()  # (2, B, K, 18)
        count = weight.sum(-1)
        start, end = (weight @ xy) / count.clamp(min=1)[..., None]
        return start, end, (count > 0).all(0)


def _centres(length: int, like: Tensor) -> Tensor:
    """Where the pixels of the half-size image lie in the whole one, (length / 2)."""
    return 2 * torch.arange(length // 2, device=like.device, dtype=torch.float32) + 0.5


def _body_length(start: Tensor, end: Tensor, valid: Tensor, height: int) -> Tensor:
    """Neck to hips (B,) in pixels; a share of the image's height where they are missing."""
    torso = next(k for k, bone in enumerate(BONES) if bone.flat)
    length = (end[:, torso] - start[:, torso]).norm(dim=-1)
    return torch.where(valid[:, torso], length, 0.28 * height).clamp(min=4)


def _body_width(xy: Tensor, present: Tensor, length: Tensor) -> Tensor:
    """Shoulder to shoulder (B,) along x, which shrinks as the person turns, but not below the body's depth."""
    right, left = (JOINTS.index(name) for name in _SHOULDERS)
    width = (xy[:, right, 0] - xy[:, left, 0]).abs()
    known = (present[:, right] * present[:, left]) > 0
    return torch.where(known, torch.maximum(width, 0.35 * length), 0.6 * length)


def _similarities(
    s_start: Tensor, s_end: Tensor, t_start: Tensor, t_end: Tensor, scale: Tensor, across: Tensor
) -> Tensor:
    """Maps (B, K, 2, 3) from the target's pixels to the source's, bone on bone."""
    s_axis, s_length = _axis(s_start, s_end)
    t_axis, t_length = _axis(t_start, t_end)
    along = (s_length / t_length).clamp(min=scale / 2.5, max=scale * 2.5)  # a limb seen end on has no length
    s_normal, t_normal = (torch.stack([-axis[..., 1], axis[..., 0]], -1) for axis in (s_axis, t_axis))
    turn = along[..., None, None] * s_axis[..., :, None] * t_axis[..., None, :]
    turn = turn + across[..., None, None] * s_normal[..., :, None] * t_normal[..., None, :]
    shift = s_start[..., None] - turn @ t_start[..., None]
    return torch.cat([turn, shift], -1)


def _axis(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Direction (B, K, 2) and length (B, K) of bones."""
    length = (end - start).norm(dim=-1).clamp(min=0.5)
    return (end - start) / length[..., None], length


def _squared_distances(start: Tensor, end: Tensor, height: int, width: int) -> Tensor:
    """Of every pixel to every bone, (B, K, H, W)."""
    axis, length = _axis(start, end)
    x = _centres(width, start) - start[..., 0, None]  # (B, K, W)
    y = _centres(height, start) - start[..., 1, None]  # (B, K, H)
    x, y = x[..., None, :], y[..., None]
    dx, dy = axis[..., 0, None, None], axis[..., 1, None, None]
    along = (x * dx + y * dy).clamp(min=0).minimum(length[..., None, None])
    return (x - along * dx) ** 2 + (y - along * dy) ** 2


class FlowCorrection(nn.Module):
    """Displacements that the network adds: two corrections of the limb warp, and one of the source as it stands.

    The last one can fill the ground that the person leaves with ground from beside it.
    """

    candidates = 3

    def __init__(self, width: int, fine: int) -> None:
        """Args: `width`: C of the codes; `fine`: channels of the features at half resolution."""
        super().__init__()
        self.up = shuffle_up(2 * width, 32)
        last = conv3(48, 2 * self.candidates, bias=True)
        nn.init.normal_(last.weight, std=0.02)  # a tenth of a pixel: enough to tell both corrections apart
        self.out = nn.Sequential(conv3(32 + fine, 48), nn.BatchNorm2d(48), nn.ReLU(inplace=True), last)

    def forward(self, image: Tensor, shift: Tensor, shape_code: Tensor, fine: Tensor) -> list[Tensor]:
        """Three images that are made of the source's pixels.

        Args:
            image: (B, 3, H, W), the source.
            shift: (B, 2, H, W), of the limb warp.
            shape_code: (B, 2C, h, w), the last stage's.
            fine: (B, fine, H/2, W/2).

        Returns:
            3 times (B, 3, H, W) float32.
        """
        half = self.out(torch.cat([self.up(shape_code), fine], 1)).float()  # (B, 6, H/2, W/2) in pixels
        corrections = F.interpolate(half, scale_factor=2, mode="bilinear").chunk(self.candidates, 1)
        bases = (shift, shift, torch.zeros_like(shift))
        return [carry(image, base + more) for base, more in zip(bases, corrections, strict=True)]
