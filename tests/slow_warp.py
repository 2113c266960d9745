"""The limb warp written down slowly, one bone and one image at a time, in double precision."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xingaug.generators.pose import Poses
from xingaug.generators.warp import BONES
from xingaug.keypoints import JOINTS, Keypoints, render_heatmaps

Person = dict[str, tuple[float, float]]


def persons(poses: Poses) -> list[tuple[Person, Person]]:
    """Source and target of every row: the joints that are there, by name."""
    return [
        tuple(
            {JOINTS[j]: tuple(xy[pose, j].tolist()) for j in range(18) if present[pose, j]} for pose in (0, 1)
        )
        for xy, present in zip(poses.xy.double(), poses.present, strict=True)
    ]  # type: ignore[return-value]  # fmt: skip


def mean_of(person: Person, names: tuple[str, ...]) -> complex | None:
    found = [complex(*person[name]) for name in names if name in person]
    return sum(found) / len(found) if found else None


def bone_of(person: Person, k: int) -> tuple[complex, complex] | None:
    start, end = mean_of(person, BONES[k].start), mean_of(person, BONES[k].end)
    return None if start is None or end is None else (start, end)


def counterpart(k: int) -> int:
    return k if k < 2 else k + 1 if k % 2 == 0 else k - 1


def body_of(person: Person, height: int) -> tuple[float, float]:
    torso = bone_of(person, 1)
    length = max(4.0, abs(torso[1] - torso[0]) if torso else 0.28 * height)
    if "right_shoulder" in person and "left_shoulder" in person:
        return length, max(abs(person["right_shoulder"][0] - person["left_shoulder"][0]), 0.35 * length)
    return length, 0.6 * length


def fields_of(source: Person, target: Person, size: tuple[int, int]) -> Tensor:
    """Shift x, y and nearness of one row at half resolution, (3, H/2, W/2)."""
    (s_length, s_width), (t_length, t_width) = body_of(source, size[0]), body_of(target, size[0])
    y, x = torch.meshgrid(*(2 * torch.arange(n // 2).double() + 0.5 for n in size), indexing="ij")
    here = torch.complex(x, y)
    places, distances = [], []
    for k, bone in enumerate(BONES):
        wanted, shown = bone_of(target, k), bone_of(source, k) or bone_of(source, counterpart(k))
        if wanted is None or shown is None:
            continue
        (s0, s1), (t0, t1) = shown, wanted
        s_bone, t_bone = max(abs(s1 - s0), 0.5), max(abs(t1 - t0), 0.5)
        scale = s_length / t_length
        along = min(max(s_bone / t_bone, scale / 2.5), scale * 2.5)
        across = s_width / t_width if bone.flat else scale
        local = (here - t0) * ((t1 - t0) / t_bone).conjugate()  # along and across the target's bone
        places.append(s0 + torch.complex(along * local.real, across * local.imag) * ((s1 - s0) / s_bone))
        reach = bone.radius * t_length * (min(max(t_width / (0.6 * t_length), 0.6), 1.0) if bone.flat else 1.0)
        beyond = local.real - local.real.clamp(0, t_bone)
        distances.append((beyond**2 + local.imag**2) / reach**2)
    if not places:
        return torch.zeros(3, *here.shape, dtype=torch.float64)
    distance = torch.stack(distances)
    weights = (-4 * distance).softmax(0)
    shift = (weights * torch.stack(places)).sum(0) - here
    nearest = distance.amin(0)
    nearness = (-nearest / 2).exp().where(nearest < 40, torch.zeros(()).double())
    return torch.stack([shift.real, shift.imag, nearness])


class SlowWarp(nn.Module):
    """In place of `LimbWarp`."""

    def forward(self, poses: Poses, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        half = torch.stack([fields_of(*pair, size) for pair in persons(poses)])
        fields = F.interpolate(half, scale_factor=2, mode="bilinear").float()
        return fields[:, :2], fields[:, 2:]


class SlowShiftWarp(nn.Module):
    """In place of `ShiftWarp`."""

    def forward(self, image: Tensor, shifts: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        carried = []
        for shift in shifts.double().split(2, 1):
            places = torch.stack([(shift[:, 0] + x + 0.5) / width, (shift[:, 1] + y + 0.5) / height], -1) * 2 - 1
            carried.append(F.grid_sample(image.double(), places, padding_mode="border", align_corners=False))
        return torch.cat(carried, 1).float()


class SlowMaps(nn.Module):
    """In place of `PoseMaps`: one map a joint, and its means made of it."""

    def forward(self, poses: Poses, size: tuple[int, int]) -> Tensor:
        y, x = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
        maps = torch.zeros(len(poses.xy), 36, *size, dtype=torch.float64)
        for row, (xy, present) in enumerate(zip(poses.xy.flatten(1, 2), poses.present.flatten(1), strict=True)):
            for joint in present.nonzero()[:, 0].tolist():
                centre_x, centre_y = xy[joint].tolist()
                maps[row, joint] = (-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * poses.sigma**2)).exp()
        return maps.float()

    def means(self, poses: Poses, size: tuple[int, int]) -> Tensor:
        return self(poses, size).unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).double().mean((3, 5)).float()


def joints(*poses: Keypoints) -> list[Tensor]:
    """What the core takes."""
    return [part for pose in poses for part in (pose.xy, pose.visibility)]


def heatmaps(*poses: Keypoints) -> list[Tensor]:
    """What a generator takes by its contract."""
    return [render_heatmaps(pose, (128, 64)) for pose in poses]


def smooth_picture(count: int, size: tuple[int, int] = (128, 64)) -> Tensor:
    """Of low contrast from pixel to pixel, so that a place a hundred-thousandth of a pixel off shows as no more."""
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    waves = [(x / 9 + k).sin() * (y / (11 + k) + math.sqrt(k + 1)).cos() for k in range(3 * count)]
    return torch.stack(waves).unflatten(0, (count, 3))
