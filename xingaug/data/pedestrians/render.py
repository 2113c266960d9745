"""Drawing: from (identity, pose, camera, background) to an image, exact keypoints, their visibility and a mask."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .body import Pose, Vector, body_joints
from .figure import STEPS, WHEEL_RADIUS, WHEELS, Solid, body_parts
from .identity import Identity
from .keyed import keyed_rng
from .scene import CANVAS_HEIGHT, CANVAS_WIDTH, MARGIN, Background, Camera, Floats, Image, paint_occluder, paint_scene
from .texture import COLS, PART_ID, ROWS, atlas

SIZE = (128, 64)  # (height, width) of the images, pixels
DISTANCE = 7.0  # of the camera, in statures; gives a mild perspective

# The 18 joints: name in the skeleton and how far (in statures) the nearest visible surface may lie before it.
_JOINTS: tuple[tuple[str, float], ...] = (
    ("nose", 0.030), ("neck", 0.130), ("shoulder0", 0.095), ("elbow0", 0.060), ("wrist0", 0.050),
    ("shoulder1", 0.095), ("elbow1", 0.060), ("wrist1", 0.050), ("hip0", 0.135), ("knee0", 0.075),
    ("ankle0", 0.085), ("hip1", 0.135), ("knee1", 0.075), ("ankle1", 0.085), ("eye0", 0.028),
    ("eye1", 0.028), ("ear0", 0.034), ("ear1", 0.034),
)  # fmt: skip
_MARGINS = np.array([margin for _, margin in _JOINTS])

_FAR = np.float32(-1e6)
_X = np.arange(CANVAS_WIDTH, dtype=np.float32)
_Y = np.arange(CANVAS_HEIGHT, dtype=np.float32)
_U_STEPS = 128
# Column of the atlas, relative to the middle of the visible half, for a place across the part from -1 to 1.
_ARC = (np.arcsin(np.linspace(-1, 1, _U_STEPS + 1)) * (COLS / (2 * np.pi))).astype(np.float32)


@dataclass(frozen=True)
class Rendered:
    """One image and its ground truth.

    Attributes:
        image: (128, 64, 3) uint8 RGB.
        xy: (18, 2) float32 joints in pixels (x, y); the centre of the top left pixel is (0, 0). Hidden joints have
            their true place too, which may lie outside the image.
        visibility: (18,) float32, 1 where the joint can be seen and 0 elsewhere.
        mask: (128, 64) uint8, 255 on visible pixels of the person and what he or she carries or rides, 0 elsewhere.
    """

    image: Image
    xy: Floats
    visibility: Floats
    mask: Image


class _View:
    """Projects the body frame to pixels of the drawing: yaw, camera pitch, mild perspective."""

    def __init__(self, pose: Pose, background: Background) -> None:
        yaw, pitch = math.radians(pose.yaw_deg), math.radians(pose.pitch_deg)
        turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
        tilt = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        self.matrix = (tilt @ turn).T
        self.origin = np.array([background.foot[0] * CANVAS_WIDTH, background.foot[1] * CANVAS_HEIGHT])
        # Detectors fit the box to the person, so a standing person is equally high under every pitch.
        self.scale = background.fill * CANVAS_HEIGHT / (1.0 * math.cos(pitch) + 0.06 * math.sin(pitch))
        self.yaw = yaw

    def project(self, points: Vector) -> Vector:
        """(N, 3) places in the body frame -> (N, 3) x, y and nearness in pixels of the drawing."""
        seen = points @ self.matrix
        factor = self.scale / (1.0 - seen[:, 2] / DISTANCE)
        x, y = self.origin[0] + factor * seen[:, 0], self.origin[1] - factor * seen[:, 1]
        return np.stack([x, y, self.scale * seen[:, 2]], axis=1)


class _Layers:
    """Nearest surface per pixel: which solid, where along it and across it, how far it bulges."""

    def __init__(self) -> None:
        shape = (CANVAS_HEIGHT, CANVAS_WIDTH)
        self.depth = np.full(shape, _FAR, dtype=np.float32)
        self.solid = np.zeros(shape, dtype=np.uint8)  # 0 is none, k the k-th drawn solid
        self.along = np.zeros(shape, dtype=np.float32)
        self.across = np.zeros(shape, dtype=np.float32)
        self.bulge = np.zeros(shape, dtype=np.float32)
        self.texture: list[int] = [0]
        self.column: list[float] = [0.0]  # atlas column in the middle of the visible half
        self.tilt: list[tuple[float, float, float]] = [(0.0, 0.0, 1.0)]  # axis: x, y in the image, cosine and sine

    def draw(self, part: Solid, start: Vector, end: Vector, size: float, yaw: float) -> None:
        """Draw one solid.

        Args:
            part: its form and texture.
            start: x, y and nearness of its start, pixels.
            end: the same of its end.
            size: pixels per stature there.
            yaw: yaw of its cross-section in the image, radians.
        """
        (xa, ya, za), (xb, yb, zb) = start.tolist(), end.tolist()
        flat = math.hypot(xb - xa, yb - ya)
        ux, uy = ((xb - xa) / flat, (yb - ya) / flat) if flat > 0.5 else (0.0, 1.0)
        length = max(flat, 1.0)
        wide, deep = math.cos(yaw), part.ratio * math.sin(yaw)
        seen = math.hypot(wide, deep)  # visible half-width over that of the profile
        middle = math.atan2(deep, wide)
        profile = part.profile * np.float32(seen * size)
        reach = float(profile.max()) + 1.0
        x0, x1 = max(int(min(xa, xb) - reach), 0), min(int(max(xa, xb) + reach) + 2, CANVAS_WIDTH)
        y0, y1 = max(int(min(ya, yb) - reach), 0), min(int(max(ya, yb) + reach) + 2, CANVAS_HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        gx, gy = _X[x0:x1] - np.float32(xa), _Y[y0:y1, None] - np.float32(ya)
        raw = gx * np.float32(ux / length) + gy * np.float32(uy / length)
        across = gx * np.float32(uy) - gy * np.float32(ux)
        along = np.minimum(np.maximum(raw, np.float32(0)), np.float32(1))
        radius = profile.take((along * np.float32(STEPS)).astype(np.int32))
        across /= radius
        raw -= along
        raw *= np.float32(length / part.cap)
        raw /= radius
        raw *= raw
        bulge = np.float32(1.0) - raw
        bulge -= across * across
        inside = bulge > 0
        np.sqrt(bulge, out=bulge, where=inside)
        # The near surface of the ellipse, seen from the side: linear in `across` plus a part of the bulge.
        skew = (part.ratio * math.sin(middle) * math.cos(yaw) - math.cos(middle) * math.sin(yaw)) / seen
        swell = (math.sin(middle) * math.sin(yaw) + part.ratio * math.cos(middle) * math.cos(yaw)) / seen
        depth = across * np.float32(skew)
        depth += bulge * np.float32(swell)
        depth *= radius
        depth += along * np.float32(zb - za)
        depth += np.float32(za)
        inside &= depth > self.depth[y0:y1, x0:x1]
        box = np.s_[y0:y1, x0:x1]
        for layer, values in ((self.depth, depth), (self.along, along), (self.across, across), (self.bulge, bulge)):
            np.copyto(layer[box], values, where=inside)
        np.copyto(self.solid[box], np.uint8(len(self.texture)), where=inside)
        self._remember(part, middle, ux, uy, math.atan2(zb - za, length))

    def _remember(self, part: Solid, middle: float, ux: float, uy: float, slope: float) -> None:
        """Store what shading needs about the solid just drawn."""
        self.texture.append(PART_ID[part.texture])
        self.column.append(COLS / 2 - middle * COLS / (2 * math.pi))
        self.tilt.append((ux, uy, slope))

    def stamp(self, where: NDArray[np.bool_], nearness: float, texture: str) -> None:
        """Draw a flat thing of one nearness, such as the ring of a wheel."""
        where = where & (self.depth < nearness)
        self.depth[where] = nearness
        self.along[where], self.across[where], self.bulge[where] = 0.5, 0.0, 0.9
        self.solid[where] = len(self.texture)
        self.texture.append(PART_ID[texture])
        self.column.append(COLS / 2)
        self.tilt.append((0.0, 1.0, 0.0))

    def shade(self, person: Identity, camera: Camera) -> tuple[NDArray[np.intp], Floats]:
        """Colours of the covered pixels.

        Returns:
            Flat indices (K,) of the covered pixels and their RGB (K, 3), 0 to 255.
        """
        covered = np.flatnonzero(self.solid)
        solid = self.solid.ravel()[covered]
        across, bulge = self.across.ravel()[covered], self.bulge.ravel()[covered]
        place = ((across + 1) * np.float32(_U_STEPS / 2)).astype(np.int32)
        column = (_ARC.take(place) + np.array(self.column, dtype=np.float32).take(solid)).astype(np.int32) % COLS
        row = np.minimum((self.along.ravel()[covered] * np.float32(ROWS)).astype(np.int32), ROWS - 1)
        texel = (np.array(self.texture, dtype=np.int32).take(solid) * ROWS + row) * COLS + column
        sideways, facing = self._light(camera)
        light = sideways.take(solid) * across
        light += facing.take(solid) * bulge
        np.maximum(light, np.float32(0), out=light)
        light *= np.float32(1.05 * (1.0 - camera.ambient))
        light += np.float32(camera.ambient) * (np.float32(0.70) + np.float32(0.42) * bulge)
        light *= self._crevices().ravel()[covered]
        colours = atlas(person).take(texel, axis=0)
        colours *= light[:, None]
        return covered, np.minimum(colours, np.float32(255), out=colours)

    def _light(self, camera: Camera) -> tuple[Floats, Floats]:
        """Per solid: share of the light that falls sideways on it and from the front."""
        ux, uy, slope = np.array(self.tilt, dtype=np.float32).T
        lx, ly, lz = camera.light
        sideways = uy * np.float32(lx) + ux * np.float32(ly)
        up_axis = ux * np.float32(lx) - uy * np.float32(ly)
        facing = np.cos(slope) * np.float32(lz + 0.30) - np.sin(slope) * up_axis
        return sideways, facing

    def _crevices(self) -> Floats:
        """Factor below 1 where the surroundings lie nearer to the camera, as between an arm and the trunk."""
        filled = np.where(self.solid > 0, self.depth, np.float32(-8.0))
        around = cv2.blur(filled, (15, 15))
        around -= filled
        np.maximum(around, np.float32(0), out=around)
        return np.asarray(1.0 - np.minimum(around * np.float32(0.045), np.float32(0.45)), dtype=np.float32)


def _solids(person: Identity, pose: Pose, joints: dict[str, Vector], view: _View) -> _Layers:
    """Draw all parts of the person."""
    layers = _Layers()
    parts = body_parts(person, pose, joints)
    starts = view.project(np.array([part.start for part in parts]))
    ends = view.project(np.array([part.end for part in parts]))
    for part, start, end in zip(parts, starts, ends, strict=True):
        size = view.scale / (1.0 - (start[2] + end[2]) / (2 * view.scale * DISTANCE))
        layers.draw(part, start, end, float(size), view.yaw + math.radians(part.turn_deg))
    if pose.activity == "cycle":
        turns = np.linspace(0, 2 * np.pi, 33)
        for y, z in WHEELS:
            rim = np.stack([0 * turns, y + WHEEL_RADIUS * np.cos(turns), z + WHEEL_RADIUS * np.sin(turns)], axis=1)
            ring = view.project(rim)
            drawn = np.zeros(layers.solid.shape, dtype=np.uint8)
            cv2.polylines(drawn, [np.round(ring[:, :2]).astype(np.int32)], True, 1, 4)
            layers.stamp(drawn > 0, float(ring[:, 2].mean()), "rubber")
    return layers


def _visible(layers: _Layers, places: Vector, cover: NDArray[np.bool_] | None, scale: float) -> Floats:
    """Which joints can be seen: inside the view, not behind another part and not behind the occluder."""
    visible = np.zeros(len(_JOINTS), dtype=np.float32)
    for index, (x, y, nearness) in enumerate(places.tolist()):
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        if not (0 <= column < CANVAS_WIDTH and 0 <= row < CANVAS_HEIGHT):
            continue
        if cover is not None and cover[row, column]:
            continue
        near = layers.depth[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        surface = layers.depth[row, column] if layers.solid[row, column] else near.max()
        gap = float(surface) - nearness
        visible[index] = float(_FAR) / 2 < gap <= _MARGINS[index] * scale
    return visible


def _view_of_scene(camera: Camera, background: Background, view_scale: float) -> Image:
    """The crop of the camera's scene, with a soft shadow where the person stands."""
    scene = paint_scene(camera.index, camera.world_seed)
    left, top = background.place + background.shift[0], MARGIN + background.shift[1]
    crop = scene[top : top + CANVAS_HEIGHT, left : left + CANVAS_WIDTH].copy()
    x, y = background.foot[0] * CANVAS_WIDTH, background.foot[1] * CANVAS_HEIGHT
    x0, y0 = x - 14 * camera.light[0], y - 2
    top = max(int(y) - 22, 0)
    wide = np.exp(-(((_X - x0) / (0.15 * view_scale)) ** 2))
    high = np.exp(-(((_Y[top:, None] - y0) / (0.036 * view_scale)) ** 2))
    shadow = 1.0 - (0.75 - 0.55 * camera.ambient) * high * wide
    crop[top:] = (crop[top:] * shadow[..., None]).astype(np.uint8)
    return crop


