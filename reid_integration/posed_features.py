"""Test time: the feature of an image as the mean over itself and its renderings in central poses (`test.poses`)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reid_integration.loader import TrainingImages
from xingaug.augment.output import PoseDraw
from xingaug.augment.transform import XingPose
from xingaug.images import bytes_to_unit, read_image
from xingaug.keypoints import Keypoints
from xingaug.poses.bank import PoseBank
from xingaug.progress import ProgressBar

_SAMPLE = 512
"""Poses among which the central ones are looked for."""

_BATCH = 64


def central_rows(bank: PoseBank, count: int) -> list[int]:
    """The poses of a bank that represent all of it best: each is the one that the bank's poses then gain most from.

    Greedy k-medoids by OKS on at most 512 usable poses, evenly spaced over the bank; the first is the medoid (our
    choice; Pose2ID takes cluster centres of poses).

    Args:
        bank: where poses come from.
        count: how many; at most as many as are found.
    """
    usable = np.asarray(bank.usable_rows)
    rows = usable[np.linspace(0, len(usable) - 1, min(len(usable), _SAMPLE)).round().astype(int)]
    similar = bank.oks(bank.keypoints(torch.from_numpy(rows)), np.tile(rows, (len(rows), 1)))
    covered, chosen = np.zeros(len(rows)), list[int]()
    for _ in range(min(count, len(rows))):
        best = int(np.maximum(similar, covered[:, None]).sum(0).argmax())
        chosen.append(int(rows[best]))
        covered = np.maximum(covered, similar[:, best])
    return chosen


class PosedFeatures:
    """Adds to the features of images those of their renderings."""

    def __init__(
        self,
        augment: XingPose,
        count: int,
        annotations: str | Path | None,
        chain: Callable[[Tensor, torch.Generator], Tensor],
        normalize: bool,
    ) -> None:
        """Chooses the poses.

        Args:
            augment: whose generator renders, whose bank has the poses, and whose `fit` places them.
            count: poses for each image.
            annotations: keypoints of the images; None is `annotations.npz` in their dataset's folder.
            chain: from images in [0, 1] to what the model takes (`build_batch_chain` without transforms).
            normalize: whether features are compared by their directions; then these are averaged.
        """
        self.renderer = XingPose(augment.generator, augment.bank, 1.0, sigma=augment.sigma, fit=augment.fit)
        self.rows = central_rows(augment.bank, count)
        self.annotations, self.chain, self.normalize = annotations, chain, normalize

    @torch.no_grad()
    def mixed(
        self, model: nn.Module, paths: Sequence[str], own: Tensor, progress: bool = False, label: str = "renderings"
    ) -> Tensor:
        """The mean of each image's own feature and those of its renderings; without keypoints its own.

        Args:
            model: in eval mode gives (B, D) features.
            paths: N images.
            own: (N, D) their features.
            progress: show a bar, or lines where there is no terminal.
            label: what the bar says.

        Raises:
            BadInput: no keypoints, or an image that cannot be read.
        """
        persons = TrainingImages.read(paths, self.annotations)
        total = F.normalize(own, dim=1) if self.normalize else own.clone()
        counts = torch.ones(len(paths))
        was_training = model.training
        model.eval()
        try:
            starts = range(0, len(paths), _BATCH)
            for start in ProgressBar(starts, label, unit="batch", shown=progress, leave=False):
                numbers = range(start, min(start + _BATCH, len(paths)))
                clean, keypoints = self._sources(persons, numbers)
                for row in self.rows:
                    features, able = self._features(model, clean, keypoints, row)
                    places = torch.tensor(numbers)[able]
                    if len(places):
                        total[places] += F.normalize(features, dim=1) if self.normalize else features
                        counts[places] += 1
        finally:
            model.train(was_training)
        return total / counts[:, None]

    def _sources(self, persons: TrainingImages, numbers: Sequence[int]) -> tuple[Tensor, Keypoints]:
        """Images uint8 (B, h, w, 3) at the generator's size, and the persons in them."""
        height, width = self.renderer.size
        pictures, people = [], []
        for number in numbers:
            image = read_image(Path(persons.paths[number]))
            people.append(persons.keypoints[number].resize((image.shape[0], image.shape[1]), (height, width)))
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            pictures.append(torch.tensor(np.asarray(resized)))
        xy, visibility = (torch.stack([getattr(person, part) for person in people]) for part in ("xy", "visibility"))
        return torch.stack(pictures), Keypoints(xy, visibility)

    def _features(self, model: nn.Module, clean: Tensor, keypoints: Keypoints, row: int) -> tuple[Tensor, Tensor]:
        """(n, D) of those that could be rendered in the bank's pose `row`, and (B,) bool which ones they are."""
        device = next(self.renderer.generator.parameters()).device
        count = len(clean)
        draw = PoseDraw(torch.ones(count, dtype=torch.bool), torch.full((count,), row))
        out = self.renderer.render(bytes_to_unit(clean.to(device)), keypoints.to(device), draw)
        able = out.is_synthetic.cpu()
        if not bool(able.any()):
            return torch.zeros(0, 1), able
        images = self.chain(out.images[out.is_synthetic], torch.Generator())
        return model(images.to(next(model.parameters()).device)).float().cpu(), able
