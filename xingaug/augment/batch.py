"""The usual re-ID augmentation for whole batches, drawn per sample, to follow the rendering on its device.

Every function takes images and an explicit random generator and returns new images; none touches a global RNG. The
draws are made on the generator's device (with a CPU generator they are the same for images on any device), and their
number does not depend on the images. Parameters are those of torchreid's transforms of the same name, so that rendered
and real rows are treated alike.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import overload

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from xingaug.keypoints import Keypoints

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
"""torchreid's names of its transforms, in the order in which it always applies them."""

ATTEMPTS = 100
"""How many random rectangles are tried before a sample is left as it is (torchreid's number)."""


@overload
def flip(images: Tensor, rng: torch.Generator, p: float = 0.5) -> Tensor: ...
@overload
def flip(images: Tensor, rng: torch.Generator, p: float = 0.5, *, keypoints: Keypoints) -> tuple[Tensor, Keypoints]: ...
def flip(
    images: Tensor, rng: torch.Generator, p: float = 0.5, *, keypoints: Keypoints | None = None
) -> Tensor | tuple[Tensor, Keypoints]:
    """Mirrors each sample horizontally with probability `p`.

    Args:
        images: (B, 3, H, W) float, any range.
        rng: the source of every draw.
        p: probability in [0, 1].
        keypoints: (B,) in the images' frame, mirrored too, with left and right joints swapped.

    Returns:
        (B, 3, H, W); with keypoints also those.
    """
    chosen = _chosen(images, rng, p)
    flipped = torch.where(_rows(chosen, images), v2.horizontal_flip(images), images)
    if keypoints is None:
        return flipped
    return flipped, _where(chosen, keypoints.flip(images.shape[-1]), keypoints)


@overload
def pad_crop(images: Tensor, rng: torch.Generator, p: float = 0.5) -> Tensor: ...
@overload
def pad_crop(
    images: Tensor, rng: torch.Generator, p: float = 0.5, *, keypoints: Keypoints
) -> tuple[Tensor, Keypoints]: ...
def pad_crop(
    images: Tensor, rng: torch.Generator, p: float = 0.5, *, keypoints: Keypoints | None = None
) -> Tensor | tuple[Tensor, Keypoints]:
    """Enlarges a sample by 1/8 and crops it back at a random position (torchreid's `Random2DTranslation`).

    Args:
        images: (B, 3, H, W) float, any range.
        rng: the source of every draw.
        p: probability per sample in [0, 1]; the others stay as they are.
        keypoints: (B,) in the images' frame, transformed too; joints outside the crop become missing.

    Returns:
        (B, 3, H, W); with keypoints also those.
    """
    chosen = _chosen(images, rng, p)
    height, width = images.shape[-2:]
    larger = (round(height * 1.125), round(width * 1.125))
    # round() as in torchreid: the first and the last offset are half as likely as the others.
    tops = (_uniform(images, rng) * (larger[0] - height)).round().long()
    lefts = (_uniform(images, rng) * (larger[1] - width)).round().long()
    out = images.clone()
    rows = chosen.nonzero()[:, 0].tolist()
    if rows:
        enlarged = v2.resize(images[rows], list(larger), antialias=True)
        corners = zip(enlarged, tops[rows].tolist(), lefts[rows].tolist(), strict=True)
        out[rows] = torch.stack([v2.crop(image, top, left, height, width) for image, top, left in corners])
    if keypoints is None:
        return out
    grown = keypoints.resize((height, width), larger)
    corner = torch.stack([lefts, tops], dim=1).to(grown.xy)
    moved = Keypoints(grown.xy - corner[:, None], grown.visibility)
    cropped = Keypoints(moved.xy, moved.visibility * moved.inside((height, width)))
    return out, _where(chosen, cropped, keypoints)


