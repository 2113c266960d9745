"""Which identity a generated image shows, found by a feature network among the real test images."""

from pathlib import Path

import numpy as np
import torch

from xingaug.data.readers import read_split
from xingaug.data.split import Split, read_images
from xingaug.errors import BadInput
from xingaug.progress import ProgressBar
from xingaug.training.features import FeatureNetwork, read_features, remembered, write_features
from xingaug.training.retrieval import Gallery, retrieve

_CHUNK = 2048  # images of the gallery that are decoded at once: 50 MB at 128x64


class ReidEvaluator:
    """A feature network and the gallery of real test images that it searches."""

    def __init__(
        self, path: Path, root: Path, size: tuple[int, int], device: str, batch_size: int, cache: Path | None,
        progress: bool,
    ) -> None:  # fmt: skip
        """Loads the network and computes the gallery's features, or reads them from the cache.

        Args:
            path: of the network.
            root: of the dataset whose gallery is searched: with distractors, without junk.
            size: (height, width) for a network that accepts any.
            device: where it runs.
            batch_size: images at a time.
            cache: folder of cached features; None for none.
            progress: show a progress bar.

        Raises:
            BadInput: no such network, no gallery, or unreadable images.
        """
        self._network = FeatureNetwork(path, size, device)
        self._path, self._batch_size, self._progress = path, batch_size, progress
        split = read_split(root, "gallery")
        self._rows = {name: row for row, name in enumerate(split.names.tolist())}
        self._gallery = Gallery(self._features(split, cache), split.pids, split.camids)

    def _features(self, split: Split, cache: Path | None) -> torch.Tensor:
        path = None if cache is None else remembered(self._network, [split.path(i) for i in range(len(split))], cache)
        found = None if path is None else read_features(path, len(split))
        if found is not None:
            return found
        parts = []
        label = "features of the gallery" if self._progress else None
        with ProgressBar[None](None, label, len(split)) as bar:
            for start in range(0, len(split), _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, len(split)))
                images = read_images(split.select(rows), self._network.size)
                for part in np.array_split(images, max(1, len(images) // 256)):
                    parts.append(self._network(part, self._batch_size))
                    bar.update(len(part))
        features = torch.cat(parts)
        if path is not None:
            write_features(path, features)
        return features

    def scores(
        self, images: np.ndarray, shown: Split, pair: tuple[Split, Split], label: str | None
    ) -> dict[str, float]:
        """`reid_rank1` and `reid_map`; each pair's own source and target are excluded from the gallery.

        Args:
            images: (N, H, W, 3) uint8.
            shown: N identities and cameras to assign to the images.
            pair: the sources and the targets, N each.
            label: of the progress bar; None shows none.

        Raises:
            BadInput: no query has a true match.
        """
        left_out = np.array([[self._rows.get(name, -1) for name in side.names.tolist()] for side in pair]).T
        features = self._network(images, self._batch_size, label)
        try:
            found = retrieve(features, shown.pids, shown.camids, left_out, self._gallery)
        except ValueError as error:
            raise BadInput(f"{self._path}: no Rank-1 or mAP: {error}; needed a dataset of several cameras") from None
        return {"reid_rank1": found.rank1, "reid_map": found.mean_ap}

    def describe(self) -> str:
        """How the figures are measured."""
        height, width = self._network.size
        return (
            f"{self._path.name}, cosine, images of {height}x{width} in [0, 1], {len(self._gallery.pids)} gallery "
            "images but source, target and those of the person's own camera"
        )
