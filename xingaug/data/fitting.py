"""Checks that keypoints are pixel coordinates in their own images."""

import numpy as np
import torch

from xingaug.errors import BadInput
from xingaug.keypoints import JOINTS, MIN_VISIBLE, Keypoints

MOST_OUTSIDE = 0.25
"""Largest share of joints outside their images; beyond it the keypoints belong to images of another size."""

CORNERED = 4
"""If all joints of at least this many persons lie in the top left quarter, the keypoints belong to smaller images."""


def require_fitting(keypoints: Keypoints, frames: np.ndarray, where: str = "") -> None:
    """Raises `BadInput` if keypoints cannot be pixels of the images that they come with.

    That is the case when no coordinate exceeds 1, when more than `MOST_OUTSIDE` of the joints lie outside their images,
    or when at least `CORNERED` persons all have every joint in the top left quarter of the image (all our choice).

    Args:
        keypoints: (N,) persons.
        frames: (N, 2) height, width of their images.
        where: the source of the keypoints, for the error message.
    """
    present = keypoints.present
    if not bool(present.any()):
        return
    where = where or "keypoints"
    sides = torch.from_numpy(np.ascontiguousarray(frames[:, None, ::-1], np.float32))
    xy = keypoints.xy
    if float(xy[present].abs().max()) <= 1 and float(sides.max()) > 4:
        raise BadInput(f"{where}: no coordinate exceeds 1, so these are relative to the image size; needed pixels")
    outside = present & ((xy < -0.5) | (xy > sides - 0.5)).any(-1)
    if int(outside.sum()) > MOST_OUTSIDE * int(present.sum()):
        row, joint = outside.nonzero()[0].tolist()
        (x, y), (height, width) = xy[row, joint].tolist(), frames[row].tolist()
        raise BadInput(
            f"{where}: {int(outside.sum())} of {int(present.sum())} joints lie outside their images, such as "
            f"{JOINTS[joint]} at ({x:g}, {y:g}) of {height}x{width}; needed pixels of the images as they are stored"
        )
    judged = present.sum(1) >= MIN_VISIBLE
    cornered = (~present | (xy < sides / 2).all(-1)).all(1)
    if int(judged.sum()) >= CORNERED and bool(cornered[judged].all()):
        raise BadInput(
            f"{where}: every joint of all {int(judged.sum())} persons lies in the top left quarter of its image; "
            "needed pixels of the images as they are stored, these are of smaller images"
        )
