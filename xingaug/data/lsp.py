"""`joints.mat` of Leeds Sports Pose and of its extended training set."""

from pathlib import Path

import numpy as np

from xingaug.data.annotations import Annotations
from xingaug.data.layouts import LAYOUTS, to_joints18
from xingaug.data.mat import read_mat
from xingaug.errors import BadInput

_LARGEST_PX = 1e6  # beyond any image


def read_lsp_mat(path: Path) -> Annotations:
    """Reads the array `joints` of a MATLAB file; its shape says which dataset it is.

    (3, 14, N) is Leeds Sports Pose, whose third row is 1 for an occluded joint; such joints count as missing.
    (14, 3, N) is the extended set, whose third column is 1 for a visible joint; others have no position. Pixels count
    from 1 and are shifted by -1. Image names start at im0001.jpg in the first, at im00001.jpg in the second.

    Raises:
        BadInput: no such file, not a MATLAB file of version 5 to 7 (7.3 is HDF5), no such array, a third value
            other than 0 or 1, or a visible joint without a pixel position.
    """
    path = Path(path)
    joints = _read_joints(path)
    extended = joints.shape[0] == 14
    if extended:
        joints = joints.transpose(1, 0, 2)
    x, y, flag = (row.T.astype(np.float64) for row in joints)  # each (N, 14)
    digits = 5 if extended else 4
    names = np.array([f"im{number:0{digits}d}.jpg" for number in range(1, len(x) + 1)])
    if not np.isin(flag, (0, 1)).all():
        row, joint = np.argwhere(~np.isin(flag, (0, 1)))[0]
        where = f"{path}: {names[row]}: {LAYOUTS['lsp14'][joint]}"
        raise BadInput(f"{where}: flag {flag[row, joint]:g}, needed 0 or 1")
    visible = flag == extended
    xy = np.stack([x, y], -1)
    lost = visible & ~(np.abs(xy) < _LARGEST_PX).all(-1)
    if lost.any():
        row, joint = np.argwhere(lost)[0]
        where = f"{path}: {names[row]}: {LAYOUTS['lsp14'][joint]} at {tuple(xy[row, joint].tolist())}"
        raise BadInput(f"{where}, needed pixels where it is visible")
    keypoints = to_joints18(np.where(visible[..., None], xy - 1, 0), visible, "lsp14")
    source = f"{'LSP extended' if extended else 'LSP'} {path.name}"
    return Annotations(names, keypoints.xy.numpy(), keypoints.visibility.numpy(), source)


def _read_joints(path: Path) -> np.ndarray:
    needed = "Leeds Sports Pose's joints.mat"
    joints = read_mat(path, ("joints",), needed).get("joints")
    if joints is None:
        raise BadInput(f"{path}: holds no array `joints`; needed {needed}")
    if joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)) or joints.dtype.kind not in "biuf":
        raise BadInput(f"{path}: joints: {joints.dtype} of shape {joints.shape}, needed (3, 14, N) or (14, 3, N)")
    return np.asarray(joints)