def _respond(image: Image, camera: Camera, background: Background) -> Image:
    """The camera's colours, blur and noise on a reduced image (128, 64, 3) uint8."""
    levels = 255.0 * (np.arange(256) / 255.0) ** camera.gamma
    matrix = np.array(camera.colour_matrix, dtype=np.float32).reshape(3, 3) * np.float32(background.gain)
    response = np.concatenate([matrix, np.array(camera.colour_offset, dtype=np.float32)[:, None]], axis=1)
    seen = np.asarray(cv2.transform(levels.astype(np.float32)[image], response), dtype=np.float32)
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), camera.blur_px), dtype=np.float32)
    noise = keyed_rng("noise", background.noise_seed).standard_normal((*SIZE, 3), dtype=np.float32)
    seen += noise * np.float32(camera.noise)
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


def render(identity: Identity, pose: Pose, camera: Camera, background: Background) -> Rendered:
    """Renders a person in a pose, seen by a camera in front of a background.

    The result is a function of the four arguments alone. With the same camera and background, another pose or
    person leaves the surroundings, the light, the noise and the place of the feet as they were.

    Args:
        identity: the person's appearance, see `draw_identity`.
        pose: the pose, see `draw_pose`.
        camera: the camera, see `make_camera`.
        background: surroundings and crop, see `draw_background`.
    """
    view = _View(pose, background)
    joints = body_joints(pose, identity.build)
    layers = _solids(identity, pose, joints, view)
    canvas = _view_of_scene(camera, background, view.scale)
    covered, colours = layers.shade(identity, camera)
    canvas.reshape(-1, 3)[covered] = colours.astype(np.uint8)
    person = layers.solid > 0
    occluder = paint_occluder(background)
    cover = None
    if occluder is not None:
        drawing, cover = occluder
        canvas[cover] = drawing[cover]
        person &= ~cover
    height, width = SIZE
    share = cv2.resize(person.astype(np.uint8) * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
    reduced = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    places = view.project(np.array([joints[name] for name, _ in _JOINTS]))
    return Rendered(
        image=_respond(reduced, camera, background),
        xy=((places[:, :2] + 0.5) / 2 - 0.5).astype(np.float32),
        visibility=_visible(layers, places, cover, view.scale),
        mask=np.where(share > 100, 255, 0).astype(np.uint8),
    )
