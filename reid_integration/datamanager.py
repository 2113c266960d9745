"""Folders in Market-1501 and other known layouts as torchreid datasets, and torchreid's data manager on top of them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from reid_integration.compat import load_torchreid, quiet
from reid_integration.config import ReidConfig, listed
from reid_integration.loader import image_item, is_synthetic, rebuilt
from reid_integration.samplers import MixedIdentities
from xingaug.data.leaks import content_hash
from xingaug.data.matches import explain_no_match, matchable_queries
from xingaug.data.names import FOLDERS, SplitName
from xingaug.data.readers import layout_of, read_split, require_market_tree
from xingaug.errors import BadInput
from xingaug.images import read_image

_torchreid: Any = load_torchreid()
_ImageDataset: Any = _torchreid.data.ImageDataset
_registered: dict[str, Path] = {}

Entries = list[tuple[str, int, int, int]]


class MarketImages(_ImageDataset):
    """torchreid's image dataset, except that an unreadable image is an error (torchreid would retry forever).

    A split that is not needed may be an empty list.
    """

    def __init__(self, train: Entries, query: Entries, gallery: Entries, **options: Any) -> None:
        """Args: lists of (path, pid, camid, dsetid); `options`: of torchreid's `ImageDataset`."""
        # torchreid's constructor reads the first entry of each list, so none may be empty while it runs.
        some = (train or query)[:1]
        super().__init__(train or some, query or some, gallery or some, **options)
        if not self.combineall:
            self.train, self.query, self.gallery = train, query, gallery

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One item as in torchreid: `img`, `pid`, `camid`, `impath`, `dsetid`."""
        return image_item(self, index, read_image(Path(self.data[index][0])))

    def __add__(self, other: Any) -> "MarketImages":
        """Joins training sets as torchreid does: identities, cameras and dataset ids of the second are renumbered."""
        shifted = [
            (path, pid + self.num_train_pids, camid + self.num_train_cams, dsetid + self.num_datasets)
            for path, pid, camid, dsetid in other.train
        ]
        return MarketImages(self.train + shifted, [], [], transform=self.transform, mode="train", verbose=False)


class MarketFolder(MarketImages):
    """A dataset that `xingaug.data.readers` knows, such as a folder in Market-1501 layout.

    Training identities are relabelled 0, 1, ...; cameras count from 0, as in torchreid; real images have dsetid 0, and
    images marked as synthetic in their names keep pid and camid and have dsetid 1. A folder that is only used for
    training needs neither query nor gallery.
    """

    _junk_pids = (-1, 0)

    def __init__(self, folder: Path, mode: str = "train", combineall: bool = False, **options: Any) -> None:
        """Reads the folder.

        Args:
            folder: holds bounding_box_train and, for testing, query and bounding_box_test; or another known layout, or
                a YAML file that describes one.
            mode: train, query or gallery.
            combineall: train on query and gallery too.
            options: further arguments of torchreid's data manager.

        Raises:
            BadInput: a folder is missing or empty, or holds names that cannot be parsed.
        """
        needed = (
            ("train", "query", "gallery") if combineall else ("train",) if mode == "train" else ("query", "gallery")
        )
        train, query, gallery = (self._entries(folder, split) if split in needed else [] for split in FOLDERS)
        super().__init__(train, query, gallery, mode=mode, combineall=combineall, **options)

    @staticmethod
    def _entries(folder: Path, name: SplitName) -> Entries:
        """The tuples (path, pid, camid, dsetid) of a split."""
        split = read_split(folder, name)
        pids = np.unique(split.pids, return_inverse=True)[1] if name == "train" else split.pids
        return [
            (str(split.path(i)), int(pid), int(camid) - 1, int(synthetic))
            for i, (pid, camid, synthetic) in enumerate(zip(pids, split.camids, split.synthetic, strict=True))
        ]


def register_market_folder(folder: str | Path, name: str | None = None) -> str:
    """Registers a folder in Market-1501 layout with torchreid; repeated calls are harmless.

    Args:
        folder: the dataset's root, or a YAML file that describes one.
        name: of the dataset in torchreid; None is the folder's absolute path.

    Returns:
        The name, for `sources=` and `targets=` of torchreid's `ImageDataManager`.

    Raises:
        BadInput: no such folder, or the name belongs to another dataset.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir() and not _is_description(path):
        raise BadInput(f"{folder}: no such folder; needed the root of a dataset in Market-1501 layout")
    name = name or str(path)
    if _registered.get(name) == path:
        return name
    try:
        _torchreid.data.register_image_dataset(name, functools.partial(MarketFolder, path))
    except ValueError:
        raise BadInput(f"dataset name '{name}': torchreid has another dataset of that name; choose another") from None
    _registered[name] = path
    return name


def find_folder(root: str | Path, name: str) -> Path:
    """The folder or YAML file that a source or target names: below `root`, or anywhere if it is an absolute path.

    torchreid's name `market1501` finds `root/market1501/Market-1501-v15.09.15`, as torchreid does, and the usual
    folders of an unpacked archive; `msmt17` finds either version of MSMT17 in its folder.
    """
    base = Path(root).expanduser()
    candidates = [base / name]
    if name == "market1501":
        unpacked = "Market-1501-v15.09.15"
        candidates = [base / name / unpacked, base / name, base / unpacked, base]
    if name == "msmt17":
        candidates += [base / name / version for version in ("MSMT17_V1", "MSMT17_V2")]
    for candidate in candidates:
        layout = layout_of(candidate)
        if _is_description(candidate) or (layout is not None and (name != "market1501" or layout == name)):
            return candidate
    looked = ", ".join(map(str, candidates))
    raise BadInput(
        f"data: no dataset '{name}' in Market-1501 layout below data.root (looked for {looked}), nor one in another "
        "known layout, nor a YAML file"
    )


