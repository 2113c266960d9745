"""Measures on held-out persons during training, and the score that picks the best weights."""

import numpy as np
import torch

from xingaug.data.pairs import PairData
from xingaug.errors import BadInput
from xingaug.keypoints import Keypoints
from xingaug.training.config import Validation
from xingaug.training.features import FeatureNetwork
from xingaug.training.masks import pose_mask
from xingaug.training.poses_found import PoseEvaluator
from xingaug.training.quality import gradient, measure, sharpness
from xingaug.training.retrieval import Gallery, retrieve
from xingaug.training.vgg_metrics import VGGEvaluator


class Validator:
    """Measures generated images of a fixed list of pairs; the true images' figures, but VGG's, are computed once."""

    def __init__(self, config: Validation, data: PairData, size: tuple[int, int], device: torch.device) -> None:
        """Draws the pairs and loads the networks that the configuration names.

        Args:
            config: what to measure.
            data: images of the held-out persons.
            size: (height, width) of generated images.
            device: where the networks run.

        Raises:
            BadInput: a file that holds no such network; data without cameras for a re-ID network, or without masks
                for `person_ssim` in `best`.
        """
        self.config, self.data = config, data
        self.sources, self.targets, _ = data.draw(config.pairs, seed=0, epoch=0)
        self._true = np.asarray(data.images[self.targets])
        self._gradient = gradient(self._true)
        self._masks = data.union_masks(self.sources, self.targets)
        if self._masks is None and "person_ssim" in config.measures:
            raise BadInput("validation.best: 'person_ssim' cannot be measured: it needs a mask beside every image")
        poses = Keypoints(torch.from_numpy(data.xy[self.targets]), torch.from_numpy(data.visibility[self.targets]))
        self._pose_masks = pose_mask(poses, size)[:, 0].numpy()
        self._reid = None if config.reid is None else FeatureNetwork(config.reid, size, device)
        self._gallery = None if self._reid is None else self._search_space(self._reid)
        self._vgg: VGGEvaluator | None = None
        if config.vgg16 is not None:
            self._vgg = VGGEvaluator(config.vgg16, self._true, 16, device, "validation.vgg16")
        self._poses: PoseEvaluator | None = None
        if config.pose_estimator is not None:
            self._poses = PoseEvaluator(config.pose_estimator, device)
            self._poses.measure_true(self._true, poses)

    def _search_space(self, network: FeatureNetwork) -> Gallery:
        if self.data.camids is None:
            raise BadInput("validation.reid: the images have no cameras; needed a dataset that has them")
        gallery = Gallery(network(self.data.images[np.arange(len(self.data))]), self.data.pids, self.data.camids)
        self._retrieve(gallery.features[self.targets], gallery)  # so that an error is reported before training
        return gallery

    def _retrieve(self, features: torch.Tensor, gallery: Gallery) -> dict[str, float]:
        rows = np.stack([self.sources, self.targets], 1)
        pids, camids = gallery.pids[self.sources], gallery.camids[self.sources]
        try:
            found = retrieve(features, pids, camids, rows, gallery)
        except ValueError as error:
            raise BadInput(
                f"validation.reid: among the held-out persons {error}; raise validation.identities"
            ) from None
        return {"reid_rank1": found.rank1, "reid_map": found.mean_ap}

    def measure(self, generated: np.ndarray) -> dict[str, float]:
        """Figures by name, of images (pairs, H, W, 3) uint8."""
        quality = measure(generated, self._true, self._masks, pose_masks=self._pose_masks).to_json()
        figures = {name: float(value) for name, value in quality.items() if name != "pairs"}
        figures["sharpness"] = sharpness(generated, self._gradient)
        if self._reid is not None and self._gallery is not None:
            figures |= self._retrieve(self._reid(generated), self._gallery)
        if self._poses is not None:
            figures |= self._poses.scores(generated)
        if self._vgg is not None:
            figures |= self._vgg.scores({"generated": generated})["generated"]
        return figures


def score(figures: dict[str, float], measures: tuple[str, ...]) -> float:
    """The product of the named figures, higher is better; see `Validation.best`.

    Args:
        figures: from `Validator.measure`.
        measures: names of `MEASURES`, all of them measured.
    """
    total = 1.0
    for name in measures:
        value = figures[name]
        if name == "sharpness":
            value = min(value, 1.0)
        total *= 1 / max(value, 1e-9) if name in ("frechet", "vgg_distance") else value
    return float(total)
