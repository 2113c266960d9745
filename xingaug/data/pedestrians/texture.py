"""Texture atlas of a person: one small map per body part, over the place along the part and the angle round it.

Row 0 of a map is the upper or inner end of the part (crown, neck, shoulder, hip), the last row its other end. Columns
go round the part: the middle column faces forward, the person's left is at +90 degrees, the seam is at the back.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .identity import Colour, Identity
from .keyed import keyed_rng

Array = NDArray[np.float32]

ROWS, COLS = 48, 64
PARTS = (
    "head", "nose", "hair", "knot", "brim", "neck", "torso", "skirt", "hood", "bag", "strap", "box", "metal", "rubber",
    "seat", "thigh0", "thigh1", "shin0", "shin1", "foot0", "foot1", "arm0", "arm1", "fore0", "fore1", "hand0", "hand1",
)  # fmt: skip
PART_ID = {name: index for index, name in enumerate(PARTS)}

# Place along the part (0 to 1) and angle round it (radians, 0 forward, positive to the person's left) of each texel.
ALONG, ANGLE = np.meshgrid(
    (np.arange(ROWS, dtype=np.float32) + 0.5) / ROWS,
    ((np.arange(COLS, dtype=np.float32) + 0.5) / COLS * 2 - 1) * np.float32(np.pi),
    indexing="ij",
)
FROM_BACK = np.float32(np.pi) - np.abs(ANGLE)  # angular distance from the middle of the back
SIDE_ANGLE = np.where(ANGLE > 0, FROM_BACK, -FROM_BACK)  # signed angle measured from the back

_SMOOTH = ("head", "nose", "hair", "knot", "hand0", "hand1", "metal", "box", "bag")
_CHECK = (np.mod(ALONG * 7, 1.0) < 0.3) | (np.mod(ANGLE * 1.5, 1.0) < 0.3)


def _fill(colour: Colour) -> Array:
    """A map of one colour."""
    return np.full((ROWS, COLS, 3), colour, dtype=np.float32)


def _paint(texture: Array, where: NDArray[Any], colour: Colour) -> None:
    """Set the texels at `where`."""
    texture[where] = colour


def _shade(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour."""
    red, green, blue = (min(255.0, channel * factor) for channel in colour)
    return red, green, blue


def _head(person: Identity) -> Array:
    """Face in front, hair above and behind, or a hat."""
    texture = _fill(person.skin)
    turn = np.abs(ANGLE)
    height = 1.0 - ALONG  # 0 chin, 1 crown
    if person.hair_style != "bald":
        line = np.interp(turn, [0.0, 0.75, 1.0, 1.35, 1.75, 1.95, np.pi], [0.80, 0.78, 0.66, 0.42, 0.44, 0.14, 0.10])
        if person.hair_style in ("long", "bob"):
            line = np.interp(turn, [0.0, 0.7, 0.95, 1.2, np.pi], [0.80, 0.74, 0.30, 0.0, 0.0])
        _paint(texture, height > line, person.hair)
        _paint(texture, (height > line) & (np.sin(ANGLE * 9 + 3 * ALONG) > 0.75), _shade(person.hair, 1.25))
    ear = (np.abs(turn - 1.62) < 0.20) & (np.abs(height - 0.46) < 0.11)
    if person.hair_style not in ("long", "bob"):
        _paint(texture, ear, _shade(person.skin, 0.84))
    if person.beard:
        _paint(texture, (height < 0.28) & (turn < 1.35), _shade(person.hair, 1.1))
    eyes = (np.abs(turn - 0.42) < 0.20) & (np.abs(height - 0.53) < 0.04)
    _paint(texture, (np.abs(turn - 0.42) < 0.30) & (np.abs(height - 0.62) < 0.025), _shade(person.hair, 0.9))
    _paint(texture, eyes, (44, 32, 30))
    if person.glasses:
        _paint(texture, (np.abs(turn - 0.40) < 0.28) & (np.abs(height - 0.53) < 0.05), (34, 34, 40))
    _paint(texture, (turn < 0.30) & (np.abs(height - 0.23) < 0.025), _shade((176, 92, 88), person.skin[0] / 230))
    _paint(texture, (turn < 0.62) & (np.abs(height - 0.10) < 0.03), _shade(person.skin, 0.86))
    _paint(texture, (turn < 0.16) & (np.abs(height - 0.36) < 0.02), _shade(person.skin, 0.78))
    if person.hat != "none":
        rim = np.interp(turn, [0, 1.2, np.pi], [0.70, 0.70, 0.70] if person.hat == "cap" else [0.70, 0.5, 0.42])
        _paint(texture, height > rim, person.hat_colour)
        _paint(texture, (height > rim) & (height < rim + 0.07), _shade(person.hat_colour, 0.72))
    return texture


