"""`xingaug bench`: speed as ratios, the variants alternating within one run."""

from xingaug.bench.augment import bench_augment
from xingaug.bench.bank import bench_bank
from xingaug.bench.evaluation import bench_evaluation
from xingaug.bench.gpu import bench_gpu
from xingaug.bench.networks import bench_generator, bench_train
from xingaug.bench.offline import bench_offline

__all__ = [
    "bench_augment", "bench_bank", "bench_evaluation", "bench_generator", "bench_gpu", "bench_offline", "bench_train",
]  # fmt: skip
