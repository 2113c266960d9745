"""Reading and writing images; defines their pixel formats, size limits and value ranges for the whole package.

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
"""Suffixes of image files, in upper or lower case."""

MAX_PIXELS = 40_000_000
"""Largest image that is decoded, 120 MB as RGB (our choice); checked from the header, before decoding."""

MAX_BYTES = 200_000_000
"""Largest file that is opened as an image (our choice)."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The transpose that makes an image upright, by its EXIF orientation."""

# Pillow's warnings (odd metadata, large images) are either checked here or do not concern the pixels. A filter and not
# `catch_warnings`, which is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Reads an image as RGB, rotated upright by its EXIF orientation, as viewers and OpenCV show it.

    Args:
        path: JPEG, PNG, BMP, WebP or TIFF, whatever its suffix.
        size: (height, width) to resize to, bilinear with antialiasing; None keeps the stored size.

    Returns:
        uint8 (H, W, 3); of 16-bit images the upper 8 bits.

    Raises:
        BadInput: the file is missing, truncated, not an image, or larger than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return _decoded(image, size)


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of the image that `read_image` returns; does not decode it if the format allows.

    Raises:
        BadInput: as `read_image`, except for damaged pixel data.
    """
    with _opened(path) as image:
        # Pillow itself rotates TIFF, and its size is already that of the upright image.
        lying = image.format != "TIFF" and _orientation(image) >= 5
        return (image.width, image.height) if lying else (image.height, image.width)


def size_or_none(path: Path | str) -> tuple[int, int] | None:
    """As `image_size`; None if it would raise."""
    try:
        return image_size(path)
    except BadInput:
        return None


def is_upright(path: Path | str) -> bool:
    """Whether the stored pixels lie as an image is shown; True as well for a file that cannot be read."""
    try:
        with _opened(path) as image:
            return _orientation(image) == 1
    except BadInput:
        return True


def decode_image(data: bytes, where: str) -> np.ndarray:
    """As `read_image`, for an image in memory; `where`: its origin, for the message.

    Raises:
        BadInput: as `read_image`.
    """
    with _checked(io.BytesIO(data), where) as image:
        return _decoded(image, None)


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    with open_regular(path, "image", MAX_BYTES) as file, _checked(file, str(path)) as image:
        yield image


@contextmanager
def _checked(file: BinaryIO, where: str) -> Iterator[Image.Image]:
    """An open image, not decoded yet; errors inside the block become `BadInput` that names it."""
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
    except Exception as error:  # a damaged file can raise anything
        reason = first_line(error)
        raise BadInput(f"{where}: not a readable image ({reason})") from None


def _decoded(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    image.load()  # the EXIF of a PNG may come after its pixels
    turn = _TURNS.get(_orientation(image))
    rgb = (_eight_bits(image) if image.mode.startswith("I") else image).convert("RGB")
    rgb = rgb if turn is None else rgb.transpose(turn)
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb)  # a copy, because Pillow's own bytes are read-only


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        orientation = None
    return orientation if orientation in _TURNS else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Reduces a 16-bit grey image to 8 bits; Pillow itself would clip its values at 255."""
    return Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> None:
    """Writes an image atomically.

    Args:
        path: the file; its suffix .jpg, .jpeg or .png decides the format.
        image: uint8 (H, W, 3) or (H, W).
        quality: JPEG quality, 1 to 95.

    Raises:
        ValueError: another suffix, or an array of another shape or dtype.
    """
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
    suffix = Path(path).suffix.lower()
    if suffix not in formats:
        raise ValueError(f"path: {path}, needed a name that ends in {', '.join(formats)}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image: {image.dtype} {image.shape}, needed uint8 (H, W, 3) or (H, W)")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, format=formats[suffix], quality=quality)


def jpeg_bytes(image: np.ndarray, quality: int = 95) -> bytes:
    """An image, uint8 (H, W, 3), as the bytes of a JPEG file; the same bytes for the same image."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


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
