"""A page to click through a dataset identity by identity: real images, their poses, renderings, gate scores."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xingaug.data.split import Split
from xingaug.errors import BadInput
from xingaug.files import atomic_write
from xingaug.images import read_image
from xingaug.inputs import read_bytes
from xingaug.keypoints import LIMBS
from xingaug.progress import ProgressBar
from xingaug.report.figures import HUES
from xingaug.report.show_script import SCRIPT, STYLE

WHOLE_IMAGES = 2000
"""Most images that the page holds in full size; with more it has thumbnails."""

MOST_IMAGES = 20_000
"""Most images of a page, those of the most doubtful identities (our choice: about 40 MB of thumbnails)."""

_WHOLE = (256, 256)
_THUMBNAIL = (64, 64)
_AS_IT_IS = 60_000  # largest file, in bytes, that is embedded without re-encoding
_KINDS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
_ENDING = re.compile(r"(?:_x|x|9)\d{3}$")


@dataclass(frozen=True)
class Rendering:
    """Metadata of a synthetic image.

    Attributes:
        source: file of the real image that was rendered, below the dataset's root.
        joints: 18 times x, y, visibility: the target pose.
        gate: the quality gate's scores, by name.
    """

    source: str
    joints: list[list[float]]
    gate: dict[str, float]


def doubt_of_pose(visibility: np.ndarray) -> float:
    """1 minus the mean confidence over all joints (18,), with 0 for a missing one (our choice)."""
    return float(1 - visibility.mean())


def doubt_of_rendering(gate: Mapping[str, float]) -> float:
    """How close an image is to the gate's default thresholds, in [0, 1]; 1 is at or beyond one of them (our choice)."""
    parts = [0.05 / max(gate["contrast"], 1e-9)] if "contrast" in gate else [0.0]
    parts.append(gate.get("saturated", 0) / 0.3)
    parts += [(1 - gate[name]) / 0.5 for name in ("identity", "pose") if name in gate]
    return min(1.0, max(parts))


def write_show_page(
    path: Path,
    train: Split,
    poses: Mapping[str, np.ndarray],
    renderings: Mapping[str, Rendering],
    rejected: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Writes the page, the most doubtful identities first.

    The doubt of an identity is the sum of the share of its renderings that the gate rejected, the mean of
    `doubt_of_rendering` and the mean of `doubt_of_pose` (our choice).

    Args:
        path: the file, ending in .html.
        train: real and synthetic images.
        poses: (18, 3) x, y, confidence of real images by file below the dataset's root.
        renderings: metadata of synthetic images by file; for others only the image is shown.
        rejected: names of images that the gate rejected.
        progress: show a bar.
    """
    files = [train.file(i) for i in range(len(train))]
    synthetic = np.array([file in renderings for file in files], dtype=bool) | train.synthetic
    lost = _rejected_of(train, rejected)
    identities = [
        _identity(pid, np.flatnonzero(train.pids == pid).tolist(), files, synthetic, poses, renderings, lost[pid])
        for pid in np.unique(train.pids).tolist()
    ]  # fmt: skip
    identities.sort(key=lambda entry: (-entry["doubt"], entry["pid"]))
    shown: list[dict[str, Any]] = []
    count = 0
    for entry in identities:
        count += len(entry["real"]) + len(entry["made"])
        if shown and count > MOST_IMAGES:
            break
        shown.append(entry)
    most = _WHOLE if len(train) <= WHOLE_IMAGES else _THUMBNAIL
    images = [image for entry in shown for image in (*entry["real"], *entry["made"])]
    for image in ProgressBar(images, "images", shown=progress):
        image["src"], image["size"] = _embedded(train.root / image["file"], most)
    _write(path, train, shown, len(identities), most)
    return path


def _identity(
    pid: int,
    rows: list[int],
    files: Sequence[str],
    synthetic: np.ndarray,
    poses: Mapping[str, np.ndarray],
    renderings: Mapping[str, Rendering],
    rejected: int,
) -> dict[str, Any]:
    real = [_real(files[i], poses.get(files[i])) for i in rows if not synthetic[i]]
    made = [_made(files[i], renderings.get(files[i])) for i in rows if synthetic[i]]
    real.sort(key=lambda image: (-image["doubt"], image["file"]))
    made.sort(key=lambda image: (-image["doubt"], image["file"]))
    tried = len(made) + rejected
    parts = [rejected / tried if tried else 0.0]
    parts += [float(np.mean([image["doubt"] for image in images])) if images else 0.0 for images in (made, real)]
    return {"pid": pid, "doubt": round(sum(parts), 3), "rejected": rejected, "real": real, "made": made}


def _real(file: str, pose: np.ndarray | None) -> dict[str, Any]:
    joints = [] if pose is None else np.round(pose, 2).tolist()
    doubt = 1.0 if pose is None else doubt_of_pose(pose[:, 2])
    return {"file": file, "joints": joints, "doubt": round(doubt, 3), "gate": {}, "of": ""}


def _made(file: str, known: Rendering | None) -> dict[str, Any]:
    if known is None:
        return {"file": file, "joints": [], "doubt": 0.0, "gate": {}, "of": ""}
    doubt = round(doubt_of_rendering(known.gate), 3)
    return {"file": file, "joints": known.joints, "doubt": doubt, "gate": known.gate, "of": known.source}


def _rejected_of(train: Split, rejected: Sequence[str]) -> Counter[int]:
    """Number of rejected images of each identity, found by their sources' names."""
    of_stem: dict[str, int] = {}
    for name, pid in zip(train.names.tolist(), train.pids.tolist(), strict=True):
        of_stem.setdefault(name.rpartition(".")[0], pid)
    counts: Counter[int] = Counter()
    for name in rejected:
        pid = of_stem.get(_ENDING.sub("", name.rpartition(".")[0]))
        if pid is not None:
            counts[pid] += 1
    return counts


def _embedded(path: Path, most: tuple[int, int]) -> tuple[str, list[int]]:
    """An image as a `data:` URI, and its original (width, height); "" if it cannot be read."""
    try:
        image = read_image(path)
        size = [image.shape[1], image.shape[0]]
        kind = _KINDS.get(path.suffix.lower())
        if most == _WHOLE and kind is not None and path.stat().st_size <= _AS_IT_IS:
            return f"data:image/{kind};base64,{base64.b64encode(read_bytes(path)).decode()}", size
    except BadInput:
        return "", [1, 2]
    picture = Image.fromarray(image)
    picture.thumbnail((most[1], most[0]))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=80 if most == _WHOLE else 65)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", size


def _write(path: Path, train: Split, shown: list[dict[str, Any]], total: int, most: tuple[int, int]) -> None:
    title = f"{train.root.resolve().name}: {total} identities, {len(train)} images"
    notes = [] if most == _WHOLE else [f"thumbnails, as there are more than {WHOLE_IMAGES:,} images"]
    if len(shown) < total:
        notes.append(f"the {len(shown)} most doubtful identities of {total}")
    data = {"identities": shown, "limbs": [list(limb) for limb in LIMBS], "hues": list(HUES)}
    # No text in the data may close the script element or open another one.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape('; '.join(notes))}</p>"
        "<p>Left and right arrow keys: previous and next identity. S: poses on and off.</p></header>"
        '<nav id="list" aria-label="identities, the most doubtful first"></nav><main id="view"></main>'
        f'<script type="application/json" id="data">{text}</script><script>{SCRIPT}</script></body></html>\n'
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
