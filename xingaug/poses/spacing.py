"""An evenly spaced subset of many poses, instead of a random one that would need a seed."""

import numpy as np

FIT_ROWS = 8192
"""Most poses that the statistics and the features of a bank are fitted to (our choice)."""


def evenly_spaced(count: int, number: int) -> np.ndarray:
    """Evenly spaced positions from the first to the last.

    Args:
        count: how many there are to choose from, at least 1.
        number: how many are chosen; some are repeated if it is larger than `count`.

    Returns:
        (number,) int64 in [0, count), ascending.
    """
    return np.linspace(0, count - 1, number).round().astype(np.int64)
