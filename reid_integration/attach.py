"""Attaches `augment: xinggan_pose` to a torchreid data manager: generator, bank, gate and the rendering loader."""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reid_integration.config import AugmentConfig, listed
from reid_integration.loader import PoseLoader, TrainingImages, attach_poses
from xingaug.augment.gate import GateConfig, build_gate
from xingaug.augment.grounds import COUNT, Grounds, wanted_share
from xingaug.augment.transform import XingPose
from xingaug.config import from_mapping, to_mapping
from xingaug.data.names import ends_among
from xingaug.errors import BadInput
from xingaug.generators.store import load_generator
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.storage import FORMAT, VERSION

_LOG = logging.getLogger(__name__)


def attach(
    manager: Any,
    chosen: AugmentConfig,
    transforms: list[str] | str,
    norm_mean: list[float],
    norm_std: list[float],
    seed: int,
    device: torch.device,
    generator: nn.Module | None = None,
) -> dict[str, str]:
    """Replaces the training loader of a data manager by one that re-renders poses.

    Args:
        manager: torchreid's `ImageDataManager`.
        chosen: the settings.
        transforms: that the data manager was built with, like `norm_mean` and `norm_std`.
        norm_mean: per channel.
        norm_std: per channel.
        seed: of the draws.
        device: where images are rendered.
        generator: replaces `chosen.generator`.

    Returns:
        Content hashes of generator and bank, and a description of the rendering.

    Raises:
        BadInput: a file or setting in the configuration cannot be used.
    """
    if generator is None:
        generator = load_generator(chosen.generator, device)
    generator = generator.to(device)
    if getattr(manager.train_loader.dataset, "k_tfm", 1) != 1:
        raise BadInput("k_tfm: the data manager gives several views of an image; needed 1")
    size = (int(generator.size[0]), int(generator.size[1]))  # type: ignore[index]
    persons = TrainingImages.read([entry[0] for entry in manager.train_loader.dataset.data], chosen.annotations)
    poses = persons.real_poses(size)  # also checks that the keypoints fit the images
    bank = PoseBank.load(Path(chosen.bank)) if chosen.bank else cached_bank(persons, size, poses)
    _require_training_poses(bank, manager, persons, chosen.bank)
    gate = build_gate(chosen.gate, size, device) if isinstance(chosen.gate, GateConfig) else None
    try:
        grounds = other_grounds(generator, persons, chosen.ground, seed)
        augment = XingPose(
            generator, bank, chosen.p, chosen.sampler, seed, chosen.mode, fit=chosen.fit,
            gate=gate, reuse=chosen.reuse, dtype=chosen.dtype, runtime=chosen.runtime, grounds=grounds,
            references=persons.references(size, poses) if chosen.reference == "camera" else None,
        )  # fmt: skip
    except ValueError as error:
        raise BadInput(f"augment.{error}") from None
    attach_poses(
        manager, augment, persons, listed(transforms), norm_mean, norm_std, chosen.start_epoch, chosen.stop_epoch,
        chosen.rerender,
    )  # fmt: skip
    rendering = augment.core.describe()
    _LOG.info("augment: rendering in %s", rendering)
    return {
        "generator": str(generator.content_hash), "bank": bank.content_hash, "rendering": rendering,
        "ground": grounds.describe() if grounds is not None else "their own",
    }  # fmt: skip


def other_grounds(generator: nn.Module, persons: TrainingImages, share: float | None, seed: int) -> Grounds | None:
    """Grounds of training images to paste rendered persons onto; None if all keep their own.

    Args:
        generator: that renders them.
        persons: the training images.
        share: of the rendered persons; None is 1 if the generator separates person and ground, else 0.
        seed: of the draws.

    Raises:
        BadInput: an image cannot be read.
        ValueError: a share above 0 with a generator that does not separate person and ground.
    """
    wanted = wanted_share(generator, share)
    if not wanted:
        return None
    size = (int(generator.size[0]), int(generator.size[1]))  # type: ignore[index]
    return Grounds.of(generator, *persons.some(COUNT, size, seed), wanted, seed)


