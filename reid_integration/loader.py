"""The hook: a wrapper round torchreid's training loader that re-renders selected rows of every batch in other poses.

torchreid flips, crops, normalises and erases in its workers without a record, so the keypoints of an image no longer
fit its tensor. The dataset therefore returns a clean uint8 image and its keypoints beside the tensor, from the same
decode; the generator renders from those, and rendered rows are flipped, cropped, normalised and erased afterwards.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xingaug.augment.batch import build_batch_chain
from xingaug.augment.checks import usable
from xingaug.augment.grounds import drawn_rows
from xingaug.augment.loader import RenderingLoader, take
from xingaug.augment.output import PoseDraw, Skipped, XingPoseOutput
from xingaug.augment.references import References
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import bring_to, read_annotations
from xingaug.data.market1501 import parse_name
from xingaug.errors import BadInput
from xingaug.images import bytes_to_unit, image_size, read_image
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.poses.draws import keyed_uniform


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Names, keypoints and labels of the training images, in the order of torchreid's dataset.

    Attributes:
        paths: (N,) files.
        names: (N,) keys of the draws: the file names, or if several folders use the same ones, the paths below their
            common folder.
        keypoints: (N,) in the frame of each image; all joints missing if an image has no annotation.
        pids: (N,) int64, identities as in the file names, plus a million for each earlier folder, because equal
            numbers in different folders are different persons.
        camids: (N,) int64, cameras as in the file names.
        synthetic: (N,) bool, images marked as synthetic in their names.
        file: of the keypoints, the first of several, for messages.
    """

    paths: Sequence[str]
    names: Sequence[str]
    keypoints: Keypoints
    pids: np.ndarray
    camids: np.ndarray
    synthetic: np.ndarray
    file: str = ""

    @classmethod
    def read(cls, paths: Sequence[str], annotations: str | Path | None = None) -> "TrainingImages":
        """Looks up the images' keypoints by name.

        Args:
            paths: image files `root/split/name.jpg`.
            annotations: one file for all of them; None is `annotations.npz` in the root of each.

        Raises:
            BadInput: an annotation file is missing or damaged, or has none of the images.
        """
        names = [os.path.basename(path) for path in paths]
        files = [str(annotations or Path(path).parent.parent / "annotations.npz") for path in paths]
        joints = np.zeros((len(paths), 18, 3), np.float32)
        for file in dict.fromkeys(files):
            here = [i for i, other in enumerate(files) if other == file]
            _require_each_once(file, [paths[i] for i in here])
            known = read_annotations(Path(file))
            rows = known.lookup(np.array([names[i] for i in here]))
            if (rows < 0).all():
                raise BadInput(f"{file}: has keypoints for none of the {len(here)} images, such as {paths[here[0]]}")
            keypoints = known.keypoints(rows)
            joints[here, :, :2], joints[here, :, 2] = keypoints.xy.numpy(), keypoints.visibility.numpy()
        parsed = [parse_name(name) for name in names]
        roots = [str(Path(path).parent.parent.resolve()) for path in paths]
        folders = {root: number for number, root in enumerate(dict.fromkeys(roots))}
        if len(set(names)) < len(names):
            common = os.path.commonpath([os.path.abspath(path) for path in paths])
            names = [os.path.relpath(path, common) for path in paths]
        return cls(
            paths,
            names,
            Keypoints(torch.from_numpy(joints[..., :2].copy()), torch.from_numpy(joints[..., 2].copy())),
            np.array(
                [name.pid + 1_000_000 * folders[root] for name, root in zip(parsed, roots, strict=True)], np.int64
            ),
            np.array([name.camid for name in parsed], np.int64),
            np.array([name.synthetic is not None for name in parsed], bool),
            files[0] if files else "",
        )

    def real_poses(self, frame: tuple[int, int]) -> Keypoints:
        """Poses of the real images, as in `bank_from_tree`.

        Args:
            frame: (height, width) that they are scaled to from their images' sizes; joints outside the images are
                missing, as in `xingaug.poses.collect.bank_from_tree`.

        Raises:
            BadInput: an image cannot be read, or the keypoints belong to another frame.
        """
        real = np.flatnonzero(~self.synthetic)
        frames = np.array([image_size(self.paths[i]) for i in real.tolist()], np.int64).reshape(-1, 2)
        return bring_to(frame, self.keypoints[real], frames, self.file)

    def some(self, count: int, frame: tuple[int, int], seed: int) -> tuple[np.ndarray, Keypoints]:
        """Some of the real images with keypoints, the same for the same seed.

        Args:
            count: most images.
            frame: (height, width) that they are resized to.
            seed: of the draws.

        Returns:
            (n, H, W, 3) uint8 and the keypoints (n,) in the frame.

        Raises:
            BadInput: an image cannot be read.
        """
        known = np.flatnonzero(~self.synthetic & usable(self.keypoints).numpy())
        rows = known[drawn_rows([self.names[i] for i in known.tolist()], seed, count)]
        frames = np.array([image_size(self.paths[i]) for i in rows.tolist()], np.int64).reshape(-1, 2)
        images = [read_image(self.paths[i], frame) for i in rows.tolist()]
        pictures = np.stack(images) if images else np.empty((0, *frame, 3), np.uint8)
        return pictures, bring_to(frame, self.keypoints[rows], frames, self.file)

    def references(self, frame: tuple[int, int], poses: Keypoints | None = None) -> References:
        """The real images, to render one in place of another; arguments as for `build_bank`."""
        real = np.flatnonzero(~self.synthetic)
        return References(
            [self.paths[i] for i in real.tolist()],
            [self.names[i] for i in real.tolist()],
            self.real_poses(frame) if poses is None else poses,
            self.pids[real],
            self.camids[real],
            frame,
        )

    def build_bank(self, frame: tuple[int, int], poses: Keypoints | None = None) -> PoseBank:
        """A bank of the real images' poses in a frame (height, width); `poses`: `real_poses`, if computed already."""
        real = np.flatnonzero(~self.synthetic)
        return PoseBank.build(
            self.real_poses(frame) if poses is None else poses,
            names=[self.names[i] for i in real.tolist()],
            pids=self.pids[real],
            camids=self.camids[real],
            frame=frame,
        )


