"""Speed of computing CMC and mAP from features."""

from typing import Any

from xingaug.bench.augment import measured_by_reid_integration
from xingaug.bench.timing import positive


def bench_evaluation(rounds: int) -> dict[str, Any]:
    """Evaluation at Market-1501's size, ours against torchreid's own; see `reid_integration.bench.bench_evaluation`.

    Raises:
        BadInput: `rounds` below 1.
    """
    figures: dict[str, Any] = measured_by_reid_integration("evaluation", "--rounds", str(positive("rounds", rounds)))
    return figures
