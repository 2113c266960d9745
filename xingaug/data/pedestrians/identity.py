"""Appearance of a person: body build, hair, clothes and bag, each drawn from a key."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .body import Build
from .keyed import keyed_rng

Colour = tuple[float, float, float]  # RGB, 0 to 255

# (colour, weight): street clothes; dark and grey ones are frequent, so that many people look alike.
_TOP_COLOURS: tuple[tuple[Colour, float], ...] = (
    ((34, 34, 38), 15), ((70, 72, 78), 7), ((128, 130, 134), 7), ((228, 228, 226), 14), ((36, 46, 84), 9),
    ((62, 98, 160), 7), ((140, 184, 222), 5), ((166, 36, 42), 7), ((214, 84, 96), 4), ((236, 176, 190), 4),
    ((222, 122, 48), 3), ((232, 200, 72), 4), ((64, 116, 70), 4), ((98, 102, 64), 3), ((152, 196, 122), 2),
    ((110, 72, 52), 3), ((196, 168, 132), 4), ((106, 64, 132), 3), ((40, 140, 142), 3),
)  # fmt: skip
_BOTTOM_COLOURS: tuple[tuple[Colour, float], ...] = (
    ((32, 32, 36), 20), ((42, 52, 82), 16), ((66, 92, 136), 14), ((120, 146, 184), 6), ((78, 78, 82), 8),
    ((138, 136, 134), 6), ((190, 172, 140), 8), ((116, 100, 76), 5), ((226, 224, 218), 6), ((92, 60, 48), 3),
    ((84, 92, 64), 3), ((150, 40, 52), 2), ((206, 128, 150), 2),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = (
    (238, 204, 178), (228, 190, 160), (214, 170, 136), (196, 148, 112), (160, 112, 80), (112, 76, 54), (82, 56, 42),
)  # fmt: skip
_HAIRS: tuple[tuple[Colour, float], ...] = (
    ((26, 22, 22), 10), ((48, 34, 26), 8), ((86, 58, 38), 4), ((150, 112, 66), 2), ((128, 62, 34), 1),
    ((150, 148, 146), 2), ((214, 212, 208), 1),
)  # fmt: skip
_SHOES: tuple[tuple[Colour, float], ...] = (
    ((30, 28, 28), 9), ((84, 56, 38), 4), ((228, 228, 228), 7), ((120, 120, 124), 3), ((168, 46, 46), 2),
    ((52, 76, 134), 2),
)  # fmt: skip
_BAGS: tuple[tuple[Colour, float], ...] = (
    ((30, 30, 34), 8), ((96, 64, 44), 5), ((44, 56, 96), 4), ((158, 40, 44), 3), ((90, 96, 66), 3),
    ((204, 180, 146), 3), ((120, 122, 126), 3), ((226, 140, 52), 2), ((70, 140, 150), 2),
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Everything about a person that stays the same from image to image.

    Colours are RGB from 0 to 255. `bag_side` is 0 for the person's right and 1 for the left. `sleeve` is the covered
    part of the arm and `bottom_length` that of the leg, each from 0 to 1.
    """

    build: Build
    skin: Colour
    hair: Colour
    hair_style: str  # bald, short, bob, long, ponytail, bun
    beard: bool
    glasses: bool
    hat: str  # none, cap, beanie
    hat_colour: Colour
    top: str  # tshirt, shirt, sweater, hoodie, jacket, coat, dress
    top_colour: Colour
    second_colour: Colour  # of the pattern
    pattern: str  # plain, stripes, bars, check, block, yoke, dots
    sleeve: float
    sleeve_colour: Colour
    open_front: bool
    inner_colour: Colour  # of the shirt under an open jacket
    front_print: str  # none, logo, square, band, number
    back_print: str  # none, square, band, number, yoke, stripe
    print_colour: Colour
    bottom: str  # trousers, shorts, skirt
    bottom_colour: Colour
    bottom_length: float
    bottom_check: bool
    side_stripe: bool
    looseness: float  # factor on the width of the trousers
    shoe_colour: Colour
    boots: bool
    scarf: bool
    scarf_colour: Colour
    bag: str  # none, backpack, shoulder, handbag
    bag_side: int
    bag_colour: Colour
    box_colour: Colour  # of the box held in some poses
    cloth_seed: int  # of folds and dirt


def _pick(rng: np.random.Generator, weighted: tuple[tuple[Colour, float], ...], jitter: float = 12.0) -> Colour:
    """One colour of a weighted palette, a little changed."""
    weights = np.array([weight for _, weight in weighted])
    colour = np.array(weighted[int(rng.choice(len(weighted), p=weights / weights.sum()))][0], dtype=np.float64)
    colour = colour * rng.uniform(0.86, 1.12) + rng.normal(0.0, jitter / 2, 3)
    red, green, blue = np.clip(colour, 12, 244).tolist()
    return red, green, blue