def _require_each_once(file: str, paths: Sequence[str]) -> None:
    """Raises `BadInput` if a name in an annotation file matches images in several folders."""
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(os.path.basename(path), path)
        if other != path:
            raise BadInput(
                f"{file}: {os.path.basename(path)} could be {other} or {path}; leave augment.annotations out, so that "
                "each source has its own annotations.npz"
            )


def image_item(dataset: Any, index: int, image: np.ndarray) -> dict[str, Any]:
    """An item as of torchreid's `ImageDataset`, from the decoded image, uint8 (H, W, 3)."""
    path, pid, camid, dsetid = dataset.data[index]
    picture = Image.fromarray(image)
    transformed = picture if dataset.transform is None else dataset.transform(picture)
    return {"img": transformed, "pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}


class PosedImages(Dataset[dict[str, Any]]):
    """A torchreid image dataset whose items also hold the clean image and its keypoints.

    Added keys: `source` uint8 (h, w, 3) at the generator's size, `source_xy` (18, 2) and `source_visibility` (18,) in
    that frame, `row` the index. They use no random numbers, so the other tensors are the same as without them.
    """

    def __init__(self, base: Any, persons: TrainingImages, size: tuple[int, int]) -> None:
        """Wraps `base`.

        Args:
            base: torchreid's `ImageDataset`.
            persons: of the same images.
            size: (height, width) of the clean image.
        """
        self.base, self.persons, self.size = base, persons, size

    def __len__(self) -> int:
        """Number of images."""
        return len(self.base)

    def __getattr__(self, name: str) -> Any:
        """Everything else (`num_train_pids`, `data`, ...) is the wrapped dataset's."""
        if name == "base":  # not set yet while a worker unpickles the object
            raise AttributeError(name)
        return getattr(self.base, name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image, decoded once."""
        image = read_image(Path(self.base.data[index][0]))
        person = self.persons.keypoints[index].crop(0, 0, (image.shape[0], image.shape[1]))
        person = person.resize((image.shape[0], image.shape[1]), self.size)
        clean = image
        if image.shape[:2] != self.size:
            clean = np.asarray(Image.fromarray(image).resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR))
        return {
            **image_item(self.base, index, image),
            "source": torch.tensor(clean),
            "source_xy": person.xy,
            "source_visibility": person.visibility,
            "row": index,
        }


class PoseLoader(RenderingLoader):
    """A training loader that re-renders randomly selected rows; everything else is the wrapped loader's.

    Batches gain `is_synthetic` (B,) bool. Draws depend only on (seed, epoch, image name); flips, crops and erasures
    of rendered rows on (seed, epoch, step). No global RNG is read or advanced, and with p = 0 the batches are those
    of the wrapped loader. Every iteration over the loader is an epoch, counted from 0.

    Attributes:
        epoch: of the next iteration.
        rows: number of rows so far; on a GPU including the batch that is rendered ahead.
        synthetic: number of rendered rows among them.
        skipped: numbers of selected rows that stayed real, by reason.
    """

    def __init__(
        self,
        loader: DataLoader[dict[str, Any]],
        augment: XingPose,
        transforms: Sequence[str],
        size: tuple[int, int],
        norm_mean: Sequence[float],
        norm_std: Sequence[float],
        start_epoch: int = 0,
        stop_epoch: int | None = None,
        rerender: bool = False,
    ) -> None:
        """Wraps a loader over `PosedImages`.

        Args:
            loader: yields batches of `PosedImages` items.
            augment: draws and renders, on its generator's device, to which `img` is moved too.
            transforms: torchreid's names of the transforms that follow.
            size: (height, width) of `img`.
            norm_mean: per channel.
            norm_std: per channel.
            start_epoch: first epoch with rendered rows.
            stop_epoch: first epoch without rendered rows again; None is never.
            rerender: also render images that are synthetic already by their names.
        """
        super().__init__(loader, augment)
        self.chain = build_batch_chain(transforms, size, norm_mean, norm_std)
        self.start_epoch, self.stop_epoch, self.rerender = start_epoch, stop_epoch, rerender
        self.rows = self.synthetic = 0
        self.skipped = dict.fromkeys(vars(Skipped()), 0)

    @property
    def persons(self) -> TrainingImages:
        """The images' persons, in the order of the dataset."""
        persons: TrainingImages = self.loader.dataset.persons  # type: ignore[attr-defined]
        return persons

    def rendered(self, batch: dict[str, Any], epoch: int, step: int) -> dict[str, Any]:
        """The batch with rendered rows and without the fields that only rendering needs."""
        source, xy, visibility, row = (batch.pop(key) for key in ("source", "source_xy", "source_visibility", "row"))
        batch["is_synthetic"] = torch.zeros(len(row), dtype=torch.bool)
        batch["img"] = batch["img"].to(self.device, non_blocking=True)  # even if no row is rendered
        if self.renders_in(epoch):
            out = self._posed(source, Keypoints(xy, visibility), row.numpy(), epoch)
            for reason, count in vars(out.skipped).items():
                self.skipped[reason] += count
            if bool(out.is_synthetic.any()):
                rng = torch.Generator().manual_seed(_step_seed(self.augment.seed, epoch, step))
                batch = self._merged(batch, out, self.chain(out.images[out.is_synthetic], rng))
        self.rows += len(batch["is_synthetic"])
        self.synthetic += int(batch["is_synthetic"].sum())
        return batch

    def renders_in(self, epoch: int) -> bool:
        """Whether any image of an epoch may be rendered, by `p`, `start_epoch` and `stop_epoch`."""
        before_end = self.stop_epoch is None or epoch < self.stop_epoch
        return self.augment.p > 0 and epoch >= self.start_epoch and before_end

    def _posed(self, source: Tensor, keypoints: Keypoints, rows: np.ndarray, epoch: int) -> XingPoseOutput:
        """Draws for the whole batch and renders the selected rows, on the generator's device."""
        persons = self.persons
        names = [persons.names[i] for i in rows.tolist()]
        draw = self.augment.draw(
            keypoints, names, persons.pids[rows], persons.camids[rows], epoch, size=self.augment.size
        )
        if not self.rerender:
            stays = torch.from_numpy(persons.synthetic[rows])
            draw = PoseDraw(draw.selected & ~stays, draw.bank_rows.masked_fill(stays, -1))
        clean = bytes_to_unit(source.to(self.device, non_blocking=True))
        return self.augment.render(clean, keypoints.to(self.device), draw, names, persons.pids[rows])

    def _merged(self, batch: Mapping[str, Any], out: XingPoseOutput, finished: Tensor) -> dict[str, Any]:
        """Replaces or appends the finished rows (n, 3, H, W), by the transform's mode; labels follow their rows."""
        if self.augment.mode == "replace":
            images = batch["img"].clone()
            images[out.is_synthetic] = finished.to(images.dtype)
            return {**batch, "img": images, "is_synthetic": out.is_synthetic.cpu()}
        sources = out.sources.cpu()
        longer = {key: take(values, sources, len(batch["img"]), key) for key, values in batch.items() if key != "img"}
        images = torch.cat([batch["img"], finished.to(batch["img"].dtype)])
        return {**longer, "img": images, "is_synthetic": out.is_synthetic.cpu()}


def is_synthetic(path: str) -> bool:
    """Whether an image is marked as synthetic in its name; False for names in another format than ours."""
    try:
        return parse_name(os.path.basename(path)).synthetic is not None
    except BadInput:
        return False


def rebuilt(loader: DataLoader[Any], dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
    """A loader like `loader`, but with another dataset and sampler."""
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        persistent_workers=loader.persistent_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        timeout=loader.timeout,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
    )


def synthetic_rows(batch: Mapping[str, Any]) -> Tensor:
    """(B,) bool: the rows that were rendered, here or offline into a file whose name marks it as synthetic."""
    named = torch.tensor([is_synthetic(path) for path in batch["impath"]])
    return named | batch["is_synthetic"] if "is_synthetic" in batch else named


def attach_poses(
    datamanager: Any,
    augment: XingPose,
    persons: TrainingImages,
    transforms: Sequence[str] = ("random_flip",),
    norm_mean: Sequence[float] = (0.485, 0.456, 0.406),
    norm_std: Sequence[float] = (0.229, 0.224, 0.225),
    start_epoch: int = 0,
    stop_epoch: int | None = None,
    rerender: bool = False,
) -> PoseLoader:
    """Replaces `datamanager.train_loader` by one that re-renders poses; torchreid's image engines work unchanged.

    Args:
        datamanager: torchreid's `ImageDataManager`; its sampler, batch size and workers are kept.
        augment: draws and renders.
        persons: of the training images, in the order of the dataset.
        transforms: that the data manager was built with, like `norm_mean` and `norm_std`.
        norm_mean: per channel.
        norm_std: per channel.
        start_epoch: first epoch with rendered rows.
        stop_epoch: first epoch without rendered rows again; None is never.
        rerender: as for `PoseLoader`.

    Returns:
        The new `datamanager.train_loader`.
    """
    stock = datamanager.train_loader
    loader = rebuilt(stock, PosedImages(stock.dataset, persons, augment.size), stock.sampler)
    size = (datamanager.height, datamanager.width)
    datamanager.train_loader = PoseLoader(
        loader, augment, transforms, size, norm_mean, norm_std, start_epoch, stop_epoch, rerender
    )
    return datamanager.train_loader


def _step_seed(seed: int, epoch: int, step: int) -> int:
    return int(keyed_uniform(seed, epoch, [str(step)], "batch chain")[0] * 2**53)
