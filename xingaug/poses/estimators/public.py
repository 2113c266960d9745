"""Published weights of pose estimators, for `--download` of `xingaug annotate` and `augment`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

from xingaug.download import download, is_archive
from xingaug.errors import BadInput


@dataclass(frozen=True)
class PublicWeights:
    """A published weights file.

    Attributes:
        estimator: the estimator that reads it, a name in `xingaug.poses.estimators.ESTIMATORS`.
        url: where it is published; of a .zip, the one .onnx in it is meant.
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
        return _file_name(self.url)


def _file_name(url: str) -> str:
    """Name under which the file at an address is kept."""
    name = urlsplit(url).path.rpartition("/")[2]
    return f"{name[:-4]}.onnx" if is_archive(url) else name


_RTMPOSE = "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/rtmpose-"
_MOVENET = (  # Google publishes TFLite only; these are tf2onnx's conversions of version 4, at a fixed commit
    "https://raw.githubusercontent.com/Kazuhito00/MoveNet-Python-Example/515743a113e49b4f31677b1f6252c0041f237e30/onnx/"
    "movenet_singlepose_"
)

PUBLIC: tuple[PublicWeights, ...] = (
    PublicWeights(  # torchvision states the first 8 digits of the hash in the name, and checks them itself
        "keypoint-rcnn",
        "https://download.pytorch.org/models/keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        "fc266e95",
        "BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0",
    ),
    PublicWeights(
        "movenet",
        f"{_MOVENET}thunder_4.onnx",
        "7fae4dc3cdd07ebd5535a1e9515c6baf945daeb60708158f03f915fc8e42eac6",
        "Apache-2.0 (Google)",
    ),
    PublicWeights(
        "movenet",
        f"{_MOVENET}lightning_4.onnx",
        "402dadf6a184171f293bc2ef4edf2f96c4b3e0ed6d3b5890198d036a3087b623",
        "Apache-2.0 (Google)",
    ),
    PublicWeights(
        "rtmpose",
        f"{_RTMPOSE}m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.zip",
        "5c0a4bf67953e6d2ac43ce15e77dc9d5d354ae18430a47d2c5963a7bc5683e3c",
        "Apache-2.0 (OpenMMLab); trained on COCO and six other datasets",
    ),
    PublicWeights(
        "rtmpose",
        f"{_RTMPOSE}s_simcc-body7_pt-body7_420e-256x192-acd4a1ef_20230504.zip",
        "9aeb635b83f86aea45cf45d85798f7eba1a162de8e0d721c44e54fe5eebaf47d",
        "Apache-2.0 (OpenMMLab); trained on COCO and six other datasets",
    ),
)
"""Files that can be downloaded by name, an estimator's default first; others need `--weights URL --sha256 HEX`.

The publishers of MoveNet and RTMPose state no hashes. Those of RTMPose are the ones that several other projects pin,
those of MoveNet the ones that one project pins for this commit; a file with another hash is never kept.
"""


def weights_folder() -> Path:
    """The folder of downloaded files: `xingaug/weights` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xingaug" / "weights"


def weights_file(estimator: str, weights: str | None, download: bool, sha256: str | None) -> Path | None:
    """The weights file that the options `--weights`, `--download` and `--sha256` name, downloaded if requested.

    Raises:
        BadInput: options that do not go together, or as `fetch_weights`.
        WorkFailed: as in `download`.
    """
    require_options(weights, download, sha256)
    if download:
        return fetch_weights(estimator, weights, sha256)
    return None if weights is None else Path(weights)


def is_address(weights: str | None) -> TypeGuard[str]:
    """Whether `--weights` is an address, not a file or a published file's name."""
    return weights is not None and "://" in weights


def require_options(weights: str | None, download: bool, sha256: str | None) -> None:
    """Raises `BadInput` for options of `weights_file` that do not go together."""
    if is_address(weights) and not download:
        raise BadInput(f"--weights: {weights}: an address needs --download")
    if sha256 is not None and not is_address(weights):
        raise BadInput("--sha256: hash of a file to --download from an address; needed --weights https://... too")


def fetch_weights(estimator: str, weights: str | None = None, sha256: str | None = None) -> Path:
    """The weights of an estimator, from the cache or the network.

    Args:
        estimator: its name.
        weights: name of a file in `PUBLIC` (default: the estimator's first one), or the address of another file, which
            needs `sha256`; of a .zip, the one .onnx in it.
        sha256: hash of that file.

    Raises:
        BadInput: no published weights of this estimator or name are known, or the address or hash is invalid.
        WorkFailed: as in `download`.
    """
    if is_address(weights):
        return _fetch_other(weights, sha256)
    known = published(estimator, weights)
    return download(known.url, known.sha256, weights_folder() / known.file)


def published(estimator: str, name: str | None = None) -> PublicWeights:
    """The entry of `PUBLIC` with this file name, or the estimator's first one; `BadInput` if there is none."""
    of_estimator = [one for one in PUBLIC if one.estimator == estimator]
    if not of_estimator:
        names = ", ".join(dict.fromkeys(one.estimator for one in PUBLIC))
        raise BadInput(
            f"--download: no published weights of '{estimator}' are known with their hash (only of {names}); name a "
            "file by --weights, or an https address with --sha256"
        )
    found = next((one for one in of_estimator if name in (None, one.file)), None)
    if found is None:
        files = ", ".join(one.file for one in of_estimator)
        raise BadInput(
            f"--download: '{name}' is no address and none of the published weights of '{estimator}': {files}"
        )
    return found


def _fetch_other(url: str, sha256: str | None) -> Path:
    if sha256 is None:
        raise BadInput(f"--weights: {url}: needed --sha256, the file's hash, to verify it")
    name = _file_name(url)
    if not name or name.startswith("."):
        raise BadInput(f"--weights: {url}: names no file")
    return download(url, sha256, weights_folder() / f"{sha256[:8]}-{name}")
