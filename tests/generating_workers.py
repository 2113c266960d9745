"""What test_offline_engines.py runs in processes of its own: generating_workers.py ROOT ENGINE OUT[=WORKERS[!]] ...

With ! one of the workers is killed."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from generating import Blend, dataset_config, run
from torch import Tensor


class DiesOnce(Blend):
    """Kills its process with the first call that any process makes, as far as `marker` is not there."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, source: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor) -> Tensor:
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return super().forward(source, source_heatmaps, target_heatmaps)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


def main(root: Path, engine: str, jobs: list[str]) -> None:
    if engine == "ray":
        import ray

        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    for job in jobs:
        out, _, workers = job.partition("=")
        killed = workers.endswith("!")
        if killed:
            (root / "marker").unlink()
        count = int(workers.strip("!")) if workers else None
        config = replace(dataset_config(root), out=root / out, engine=engine, workers=count)
        summary = run(config, DiesOnce(root / "marker"))
        # One write, since the processes share a pipe and run unbuffered.
        sys.stdout.write(f"made {summary.rendered} {summary.synthetic}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
