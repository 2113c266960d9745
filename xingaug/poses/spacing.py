"""Which of many poses stand for all of them, where a random choice would have to be seeded."""

import numpy as np

FIT_ROWS = 8192
"""Most poses that the statistics and the features of a bank are fitted to (our choice)."""


def evenly_spaced(count: int, number: int) -> np.ndarray:
    """Positions at equal distances from the first to the last.

    Args:
        count: how many there are to choose from, at least 1.
        number: how many are chosen; some come more than once if it is larger than `count`.

    Returns:
        (number,) int64 in [0, count), ascending.
    """
    return np.linspace(0, count - 1, number).round().astype(np.int64)