def _choice(rng: np.random.Generator, **weights: float) -> str:
    """One of the named options, by weight."""
    values = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


@lru_cache(maxsize=256)
def draw_identity(seed: int, index: int) -> Identity:
    """Draw the appearance of one person.

    Args:
        seed: seed of the world.
        index: number of the person, from 0; different numbers give independent people.
    """
    rng = keyed_rng("identity", seed, index)
    bare = rng.random() < 0.5  # warm weather: light clothes
    top = (
        _choice(rng, tshirt=6, shirt=2, dress=1.3, sweater=1)
        if bare
        else _choice(rng, sweater=2, hoodie=2, jacket=4, coat=2, shirt=2)
    )
    layered = top in ("jacket", "coat", "hoodie")
    bottom = _choice(rng, trousers=6, shorts=3, skirt=1.6) if bare else _choice(rng, trousers=9, skirt=1)
    top_colour, second = _pick(rng, _TOP_COLOURS), _pick(rng, _TOP_COLOURS)
    patterns = {"plain": 11.0, "stripes": 3.0, "block": 2.0, "check": 1.6, "bars": 0.8, "yoke": 1.4, "dots": 0.7}
    if layered:
        patterns |= {"stripes": 0.8, "dots": 0.0, "bars": 0.0}
    pattern = _choice(rng, **patterns)
    light_top = sum(top_colour) > 330
    print_colour: Colour = (40, 40, 46) if light_top else (226, 224, 220)
    if rng.random() < 0.6:
        print_colour = _pick(rng, _TOP_COLOURS)
    long_hair = rng.random() < 0.48
    contrast_sleeve = rng.random() < 0.12
    return Identity(
        build=Build(
            shoulder=float(rng.uniform(0.094, 0.110)),
            hip=float(rng.uniform(0.048, 0.056)),
            girth=float(np.clip(rng.normal(1.0, 0.10), 0.84, 1.28)),
            legs=float(rng.uniform(0.97, 1.03)),
            head=float(rng.uniform(0.97, 1.08)),
        ),
        skin=_pick(rng, tuple((skin, weight) for skin, weight in zip(_SKINS, (5, 6, 5, 3, 2, 2, 1), strict=True)), 6.0),
        hair=_pick(rng, _HAIRS, 6.0),
        hair_style=_choice(rng, long=4, ponytail=3, bob=2, bun=1.3) if long_hair else _choice(rng, short=14, bald=1),
        beard=bool(not long_hair and rng.random() < 0.2),
        glasses=bool(rng.random() < 0.2),
        hat=_choice(rng, none=8, cap=1.2, beanie=0.0 if bare else 1.2),
        hat_colour=_pick(rng, _TOP_COLOURS),
        top=top,
        top_colour=top_colour,
        second_colour=second,
        pattern=pattern,
        sleeve=float(rng.uniform(0.18, 0.34)) if bare and top != "sweater" else 1.0,
        sleeve_colour=second if contrast_sleeve else top_colour,
        open_front=bool(layered and rng.random() < 0.5),
        inner_colour=_pick(rng, _TOP_COLOURS),
        front_print=_choice(rng, none=4, logo=3, square=2, band=1.5, number=1.2),
        back_print=_choice(rng, none=6, square=1.6, band=1.4, number=1.2, yoke=1.4, stripe=1),
        print_colour=print_colour,
        bottom="skirt" if top == "dress" else bottom,
        bottom_colour=top_colour if top == "dress" else _pick(rng, _BOTTOM_COLOURS, 8.0),
        bottom_length=float(rng.uniform(0.36, 0.54)) if bottom != "skirt" else float(rng.uniform(0.36, 0.66)),
        bottom_check=bool(rng.random() < 0.06),
        side_stripe=bool(rng.random() < 0.10),
        looseness=float(rng.uniform(0.95, 1.28)),
        shoe_colour=_pick(rng, _SHOES),
        boots=bool(rng.random() < (0.04 if bare else 0.2)),
        scarf=bool(not bare and rng.random() < 0.22),
        scarf_colour=_pick(rng, _TOP_COLOURS),
        bag=_choice(rng, none=5, backpack=3, shoulder=2.4, handbag=1.6),
        bag_side=int(rng.integers(2)),
        bag_colour=_pick(rng, _BAGS),
        box_colour=_pick(rng, (((178, 138, 92), 3), ((206, 204, 198), 1), ((120, 130, 150), 1))),
        cloth_seed=int(rng.integers(2**31)),
    )
