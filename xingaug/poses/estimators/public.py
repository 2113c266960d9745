"""Weights of pose estimators that their authors have published, for `xingaug annotate --download`."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from xingaug.download import download
from xingaug.errors import BadInput


@dataclass(frozen=True)
class PublicWeights:
    """A published weights file.

    Attributes:
        estimator: the estimator that reads it, a name in `xingaug.poses.estimators.ESTIMATORS`.
        url: its authors' download address.
        sha256: its hash, hexadecimal; at least the first 8 digits.
        licence: the licence of the weights.
    """

    estimator: str
    url: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Its file name."""
        return urlsplit(self.url).path.rpartition("/")[2]


PUBLIC: tuple[PublicWeights, ...] = (
    PublicWeights(  # torchvision states the first 8 digits of the hash in the name, and checks them itself
        "keypoint-rcnn",
        "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        "fc266e95",
        "BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
    ),
)
"""Files that can be downloaded by name; a file without a known hash needs `--weights URL --sha256 HEX`."""


def weights_folder() -> Path:
    """The folder of downloaded files: `xingaug/weights` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xingaug" / "weights"


def fetch_weights(estimator: str, url: str | None = None, sha256: str | None = None) -> Path:
    """The weights of an estimator, from the cache or the network.

    Args:
        estimator: its name.
        url: another file than the one in `PUBLIC`; needs `sha256`.
        sha256: hash of that file.

    Raises:
        BadInput: no published weights of this estimator are known, or the address or hash is invalid.
        WorkFailed: as in `download`.
    """
    if url is not None:
        if sha256 is None:
            raise BadInput(f"--weights: {url}: needed --sha256, the file's hash, to verify it")
        name = urlsplit(url).path.rpartition("/")[2]
        if not name or name.startswith("."):
            raise BadInput(f"--weights: {url}: names no file")
        return download(url, sha256, weights_folder() / f"{sha256[:8]}-{name}")
    known = next((one for one in PUBLIC if one.estimator == estimator), None)
    if known is None:
        names = ", ".join(one.estimator for one in PUBLIC)
        raise BadInput(
            f"--download: no published weights of '{estimator}' are known with their hash (only of {names}); name a "
            "file by --weights, or an https address with --sha256"
        )
    return download(known.url, known.sha256, weights_folder() / known.file)