def _is_description(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") and path.is_file()


def build_datamanager(config: ReidConfig) -> Any:
    """Builds torchreid's `ImageDataManager` for a configuration, with every folder registered.

    Raises:
        BadInput: a folder is missing, too few training images, or a test image is among the training images.
    """
    data, sampler, only_tested = config.data, config.sampler, config.test.evaluate
    names = {entry: find_folder(data.root, entry) for entry in {*listed(data.sources), *listed(data.targets)}}
    if config.augmentation is not None:  # it looks up keypoints and cameras by file names in Market-1501's format
        for entry in listed(data.sources):
            require_market_tree(names[entry], "augment")
    registered = {entry: register_market_folder(folder) for entry, folder in names.items()}
    try:
        with quiet():
            manager = _torchreid.data.ImageDataManager(
                root=data.root,
                sources=[registered[entry] for entry in listed(data.sources)],
                targets=[registered[entry] for entry in listed(data.targets)],
                height=data.height,
                width=data.width,
                transforms=listed(data.transforms),
                norm_mean=data.norm_mean,
                norm_std=data.norm_std,
                use_gpu=config.use_gpu is not False,
                split_id=data.split_id,
                combineall=data.combineall,
                # Without training no batch is drawn, so it does not matter whether one could be formed.
                batch_size_train=1 if only_tested else config.train.batch_size,
                batch_size_test=config.test.batch_size,
                workers=data.workers,
                num_instances=sampler.num_instances,
                num_cams=sampler.num_cams,
                num_datasets=sampler.num_datasets,
                train_sampler="SequentialSampler" if only_tested else sampler.train_sampler,
            )
    except BadInput:
        raise
    except (AssertionError, ValueError) as error:
        # torchreid's samplers assert that batches can be formed.
        raise BadInput(
            f"sampler: {sampler.train_sampler} cannot form batches of {config.train.batch_size} from these images"
            f"{f' ({error})' if str(error) else ''}; lower train.batch_size, or change sampler.num_*"
        ) from None
    if sampler.synthetic_share is not None and not only_tested:
        manager.train_loader = _mixed(manager.train_loader, config)
    _check(manager, config)
    return manager


def _mixed(loader: Any, config: ReidConfig) -> DataLoader[dict[str, Any]]:
    """The loader with synthetic images in a share of its rows, drawn from the global RNG like torchreid's rows."""
    share, sources = config.sampler.synthetic_share or 0.0, config.data.sources
    synthetic = torch.tensor([is_synthetic(path) for path, *_ in loader.dataset.data])
    for wanted, there, what in ((share, synthetic, "synthetic"), (1 - share, ~synthetic, "real")):
        if wanted > 0 and not there.any():
            raise BadInput(f"sampler.synthetic_share: {share}, but {sources} has no {what} training image")
    if config.sampler.train_sampler == "RandomIdentitySampler":
        pids = [entry[1] for entry in loader.dataset.data]
        rows = MixedIdentities(
            pids, synthetic.tolist(), config.train.batch_size, config.sampler.num_instances, share
        )  # fmt: skip
        return rebuilt(loader, loader.dataset, rows)
    weights = torch.where(
        synthetic, share / synthetic.sum().clamp(min=1), (1 - share) / (~synthetic).sum().clamp(min=1)
    )
    return rebuilt(loader, loader.dataset, WeightedRandomSampler(weights.tolist(), len(synthetic)))


def _check(manager: Any, config: ReidConfig) -> None:
    """Refuses a training set that is too small or contains test images."""
    if not len(manager.train_loader):
        raise BadInput(
            f"train.batch_size: {config.train.batch_size}, but {config.sampler.train_sampler} gives only "
            f"{len(manager.train_loader.sampler)} training images an epoch; needed at least one full batch"
        )
    require_real_and_apart(manager)
    _require_matches(manager, config)


def _require_matches(manager: Any, config: ReidConfig) -> None:
    """Raises `BadInput` for a target without any query that has a match, before hours of training."""
    for name, splits in zip(listed(config.data.targets), manager.test_dataset.values(), strict=True):
        (q_pids, q_camids), (g_pids, g_camids) = (
            (np.array([entry[1] for entry in splits[part]]), np.array([entry[2] for entry in splits[part]]))
            for part in ("query", "gallery")
        )
        if not matchable_queries(q_pids, q_camids, g_pids, g_camids).any():
            raise BadInput(f"data.targets: {name}: {explain_no_match(q_pids, g_pids)}")


def require_real_and_apart(manager: Any) -> None:
    """Checks that test images are real and not among the training images.

    Args:
        manager: torchreid's `ImageDataManager`.

    Raises:
        BadInput: a test image is marked as synthetic, or is also a training image, possibly as a copy.
    """
    trained = {content_hash(path) for path, *_ in manager.train_loader.dataset.data}
    for name, splits in manager.test_dataset.items():
        for split, entries in splits.items():
            paths = [entry[0] for entry in entries]
            synthetic = [path for path in paths if is_synthetic(path)]
            if synthetic:
                raise BadInput(
                    f"{name}: {len(synthetic)} {split} images are synthetic, such as {min(synthetic)}; "
                    "needed real ones, because accuracy is measured on them"
                )
            shared = [path for path in paths if content_hash(path) in trained]
            if shared:
                raise BadInput(
                    f"{name}: {len(shared)} {split} images are among the training images, such as {min(shared)}; "
                    "test images must not be trained on (data.combineall needs another target)"
                )
