"""A small feature network whose right answer is known."""

from pathlib import Path

import numpy as np
from pose_networks import Graph


def colours_network(path: Path, batch: int | None = None, size: tuple[int, int] | None = None) -> Path:
    """Mean colours less 0.3, and their squares, as six features."""
    g = Graph()
    features = g("ReduceMean", g("Sub", "input", np.float32(0.3)), np.array([2, 3]), keepdims=0)
    g("Concat", features, g("Mul", features, features), axis=1, output="made")
    return g.save(path, ["made"], batch, size)
