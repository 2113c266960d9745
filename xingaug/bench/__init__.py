"""`xingaug bench`: speed as ratios, the variants alternating within one run."""

from xingaug.bench.augment import bench_augment
from xingaug.bench.bank import bench_bank
from xingaug.bench.networks import bench_generator, bench_train

__all__ = ["bench_augment", "bench_bank", "bench_generator", "bench_train"]