def _pattern(person: Identity, base: Colour, scale: float = 1.0) -> Array:
    """Cloth of the upper garment; `scale` fits the number of stripes to the length of the part."""
    texture = _fill(base)
    second = person.second_colour
    if person.pattern == "stripes":
        _paint(texture, np.mod(ALONG * 5.5 * scale, 1.0) < 0.42, second)
    elif person.pattern == "bars":
        _paint(texture, np.mod(ANGLE * (14 / (2 * np.pi)), 1.0) < 0.4, second)
    elif person.pattern == "check":
        across = np.mod(ANGLE * (10 / (2 * np.pi)), 1.0) < 0.45
        along = np.mod(ALONG * 5 * scale, 1.0) < 0.45
        _paint(texture, across ^ along, _shade(second, 0.95))
        _paint(texture, across & along, _shade(second, 0.7))
    elif person.pattern == "dots":
        right, down = np.mod(ANGLE * (12 / (2 * np.pi)), 1.0) - 0.5, np.mod(ALONG * 8 * scale, 1.0) - 0.5
        _paint(texture, right**2 + down**2 < 0.09, second)
    return texture


def _torso(person: Identity) -> Array:
    """Front and back of the upper garment with prints, the shirt under an open jacket, and the straps of a bag."""
    texture = _pattern(person, person.top_colour)
    front, back = np.abs(ANGLE), FROM_BACK
    if person.pattern == "block":
        _paint(texture, ALONG > 0.52, person.second_colour)
    elif person.pattern == "yoke":
        _paint(texture, ALONG < 0.30, person.second_colour)
    colour = person.print_colour
    if person.front_print == "square":
        _paint(texture, (front < 0.50) & (ALONG > 0.24) & (ALONG < 0.52), colour)
        _paint(texture, (front < 0.28) & (ALONG > 0.31) & (ALONG < 0.43), _shade(person.second_colour, 0.9))
    elif person.front_print == "band":
        _paint(texture, (front < 1.4) & (ALONG > 0.34) & (ALONG < 0.50), colour)
    elif person.front_print == "number":
        _paint(texture, (np.abs(ANGLE - 0.25) < 0.12) & (ALONG > 0.25) & (ALONG < 0.58), colour)
        _paint(texture, (front < 0.37) & (np.mod(ALONG * 6, 1.0) < 0.35) & (ALONG > 0.25) & (ALONG < 0.58), colour)
    elif person.front_print == "logo":
        _paint(texture, (np.abs(ANGLE - 0.55) < 0.22) & (ALONG > 0.22) & (ALONG < 0.33), colour)
    if person.back_print == "square":
        _paint(texture, (back < 0.75) & (ALONG > 0.18) & (ALONG < 0.55), colour)
        lines = (np.mod(ALONG * 9, 1.0) < 0.4) & (ALONG > 0.22) & (ALONG < 0.5)
        _paint(texture, (back < 0.55) & lines, person.top_colour)
    elif person.back_print == "band":
        _paint(texture, (back < 1.35) & (ALONG > 0.22) & (ALONG < 0.34), colour)
    elif person.back_print == "number":
        _paint(texture, (np.abs(np.abs(SIDE_ANGLE) - 0.42) < 0.15) & (ALONG > 0.2) & (ALONG < 0.6), colour)
    elif person.back_print == "yoke":
        _paint(texture, (back < 1.5) & (ALONG < 0.36), _shade(person.second_colour, 0.95))
    elif person.back_print == "stripe":
        _paint(texture, back < 0.20, colour)
    _close(texture, person)
    _straps(texture, person)
    return texture


