"""The solid parts of a dressed body: where each lies, how thick it is and which texture it wears.

Every part is a tapered elliptic cylinder between two points of the body frame (see `body`), lengths in statures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .body import BARS, CRANK, SADDLE, SIDES, Pose, Vector
from .identity import Identity

Profile = NDArray[np.float32]

STEPS = 64  # intervals of a profile
_T = np.linspace(0.0, 1.0, STEPS + 1)
WHEELS = ((0.190, -0.265), (0.190, 0.335))  # (y, z) of the hubs of the bicycle
WHEEL_RADIUS = 0.182


@dataclass
class Solid:
    """A tapered elliptic cylinder.

    Attributes:
        texture: name of its map in the atlas.
        start: place of the first texture row, (3,).
        end: place of the last texture row, (3,).
        profile: half-width from start to end, (STEPS + 1,).
        ratio: half-depth over half-width.
        turn_deg: yaw of the cross-section and texture against the body.
        cap: length of the rounded ends over the half-width there.
    """

    texture: str
    start: Vector
    end: Vector
    profile: Profile
    ratio: float = 1.0
    turn_deg: float = 0.0
    cap: float = 1.0


def _profile(*points: tuple[float, float]) -> Profile:
    """Half-widths between the given (place, half-width) pairs, smooth between them."""
    places, widths = zip(*points, strict=True)
    return np.interp(_T, places, widths).astype(np.float32)


_HEAD = _profile(
    (0, 0.027), (0.03, 0.034), (0.08, 0.040), (0.18, 0.045), (0.32, 0.048),
    (0.52, 0.048), (0.68, 0.0445), (0.85, 0.037), (1, 0.025),
)  # fmt: skip
_LONG_HAIR = _profile((0, 0.034), (0.15, 0.047), (0.5, 0.054), (0.85, 0.050), (1, 0.038))
_TORSO = _profile(
    (0, 0.036), (0.03, 0.056), (0.06, 0.083), (0.09, 0.100), (0.15, 0.110), (0.3, 0.105),
    (0.6, 0.088), (0.8, 0.092), (1, 0.104),
)  # fmt: skip
_STRAIGHT = _profile(
    (0, 0.038), (0.03, 0.058), (0.06, 0.085), (0.09, 0.103), (0.15, 0.113), (0.35, 0.109),
    (0.7, 0.104), (1, 0.111),
)  # fmt: skip
_SEAT = _profile((0, 0.080), (0.5, 0.090), (1, 0.084))
_THIGH = _profile((0, 0.049), (0.25, 0.052), (0.75, 0.044), (1, 0.038))
_SHIN = _profile((0, 0.037), (0.3, 0.039), (0.7, 0.027), (1, 0.022))
_TROUSER_SHIN = _profile((0, 0.037), (0.3, 0.038), (1, 0.032))
_BOOT_SHIN = _profile((0, 0.037), (0.40, 0.038), (0.46, 0.042), (1, 0.034))
_FOOT = _profile((0, 0.023), (0.45, 0.025), (1, 0.019))
_ARM = _profile((0, 0.029), (0.25, 0.031), (0.6, 0.029), (1, 0.025))
_FORE = _profile((0, 0.025), (0.3, 0.025), (1, 0.017))
_HAND = _profile((0, 0.015), (0.5, 0.018), (1, 0.015))
_BACKPACK = _profile((0, 0.050), (0.15, 0.070), (0.7, 0.078), (1, 0.070))
_UNIT = np.ones(STEPS + 1, dtype=np.float32)


def body_parts(person: Identity, pose: Pose, joints: dict[str, Vector]) -> list[Solid]:
    """All parts of a person in a pose, with what he or she carries.

    Args:
        person: appearance.
        pose: pose, for the things that belong to it (a box, a bicycle).
        joints: `body.body_joints` of the pose and the person's build.
    """
    up = joints["neck"] - joints["pelvis"]
    up = up / np.sqrt(up @ up)
    ahead = np.array([0.0, -up[2], up[1]])
    parts = _trunk(person, joints, up, ahead)
    parts += _head(person, pose, joints)
    for side in (0, 1):
        parts += _limbs(person, joints, side)
    parts += _lower_garment(person, joints, up)
    parts += _bag(person, joints, up, ahead)
    if pose.activity == "carry" and pose.variant < 0.5:
        middle = (joints["hand0"] + joints["hand1"]) / 2 + np.array([0.0, 0.01, 0.01])
        lift = np.array([0.0, 0.055, 0.0])
        parts.append(Solid("box", middle + lift, middle - lift, 0.082 * _UNIT, ratio=0.7, cap=0.10))
    if pose.activity == "cycle":
        parts += _bicycle()
    return parts


def _trunk(person: Identity, joints: dict[str, Vector], up: Vector, ahead: Vector) -> list[Solid]:
    """Neck, upper garment and, under trousers, the seat."""
    build, neck, pelvis = person.build, joints["neck"], joints["pelvis"]
    loose = person.top in ("jacket", "coat", "hoodie", "shirt")
    hem = {"jacket": 0.050, "hoodie": 0.045, "shirt": 0.050, "coat": 0.05, "dress": 0.02}.get(person.top, 0.030)
    width = (_STRAIGHT if loose else _TORSO) * (build.girth**0.7 * build.shoulder / 0.104 * (1.05 if loose else 1.0))
    depth = 0.60 + 0.35 * (build.girth - 1.0) + (0.08 if loose else 0.03)
    parts = [
        Solid("torso", neck + 0.028 * up, pelvis - hem * up, width, ratio=depth, cap=0.12),
        Solid("neck", joints["chin"] + 0.02 * up, neck, (0.044 if person.scarf else 0.030) * _UNIT, cap=0.5),
    ]
    seat = _SEAT * build.girth
    if person.bottom != "skirt":
        parts.append(Solid("seat", pelvis + 0.02 * up, pelvis - 0.050 * up, seat, ratio=0.58, cap=0.4))
    if person.top == "hoodie" and person.bag != "backpack":
        behind = neck + 0.012 * up - 0.048 * ahead
        across = np.array([0.036, 0.0, 0.0])
        parts.append(Solid("hood", behind + across, behind - across, 0.030 * _UNIT))
    return parts


def _head(person: Identity, pose: Pose, joints: dict[str, Vector]) -> list[Solid]:
    """Head, nose and hair."""
    size, turn = person.build.head, pose.head_turn_deg
    chin, crown, forward = joints["chin"], joints["crown"], joints["head_forward"]
    up = (crown - chin) / np.sqrt((crown - chin) @ (crown - chin))
    taller = 0.008 if person.hat == "beanie" else 0.0
    parts = [
        Solid("head", crown + taller * up, chin, _HEAD * size, ratio=1.14, turn_deg=turn, cap=0.55),
        Solid("nose", joints["nose"] + 0.014 * up - 0.012 * forward, joints["nose"] - 0.006 * forward, 0.0075 * _UNIT),
    ]
    if person.hair_style in ("long", "bob"):
        fall = 0.080 if person.hair_style == "long" else 0.004
        start, end = crown - 0.012 * up - 0.012 * forward, chin - fall * up - 0.034 * forward
        parts.append(Solid("hair", start, end, _LONG_HAIR * size, ratio=0.62, turn_deg=turn, cap=0.5))
    elif person.hair_style == "ponytail":
        start, end = chin + 0.095 * up - 0.050 * forward, chin - 0.035 * up - 0.062 * forward
        parts.append(Solid("knot", start, end, _profile((0, 0.013), (0.4, 0.021), (1, 0.010)), turn_deg=turn))
    elif person.hair_style == "bun":
        middle = chin + 0.108 * up - 0.048 * forward
        parts.append(Solid("knot", middle + 0.004 * up, middle, 0.023 * _UNIT))
    if person.hat == "cap":
        middle, across = chin + 0.098 * up * size + 0.062 * forward, 0.020 * joints["head_left"]
        parts.append(Solid("brim", middle + across, middle - across, 0.0125 * _UNIT))
    return parts


def _limbs(person: Identity, joints: dict[str, Vector], side: int) -> list[Solid]:
    """Leg with shoe and arm with hand of one side."""
    girth = person.build.girth
    hip, knee, ankle = joints[f"hip{side}"], joints[f"knee{side}"], joints[f"ankle{side}"]
    shoulder, elbow, wrist = joints[f"shoulder{side}"], joints[f"elbow{side}"], joints[f"wrist{side}"]
    covered = person.bottom == "trousers"
    thigh = _THIGH * (girth * (0.75 + 0.25 * person.looseness if person.bottom != "skirt" else 0.94))
    if person.boots:
        shin = _BOOT_SHIN * girth**0.5
    else:
        shin = _TROUSER_SHIN * (girth**0.5 * person.looseness) if covered else _SHIN * girth**0.5
    thick = 1.12 if person.top in ("jacket", "coat", "hoodie") else 1.0
    sleeve = 1.0 + 0.07 * (2 * person.sleeve > _T) * (person.sleeve < 0.5)  # a short sleeve stands off the arm
    cuff = 1.25 if person.sleeve == 1.0 else 1.0
    heel, toe = joints[f"heel{side}"], joints[f"toe{side}"]
    return [
        Solid(f"thigh{side}", hip, knee, thigh),
        Solid(f"shin{side}", knee, ankle, shin, cap=0.35 if covered else 1.0),
        Solid(f"foot{side}", heel, toe, _FOOT * (1.12 if person.boots else 1.0)),
        Solid(f"arm{side}", shoulder, elbow, (_ARM * sleeve).astype(np.float32) * (girth**0.6 * thick)),
        Solid(f"fore{side}", elbow, wrist, _FORE * (girth**0.6 * thick * cuff)),
        Solid(f"hand{side}", wrist, joints[f"hand{side}"], _HAND),
    ]


def _lower_garment(person: Identity, joints: dict[str, Vector], up: Vector) -> list[Solid]:
    """A skirt, the lower part of a dress or the tails of a coat, wide enough for the legs inside."""
    if person.bottom != "skirt" and person.top != "coat":
        return []
    length = person.bottom_length if person.bottom == "skirt" else 0.30
    if person.top == "coat" and person.bottom == "skirt":
        length = max(length, 0.36)
    reach = min(length * 2.0, 1.0)
    inside = [joints[f"hip{side}"] * (1 - reach) + joints[f"knee{side}"] * reach for side in (0, 1)]
    if length > 0.5:
        more = (length - 0.5) * 2.0
        inside = [joints[f"knee{side}"] * (1 - more) + joints[f"ankle{side}"] * more for side in (0, 1)]
    spread = np.abs(inside[0] - inside[1]) / 2
    half_width, half_depth = max(0.092, spread[0] + 0.050), max(0.074, spread[2] + 0.052)
    half_depth = min(half_depth, 1.02 * half_width)  # a leg that swings further pushes the cloth, painted on it too
    top = 0.084 * person.build.girth
    hips = max(top * 1.12, 0.6 * top + 0.4 * half_width)
    profile = _profile((0, top), (0.3, hips), (1, half_width * 1.06))
    end = (inside[0] + inside[1]) / 2
    start = joints["pelvis"] + 0.055 * up
    return [Solid("skirt", start, end, profile, ratio=half_depth / half_width, cap=0.14)]


def _bag(person: Identity, joints: dict[str, Vector], up: Vector, ahead: Vector) -> list[Solid]:
    """The bag: on the back, at one hip, or hanging from one hand."""
    neck, pelvis, side = joints["neck"], joints["pelvis"], person.bag_side
    sign = SIDES[side]
    depth = 0.066 * person.build.girth**0.7
    if person.bag == "backpack":
        start, end = neck - 0.015 * up - (depth + 0.028) * ahead, neck - 0.225 * up - (depth + 0.034) * ahead
        return [Solid("bag", start, end, _BACKPACK, ratio=0.62, cap=0.25)]
    if person.bag == "shoulder":
        middle = pelvis + np.array([sign * (0.088 * person.build.girth + 0.028), -0.01, 0.012])
        return [Solid("bag", middle + 0.045 * up, middle - 0.060 * up, 0.030 * _UNIT, ratio=1.9, cap=0.12)]
    if person.bag == "handbag":
        raised = joints[f"wrist{side}"][1] > joints[f"shoulder{side}"][1] - 0.12
        grip = joints[f"elbow{side}"] if raised else joints[f"hand{side}"]
        down = np.array([0.0, -1.0, 0.0])
        outer = np.array([sign * 0.022, 0.0, 0.0])
        top, bottom = grip + 0.045 * down + outer, grip + 0.135 * down + outer
        return [
            Solid("bag", top, bottom, _profile((0, 0.032), (1, 0.038)), ratio=1.5, cap=0.12),
            Solid("strap", grip, top + np.array([0.0, 0.0, 0.02]), 0.0055 * _UNIT),
            Solid("strap", grip, top - np.array([0.0, 0.0, 0.02]), 0.0055 * _UNIT),
        ]
    return []


def _bicycle() -> list[Solid]:
    """Tubes of the frame, saddle and bars; the wheels are drawn as rings."""
    crank, saddle = np.array([0.0, *CRANK]), np.array([0.0, SADDLE[0] - 0.035, SADDLE[1] - 0.015])
    rear, front = np.array([0.0, *WHEELS[0]]), np.array([0.0, *WHEELS[1]])
    head = np.array([0.0, 0.530, 0.262])
    stem = np.array([0.0, BARS[0] - 0.01, BARS[1] - 0.03])
    grip, ahead = np.array([0.115, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    top = 0.85 * saddle + 0.15 * crank
    tubes = [(crank, saddle), (crank, head), (top, head), (rear, crank), (rear, saddle), (stem, front)]
    parts = [Solid("metal", start, end, 0.0085 * _UNIT) for start, end in tubes]
    parts.append(Solid("rubber", saddle - 0.045 * ahead, saddle + 0.055 * ahead, _profile((0, 0.026), (1, 0.010))))
    parts.append(Solid("rubber", stem + grip, stem - grip, 0.0080 * _UNIT))
    return parts
