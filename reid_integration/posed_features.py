"""At test time, averages an image's feature with those of its renderings in central poses (`test.poses`)."""

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
"""Number of poses among which the central ones are searched."""

_BATCH = 64


def central_rows(bank: PoseBank, count: int) -> list[int]:
    """The poses that represent a bank best: each one maximises the gain in OKS over all poses.

    Greedy k-medoids by OKS on at most 512 usable poses, evenly spaced over the bank; the first is the medoid (our
    choice; Pose2ID takes cluster centres of poses).

    Args:
        bank: where poses come from.
        count: most rows returned.
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
    """Averages features of images with those of their renderings."""

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
            augment: gives generator with dtype and runtime, bank and `fit`.
            count: poses for each image, or as many as the bank has.
            annotations: keypoints of the images; None is `annotations.npz` in their dataset's folder.
            chain: from images in [0, 1] to the model's input (`build_batch_chain` without transforms).
            normalize: L2-normalise features before averaging, as when they are compared by cosine.
        """
        # As in training, but on the images' own ground, so that its rows need no names.
        self.renderer = XingPose(
            augment.generator, augment.bank, 1.0, sigma=augment.sigma, fit=augment.fit,
            dtype=augment.core.dtype, runtime=augment.core.runtime,
        )  # fmt: skip
        self.rows = central_rows(augment.bank, count)
        self.annotations, self.chain, self.normalize = annotations, chain, normalize

    def require_keypoints(self, paths: Sequence[str]) -> None:
        """Raises `BadInput` unless there are keypoints of some of these images."""
        TrainingImages.read(paths, self.annotations)

    @torch.no_grad()
    def mixed(
        self, model: nn.Module, paths: Sequence[str], own: Tensor, progress: bool = False, label: str = "renderings"
    ) -> Tensor:
        """The mean of each image's own feature and those of its renderings; only its own without keypoints.

        Args:
            model: returns (B, D) features in eval mode.
            paths: of N images.
            own: (N, D), their features.
            progress: show a bar, or lines if there is no terminal.
            label: of the bar.

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
                    rows = torch.tensor(numbers)[able]
                    if len(rows):
                        total[rows] += F.normalize(features, dim=1) if self.normalize else features
                        counts[rows] += 1
        finally:
            model.train(was_training)
        return total / counts[:, None]

    def _sources(self, persons: TrainingImages, numbers: Sequence[int]) -> tuple[Tensor, Keypoints]:
        """Images (B, h, w, 3) uint8 at the generator's size, and their keypoints."""
        height, width = self.renderer.size
        pictures, people = [], []
        for number in numbers:
            image = read_image(Path(persons.paths[number]))
            frame = (image.shape[0], image.shape[1])
            people.append(persons.keypoints[number].crop(0, 0, frame).resize(frame, (height, width)))
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            pictures.append(torch.tensor(np.asarray(resized)))
        xy, visibility = (torch.stack([getattr(person, part) for person in people]) for part in ("xy", "visibility"))
        return torch.stack(pictures), Keypoints(xy, visibility)

    def _features(self, model: nn.Module, clean: Tensor, keypoints: Keypoints, row: int) -> tuple[Tensor, Tensor]:
        """Features (n, D) of images rendered in the bank's pose `row`, and (B,) bool: those that could be."""
        device = next(self.renderer.generator.parameters()).device
        count = len(clean)
        draw = PoseDraw(torch.ones(count, dtype=torch.bool), torch.full((count,), row))
        out = self.renderer.render(bytes_to_unit(clean.to(device)), keypoints.to(device), draw)
        able = out.is_synthetic.cpu()
        if not bool(able.any()):
            return torch.zeros(0, 1), able
        images = self.chain(out.images[out.is_synthetic], torch.Generator())
        return model(images.to(next(model.parameters()).device)).float().cpu(), able
