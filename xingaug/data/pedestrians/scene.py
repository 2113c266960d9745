"""Cameras: the scene each one watches, its light and colours, and what differs from image to image under it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .keyed import keyed_rng

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

CAMERAS = 6
SCENE_HEIGHT, SCENE_WIDTH = 296, 1400  # pixels of the drawing, twice the resolution of the images
CANVAS_HEIGHT, CANVAS_WIDTH = 256, 128
MARGIN = (SCENE_HEIGHT - CANVAS_HEIGHT) // 2  # room for the shift of the crop, pixels
METRE = 136.0  # pixels of the drawing per metre at the place where people walk

OCCLUDERS = ("none", "pole", "bush", "bollard", "rail", "person")


@dataclass(frozen=True)
class Camera:
    """One camera of the world.

    Attributes:
        index: 0 to 5; the camid in file names is `index + 1`.
        world_seed: seed from which its scene is painted.
        pitch_deg: angle by which it looks down.
        light: unit vector towards the light, x right, y up, z to the camera.
        ambient: share of light that comes from everywhere, 0 to 1.
        colour_matrix: 3x3 RGB response, row by row.
        colour_offset: RGB offset in grey levels (0 to 255).
        gamma: exponent of the response.
        blur_px: standard deviation of the blur in the final image.
        noise: standard deviation of the noise in grey levels.
        jitter: factor on the jitter of the detector's crop.
        occlusion: probability that something stands before the person.
    """

    index: int
    world_seed: int
    pitch_deg: float
    light: tuple[float, float, float]
    ambient: float
    colour_matrix: tuple[float, ...]
    colour_offset: tuple[float, float, float]
    gamma: float
    blur_px: float
    noise: float
    jitter: float
    occlusion: float


@dataclass(frozen=True)
class Background:
    """Everything in an image that is neither the person, nor the pose, nor the camera.

    Attributes:
        place: left edge of the view in the scene, pixels of the drawing.
        shift: (x, y) move of the view against that place, pixels of the drawing.
        fill: share of the image height that a standing person takes.
        foot: (x, y) of the place between the feet, as a share of width and height.
        gain: brightness of this image against the camera's others.
        occluder: one of `OCCLUDERS`.
        occluder_seed: key of the occluder's form and colour.
        noise_seed: key of the sensor noise.
    """

    place: int
    shift: tuple[int, int]
    fill: float
    foot: tuple[float, float]
    gain: float
    occluder: str
    occluder_seed: int
    noise_seed: int


# Per camera: pitch, azimuth and height of the light in degrees, ambient light, tint (RGB), saturation, gamma.
_LOOKS = (
    (10.0, -50.0, 48.0, 0.54, (1.02, 1.00, 0.97), 1.02, 0.97),
    (16.0, 55.0, 40.0, 0.50, (1.00, 1.015, 0.98), 0.98, 1.04),
    (7.0, 20.0, 58.0, 0.60, (0.975, 1.00, 1.035), 0.89, 0.93),
    (20.0, -25.0, 66.0, 0.56, (1.01, 0.995, 1.00), 0.84, 1.00),
    (13.0, 62.0, 34.0, 0.54, (1.03, 1.00, 0.955), 1.02, 1.02),
    (9.0, -80.0, 52.0, 0.57, (0.965, 1.005, 1.025), 0.92, 1.08),
)


@lru_cache(maxsize=64)
def make_camera(index: int, world_seed: int) -> Camera:
    """One of the six cameras of a world.

    Args:
        index: 0 to 5.
        world_seed: seed of the world; it changes colours and details, the kind of scene belongs to the index.
    """
    if not 0 <= index < CAMERAS:
        raise ValueError(f"make_camera: index is {index}, must lie between 0 and {CAMERAS - 1}")
    rng = keyed_rng("camera", world_seed, index)
    pitch, azimuth, height, ambient, tint, saturation, gamma = _LOOKS[index]
    azimuth, height = math.radians(azimuth + rng.uniform(-8, 8)), math.radians(height + rng.uniform(-4, 4))
    light = (math.cos(height) * math.sin(azimuth), math.sin(height), math.cos(height) * math.cos(azimuth))
    grey = np.full((3, 3), (1.0 - saturation) / 3.0)
    matrix = np.diag(np.array(tint) * rng.uniform(0.96, 1.04, 3)) @ (saturation * np.eye(3) + grey)
    matrix = matrix + rng.normal(0.0, 0.02, (3, 3))
    low, middle, high = rng.uniform(-3.0, 5.0, 3).tolist()
    return Camera(
        index=index,
        world_seed=world_seed,
        pitch_deg=float(pitch + rng.uniform(-1.5, 1.5)),
        light=light,
        ambient=float(ambient),
        colour_matrix=tuple(float(value) for value in (matrix * rng.uniform(0.93, 1.04)).ravel()),
        colour_offset=(low, middle, high),
        gamma=float(gamma * rng.uniform(0.95, 1.05)),
        blur_px=(0.35, 0.5, 0.7, 0.42, 0.55, 0.8)[index] * float(rng.uniform(0.9, 1.1)),
        noise=(2.2, 2.8, 3.4, 2.5, 4.2, 3.8)[index] * float(rng.uniform(0.9, 1.1)),
        jitter=(0.8, 1.0, 1.2, 0.9, 1.3, 1.1)[index],
        occlusion=(0.05, 0.10, 0.14, 0.08, 0.12, 0.16)[index],
    )


def draw_background(seed: int, identity_index: int, camera: Camera, image_index: int) -> Background:
    """Draw what surrounds one image.

    Args:
        seed: seed of the world.
        identity_index: the person; all images of one person under one camera look at the same place of its scene.
        camera: the camera.
        image_index: number of the image; it moves the view a little and decides on crop, occluder and noise.
    """
    track = keyed_rng("track", seed, identity_index, camera.index)
    place = int(track.integers(2 * MARGIN, SCENE_WIDTH - CANVAS_WIDTH - 2 * MARGIN))
    gain = float(track.uniform(0.92, 1.06))
    rng = keyed_rng("image", seed, identity_index, camera.index, image_index)
    wide = 2.2 if rng.random() < 0.08 * camera.jitter else 1.0  # now and then the detector misses by more
    x, y = rng.normal(0.0, 0.022 * camera.jitter * wide, 2).tolist()
    return Background(
        place=place,
        shift=(int(rng.integers(-10, 11)), int(rng.integers(-6, 7))),
        fill=float(np.clip(0.885 + rng.normal(0.0, 0.016 * camera.jitter * wide), 0.80, 0.97)),
        foot=(0.5 + 1.2 * x, float(np.clip(0.960 + 0.45 * y, 0.93, 1.02))),
        gain=gain * float(rng.uniform(0.96, 1.04)),
        occluder=str(rng.choice(OCCLUDERS[1:])) if rng.random() < camera.occlusion else "none",
        occluder_seed=int(rng.integers(2**31)),
        noise_seed=int(rng.integers(2**31)),
    )


def _noise(rng: np.random.Generator, rows: int, cols: int, cell: float) -> Floats:
    """Smooth noise of mean 0 and about unit size, with features of `cell` pixels."""
    small = rng.standard_normal((max(2, int(rows / cell) + 2), max(2, int(cols / cell) + 2))).astype(np.float32)
    return np.asarray(cv2.resize(small, (cols, rows), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _ground(rng: np.random.Generator, kind: str, rows: int, colour: tuple[float, float, float]) -> Floats:
    """The ground from its far edge to the lower border, in perspective."""
    y = np.arange(rows, dtype=np.float32)[:, None]
    horizon = -0.9 * rows
    depth = (rows * 0.85 - horizon) / (y - horizon)  # 1 where people walk, growing with distance
    across = (np.arange(SCENE_WIDTH, dtype=np.float32)[None, :] - SCENE_WIDTH / 2) * depth / METRE
    along = np.broadcast_to(depth * 4.2, across.shape)
    image = np.full((rows, SCENE_WIDTH, 3), colour, dtype=np.float32)
    shade = 1.0 + 0.04 * _noise(rng, rows, SCENE_WIDTH, 3) + 0.05 * _noise(rng, rows, SCENE_WIDTH, 60)
    if kind in ("pavement", "plaza"):
        size = 0.42 if kind == "pavement" else 0.62
        column, row = np.floor(across / size), np.floor(along / size)
        tone = rng.uniform(0.9, 1.06, 997)[(column * 31 + row * 57).astype(int) % 997]
        shade = shade * tone
        if kind == "plaza":
            shade = shade * np.where((column + row) % 2 == 0, 1.0, 0.80)
        edge = 0.035
        seam = (np.mod(across / size, 1.0) < edge) | (np.mod(along / size, 1.0) < edge * 1.5)
        shade = np.where(seam, shade * 0.74, shade)
    elif kind == "grass":
        shade = shade + 0.10 * _noise(rng, rows, SCENE_WIDTH, 2) + 0.10 * _noise(rng, rows, SCENE_WIDTH, 11)
        path = np.abs(along - 4.6 - 0.25 * np.sin(across)) < 0.55
        image[path] = (178, 166, 146)
    elif kind == "road":
        shade = shade + 0.05 * _noise(rng, rows, SCENE_WIDTH, 1.5)
        image[np.broadcast_to(np.abs(along - 6.3) < 0.10, across.shape)] = (214, 212, 202)
        image[(np.abs(along - 4.7) < 0.05) & (np.mod(across, 2.0) < 1.2)] = (222, 206, 130)
        image[along > 6.6] = (160, 158, 152)
    elif kind == "indoor":
        shade = shade * (1.0 + 0.10 * np.exp(-((np.mod(across, 3.0) - 1.5) ** 2) * 3))
        seam = (np.mod(across / 0.9, 1.0) < 0.02) | (np.mod(along / 0.9, 1.0) < 0.03)
        shade = np.where(seam, shade * 0.85, shade)
    return np.asarray(image * shade[..., None], dtype=np.float32)


def _box(image: Floats, x: float, y: float, width: float, height: float, colour: tuple[float, ...]) -> None:
    """Fill an axis-parallel rectangle."""
    left, top = round(x), round(y)
    right, bottom = round(x + width), round(y + height)
    image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colour


def _tone(rng: np.random.Generator, low: float, high: float, spread: float = 24.0) -> tuple[float, float, float]:
    """A random muted colour."""
    level = rng.uniform(low, high)
    red, green, blue = np.clip(level + rng.normal(0, spread, 3), 10, 245).tolist()
    return red, green, blue


def _shops(rng: np.random.Generator, wall: Floats) -> None:
    """Shop fronts: windows with goods, doors, awnings and signs."""
    rows = wall.shape[0]
    x = 0.0
    while x < SCENE_WIDTH:
        width = rng.uniform(150, 240)
        _box(wall, x, 0, width, rows, _tone(rng, 90, 190, 18))
        _box(wall, x + 8, 34, width - 16, rows - 48, _tone(rng, 60, 110, 10))
        for _ in range(14):  # goods behind the glass
            left, top = x + rng.uniform(12, width - 34), rng.uniform(46, max(rows - 40, 48))
            _box(wall, left, top, rng.uniform(6, 22), rng.uniform(8, 26), _tone(rng, 60, 200, 22))
        door = x + rng.uniform(16, width - 60)
        _box(wall, door, 38, 44, rows - 38, _tone(rng, 40, 120, 20))
        _box(wall, door + 5, 44, 34, rows - 60, _tone(rng, 90, 150, 10))
        _box(wall, x, 8, width, 26, _tone(rng, 60, 190, 40))
        for k in range(int(width / 14) - 2):
            if rng.random() < 0.6:
                _box(wall, x + 14 + 14 * k, 14, 9, 13, (236, 232, 220))
        x += width + 6


def _park(rng: np.random.Generator, wall: Floats) -> None:
    """Trees, hedges and sky."""
    rows = wall.shape[0]
    leaves = _noise(rng, rows, SCENE_WIDTH, 5) + 0.8 * _noise(rng, rows, SCENE_WIDTH, 2.2)
    green = np.array((74, 92, 62), dtype=np.float32)
    wall[:] = np.clip(green * (1.0 + 0.26 * leaves + 0.3 * _noise(rng, rows, SCENE_WIDTH, 40))[..., None], 8, 220)
    sky = (_noise(rng, rows, SCENE_WIDTH, 26) - np.linspace(0.2, 2.6, rows, dtype=np.float32)[:, None]) > 0.35
    wall[sky] = (206, 216, 226)
    for _ in range(14):
        _box(wall, rng.uniform(0, SCENE_WIDTH), 0, rng.uniform(9, 24), rows, _tone(rng, 50, 84, 7))
    wall[-22:] *= 0.72


def _bricks(rng: np.random.Generator, wall: Floats) -> None:
    """A brick wall with barred windows and posters."""
    rows = wall.shape[0]
    y, x = np.mgrid[0:rows, 0:SCENE_WIDTH].astype(np.float32)
    course = np.floor(y / 9)
    column = np.floor((x + np.mod(course, 2) * 13) / 26)
    tone = rng.uniform(0.82, 1.12, 1009)[(course * 37 + column * 101).astype(int) % 1009]
    wall[:] = np.array((146, 88, 70), dtype=np.float32) * tone[..., None]
    mortar = (np.mod(y, 9) < 1.6) | (np.mod(x + np.mod(course, 2) * 13, 26) < 1.6)
    wall[mortar] = (170, 160, 150)
    for k in range(7):
        left = 60 + 200 * k + rng.uniform(-20, 20)
        if rng.random() < 0.6:
            _box(wall, left - 5, 12, 90, rows * 0.62 + 10, (196, 190, 180))
            _box(wall, left, 17, 80, rows * 0.62, (58, 66, 78))
            _box(wall, left + 38, 17, 4, rows * 0.62, (196, 190, 180))
        else:
            _box(wall, left, 24, 56, 74, _tone(rng, 90, 220, 40))
            _box(wall, left + 8, 34, 40, 26, _tone(rng, 60, 220, 60))


def _glass(rng: np.random.Generator, wall: Floats) -> None:
    """A glass facade with columns."""
    rows = wall.shape[0]
    for k in range(int(SCENE_WIDTH / 56) + 1):
        _box(wall, 56 * k, 0, 56, rows, _tone(rng, 92, 150, 10))
        top, width, height = rng.uniform(0, rows * 0.5), rng.uniform(10, 40), rng.uniform(20, 60)
        _box(wall, 56 * k + 6, top, width, height, _tone(rng, 130, 200, 8))
        _box(wall, 56 * k, 0, 4, rows, (78, 82, 88))
    _box(wall, 0, rows * 0.55, SCENE_WIDTH, 5, (78, 82, 88))
    for k in range(6):
        left = 90 + 250 * k
        _box(wall, left, 0, 40, rows, (196, 192, 186))
        _box(wall, left + 28, 0, 12, rows, (158, 155, 150))


def _parking(rng: np.random.Generator, wall: Floats) -> None:
    """Parked cars before a building."""
    rows = wall.shape[0]
    wall[:] = (176, 168, 152)
    for k in range(12):
        _box(wall, 30 + 120 * k, 6, 60, rows * 0.34, (92, 104, 118))
    wall[int(rows * 0.62) :] = (128, 124, 118)
    x = 20.0
    while x < SCENE_WIDTH:
        width, body = rng.uniform(190, 230), _tone(rng, 40, 220, 40)
        top = rows - 92.0
        corners = [[x + 36, top + 36], [x + 62, top], [x + width - 62, top], [x + width - 24, top + 36]]
        cv2.fillPoly(wall, [np.array(corners, np.int32)], _tone(rng, 50, 80, 6))
        _box(wall, x + width / 2 - 3, top, 6, 36, body)
        _box(wall, x, top + 34, width, 44, body)
        _box(wall, x, top + 66, width, 12, tuple(0.6 * channel for channel in body))
        _box(wall, x + 2, top + 42, 14, 10, (226, 222, 196))
        for wheel in (x + 42, x + width - 42):
            cv2.circle(wall, (int(wheel), int(top + 76)), 17, (26, 26, 28), -1)
            cv2.circle(wall, (int(wheel), int(top + 76)), 8, (150, 150, 152), -1)
        x += width + rng.uniform(20, 90)


def _arcade(rng: np.random.Generator, wall: Floats) -> None:
    """An indoor passage: panels, pillars, doors and lamps."""
    rows = wall.shape[0]
    wall[:] = (192, 190, 178)
    wall[int(rows * 0.55) :] = (150, 152, 150)
    for k in range(8):
        left = 175.0 * k
        _box(wall, left, 0, 46, rows, (206, 204, 196))
        _box(wall, left + 36, 0, 10, rows, (160, 158, 150))
        _box(wall, left + 74, 24, 60, rows - 24, _tone(rng, 70, 150, 22))
        _box(wall, left + 100, 40, 26, 50, (180, 196, 204))
        _box(wall, left + 142, 44, 22, 30, _tone(rng, 100, 220, 50))
        _box(wall, left + 60, 4, 90, 7, (246, 244, 228))


# Per camera: painter of the wall, kind and colour of the ground, share of the scene above the ground.
_SCENES = (
    (_shops, "pavement", (168, 164, 158), 0.50),
    (_park, "grass", (116, 128, 88), 0.40),
    (_bricks, "road", (104, 106, 110), 0.56),
    (_glass, "plaza", (186, 180, 170), 0.34),
    (_parking, "road", (122, 120, 118), 0.46),
    (_arcade, "indoor", (158, 154, 146), 0.52),
)


@lru_cache(maxsize=CAMERAS * 2)
def paint_scene(index: int, world_seed: int) -> Image:
    """The scene of a camera without people.

    Args:
        index: 0 to 5.
        world_seed: seed of the world.

    Returns:
        (SCENE_HEIGHT, SCENE_WIDTH, 3) uint8 RGB, at twice the resolution of the images.
    """
    rng = keyed_rng("scene", world_seed, index)
    painter, ground, colour, share = _SCENES[index]
    rows = int(SCENE_HEIGHT * share)
    wall = np.zeros((rows, SCENE_WIDTH, 3), dtype=np.float32)
    painter(rng, wall)
    wall *= (1.0 + 0.05 * _noise(rng, rows, SCENE_WIDTH, 30) + 0.03 * _noise(rng, rows, SCENE_WIDTH, 2))[..., None]
    wall = np.asarray(cv2.GaussianBlur(wall, (0, 0), 1.9), dtype=np.float32)  # further away than the people
    red, green, blue = (channel * rng.uniform(0.92, 1.08) for channel in colour)
    floor = _ground(rng, ground, SCENE_HEIGHT - rows, (red, green, blue))
    floor[:10] *= np.linspace(0.55, 1.0, 10, dtype=np.float32)[:, None, None]  # dirt and shadow at the wall's foot
    scene = np.concatenate([wall, floor])
    shadow = _noise(rng, SCENE_HEIGHT, SCENE_WIDTH, 90) + 0.4 * _noise(rng, SCENE_HEIGHT, SCENE_WIDTH, 22)
    depth = (0.30, 0.38, 0.24, 0.12, 0.34, 0.10)[index]
    scene *= (1.0 - depth / (1.0 + np.exp(-7.0 * (shadow - 0.35))))[..., None]
    return np.asarray(np.clip(cv2.GaussianBlur(scene, (0, 0), 0.7), 0, 255), dtype=np.uint8)


def paint_occluder(background: Background) -> tuple[Image, NDArray[np.bool_]] | None:
    """What stands in front of the person.

    Args:
        background: its occluder and the key of that.

    Returns:
        RGB drawing (CANVAS_HEIGHT, CANVAS_WIDTH, 3) uint8 and where it covers the view, or None for no occluder.
    """
    if background.occluder == "none":
        return None
    rng = keyed_rng("occluder", background.occluder_seed)
    drawing = np.zeros((CANVAS_HEIGHT, CANVAS_WIDTH, 3), dtype=np.float32)
    cover = np.zeros((CANVAS_HEIGHT, CANVAS_WIDTH), dtype=np.uint8)
    left = int(rng.integers(8, CANVAS_WIDTH - 8))
    tone = _tone(rng, 40, 150, 16)
    if background.occluder == "pole":
        cv2.rectangle(cover, (left - int(rng.integers(3, 9)), 0), (left + 4, CANVAS_HEIGHT), 1, -1)
    elif background.occluder == "bollard":
        top = int(rng.integers(168, 200))
        cv2.rectangle(cover, (left - 11, top), (left + 11, CANVAS_HEIGHT), 1, -1)
        cv2.ellipse(cover, (left, top), (11, 5), 0, 0, 360, 1, -1)
    elif background.occluder == "rail":
        top = int(rng.integers(150, 190))
        for y in (top, top + 26):
            cv2.rectangle(cover, (0, y), (CANVAS_WIDTH, y + 6), 1, -1)
        cv2.rectangle(cover, (left - 4, top), (left + 4, CANVAS_HEIGHT), 1, -1)
    elif background.occluder == "bush":
        tone = (58, 88, 44)
        for _ in range(16):
            centre = (int(rng.integers(0, CANVAS_WIDTH)), int(rng.integers(204, 262)))
            cv2.circle(cover, centre, int(rng.integers(8, 19)), 1, -1)
    else:  # the shoulder and arm of somebody nearer to the camera
        side = int(rng.choice([-6, CANVAS_WIDTH + 6]))
        top = int(rng.integers(30, 90))
        cv2.ellipse(cover, (side, top), (20, 24), 0, 0, 360, 1, -1)
        cv2.ellipse(cover, (side, top + 140), (int(rng.integers(26, 40)), 128), 0, 0, 360, 1, -1)
    texture = 1.0 + 0.10 * _noise(rng, CANVAS_HEIGHT, CANVAS_WIDTH, 5) + 0.12 * np.linspace(-1, 1, CANVAS_WIDTH)
    drawing[:] = np.array(tone, dtype=np.float32) * texture[..., None]
    return np.clip(drawing, 0, 255).astype(np.uint8), cover > 0
