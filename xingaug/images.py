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
        uint8 (H, W, 3); of 16 bits the upper 8.

    Raises:
        BadInput: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            rgb = (_eight_bits(image) if image.mode.startswith("I") else image).convert("RGB")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise BadInput(f"{path}: not a readable image ({reason.splitlines()[0]})") from None
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb)  # a copy, because Pillow's own bytes are read-only


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, whose values Pillow itself would cut off at 255."""
    return Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> None:
    """Writes an image atomically.

    Args:
        path: ends in .jpg, .jpeg or .png, which picks the format.
        image: uint8 (H, W, 3) or (H, W).
        quality: of JPEG, 1 to 95.

    Raises:
        ValueError: another suffix, or an array that is no such image.
    """
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
    suffix = Path(path).suffix.lower()
    if suffix not in formats:
        raise ValueError(f"path: {path}, needed a name that ends in {', '.join(formats)}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image: {image.dtype} {image.shape}, needed uint8 (H, W, 3) or (H, W)")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format=formats[suffix], quality=quality)


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
