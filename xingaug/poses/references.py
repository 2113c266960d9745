"""Chooses the image of a person to render from: the one whose pose is nearest to the target's.

A generator carries what the image shows. One that shows the person from the target's side shows more of what the target
must show than one from the other side, so several images of a person are used by choosing (our choice; measured in
`xingaug/weights/market1501-augment.md`).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from xingaug.keypoints import MIN_VISIBLE
from xingaug.poses.descriptor import Shapes, oks
from xingaug.poses.groups import Groups
from xingaug.poses.placing import Fit

Reference = Literal["image", "camera"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)
"""Which images of a person may be rendered in place of one: none, or those of the same camera."""

_CHUNK = 100_000  # poses of a person and camera compared with targets at a time: 30 MB


def require_fit(reference: str, fit: Fit) -> None:
    """Raises `ValueError` for fit "source" with another image in the source's place, whose position it has not."""
    if reference != "image" and fit == "source":
        raise ValueError(f"reference: '{reference}', fit: '{fit}'; needed fit 'frame', as other images are rendered")


def likeness(poses: Shapes, targets: Shapes) -> np.ndarray:
    """How near poses are to targets, with which joints they show: OKS times the share of joints that both show.

    OKS alone compares the joints seen in both and cannot tell a face from the back of a head.

    Args:
        poses: (..., 18) joints.
        targets: joints that broadcast against them.

    Returns:
        (...) float32 in [0, 1].
    """
    both = (poses.present & targets.present).sum(-1)
    either = (poses.present | targets.present).sum(-1)
    return (oks(poses, targets) * both / np.maximum(either, 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The images that may be rendered in place of one another: those of one person by one camera.

    Attributes:
        shapes: (N,) poses of all images.
        groups: the images by person and camera.
    """

    shapes: Shapes
    groups: Groups

    @classmethod
    def of(cls, shapes: Shapes, pids: np.ndarray, camids: np.ndarray) -> "Candidates":
        """Groups images by identity and camera, (N,) each; one with too few joints to be rendered is never chosen."""
        both = np.stack([pids, camids], axis=1)
        able = shapes.present.sum(1) >= MIN_VISIBLE
        shapes = Shapes(shapes.xy, shapes.present & able[:, None], shapes.torso_px)
        return cls(shapes, Groups.of(np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)))

    def nearest(self, rows: np.ndarray, targets: Shapes, forbidden: np.ndarray) -> np.ndarray:
        """The image to render for each target: the one of the row's person and camera whose pose is nearest.

        Args:
            rows: (M,) the image that each target was drawn for.
            targets: (M,) poses.
            forbidden: (M,) the image that the target was taken from, which must not be rendered in its own pose; -1 if
                it is none of these.

        Returns:
            (M,) int64 rows of the images; a row is kept where no other is nearer.
        """
        groups, found = self.groups, rows.copy()
        group_of = groups.group_of[rows]
        for group in np.unique(group_of).tolist():
            members = groups.members[groups.starts[group] :][: groups.sizes[group]]
            of_group = np.flatnonzero(group_of == group)
            step = max(1, _CHUNK // len(members))
            for some in np.split(of_group, range(step, len(of_group), step)):
                similar = likeness(self.shapes[members[:, None]], targets[some[None]])  # (members, some)
                similar[members[:, None] == forbidden[some]] = -1
                nearer = similar.max(0) > similar[groups.rank_of[rows[some]], np.arange(len(some))]
                found[some[nearer]] = members[similar.argmax(0)[nearer]]
        return found
