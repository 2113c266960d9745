"""Pose banks: search and draw target poses."""

from xingaug.poses.bank import Hits, PoseBank
from xingaug.poses.descriptor import is_usable
from xingaug.poses.draws import keyed_uniform
from xingaug.poses.samplers import SAMPLERS, sample

__all__ = ["SAMPLERS", "Hits", "PoseBank", "is_usable", "keyed_uniform", "sample"]
