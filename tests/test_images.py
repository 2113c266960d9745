import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from telling import read_or_told

from xingaug.errors import BadInput
from xingaug.images import (
    MAX_PIXELS,
    bytes_to_unit,
    decode_image,
    image_size,
    read_image,
    signed_to_unit,
    unit_to_bytes,
    unit_to_signed,
    write_image,
)


def noise(height: int = 24, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_round_trip_is_exact(tmp_path):
    image = noise()
    write_image(tmp_path / "new" / "a.PNG", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.PNG"), image)


def test_of_sixteen_bits_the_upper_eight_are_read(tmp_path):
    ramp = np.linspace(0, 65535, 288).astype(np.uint16).reshape(24, 12)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, -1))


def test_jpeg_round_trip_is_close(tmp_path):
    image = np.asarray(Image.fromarray(noise(6, 3)).resize((12, 24), Image.Resampling.BICUBIC))
    sizes = []
    for quality in (95, 20):
        write_image(tmp_path / "a.jpg", image, quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
        back = read_image(tmp_path / "a.jpg")
        assert back.shape == image.shape
        assert np.abs(back.astype(int) - image).mean() < (12 if quality == 95 else 40)
    assert sizes[0] > sizes[1]


def test_mask_is_read_as_rgb_and_what_is_read_can_be_written_to(tmp_path):
    mask = noise()[..., 0]
    write_image(tmp_path / "a.png", mask)
    back = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(back, np.repeat(mask[..., None], 3, axis=2))
    assert bytes_to_unit(torch.from_numpy(back)).shape == (3, 24, 12)  # torch warns of a read-only array
    back[:] = 0


def test_transparent_and_palette_images_become_rgb(tmp_path):
    for mode in ("RGBA", "P", "L", "CMYK"):
        Image.fromarray(noise()).convert(mode).save(tmp_path / "a.tiff")
        back = read_image(tmp_path / "a.tiff")
        assert back.shape == (24, 12, 3)
        assert back.dtype == np.uint8


def test_size_is_height_and_width(tmp_path):
    write_image(tmp_path / "a.png", noise(24, 12))
    assert read_image(tmp_path / "a.png", size=(30, 10)).shape == (30, 10, 3)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", size=(24, 12)), noise(24, 12))


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 32, 3), np.uint8)
    stripes[::2] = 255
    write_image(tmp_path / "a.png", stripes)
    small = read_image(tmp_path / "a.png", size=(16, 8))
    assert np.abs(small[2:-2].astype(int) - 127).max() < 30  # without antialiasing: black or white


def one_line(path) -> str:
    with pytest.raises(BadInput) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_missing_image(tmp_path):
    assert one_line(tmp_path / "none.jpg").endswith("no such image")


