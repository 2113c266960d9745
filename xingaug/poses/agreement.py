"""How well two annotations of the same images agree: distances, PCK, and swapped left and right sides."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xingaug.data.annotations import Annotations
from xingaug.errors import BadInput
from xingaug.keypoints import FLIP_ORDER, JOINTS

LIMB_PAIRS = {
    limb: tuple(JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in parts)
    for limb, parts in (("arms", ("shoulder", "elbow", "wrist")), ("legs", ("hip", "knee", "ankle")))
}
"""Joints whose left and right can be swapped together: both arms, or both legs."""

PCK_SHARE = 0.2
"""Share of the torso's length below which a joint's distance counts as correct."""

_SWAP_JOINTS = 4  # joints of a limb pair's six that both annotations must show, unswapped and swapped
_SWAP_RATIO = 0.5  # share of the unswapped distance that the swapped distance must stay below
_SWAP_GAIN = 0.1  # share of the torso by which swapping must reduce the distance


@dataclass(frozen=True)
class JointAgreement:
    """Agreement on one joint, over the images that both annotate.

    Attributes:
        both: number of images in which both A and B have the joint.
        only_a: number of images in which only A has it.
        only_b: number of images in which only B has it.
        median_px: median distance where both have it; None if there is no such image.
        p90_px: 90th percentile of that distance.
        pck: share of A's joints, in images with a torso, that B has within `PCK_SHARE` of the torso; None if A has
            none.
    """

    both: int
    only_a: int
    only_b: int
    median_px: float | None
    p90_px: float | None
    pck: float | None


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two annotations, A and B, compared.

    Attributes:
        names: (N,) images that both annotate, in A's order.
        only_a: number of images that only A annotates.
        only_b: number of images that only B annotates.
        mean_px: (N,) mean distance of the joints that both have; 0 if there are none.
        all_joints: agreement over all joints.
        joints: agreement by joint.
        swapped: names of the images in which one of the two seems to have swapped left and right, by limb pair.
    """

    names: np.ndarray
    only_a: int
    only_b: int
    mean_px: np.ndarray
    all_joints: JointAgreement
    joints: dict[str, JointAgreement]
    swapped: dict[str, list[str]]

    def figures(self) -> dict[str, Any]:
        """The figures over all joints, without the lists."""
        whole = self.all_joints
        return {
            "images_in_both": len(self.names),
            "images_only_in_a": self.only_a,
            "images_only_in_b": self.only_b,
            "joints_in_both": whole.both,
            "joints_only_in_a": whole.only_a,
            "joints_only_in_b": whole.only_b,
            "median_px": whole.median_px,
            "p90_px": whole.p90_px,
            f"pck_{PCK_SHARE}": whole.pck,
            **{f"swapped_{limb}": len(names) for limb, names in self.swapped.items()},
        }


def compare(a: Annotations, b: Annotations) -> Agreement:
    """Compares two annotations in A's pixels, which must be B's too.

    The torso of an image is the distance from A's neck to the middle of A's hips, or to the one hip that it shows.
    Left and right count as swapped (our choice) if at least 4 of the six joints of both arms, or of both legs, can be
    compared without swapping B's sides and at least 4 with swapping, and swapping more than halves their mean distance
    and reduces it by at least a tenth of the torso.

    Args:
        a: the reference of PCK.
        b: the annotations to compare with it.

    Raises:
        BadInput: they have no image in common.
    """
    rows_of_b = b.lookup(a.names)
    rows_of_a = np.flatnonzero(rows_of_b >= 0)
    if not len(rows_of_a):
        raise BadInput(f"no image in common: {len(a)} and {len(b)} annotations, such as {_first(a)} and {_first(b)}")
    xy_a, xy_b = a.xy[rows_of_a], b.xy[rows_of_b[rows_of_a]]
    seen_a, seen_b = a.visibility[rows_of_a] > 0, b.visibility[rows_of_b[rows_of_a]] > 0
    distance = np.linalg.norm(xy_a - xy_b, axis=-1)
    torso = torso_length(xy_a, seen_a)
    both = seen_a & seen_b
    names = a.names[rows_of_a]
    swapped = _swapped(xy_a, seen_a, xy_b, seen_b, torso)
    return Agreement(
        names,
        len(a) - len(names),
        len(b) - len(names),
        (distance * both).sum(1) / np.maximum(both.sum(1), 1),
        _measure(distance, seen_a, seen_b, torso),
        {
            joint: _measure(distance[:, i : i + 1], seen_a[:, i : i + 1], seen_b[:, i : i + 1], torso)
            for i, joint in enumerate(JOINTS)
        },
        {limb: names[rows].tolist() for limb, rows in swapped.items()},
    )


def torso_length(xy: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(N,) pixels from the neck to the middle of the hips, or to the only visible one; NaN without neck or hips.

    Args:
        xy: (N, 18, 2) pixels.
        seen: (N, 18) bool.
    """
    neck = JOINTS.index("neck")
    hips = [JOINTS.index("right_hip"), JOINTS.index("left_hip")]
    count = seen[:, hips].sum(1)
    middle = (xy[:, hips] * seen[:, hips, None]).sum(1) / np.maximum(count, 1)[:, None]
    length = np.linalg.norm(xy[:, neck] - middle, axis=-1)
    return np.where(seen[:, neck] & (count > 0) & (length > 0), length, np.nan)


def _measure(distance: np.ndarray, seen_a: np.ndarray, seen_b: np.ndarray, torso: np.ndarray) -> JointAgreement:
    """Agreement over (N, J) joints."""
    both = seen_a & seen_b
    near = both & (distance < PCK_SHARE * torso[:, None])  # a comparison with NaN is false
    judged = (seen_a & np.isfinite(torso)[:, None]).sum()
    median, p90 = np.quantile(distance[both], (0.5, 0.9)).tolist() if both.any() else (None, None)
    pck = float(near.sum() / judged) if judged else None
    return JointAgreement(
        int(both.sum()), int((seen_a & ~seen_b).sum()), int((seen_b & ~seen_a).sum()), median, p90, pck
    )


def _swapped(
    xy_a: np.ndarray, seen_a: np.ndarray, xy_b: np.ndarray, seen_b: np.ndarray, torso: np.ndarray
) -> dict[str, np.ndarray]:
    """Rows of the images with swapped sides, by limb pair."""
    found = {}
    for limb, joints in LIMB_PAIRS.items():
        here, there = list(joints), [FLIP_ORDER[joint] for joint in joints]
        as_named, count = _mean_distance(xy_a[:, here], seen_a[:, here], xy_b[:, here], seen_b[:, here])
        exchanged, other_count = _mean_distance(xy_a[:, here], seen_a[:, here], xy_b[:, there], seen_b[:, there])
        enough = np.minimum(count, other_count) >= _SWAP_JOINTS
        gain = as_named - exchanged
        # Without a torso the gain is compared with NaN, which is false.
        found[limb] = np.flatnonzero(enough & (exchanged < _SWAP_RATIO * as_named) & (gain >= _SWAP_GAIN * torso))
    return found


def _mean_distance(
    xy_a: np.ndarray, seen_a: np.ndarray, xy_b: np.ndarray, seen_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) mean distance and number of the joints that both have."""
    both = seen_a & seen_b
    count = both.sum(1)
    return (np.linalg.norm(xy_a - xy_b, axis=-1) * both).sum(1) / np.maximum(count, 1), count


def _first(annotations: Annotations) -> str:
    return repr(str(annotations.names[0])) if len(annotations) else "none"
