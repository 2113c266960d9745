"""Random generators that are a pure function of their keys."""

import zlib

import numpy as np


def keyed_rng(*keys: int | str) -> np.random.Generator:
    """A fresh generator that depends on the keys alone.

    Args:
        keys: non-negative integers and strings, in order; strings name the purpose of the draw, so that two draws
            with the same integers stay independent.

    Returns:
        A Philox generator: the same keys give the same stream on every machine and in every process.
    """
    entropy = [zlib.crc32(key.encode()) if isinstance(key, str) else int(key) for key in keys]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