def test_text_directory_and_empty_file_are_no_images(tmp_path):
    (tmp_path / "a.jpg").write_text("not an image")
    (tmp_path / "b.jpg").touch()
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg"):
        assert "not a readable image" in one_line(path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is a directory; needed a regular file as image" in one_line(tmp_path)
    assert "is a pipe" in one_line(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image_is_refused_wherever_it_ends(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    write_image(whole, noise())
    data = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    # Nearly the whole file: Pillow tells without the last few bytes (end markers) that all pixels are there.
    for length in range(1, len(data) - 40, 13):
        path.write_bytes(data[:length])
        assert "not a readable image" in one_line(path)


def claiming(width: int, height: int) -> bytes:
    """A PNG of 66 bytes that says it is of that size."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [20_000, 13_000, 6_400])
def test_header_that_claims_a_gigantic_image_is_refused(tmp_path, side):
    (tmp_path / "a.png").write_bytes(claiming(side, side))
    said = one_line(tmp_path / "a.png")
    assert f"has {side}x{side} pixels, needed at most 40 million" in said or "could be decompression bomb" in said
    with pytest.raises(BadInput, match="pixels"):
        image_size(tmp_path / "a.png")


def test_an_image_as_large_as_may_be_is_read(tmp_path):
    Image.new("L", (MAX_PIXELS // 5_000, 5_000)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (5_000, MAX_PIXELS // 5_000, 3)


@pytest.mark.parametrize("suffix", ["GIF", "PPM", "DDS", "ICNS", "PCX", "TGA"])
def test_other_formats_are_no_images_whatever_their_name(tmp_path, suffix):
    Image.fromarray(noise(32, 32)).save(tmp_path / "a", suffix)
    (tmp_path / "a").rename(tmp_path / "a.jpg")
    assert one_line(tmp_path / "a.jpg").endswith("not a readable image (none of JPEG, PNG, BMP, WEBP, TIFF)")


UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a.swapaxes(0, 1)[::-1],
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_exif_decides_what_is_up(tmp_path, orientation, suffix):
    path, stored = tmp_path / f"a.{suffix}", noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tif": {"tiffinfo": {0x0112: orientation}}}.get(suffix, {"exif": exif, "lossless": True})
    Image.fromarray(stored).save(path, **options)
    if suffix == "jpg":
        bare = io.BytesIO()
        Image.fromarray(stored).save(bare, "JPEG")
        stored = decode_image(bare.getvalue(), "bare")
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == expected.shape[:2]
    if suffix != "tif":  # OpenCV 5 cannot read those that lie
        cv2 = pytest.importorskip("cv2")
        np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], expected)


@pytest.mark.parametrize("said", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_passed_over(tmp_path, said):
    exif = Image.Exif()
    exif[0x0112] = said
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise())
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=b"Exif\0\0not at all")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise())


def encoded(kind: str) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}))
    return buffer.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF")}


@pytest.mark.parametrize("kind", ENCODED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_image_is_read_or_told(kind, data):
    damaged = bytearray(ENCODED[kind])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)))):
        damaged[place] = value
    image = read_or_told("here: ", decode_image, bytes(damaged), "here")
    assert image is None or image.shape[2] == 3


def test_nothing_that_pillow_warns_of_reaches_standard_error(tmp_path):
    Image.new("L", (9_600, 9_600)).save(tmp_path / "bomb.png")
    damaged = bytearray(ENCODED["TIFF"])
    damaged[4:8] = (len(damaged) - 9).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(damaged)
    (tmp_path / "b.tif").write_bytes(ENCODED["TIFF"][:-3])
    code = (
        "import sys; from pathlib import Path; from xingaug.images import read_image\n"
        "for path in sys.argv[1:]:\n  try: read_image(path)\n  except ValueError: pass"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, tmp_path.iterdir())], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.webp", noise(), r"path: .*a\.webp, needed a name that ends in \.jpg, \.jpeg, \.png"),
        ("a", noise(), "path: .*needed a name that ends in"),
        ("a.png", noise() / 255, r"image: float64 \(24, 12, 3\), needed uint8 \(H, W, 3\) or \(H, W\)"),
        ("a.png", noise().transpose(2, 0, 1), r"image: uint8 \(3, 24, 12\), needed uint8 \(H, W, 3\)"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, name, image, message):
    with pytest.raises(ValueError, match=message):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6).map(lambda s: (*s, 3))))
def test_every_level_survives_the_conversions(images):
    there = bytes_to_unit(torch.from_numpy(images))
    assert there.shape == (images.shape[0], 3, *images.shape[1:3])
    assert there.dtype == torch.float32
    np.testing.assert_array_equal(unit_to_bytes(there).numpy(), images)
    np.testing.assert_array_equal(unit_to_bytes(signed_to_unit(unit_to_signed(there))).numpy(), images)


def test_ends_of_the_ranges():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 1, 3)
    unit = bytes_to_unit(levels)
    torch.testing.assert_close(unit.flatten(), torch.tensor([0, 0.2, 1]))
    torch.testing.assert_close(unit_to_signed(unit).flatten(), torch.tensor([-1, -0.6, 1]))
    torch.testing.assert_close(signed_to_unit(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([0, 0.5, 1]))


def test_bytes_are_clamped_and_rounded_to_the_nearest():
    values = torch.tensor([-3.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 7.0]).reshape(1, 1, 5).expand(3, 1, 5)
    assert unit_to_bytes(values)[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    assert unit_to_bytes(values.to(torch.bfloat16).requires_grad_()).dtype == torch.uint8
