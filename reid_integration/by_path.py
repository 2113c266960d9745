"""Rendering for the loaders of other libraries: a batch only has to hold the file path of each row.

fast-reid, in one line before training (its images have values 0 to 255 and are normalised by the model):

    trainer.data_loader = render_fastreid(trainer.data_loader, "annotations.npz")

and a plain PyTorch loader of (image, pid, camid, path):

    loader = render_by_path(loader, records, "annotations.npz")
"""

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from reid_integration.attach import cached_bank, other_grounds
from reid_integration.loader import PoseLoader, TrainingImages, is_synthetic
from xingaug.augment.batch import build_batch_chain, erase
from xingaug.augment.gate import GateConfig, build_gate
from xingaug.augment.transform import XingPose
from xingaug.data.annotations import read_annotations
from xingaug.data.listing import named_as
from xingaug.errors import BadInput
from xingaug.generators.store import load_generator
from xingaug.images import read_image
from xingaug.poses.references import REFERENCES
from xingaug.programs import device_problem

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of RGB in [0, 1]."""


@dataclass(frozen=True)
class Fields:
    """Where a batch has its images and paths: keys of a mapping, or positions in a sequence.

    Attributes:
        images: (B, 3, H, W).
        paths: B files, as in the records.
    """

    images: str | int
    paths: str | int


PLAIN = Fields(0, 3)
"""Fields of batches (images, pids, camids, paths)."""

FASTREID = Fields("images", "img_paths")
"""Fields of fast-reid's `CommDataset`, whose batches also have `targets` and `camids`."""

Record = Sequence[Any]
"""(path, pid, camid, ...); pids and camids are numbers or strings."""


def persons_of(records: Sequence[Record], annotations: str | Path) -> TrainingImages:
    """Collects names, identities and keypoints of a dataset's records.

    Args:
        records: (path, pid, camid) of each image.
        annotations: their keypoints, .npz or .csv, by paths or ends of paths (`xingaug.data.listing.matched`).

    Raises:
        BadInput: unreadable annotations, or none for these images.
    """
    paths = [os.fspath(record[0]) for record in records]
    table = named_as(read_annotations(Path(annotations)), paths, [Path(path) for path in paths])
    rows = table.lookup(paths)
    if not (rows >= 0).any():
        example = f", such as {paths[0]}" if paths else ""
        raise BadInput(f"{annotations}: has keypoints for none of the {len(paths)} images{example}")
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([os.path.abspath(path) for path in paths])
        names = [os.path.relpath(path, common) for path in paths]
    pids, camids = (_numbered([record[column] for record in records]) for column in (1, 2))
    synthetic = np.array([is_synthetic(path) for path in paths], bool)
    return TrainingImages(paths, names, table.keypoints(rows), pids, camids, synthetic, str(annotations))


def _numbered(values: Sequence[Hashable]) -> np.ndarray:
    """(N,) int64: numbers unchanged, strings numbered in sorted order."""
    if all(isinstance(value, int | np.integer) for value in values):
        return np.array(values, np.int64)
    return np.unique([str(value) for value in values], return_inverse=True)[1].astype(np.int64)


