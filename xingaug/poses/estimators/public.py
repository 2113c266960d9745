"""Weights of pose estimators that their authors have published, for `xingaug annotate --download`."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from xingaug.download import download
from xingaug.errors import BadInput


@dataclass(frozen=True)
class PublicWeights:
    """A published file.

    Attributes:
        estimator: that reads it, a name in `xingaug.poses.estimators.ESTIMATORS`.
        url: where its authors publish it.
        sha256: of it, hexadecimal; at least the first 8 digits.
        licence: under which it may be used.
    """

    estimator: str
    url: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Its name."""
        return urlsplit(self.url).path.rpartition("/")[2]


PUBLIC: tuple[PublicWeights, ...] = (
    PublicWeights(  # torchvision states the first 8 digits of the hash in the name, and checks them itself
        "keypoint-rcnn",
        "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        "fc266e95",
        "BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
    ),
)
"""What is fetched by name; a file whose hash is not known cannot be here, and needs `--weights URL --sha256 HEX`."""


def weights_folder() -> Path:
    """Where fetched files are kept: `xingaug/weights` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xingaug" / "weights"


def fetch_weights(estimator: str, url: str | None = None, sha256: str | None = None) -> Path:
    """The weights of an estimator, from the cache or the network.

    Args:
        estimator: its name.
        url: another file than that of `PUBLIC`; then `sha256` is needed.
        sha256: of that file.

    Raises:
        BadInput: nothing is known of this estimator, or the address or hash is none.
        WorkFailed: as `download`.
    """
    if url is not None:
        if sha256 is None:
            raise BadInput(f"--weights: {url}: needed --sha256, the file's, by which it is known to be the right one")
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
