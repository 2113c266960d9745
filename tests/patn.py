"""PATN's CSV of keypoints, as it was published."""

from pathlib import Path

import numpy as np

from xingaug.data.annotations import PATN_HEADER, PATN_MISSING, Annotations


def write_patn_csv(path: Path, annotations: Annotations) -> None:
    """Whole pixels, y before x, both -1 for a missing joint."""
    pixels = np.rint(annotations.xy).astype(np.int64)
    pixels[annotations.visibility == 0] = PATN_MISSING
    pairs = zip(annotations.names.tolist(), pixels.swapaxes(1, 2).tolist(), strict=True)
    path.write_text("\n".join([PATN_HEADER, *(f"{name}: {y}: {x}" for name, (x, y) in pairs)]) + "\n")