class PathLoader(PoseLoader):
    """A training loader that re-renders randomly selected rows from their files.

    Batches keep their form, with rendered rows in place of real ones; mappings gain `is_synthetic` (B,) bool. Rendered
    rows go through separate transforms, because the keypoints no longer fit images that the loader has transformed.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        augment: XingPose,
        persons: TrainingImages,
        fields: Fields,
        finish: Callable[[tuple[int, int]], Callable[[Tensor, torch.Generator], Tensor]],
        steps_per_epoch: int | None = None,
    ) -> None:
        """Wraps a loader.

        Args:
            loader: yields batches with `fields`.
            augment: draws and renders, in mode "replace".
            persons: of all images in the loader.
            fields: of a batch.
            finish: takes (height, width) of the loader's images and returns a function that transforms rendered rows
                (n, 3, h, w) in [0, 1] like those, given a `torch.Generator`.
            steps_per_epoch: for an endless loader the number of batches after which the epoch of the draws advances;
                None for a finite one.

        Raises:
            ValueError: another mode.
        """
        if augment.mode != "replace":
            raise ValueError(f"mode: '{augment.mode}', needed 'replace': the batches keep their rows")
        super().__init__(loader, augment, (), augment.size, MEAN, STD)
        self._persons, self.fields, self._finish, self.steps_per_epoch = persons, fields, finish, steps_per_epoch
        self._row_of = {path: row for row, path in enumerate(persons.paths)}
        self._finished_size: tuple[int, int] | None = None
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    @property
    def persons(self) -> TrainingImages:
        """The images' persons."""
        return self._persons

    def rendered(self, batch: Any, epoch: int, step: int) -> Any:
        """The batch with rendered rows.

        Raises:
            BadInput: a path that is in none of the records, or a file that cannot be read.
        """
        entries = dict(batch) if isinstance(batch, Mapping) else dict(enumerate(batch))
        images: Tensor = entries[self.fields.images]
        rows = self._rows([os.fspath(path) for path in entries[self.fields.paths]])
        size = (int(images.shape[-2]), int(images.shape[-1]))
        if size != self._finished_size:
            self.chain, self._finished_size = self._finish(size), size
        if self.steps_per_epoch is not None:
            epoch, step = epoch + step // self.steps_per_epoch, step % self.steps_per_epoch
        done = super().rendered({"img": images, **self._sources(rows, epoch)}, epoch, step)
        entries[self.fields.images] = done["img"]
        if isinstance(batch, Mapping):
            return {**entries, "is_synthetic": done["is_synthetic"]}
        values = list(entries.values())
        return tuple(values) if isinstance(batch, tuple) else values

    def _rows(self, paths: Sequence[str]) -> list[int]:
        try:
            return [self._row_of[path] for path in paths]
        except KeyError as error:
            known = self._persons.paths[0]
            raise BadInput(f"{error.args[0]}: is in a batch but none of the records, such as {known}") from None

    def _sources(self, rows: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Clean images and their keypoints at the generator's size; zeros in rows that are not chosen for rendering."""
        size, persons = self.augment.size, self._persons
        clean = torch.zeros(len(rows), *size, 3, dtype=torch.uint8)
        xy, visibility = (torch.zeros_like(each[rows]) for each in (persons.keypoints.xy, persons.keypoints.visibility))
        chosen = self.augment.chosen([persons.names[row] for row in rows], epoch) & self.renders_in(epoch)
        places = np.flatnonzero(chosen).tolist()  # only their files are read
        images = self._pool.map(lambda place: read_image(Path(persons.paths[rows[place]])), places)
        for place, image in zip(places, images, strict=True):
            frame = (image.shape[0], image.shape[1])
            joints = persons.keypoints[rows[place]].crop(0, 0, frame).resize(frame, size)
            clean[place] = torch.from_numpy(_resized(image, size))
            xy[place], visibility[place] = joints.xy, joints.visibility
        return {"source": clean, "source_xy": xy, "source_visibility": visibility, "row": torch.tensor(rows)}


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def render_by_path(
    loader: DataLoader[Any],
    records: Sequence[Record],
    annotations: str | Path,
    generator: str = "market1501-augment",
    fields: Fields = PLAIN,
    transforms: Sequence[str] = ("random_flip", "random_crop"),
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: str | torch.device = "cpu",
    gate: GateConfig | None = None,
    **options: Any,
) -> PathLoader:
    """Wraps a loader whose batches hold the file path of each row.

    Every iteration over it is an epoch; a resumed training begins with `set_epoch`.

    Args:
        loader: of normalised images.
        records: (path, pid, camid) of all images in the loader.
        annotations: their keypoints, .npz or .csv.
        generator: bundled name or .safetensors file.
        fields: of a batch.
        transforms: for rendered rows, by torchreid's names.
        mean: of the normalisation, per channel, of images in [0, 1].
        std: of the normalisation, per channel.
        device: where images are rendered and returned.
        gate: rejects bad rendered images; None accepts all.
        options: of `XingPose`: p, sampler, seed, fit, reuse; and `ground`, the share of the rendered persons that
            are pasted onto another training image's ground (None: 1 if the generator separates person and ground), and
            `reference`: "camera" renders the person's image by the same camera whose pose is nearest to the target's.

    Raises:
        BadInput: a file or setting cannot be used.
    """
    finish = partial(build_batch_chain, tuple(transforms), mean=tuple(mean), std=tuple(std))
    augment, persons = _prepared(records, annotations, generator, device, gate, options)
    return PathLoader(loader, augment, persons, fields, finish)


def render_fastreid(
    loader: Any,
    annotations: str | Path,
    generator: str = "market1501-augment",
    erasing: float = 0.0,
    device: str | torch.device = "cpu",
    gate: GateConfig | None = None,
    **options: Any,
) -> PathLoader:
    """Wraps fast-reid's training loader, whose sampler is endless; its dataset's `img_items` are the records.

    Rendered rows are flipped, padded and cropped as by its defaults, have values 0 to 255, and keep `targets` and
    `camids`. The epoch of the draws advances after as many images as the dataset holds, in all processes together. A
    resumed training begins with `set_epoch`, as the poses of an image depend on its epoch.

    Args:
        loader: of a `CommDataset`.
        annotations: keypoints of its images, .npz or .csv.
        generator: bundled name or .safetensors file.
        erasing: probability of random erasing, which fills with ImageNet's mean (`cfg.INPUT.REA.PROB`).
        device: where images are rendered and returned.
        gate: rejects bad rendered images; None accepts all.
        options: of `XingPose`: p, sampler, seed, fit, reuse; and `ground`, the share of the rendered persons that
            are pasted onto another training image's ground (None: 1 if the generator separates person and ground), and
            `reference`: "camera" renders the person's image by the same camera whose pose is nearest to the target's.

    Raises:
        BadInput: a file or setting cannot be used, or the loader is not fast-reid's.
    """
    records = getattr(loader.dataset, "img_items", None)
    if records is None:
        raise BadInput(f"{type(loader.dataset).__name__}: has no img_items; needed a loader of fast-reid's CommDataset")
    augment, persons = _prepared(records, annotations, generator, device, gate, options)
    batch = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    steps = max(1, len(records) // (batch * processes))
    return PathLoader(loader, augment, persons, FASTREID, partial(_finish_fastreid, erasing), steps)


def _finish_fastreid(erasing: float, size: tuple[int, int]) -> Callable[[Tensor, torch.Generator], Tensor]:
    chain = build_batch_chain(("random_flip", "random_crop"), size, (0.0,) * 3, (1 / 255,) * 3)

    def finish(images: Tensor, rng: torch.Generator) -> Tensor:
        return erase(chain(images, rng), rng, p=erasing, fill=tuple(255 * value for value in MEAN))

    return finish


def _prepared(
    records: Sequence[Record],
    annotations: str | Path,
    generator: str,
    device: str | torch.device,
    gate: GateConfig | None,
    options: Mapping[str, Any],
) -> tuple[XingPose, TrainingImages]:
    if problem := device_problem(str(device)):
        raise BadInput(f"device: {problem}")
    persons = persons_of(records, annotations)
    network = load_generator(generator, device)
    size = (int(network.size[0]), int(network.size[1]))
    judge = None if gate is None else build_gate(gate, size, device)
    poses = persons.real_poses(size)
    bank = cached_bank(persons, size, poses)
    chosen = dict(options)
    reference = chosen.pop("reference", "image")
    if reference not in REFERENCES:
        raise BadInput(f"reference: {reference!r}, needed one of {', '.join(REFERENCES)}")
    references = persons.references(size, poses) if reference == "camera" else None
    try:
        grounds = other_grounds(network, persons, chosen.pop("ground", None), chosen.get("seed", 0))
        return XingPose(network, bank, gate=judge, grounds=grounds, references=references, **chosen), persons
    except (TypeError, ValueError) as error:
        raise BadInput(str(error)) from None