def _close(texture: Array, person: Identity) -> None:
    """Neckline, collar, buttons or zip, or the gap of an open jacket, and the hem."""
    front = np.abs(ANGLE)
    if person.top in ("tshirt", "dress", "sweater"):
        _paint(texture, (front < 0.9 - 7 * ALONG) & (ALONG < 0.11), person.skin)
    if person.open_front:
        gap = 0.20 + 0.38 * ALONG
        _paint(texture, front < gap, person.inner_colour)
        _paint(texture, (front >= gap) & (front < gap + 0.14), _shade(person.top_colour, 0.68))
        _paint(texture, (front < 0.5 - 4 * ALONG) & (ALONG < 0.1), person.skin)
    elif person.top in ("jacket", "coat", "shirt", "hoodie"):
        _paint(texture, front < 0.06, _shade(person.top_colour, 0.6))
        _paint(texture, (ALONG < 0.09) & (front < 0.8), _shade(person.top_colour, 0.74))
    if person.top in ("jacket", "hoodie", "sweater"):
        _paint(texture, ALONG > 0.93, _shade(person.top_colour, 0.74))
    if person.top in ("tshirt", "shirt"):
        _paint(texture, ALONG > 0.97, _shade(person.top_colour, 0.8))


def _straps(texture: Array, person: Identity) -> None:
    """Straps of a backpack on both shoulders, or of a shoulder bag across the chest and the back."""
    front = np.abs(ANGLE)
    strap = _shade(person.bag_colour, 0.85)
    if person.bag == "backpack":
        _paint(texture, (np.abs(front - 0.78) < 0.13) & (ALONG < 0.62), strap)
        _paint(texture, (np.abs(FROM_BACK - 0.78) < 0.13) & (ALONG < 0.12), strap)
    elif person.bag == "shoulder":
        sign = 1.0 if person.bag_side == 1 else -1.0
        line = sign * (-0.85 + 2.0 * ALONG)
        _paint(texture, (front < 1.6) & (np.abs(ANGLE - line) < 0.14), strap)
        _paint(texture, (FROM_BACK < 1.6) & (np.abs(SIDE_ANGLE - line) < 0.14), strap)


def _leg(person: Identity, side: int) -> tuple[Array, Array]:
    """Thigh and shin: trousers, shorts or bare legs, and boots."""
    outer = np.abs(ANGLE - (np.pi / 2 if side == 1 else -np.pi / 2)) < 0.30
    maps = []
    colour = person.second_colour if person.top == "dress" and person.pattern == "block" else person.bottom_colour
    covered = 2.0 if person.bottom == "trousers" else 2.0 * person.bottom_length
    if person.bottom == "skirt":
        covered -= 0.12  # under the skirt, so that a leg that comes through it shows the same cloth
    for offset in (0.0, 1.0):
        texture = _fill(person.skin)
        cloth = ALONG + offset < covered
        _paint(texture, cloth, colour)
        if person.bottom_check:
            _paint(texture, cloth & _CHECK, _shade(person.bottom_colour, 0.84))
        if person.side_stripe and person.bottom != "skirt":
            _paint(texture, cloth & outer, _shade(person.print_colour, 1.0))
        if person.bottom != "skirt":
            _paint(texture, cloth & (ALONG + offset > covered - 0.06), _shade(person.bottom_colour, 0.78))
        if offset == 1.0 and person.boots:
            _paint(texture, ALONG > 0.45, person.shoe_colour)
        elif offset == 1.0 and person.bottom != "trousers":
            _paint(texture, ALONG > 0.90, (206, 204, 200))
        maps.append(texture)
    return maps[0], maps[1]


def _arm(person: Identity) -> tuple[Array, Array]:
    """Upper arm and forearm: the sleeve, then skin."""
    maps = []
    for offset in (0.0, 1.0):
        cloth = _pattern(person, person.sleeve_colour, scale=0.5)
        if person.pattern == "yoke" and offset == 0.0:
            _paint(cloth, ALONG < 0.2, person.second_colour)
        covered = 2.0 * person.sleeve
        _paint(cloth, ALONG + offset > covered - 0.10, _shade(person.sleeve_colour, 0.76))
        _paint(cloth, ALONG + offset > covered, person.skin)
        maps.append(cloth)
    return maps[0], maps[1]