def erase(
    images: Tensor, rng: torch.Generator, p: float = 0.5, fill: Sequence[float] = (0.4914, 0.4822, 0.4465)
) -> Tensor:
    """Fills one random rectangle per sample (random erasing, Zhong et al. 2020; torchreid's defaults).

    The rectangle covers 2 to 40 % of the image, its height/width ratio lies in [0.3, 1 / 0.3].

    Args:
        images: (B, 3, H, W) float, any range.
        rng: the source of every draw.
        p: probability per sample in [0, 1].
        fill: the colour, in the images' range.

    Returns:
        (B, 3, H, W).
    """
    chosen = _chosen(images, rng, p)
    heights, widths = _rectangles(images, rng, area=(0.02, 0.4), ratio=0.3)
    top = (_uniform(images, rng) * (images.shape[-2] - heights + 1)).floor()
    left = (_uniform(images, rng) * (images.shape[-1] - widths + 1)).floor()
    inside_y = _between(top, heights, images.shape[-2])
    inside_x = _between(left, widths, images.shape[-1])
    hole = (inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]).to(images.device)
    return torch.where(hole[:, None], images.new_tensor(list(fill))[:, None, None], images)


def color_jitter(images: Tensor, rng: torch.Generator, brightness: float = 0.2, contrast: float = 0.15) -> Tensor:
    """Scales brightness and contrast of every sample, in a random order (torchreid's `ColorJitter` parameters).

    Args:
        images: (B, 3, H, W) float in [0, 1].
        rng: the source of every draw.
        brightness: factors lie in [1 - brightness, 1 + brightness].
        contrast: factors lie in [1 - contrast, 1 + contrast].

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    _check(images, rng)
    bright = _rows(1 + brightness * (2 * _uniform(images, rng) - 1), images)
    strong = _rows(1 + contrast * (2 * _uniform(images, rng) - 1), images)
    bright_first = _rows(_uniform(images, rng) < 0.5, images)

    def brighten(x: Tensor) -> Tensor:
        return (bright * x).clamp(0, 1)

    def strengthen(x: Tensor) -> Tensor:
        grey = v2.rgb_to_grayscale(x).mean(dim=(-3, -2, -1), keepdim=True)
        return (strong * x + (1 - strong) * grey).clamp(0, 1)

    # torchvision's functions take one factor for the whole batch; these are their formulas with one per sample.
    return torch.where(bright_first, strengthen(brighten(images)), brighten(strengthen(images)))


def random_patch(images: Tensor, rng: torch.Generator, p: float = 0.5) -> Tensor:
    """Pastes a patch of another image of the batch onto a sample, to simulate occlusion (Zhou et al., OSNet).

    The patch covers 1 to 50 % of the image with a height/width ratio in [0.1, 10]; half of the patches are mirrored,
    half rotated by up to 10 degrees (corners black). torchreid keeps a pool of patches over many batches; here the
    batch is the pool, so that a sample depends only on its batch and the draws (our choice).

    Args:
        images: (B, 3, H, W) float in [0, 1].
        rng: the source of every draw.
        p: probability per sample in [0, 1].

    Returns:
        (B, 3, H, W).
    """
    chosen = _chosen(images, rng, p)
    batch, _, height, width = images.shape
    heights, widths = _rectangles(images, rng, area=(0.01, 0.5), ratio=0.1)
    draws = torch.stack([_uniform(images, rng) for _ in range(8)])
    donors = (draws[0] * batch).long()
    # Where to cut (rows 0, 1) and where to paste (rows 2, 3).
    places = (draws[1:5] * torch.stack([height - heights + 1, width - widths + 1]).repeat(2, 1)).floor()
    angles = torch.where(draws[6] < 0.5, (draws[7] * 21).floor() - 10, torch.zeros_like(draws[7]))
    out = images.clone()
    for row in (chosen & (heights > 0) & (widths > 0)).nonzero()[:, 0].tolist():
        h, w = int(heights[row]), int(widths[row])
        cut_y, cut_x, paste_y, paste_x = (int(place) for place in places[:, row])
        patch = v2.crop(images[int(donors[row])], cut_y, cut_x, h, w)
        if draws[5, row] < 0.5:
            patch = v2.horizontal_flip(patch)
        if angles[row] != 0:
            patch = v2.rotate(patch, float(angles[row]))
        out[row, :, paste_y : paste_y + h, paste_x : paste_x + w] = patch
    return out


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std per channel; images (B, 3, H, W) float in [0, 1]."""
    return v2.normalize(images, list(mean), list(std))


