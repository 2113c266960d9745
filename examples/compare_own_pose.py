"""How much of the gain comes from the background, and how much from the pose? Compared with a sampler `own`.

python examples/compare_own_pose.py --config configs/compare_market1501_own_pose.yaml

`own` renders every person in the image's own pose, so that only the background is new. Any function from a bank and
sources to rows of the bank can be added to `SAMPLERS` like this, and is then a value of `augment.sampler`.
"""

import sys

import numpy as np

from reid_integration.compare import main
from xingaug.poses import SAMPLERS, PoseBank
from xingaug.poses.samplers import Sources


def own(bank: PoseBank, sources: Sources, seed: int, epoch: int) -> np.ndarray:
    """The source image's own pose: (B,) int64 rows; -1 if the bank has no usable one."""
    known = [bank.positions_named(key)[:1] for key in sources.keys]
    return np.array([bank.usable_rows[at[0]] if at else -1 for at in known], np.int64)


SAMPLERS["own"] = own

if __name__ == "__main__":
    sys.exit(main())
