"""Reading and writing images; the one place where value ranges are converted.

On disk and in memory images are uint8 RGB (H, W, 3); tensors are (B, 3, H, W): `unit` is [0, 1], the range of
`XingPose`, `signed` is [-1, 1], the range of the generators.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xingaug.errors import BadInput
from xingaug.files import atomic_write


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image as RGB.

    Args:
        path: any format that Pillow reads.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the stored size.

    Returns:
        uint8 (H, W, 3).

    Raises:
        BadInput: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{path}: not a readable image ({str(error).splitlines()[0]})") from None
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> None:
    """Writes uint8 (H, W, 3) or (H, W) atomically; the suffix of `path` picks the format, `quality` is for JPEG."""
    with atomic_write(path) as temporary:
        formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
        Image.fromarray(image).save(temporary, format=formats[Path(path).suffix.lower()], quality=quality)


def bytes_to_unit(images: Tensor) -> Tensor:
    """Uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [0, 1]."""
    return images.movedim(-1, -3).float() / 255


def unit_to_bytes(images: Tensor) -> Tensor:
    """Float (..., 3, H, W) in [0, 1] to uint8 (..., H, W, 3), rounded to the nearest level."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)


def unit_to_signed(images: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return images * 2 - 1


def signed_to_unit(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (images + 1) / 2