def _require_training_poses(bank: PoseBank, manager: Any, persons: TrainingImages, path: str | None) -> None:
    """Raises `BadInput` if the bank holds poses of query or gallery images, which training must not see."""
    tests = [entry[0] for splits in manager.test_dataset.values() for part in splits.values() for entry in part]
    names = bank.names.tolist()
    found = sorted(ends_among(tests, names) - ends_among(persons.paths, names))
    if found:
        raise BadInput(
            f"augment.bank: {path}: {len(found)} poses are of test images, such as {found[0]}; "
            "build it from training images"
        )


def cached_bank(persons: TrainingImages, frame: tuple[int, int], poses: Keypoints | None = None) -> PoseBank:
    """The bank of the training images, built on first use and cached by its content.

    It is stored in `$XDG_CACHE_HOME/xingaug/banks`, by default below `~/.cache`, under a hash of names, poses in the
    frame, identities, cameras, and the bank's format. A damaged one is built again.

    Args:
        persons: the training images.
        frame: (height, width) that poses are scaled to.
        poses: of the real images in that frame, if already computed.
    """
    digest = hashlib.sha256(f"{FORMAT} {VERSION} {frame}".encode())
    poses = persons.real_poses(frame) if poses is None else poses
    digest.update("\0".join(persons.names).encode())
    for array in (poses.xy.numpy(), poses.visibility.numpy(), persons.pids, persons.camids, persons.synthetic):
        digest.update(np.ascontiguousarray(array).data)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = home / "xingaug" / "banks" / digest.hexdigest()
    try:
        return PoseBank.load(path)
    except BadInput:  # missing or damaged
        bank = persons.build_bank(frame, poses)
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(BadInput, OSError):  # another process was faster, or the disk is full
        bank.save(path)
    return bank


def add_config(cfg: Any) -> None:
    """Adds the keys of `augment` to a script's own yacs configuration.

    Its YAML files and command line can then set `augment.name: xinggan_pose` and the keys of `AugmentConfig`. The short
    form `augment: xinggan_pose` does not work, because yacs cannot replace a node by a string.

    Args:
        cfg: a yacs `CfgNode` in torchreid's tree, before files are merged into it.
    """
    keys = to_mapping(AugmentConfig()) | {"name": ""}
    cfg.augment = type(cfg)({key: value for key, value in keys.items() if key not in _YACS_LATER})
    cfg.augment.gate = False  # yacs cannot change None into a node


_YACS_LATER = ("gate", "labels", "smoothing", "teacher", "weight", "warmup_epochs", "triplet")
"""Keys that need our own engine, or a node instead of a value."""


def attach_config(manager: Any, cfg: Any) -> PoseLoader | None:
    """Applies `augment` to a script's own data manager and configuration.

    Args:
        manager: torchreid's `ImageDataManager`, built from `cfg`.
        cfg: with the keys of `add_config`.

    Returns:
        The new `manager.train_loader`, whose first epoch is `cfg.train.start_epoch`; None if `augment.name` is empty.

    Raises:
        BadInput: a wrong value, or a file that cannot be used.
    """
    from reid_integration.datamanager import require_real_and_apart  # imports torchreid, which takes seconds

    wanted: Mapping[str, Any] = cfg.augment
    if not wanted["name"]:
        return None
    chosen = from_mapping(AugmentConfig, dict(wanted), "configuration", "augment.")
    device = torch.device("cuda" if cfg.use_gpu and torch.cuda.is_available() else "cpu")
    require_real_and_apart(manager)
    data = cfg.data
    seed = cfg.train.seed if chosen.seed is None else chosen.seed
    attach(manager, chosen, list(data.transforms), list(data.norm_mean), list(data.norm_std), seed, device)
    loader: PoseLoader = manager.train_loader
    loader.set_epoch(cfg.train.get("start_epoch", 0))  # the engine of a resumed script begins there
    return loader
