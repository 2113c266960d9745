"""Label policies: labels, weights and triplets of synthetic rows, for the engines in `reid_integration.engines`."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Labels = Literal["same_id", "lsr", "lsro", "soft"]
Triplets = Literal["include", "exclude", "anchor_real_only"]


def label_targets(
    pids: Tensor,
    synthetic: Tensor,
    classes: int,
    labels: Labels,
    eps: float,
    smoothing: float = 0.3,
    teacher: Tensor | None = None,
) -> Tensor:
    """The classifier's target for each row.

    Args:
        pids: (B,) int64 classes.
        synthetic: (B,) bool.
        classes: their number.
        labels: of synthetic rows: "same_id" as real ones; "lsr" their identity with more smoothing (Szegedy et al.,
            2016); "lsro" all identities alike (Zheng et al., 2017); "soft" the teacher's probabilities.
        eps: label smoothing of real rows, as in torchreid.
        smoothing: label smoothing of synthetic rows with "lsr".
        teacher: (B, classes) logits, with "soft".

    Returns:
        (B, classes) float32, each row summing to 1.

    Raises:
        ValueError: "soft" without logits of that shape.
    """
    own = F.one_hot(pids, classes).float()
    real = (1 - eps) * own + eps / classes
    if labels == "same_id":
        return real
    if labels == "lsr":
        other = (1 - smoothing) * own + smoothing / classes
    elif labels == "lsro":
        other = torch.full_like(real, 1 / classes)
    else:
        if teacher is None or teacher.shape != real.shape:
            came = None if teacher is None else tuple(teacher.shape)
            raise ValueError(f"teacher: logits {came}, needed {tuple(real.shape)} for soft labels")
        other = teacher.float().softmax(dim=1)
    return torch.where(synthetic[:, None], other, real)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy against soft targets, weighted by row; the mean over all rows.

    Args:
        logits: (B, C).
        targets: (B, C), rows summing to 1.
        weights: (B,), at least 0.
    """
    each = -(targets * logits.float().log_softmax(dim=1)).sum(1)
    return (each * weights).mean()


def hardest_triplets(features: Tensor, pids: Tensor, synthetic: Tensor, triplets: Triplets, margin: float) -> Tensor:
    """Triplet loss with each anchor's hardest positive and negative (Hermans et al., 2017), as torchreid computes it.

    Args:
        features: (B, D).
        pids: (B,).
        synthetic: (B,) bool.
        triplets: "include" treats synthetic rows as real ones, "exclude" leaves them out, "anchor_real_only" uses them
            only as positives and negatives of real anchors.
        margin: of the two distances.

    Returns:
        The mean over the anchors that have a negative; 0 if none has.
    """
    if triplets == "exclude":
        features, pids, synthetic = features[~synthetic], pids[~synthetic], synthetic[~synthetic]
    features = features.float()
    squares = features.square().sum(1)
    squared = squares[:, None] + squares[None] - 2 * features @ features.T
    distances = squared.clamp(min=1e-12).sqrt()
    same = pids[:, None] == pids[None]
    anchors = (~same).any(1)
    if triplets == "anchor_real_only":
        anchors &= ~synthetic
    if not bool(anchors.any()):
        return features.sum() * 0
    positive = distances.masked_fill(~same, 0).amax(1)[anchors]
    negative = distances.masked_fill(same, float("inf")).amin(1)[anchors]
    return F.relu(positive - negative + margin).mean()


def supervised(loss: Callable[[Tensor], Tensor], outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """The loss of a model's output, or the mean over several outputs (deep supervision)."""
    parts = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.stack([loss(part) for part in parts]).mean()