def build_batch_chain(
    names: Sequence[str], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Builds what torchreid's `build_transforms` does to a training image, for a batch on its device.

    The steps are: resize to `size`, the named transforms in the order of `TRANSFORMS`, normalisation, and
    `random_erase` last, which fills with `mean` after the normalisation, as torchreid does.

    Args:
        names: any of `TRANSFORMS`; may be empty.
        size: (height, width) that the network takes.
        mean: per channel, in [0, 1].
        std: per channel, above 0.

    Returns:
        A function of images (B, 3, H, W) float in [0, 1] of any size and a `torch.Generator`, giving (B, 3, *size).

    Raises:
        ValueError: an unknown name, or a mean or std that is not three numbers.
    """
    if isinstance(names, str):
        names = [names]
    unknown = [name for name in names if name not in TRANSFORMS]
    if unknown:
        raise ValueError(f"names: unknown transform '{unknown[0]}'; known: {', '.join(TRANSFORMS)}")
    for argument, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or (argument == "std" and min(values) <= 0):
            raise ValueError(f"{argument}: {list(values)}, needed three numbers{' above 0' * (argument == 'std')}")
    functions: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
        "random_flip": flip,
        "random_crop": pad_crop,
        "random_patch": random_patch,
        "color_jitter": color_jitter,
        "random_erase": partial(erase, fill=mean),
    }
    before = [functions[name] for name in TRANSFORMS[:-1] if name in names]
    after = [functions[name] for name in TRANSFORMS[-1:] if name in names]

    def chain(images: Tensor, rng: torch.Generator) -> Tensor:
        _check(images, rng)
        if tuple(images.shape[-2:]) != tuple(size):
            images = v2.resize(images, list(size), antialias=True)
        for function in before:
            images = function(images, rng)
        images = normalize(images, mean, std)
        for function in after:
            images = function(images, rng)
        return images

    return chain


def _check(images: Tensor, rng: torch.Generator) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        came = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images: {came}, needed a float tensor (B, 3, H, W)")
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng: {type(rng).__name__}, needed a torch.Generator")


def _uniform(images: Tensor, rng: torch.Generator, columns: int | None = None) -> Tensor:
    """Draws in [0, 1), (B,) or (B, columns), on the device of `rng`."""
    shape = (len(images),) if columns is None else (len(images), columns)
    return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64)


def _chosen(images: Tensor, rng: torch.Generator, p: float) -> Tensor:
    """(B,) bool on the device of `rng`: the samples that a step with probability `p` changes."""
    _check(images, rng)
    if not 0 <= p <= 1:
        raise ValueError(f"p: {p}, needed a probability in [0, 1]")
    return _uniform(images, rng) < p


def _rows(values: Tensor, images: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1) on the images' device; numbers also in their dtype."""
    dtype = values.dtype if values.dtype == torch.bool else images.dtype
    return values[:, None, None, None].to(images.device, dtype)


def _where(chosen: Tensor, changed: Keypoints, keypoints: Keypoints) -> Keypoints:
    """(B,) keypoints: `changed` where `chosen` (B,), else `keypoints`."""
    here = chosen.to(keypoints.device)[:, None]
    return Keypoints(
        torch.where(here[..., None], changed.xy, keypoints.xy),
        torch.where(here, changed.visibility, keypoints.visibility),
    )


def _rectangles(images: Tensor, rng: torch.Generator, area: tuple[float, float], ratio: float) -> tuple[Tensor, Tensor]:
    """Heights and widths (B,) of random rectangles smaller than the image; 0 where `ATTEMPTS` draws found none.

    Args:
        images: only their number and size are used.
        rng: the source of the draws.
        area: least and greatest share of the image.
        ratio: least height/width ratio; its inverse is the greatest.
    """
    height, width = images.shape[-2:]
    areas = (area[0] + (area[1] - area[0]) * _uniform(images, rng, ATTEMPTS)) * height * width
    ratios = ratio + (1 / ratio - ratio) * _uniform(images, rng, ATTEMPTS)
    heights, widths = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)
    return tuple((values.gather(1, first) * found)[:, 0] for values in (heights, widths))  # type: ignore[return-value]


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size) bool: the `length` positions from `start` on."""
    index = torch.arange(size, device=start.device)
    return (index >= start[:, None]) & (index < (start + length)[:, None])
