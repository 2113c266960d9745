"""Random numbers keyed by (seed, epoch, image name), so that draws do not depend on batches, workers or processes."""

import hashlib
from collections.abc import Sequence

import numpy as np


def keyed_uniform(seed: int, epoch: int, names: Sequence[str], stream: str) -> np.ndarray:
    """One uniform number for each name; the same on every machine (our choice: BLAKE2b of the key).

    Args:
        seed: seed of the run.
        epoch: epoch of the run.
        names: (B,) image names to draw for; equal names give equal numbers.
        stream: what the number is used for; different streams are independent of one another.

    Returns:
        float64 (B,) in [0, 1).
    """
    return keyed_uniforms(seed, epoch, names, stream, 1)[:, 0]


def keyed_uniforms(seed: int, epoch: int, names: Sequence[str], stream: str, count: int) -> np.ndarray:
    """Several independent numbers for each name; arguments as in `keyed_uniform`.

    Args:
        seed: seed of the run.
        epoch: epoch of the run.
        names: (B,) image names to draw for.
        stream: what the numbers are used for.
        count: 1 to 8, as many as fit into one hash. Another count gives other numbers.

    Returns:
        float64 (B, count) in [0, 1).
    """
    # The length of the stream's name keeps ("a", "b...") and ("ab", "...") apart.
    prefix = hashlib.blake2b(f"{seed}/{epoch}/{len(stream)}/{stream}/".encode(), digest_size=8 * count)
    digests = bytearray()
    for name in names:
        key = prefix.copy()
        key.update(str(name).encode())
        digests += key.digest()
    # 53 bits fill the mantissa of a double exactly.
    return (np.frombuffer(digests, "<u8").reshape(len(names), count) >> np.uint64(11)) * 2.0**-53
