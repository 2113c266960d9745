"""The limb warp: moves the source's limbs onto the target's skeleton (our choice).

A convolution moves pixels badly, and both poses show where a limb goes. So every limb is warped by the similarity
transform from one skeleton to the other, as Siarohin et al. (Deformable GANs, CVPR 2018) warp feature maps, with
weights that fall off from the bone as in linear blend skinning. What the skeleton does not determine, such as how
cloth slides round a turning body or what an arm hides, the network learns as additional displacements.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xingaug.generators.pose import Coordinates, Poses
from xingaug.keypoints import JOINTS


@dataclass(frozen=True)
class Bone:
    """A limb: the mean of the joints at its start and at its end, and how far its flesh reaches.

    Attributes:
        start: names of joints; those that are visible in both poses are averaged.
        end: names of joints, averaged in the same way.
        radius: in body lengths (neck to hips).
        flat: whether it gets narrower when the person turns: true of the torso, not of a leg.
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

_TORSO = next(k for k, bone in enumerate(BONES) if bone.flat)

_COUNTERPARTS = [0, 1, *(k + 1 if k % 2 == 0 else k - 1 for k in range(2, len(BONES)))]
"""Index of the mirrored bone; right and left ones alternate after the two in the middle."""

_FAR = 40.0
"""Squared distance, in radii, beyond which the nearness is 0."""

_NOT_NEAR = 2.0612e-9
"""exp(-_FAR / 2), rounded up."""

_SHARPNESS = 4.0
"""How abruptly the motion changes from one limb to the next (our choice)."""