def _skirt(person: Identity) -> Array:
    """A skirt, the lower half of a dress, or the tails of a coat, open in front if the coat is."""
    if person.top == "coat" or person.top == "dress":
        texture = _pattern(person, person.top_colour)
        if person.pattern == "block":
            texture = _fill(person.second_colour)
        if person.top == "coat":
            _paint(texture, np.abs(ANGLE) < (0.40 if person.open_front else 0.06), _shade(person.bottom_colour, 0.62))
            _paint(texture, FROM_BACK < 0.07, _shade(person.top_colour, 0.55))
    else:
        texture = _fill(person.bottom_colour)
        if person.bottom_check:
            _paint(texture, _CHECK, _shade(person.bottom_colour, 0.84))
    texture *= (0.93 + 0.09 * np.sin(ANGLE * 8))[..., None]  # pleats
    _paint(texture, ALONG > 0.95, _shade(person.top_colour if person.top == "coat" else person.bottom_colour, 0.7))
    return texture


def _bag(person: Identity) -> Array:
    """A bag with a flap, a pocket and a buckle."""
    texture = _fill(person.bag_colour)
    _paint(texture, (ALONG > 0.55) & (ALONG < 0.90) & (FROM_BACK < 0.9), _shade(person.bag_colour, 0.78))
    _paint(texture, np.abs(ALONG - 0.36) < 0.03, _shade(person.bag_colour, 0.5))
    _paint(texture, (np.abs(ALONG - 0.46) < 0.05) & (FROM_BACK < 0.15), (190, 186, 176))
    return texture


@lru_cache(maxsize=16)  # about 1 MB each
def atlas(person: Identity) -> Array:
    """Texture maps of all parts.

    Args:
        person: the appearance to paint.

    Returns:
        (len(PARTS) * ROWS * COLS, 3) float32, RGB from 0 to 255; the map of part p starts at row p * ROWS * COLS.
    """
    maps = np.zeros((len(PARTS), ROWS, COLS, 3), dtype=np.float32)
    thighs, arms = [_leg(person, 0), _leg(person, 1)], _arm(person)
    shoe = _fill(person.shoe_colour)
    coloured: dict[str, Array] = {
        "head": _head(person),
        "nose": _fill(_shade(person.skin, 1.04)),
        "hair": _fill(person.hair),
        "knot": _fill(_shade(person.hair, 0.92)),
        "brim": _fill(_shade(person.hat_colour, 0.8)),
        "neck": _fill(person.scarf_colour if person.scarf else _shade(person.skin, 0.88)),
        "torso": _torso(person),
        "skirt": _skirt(person),
        "seat": _fill(person.bottom_colour),
        "hood": _fill(_shade(person.top_colour, 0.86)),
        "bag": _bag(person),
        "strap": _fill(_shade(person.bag_colour, 0.8)),
        "box": _fill(person.box_colour),
        "metal": _fill(_shade(person.bag_colour, 0.9)),
        "rubber": _fill((36, 36, 38)),
    }
    for side in (0, 1):
        coloured |= {f"thigh{side}": thighs[side][0], f"shin{side}": thighs[side][1], f"foot{side}": shoe}
        coloured |= {f"arm{side}": arms[0], f"fore{side}": arms[1], f"hand{side}": _fill(person.skin)}
    rng = keyed_rng("folds", person.cloth_seed)
    for name, texture in coloured.items():
        maps[PART_ID[name]] = texture * _folds(rng, 0.02 if name in _SMOOTH else 0.06)[..., None]
    return np.clip(maps, 0, 255).reshape(-1, 3)


def _folds(rng: np.random.Generator, strength: float) -> Array:
    """A smooth random brightness, continuous round the part."""
    waves = np.zeros((ROWS, COLS), dtype=np.float32)
    for turns in rng.integers(1, 7, 5):
        rows = rng.uniform(4.0, 30.0)
        waves += np.sin(ANGLE * turns + ALONG * rows + rng.uniform(0, 6.28)).astype(np.float32)
    return (1.0 + strength * waves / 2.2).astype(np.float32)
