import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from xingaug.errors import BadInput
from xingaug.images import (
    bytes_to_unit,
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
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path):
        assert "not a readable image" in one_line(path)


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


def test_header_that_claims_a_gigantic_image_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = (60_000).to_bytes(4, "little") + (60_000).to_bytes(4, "little")  # width and height
    (tmp_path / "a.bmp").write_bytes(bytes(data))
    assert "not a readable image" in one_line(tmp_path / "a.bmp")


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