class ShiftWarp(Coordinates):
    """Warps images by a shift for every pixel: bilinear interpolation, border pixels repeated outside."""

    base: Tensor
    scale: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        """Args: `size`: (height, width) of the images; other sizes are taken too, at the cost of a few operations."""
        super().__init__()
        self.size = tuple(size)
        base, scale = _sampling_grid(self.size, torch.device("cpu"))
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, image: Tensor, shifts: Tensor) -> Tensor:
        """Computes k warped images of each source.

        Args:
            image: (B, 3, H, W).
            shifts: (B, 2 k, H, W), for each of k images from each pixel to the position it is sampled at, (x, y) in
                pixels.

        Returns:
            (B, 3 k, H, W) float32.
        """
        size = (image.shape[-2], image.shape[-1])
        base, scale = (self.base, self.scale) if size == self.size else _sampling_grid(size, image.device)
        count = shifts.shape[1] // 2
        places = shifts.float().unflatten(1, (count, 2)).flatten(0, 1).permute(0, 2, 3, 1)  # (B k, H, W, 2)
        grid = torch.addcmul(base, places, scale)
        sources = image.float()[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        taken = F.grid_sample(sources, grid, padding_mode="border", align_corners=False)  # (B k, 3, H, W)
        return taken.unflatten(0, (-1, count)).flatten(1, 2)


def _sampling_grid(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres in the coordinates of `grid_sample`, (H, W, 2) in [-1, 1], and the step between them, (2,)."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2 / n) - 1 for n in size)
    step = torch.cat([torch.full((1,), 2 / n, device=device) for n in reversed(size)])
    return torch.stack(torch.broadcast_tensors(x, y[:, None]), -1), step


class LimbWarp(Coordinates):
    """Where in the source each pixel of the target pose comes from; nothing in it is learned."""

    members: Tensor
    radius: Tensor
    narrowest: Tensor
    widest: Tensor
    flat: Tensor
    counterparts: Tensor
    unmoved: Tensor
    turning: Tensor
    field: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        """Args: `size`: (height, width) of the images; other sizes are taken too, at the cost of a few operations."""
        super().__init__()
        self.size = tuple(size)
        members = torch.zeros(2, len(BONES), len(JOINTS), 1)
        for k, bone in enumerate(BONES):
            for end, names in enumerate((bone.start, bone.end)):
                members[end, k, [JOINTS.index(name) for name in names]] = 1
        constants = {
            "members": members,
            "flat": torch.tensor([bone.flat for bone in BONES]),
            # A flat bone gets narrower with the body: its width is 0.6 of the body's length, or down to 0.36 of it.
            "radius": torch.tensor([bone.radius / (0.6 if bone.flat else 1) for bone in BONES]),
            "narrowest": torch.tensor([0.36 if bone.flat else 1.0 for bone in BONES]),
            "widest": torch.tensor([0.6 if bone.flat else 1.0 for bone in BONES]),
            "counterparts": torch.tensor(_COUNTERPARTS),
            "unmoved": torch.tensor([[1.0, 0, 0], [0, 1, 0]]),
            "turning": torch.tensor([-1.0, 1]),  # (x, y) rotated by a right angle is (-y, x)
            "field": _field(self.size, torch.device("cpu")),
        }
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def forward(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Computes the shift field.

        Args:
            poses: of source and target.
            size: (height, width) of the images, both even.

        Returns:
            The shift (B, 2, H, W) of each pixel of the target pose, for `ShiftWarp`, and (B, 1, H, W) in [0, 1]: how
            near a limb it is. If the source does not show a limb of the target, its mirrored one is used; if neither is
            visible the limb is left out, and without any limb both shift and nearness are 0.
        """
        with torch.autocast(poses.xy.device.type, enabled=False):  # in bfloat16 a coordinate is off by up to 4 pixels
            # Computed at half resolution: the motion is nearly linear between neighbouring positions.
            fields = F.interpolate(self._fields(poses, size), scale_factor=2, mode="bilinear")
        return fields[:, :2], fields[:, 2:]

    def _fields(self, poses: Poses, size: tuple[int, int]) -> Tensor:
        """Shift and nearness, (B, 3, H/2, W/2)."""
        field = self.field if size == self.size else _field(size, poses.xy.device)  # (3, H/2, W/2)
        ends, missing = self._ends(poses)  # (B, 2, 2, K, 2), (B, 2, K)
        bone = ends[:, :, 1] - ends[:, :, 0]  # (B, 2, K, 2)
        length = torch.linalg.vector_norm(bone, dim=-1)  # (B, 2, K)
        # Neck to hips in pixels (B, 2); a share of the image's height where they are missing.
        body = length[:, :, _TORSO].masked_fill(missing[:, :, _TORSO], 0.28 * size[0]).clamp(min=4)
        width = _body_width(poses, body)  # (B, 2)
        length = length.clamp(min=0.5)
        axis = bone / length[..., None]
        basis = torch.stack([axis, axis.flip(-1) * self.turning], -1)  # (B, 2, K, 2, 2): columns along and across
        hidden = missing[:, 1] | (missing[:, 0] & missing[:, 0].index_select(1, self.counterparts))  # (B, K)
        motion = self._motions(ends[:, :, 0], basis, length, body, width)  # (B, K, 2, 3)
        motion = motion.masked_fill(hidden[..., None, None], 0)
        turned = (width[:, 1:] / body[:, 1:]).clamp(self.narrowest, self.widest)
        radius = self.radius * body[:, 1:] * turned  # (B, K)
        near = _nearness(ends[:, 1, 0], basis[:, 1], length[:, 1], radius, hidden, field)  # (B, K, H/2, W/2)
        share = (near * (2 * _SHARPNESS)).softmax(1).flatten(2)
        moved = motion.flatten(2).transpose(1, 2) @ share  # (B, 6, H/2 W/2)
        shift = (moved.unflatten(2, field.shape[1:]).unflatten(1, (2, 3)) * field).sum(2)  # (B, 2, H/2, W/2)
        nearness = F.threshold(near.amax(1, keepdim=True).clamp(min=-_FAR / 2).exp(), _NOT_NEAR, 0)
        return torch.cat([shift, nearness], 1)

    def _ends(self, poses: Poses) -> tuple[Tensor, Tensor]:
        """Starts and ends (B, 2 poses, 2, K, 2) of every bone, and which bones are missing (B, 2, K)."""
        seen = torch.cat([poses.xy, poses.present[..., None]], -1)[:, :, None, None]  # (B, 2, 1, 1, 18, 3)
        sums = (seen * self.members).sum(-2)  # (B, 2, 2, K, 3), no matrix product: a GPU may round those to 10 bits
        ends = sums[..., :2] / sums[..., 2:].clamp(min=1)
        missing = (sums[..., 2] <= 0).any(2)
        other = ends[:, 0].index_select(2, self.counterparts)
        source = torch.where(missing[:, 0, None, :, None], other, ends[:, 0])
        return torch.stack([source, ends[:, 1]], 1), missing

    def _motions(self, start: Tensor, basis: Tensor, length: Tensor, body: Tensor, width: Tensor) -> Tensor:
        """Affine maps from pixels of the target to their shifts: each bone's similarity transform minus the identity.

        Args:
            start: (B, 2, K, 2) of the bones of both poses.
            basis: (B, 2, K, 2, 2), columns along and across them.
            length: (B, 2, K) in pixels.
            body: (B, 2) length of the body.
            width: (B, 2) width of the body.

        Returns:
            (B, K, 2, 3), to be multiplied by (x, y, 1).
        """
        scale = body[:, :1] / body[:, 1:]  # (B, 1)
        along = (length[:, 0] / length[:, 1]).clamp(scale / 2.5, scale * 2.5)  # a limb seen end-on has no length
        across = torch.where(self.flat, width[:, :1] / width[:, 1:], scale)
        stretched = basis[:, 0] * torch.stack([along, across], -1)[..., None, :]
        turn = (stretched[..., :, None, :] * basis[:, 1, :, None]).sum(-1)  # (B, K, 2, 2)
        shift = start[:, 0] - (turn * start[:, 1, :, None]).sum(-1)
        return torch.cat([turn, shift[..., None]], -1) - self.unmoved


def _field(size: tuple[int, ...], device: torch.device) -> Tensor:
    """(x, y, 1) of the half-size image's pixels, in pixels of the full size, (3, H/2, W/2)."""
    y, x = (2 * torch.arange(n // 2, device=device, dtype=torch.float32) + 0.5 for n in size)
    return torch.stack(torch.broadcast_tensors(x, y[:, None], torch.ones_like(x)))


def _body_width(poses: Poses, length: Tensor) -> Tensor:
    """Shoulder width (B, 2) along x, which shrinks as the person turns, but not below the body's depth."""
    right, left = (JOINTS.index(name) for name in _SHOULDERS)
    width = (poses.xy[:, :, right, 0] - poses.xy[:, :, left, 0]).abs()
    known = poses.present[:, :, right] * poses.present[:, :, left]  # 1 or 0
    return torch.lerp(0.6 * length, torch.maximum(width, 0.35 * length), known)


def _nearness(start: Tensor, basis: Tensor, length: Tensor, radius: Tensor, hidden: Tensor, field: Tensor) -> Tensor:
    """Log nearness of every pixel to every bone: minus half the squared distance in radii; very low for hidden ones.

    Args:
        start: (B, K, 2) of the target's bones.
        basis: (B, K, 2, 2), columns along and across them.
        length: (B, K).
        radius: (B, K).
        hidden: (B, K) bool.
        field: (3, H/2, W/2), (x, y, 1) of the pixels.

    Returns:
        (B, K, H/2, W/2), at most 0.
    """
    x, y = field[0, 0] - start[..., :1], field[1, :, 0] - start[..., 1:]  # (B, K, W/2), (B, K, H/2)
    unit = basis / radius[..., None, None]  # (B, K, 2 of x and y, 2 of along and across)
    point = (x[:, :, None] * unit[:, :, 0, :, None])[..., None, :] + (y[:, :, None] * unit[:, :, 1, :, None])[..., None]
    along, across = point[:, :, 0], point[:, :, 1]  # (B, K, H/2, W/2) in radii
    beyond = along - along.clamp(min=0).minimum((length / radius)[..., None, None])
    far = (hidden * (-50 * _FAR))[..., None, None]
    return torch.addcmul(torch.addcmul(far, across, across, value=-0.5), beyond, beyond, value=-0.5)
