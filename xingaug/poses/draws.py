"""Randomness keyed by (seed, epoch, image name), so that a draw does not depend on batches, workers or processes."""

import hashlib
from collections.abc import Sequence

import numpy as np


def keyed_uniform(seed: int, epoch: int, names: Sequence[str], stream: str) -> np.ndarray:
    """One uniform number for each name; the same on every machine (our choice: BLAKE2b of the key).

    Args:
        seed: of the run.
        epoch: of the run.
        names: (B,) what is drawn for, as image names; equal names give equal numbers.
        stream: what the number decides; different streams are independent of one another.

    Returns:
        float64 (B,) in [0, 1).
    """
    # The length of the stream's name keeps ("a", "b...") and ("ab", "...") apart.
    prefix = hashlib.blake2b(f"{seed}/{epoch}/{len(stream)}/{stream}/".encode(), digest_size=8)
    numbers = np.empty(len(names), np.float64)
    for index, name in enumerate(names):
        key = prefix.copy()
        key.update(str(name).encode())
        # 53 bits fill the mantissa of a double exactly.
        numbers[index] = (int.from_bytes(key.digest(), "little") >> 11) * 2.0**-53
    return numbers
