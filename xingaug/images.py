"""Reading and writing images; the one place where their pixels, sizes and value ranges are decided.

On disk and in memory images are uint8 RGB (H, W, 3); tensors are (B, 3, H, W): `unit` is [0, 1], the range of
`XingPose`, `signed` is [-1, 1], the range of the generators.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from xingaug.errors import BadInput, first_line
from xingaug.files import atomic_write
from xingaug.inputs import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Names that count as images, in any case."""

MAX_PIXELS = 40_000_000
"""Largest image that is decoded, 120 MB as RGB (our choice); a header tells before anything is."""

MAX_BYTES = 200_000_000
"""Largest file that is opened as an image (our choice)."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image upright, by its EXIF orientation."""

# What Pillow warns of (odd metadata, large images) is either judged here or does not concern the pixels. A filter and
# no `catch_warnings`, which is not safe where several threads decode.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image as RGB, upright: turned as EXIF says, as viewers and OpenCV show it.

    Args:
        path: JPEG, PNG, BMP, WebP or TIFF, whatever its name.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the stored size.

    Returns:
        uint8 (H, W, 3); of 16 bits the upper 8.

    Raises:
        BadInput: the file is missing, truncated, no image, or larger than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return _decoded(image, size)


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of the image that `read_image` gives; decodes nothing where the format allows it.

    Raises:
        BadInput: as `read_image`, but what is wrong with the pixels remains unseen.
    """
    with _opened(path) as image:
        # Pillow itself turns TIFF, and tells its size as it will be.
        lying = image.format != "TIFF" and _orientation(image) >= 5
        return (image.width, image.height) if lying else (image.height, image.width)


def size_or_none(path: Path | str) -> tuple[int, int] | None:
    """As `image_size`; None where it would raise."""
    try:
        return image_size(path)
    except BadInput:
        return None


def decode_image(data: bytes, where: str) -> np.ndarray:
    """As `read_image`, of an image in memory; `where` it comes from, for the message.

    Raises:
        BadInput: as `read_image`.
    """
    with _judged(io.BytesIO(data), where) as image:
        return _decoded(image, None)


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    with open_regular(path, "image", MAX_BYTES) as file, _judged(file, str(path)) as image:
        yield image


@contextmanager
def _judged(file: BinaryIO, where: str) -> Iterator[Image.Image]:
    """An open image whose pixels are not decoded yet; errors while the block works with it name it too."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.height}x{image.width} pixels"
                raise BadInput(f"{where}: has {size}, needed at most {MAX_PIXELS // 1_000_000} million")
            yield image
    except BadInput:
        raise
    except Image.UnidentifiedImageError:
        raise BadInput(f"{where}: not a readable image (none of {', '.join(_FORMATS)})") from None
    except Exception as error:  # a damaged file can make the readers fail anywhere
        reason = first_line(error)
        raise BadInput(f"{where}: not a readable image ({reason})") from None


def _decoded(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    image.load()  # after which a PNG knows its EXIF, wherever it stands
    turn = _TURNS.get(_orientation(image))
    rgb = (_eight_bits(image) if image.mode.startswith("I") else image).convert("RGB")
    rgb = rgb if turn is None else rgb.transpose(turn)
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb)  # a copy, because Pillow's own bytes are read-only


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where nothing is said, or nothing that can be read."""
    try:
        said = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        said = None
    return said if said in _TURNS else 1


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
