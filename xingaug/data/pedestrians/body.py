"""Poses of an articulated body: what a pose is, how one is drawn, and where it puts the joints in 3-D.

Lengths are in statures (1.0 = the height of the person). The body frame is right-handed: x to the person's own left,
y up from the ground, z forward. Side 0 is the person's right, side 1 the left.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .keyed import keyed_rng

Vector = NDArray[np.float64]

ACTIVITIES = ("walk", "stand", "carry", "raise", "cycle")
YAW_BINS = 8  # starved distributions choose among this many directions, 45 degrees apart

THIGH, SHIN, UPPER_ARM, FOREARM, HAND = 0.245, 0.238, 0.165, 0.145, 0.045
HIP_HEIGHT, TRUNK, ANKLE_HEIGHT = 0.525, 0.295, 0.042
SIDES = (-1.0, 1.0)  # sign of x for the right and the left side
# Crank, saddle and bars of the bicycle under a cycling body, as (y, z), and the crank's radius.
CRANK, CRANK_RADIUS, SADDLE, BARS = (0.170, 0.070), 0.085, (0.530, -0.055), (0.615, 0.285)


@dataclass(frozen=True)
class Build:
    """Proportions of one person.

    Attributes:
        shoulder: half the distance between the shoulder joints, in statures.
        hip: half the distance between the hip joints, in statures.
        girth: factor on the thickness of trunk and limbs.
        legs: factor on the length of the legs.
        head: factor on the size of the head.
    """

    shoulder: float = 0.104
    hip: float = 0.052
    girth: float = 1.0
    legs: float = 1.0
    head: float = 1.0


@dataclass(frozen=True)
class Pose:
    """Pose of a body and the direction it is seen from; independent of the build.

    Attributes:
        activity: one of `ACTIVITIES`.
        variant: which form of the activity, in [0, 1) (for instance which hand, and what the hands do).
        phase: place in the gait or pedalling cycle, in [0, 1).
        yaw_deg: direction the person faces; 0 looks into the camera, 90 to the right of the image, 180 away.
        pitch_deg: angle by which the camera looks down.
        stride: factor on the swing of legs and arms.
        lean_deg: forward lean of the trunk, added to that of the activity.
        head_turn_deg: head against trunk, positive to the person's left.
    """

    activity: str = "walk"
    variant: float = 0.0
    phase: float = 0.0
    yaw_deg: float = 0.0
    pitch_deg: float = 10.0
    stride: float = 1.0
    lean_deg: float = 0.0
    head_turn_deg: float = 0.0


@dataclass(frozen=True)
class PoseDistribution:
    """Where poses are drawn from.

    Attributes:
        yaws_deg: directions that may be drawn, or None for any direction.
        yaw_spread_deg: largest distance of a drawn yaw from its entry of `yaws_deg`.
        activities: pairs (activity, weight); weights need not sum to 1.
    """

    yaws_deg: tuple[float, ...] | None = None
    yaw_spread_deg: float = 12.0
    activities: tuple[tuple[str, float], ...] = field(
        default=(("walk", 0.46), ("stand", 0.22), ("carry", 0.12), ("raise", 0.12), ("cycle", 0.08))
    )

    def __post_init__(self) -> None:
        """Check the activities and their weights."""
        unknown = [name for name, _ in self.activities if name not in ACTIVITIES]
        if unknown:
            raise ValueError(f"PoseDistribution.activities: {unknown[0]!r} is none of {', '.join(ACTIVITIES)}")
        if sum(weight for _, weight in self.activities) <= 0 or min(weight for _, weight in self.activities) < 0:
            raise ValueError("PoseDistribution.activities: weights must be >= 0 and not all 0")

    @classmethod
    def any(cls) -> "PoseDistribution":
        """Every direction and every activity."""
        return cls()

    @classmethod
    def starved(cls, seed: int, identity_index: int, neighbours: int = 2) -> "PoseDistribution":
        """The few poses in which one identity is seen: `neighbours` adjacent directions and one activity.

        Args:
            seed: seed of the world.
            identity_index: index of the identity, from 0.
            neighbours: number of adjacent directions, 45 degrees apart, between 1 and 8.
        """
        if not 1 <= neighbours <= YAW_BINS:
            raise ValueError(f"PoseDistribution.starved: neighbours is {neighbours}, must lie between 1 and {YAW_BINS}")
        rng = keyed_rng("starved", seed, identity_index)
        first = int(rng.integers(YAW_BINS))
        step = 360.0 / YAW_BINS
        yaws = tuple((first + k) % YAW_BINS * step for k in range(neighbours))
        return cls(yaws_deg=yaws, activities=((str(rng.choice(["walk", "walk", "stand"])), 1.0),))


def draw_pose(key: int | tuple[int | str, ...], distribution: PoseDistribution, pitch_deg: float | None = None) -> Pose:
    """Draw one pose.

    Args:
        key: what the draw depends on, an integer or a tuple of integers and strings.
        distribution: where to draw from.
        pitch_deg: pitch of the camera, around which the pose's pitch is drawn; None draws from 4 to 24 degrees.
    """
    rng = keyed_rng("pose", *(key if isinstance(key, tuple) else (key,)))
    names = [name for name, _ in distribution.activities]
    weights = np.array([weight for _, weight in distribution.activities], dtype=np.float64)
    activity = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    if distribution.yaws_deg is None:
        yaw = rng.uniform(0.0, 360.0)
    else:
        spread = distribution.yaw_spread_deg
        yaw = distribution.yaws_deg[int(rng.integers(len(distribution.yaws_deg)))] + rng.uniform(-spread, spread)
    pitch = rng.uniform(4.0, 24.0) if pitch_deg is None else pitch_deg + rng.uniform(-2.0, 2.0)
    return Pose(
        activity=activity,
        variant=float(rng.random()),
        phase=float(rng.random()),
        yaw_deg=float(yaw % 360.0),
        pitch_deg=float(pitch),
        stride=float(rng.uniform(0.7, 1.2)),
        lean_deg=float(rng.uniform(-2.0, 5.0)),
        head_turn_deg=float(np.clip(rng.normal(0.0, 16.0), -45.0, 45.0)),
    )


@dataclass
class _Stance:
    """Joint angles in radians per side, or a place to reach that overrides them."""

    thigh: list[float]  # forward swing
    knee: list[float]  # flexion
    leg_out: list[float]  # sideways
    arm: list[float]
    elbow: list[float]
    arm_out: list[float]
    lean: float = 0.0
    # Where the wrists go, relative to the neck in the trunk's frame as (x outwards, y up, z forward); None = angles.
    reach: list[tuple[float, float, float] | None] = field(default_factory=lambda: [None, None])


def _gait(phase: float) -> tuple[float, float]:
    """Thigh swing and knee flexion in degrees at a phase of the gait cycle; 0 is the heel strike."""
    phase %= 1.0
    thigh = 24.0 * math.cos(2 * math.pi * phase) + 4.0
    bump = math.exp(-(((phase - 0.72) / 0.12) ** 2))
    knee = 6.0 + 54.0 * bump + 10.0 * math.exp(-(((phase - 0.14) / 0.09) ** 2))
    return thigh, knee


def _walking(pose: Pose) -> _Stance:
    """Legs and swinging arms of a walk; the arms oppose the legs."""
    legs = [_gait(pose.phase), _gait(pose.phase + 0.5)]
    swing = [math.radians(thigh * pose.stride) for thigh, _ in legs]
    return _Stance(
        thigh=swing,
        knee=[math.radians(knee * min(pose.stride, 1.1)) for _, knee in legs],
        leg_out=[0.02, 0.02],
        arm=[0.85 * swing[1] - 0.06, 0.85 * swing[0] - 0.06],
        elbow=[0.25 + 0.5 * max(0.0, swing[1]), 0.25 + 0.5 * max(0.0, swing[0])],
        arm_out=[0.13, 0.13],
        lean=0.05,
    )


def _standing(pose: Pose) -> _Stance:
    """Feet apart with the weight on one leg; hands hang, rest on a hip, in pockets or are folded in front."""
    sway = 2 * math.pi * pose.phase
    stance = _Stance(
        thigh=[0.05 + 0.09 * math.sin(sway), 0.05 - 0.09 * math.sin(sway)],
        knee=[0.06 + 0.14 * max(0.0, math.cos(sway)), 0.06 + 0.14 * max(0.0, -math.cos(sway))],
        leg_out=[0.05 + 0.04 * math.cos(sway), 0.05 - 0.04 * math.sin(sway)],
        arm=[0.02 + 0.06 * math.sin(sway), 0.02 - 0.06 * math.cos(sway)],
        elbow=[0.22, 0.18],
        arm_out=[0.14, 0.14],
    )
    side = int(pose.phase * 2) % 2
    if pose.variant < 0.25:  # hands in the pockets
        stance.reach = [(0.098, -0.27, 0.05), (0.098, -0.27, 0.05)]
    elif pose.variant < 0.4:  # one hand on the hip
        stance.reach[side] = (0.088, -0.24, 0.03)
    elif pose.variant < 0.55:  # arms folded
        stance.reach = [(-0.045, -0.12, 0.125), (-0.05, -0.145, 0.105)]
    elif pose.variant < 0.7:  # reading a telephone
        stance.reach[side] = (0.03, -0.13, 0.17)
    return stance


def _carrying(pose: Pose) -> _Stance:
    """Walking or standing with a box before the belly (variant < 0.5) or one arm bent to hold something."""
    stance = _walking(pose) if pose.phase < 0.7 else _standing(Pose(phase=pose.phase, variant=0.9))
    if pose.variant < 0.5:
        stance.reach = [(0.075, -0.20, 0.17), (0.075, -0.20, 0.17)]
        stance.lean -= 0.06
    elif pose.variant < 0.75:
        stance.reach[int(pose.variant * 40) % 2] = (0.05, -0.17, 0.16)
    else:
        stance.reach = [(0.02, -0.15, 0.15), (0.03, -0.18, 0.13)]
    return stance


def _raising(pose: Pose) -> _Stance:
    """A telephone at the ear, a wave, both hands at the head, or an arm stretched forward."""
    stance = _walking(pose) if pose.phase < 0.5 else _standing(Pose(phase=pose.phase, variant=0.9))
    side = int(pose.variant * 20) % 2
    if pose.variant < 0.4:
        stance.reach[side] = (0.070, 0.075, 0.035)
    elif pose.variant < 0.6:
        stance.reach[side] = (0.165, 0.150, 0.05)
    elif pose.variant < 0.75:
        stance.reach = [(0.055, 0.145, 0.03), (0.055, 0.145, 0.03)]
    elif pose.variant < 0.9:
        stance.reach[side] = (0.09, 0.03, 0.30)
    else:
        stance.reach = [(0.075, 0.16, 0.09), (0.075, 0.16, 0.09)]
    return stance


def _cycling(pose: Pose) -> _Stance:
    """Trunk leaning to the bars; the legs are placed on the pedals by `body_joints`."""
    return _Stance([0, 0], [0, 0], [0, 0], [0.6, 0.6], [0.3, 0.3], [0.1, 0.1], lean=0.32 + 0.22 * pose.variant)


_STANCES = {"walk": _walking, "stand": _standing, "carry": _carrying, "raise": _raising, "cycle": _cycling}


def _hanging(swing: float, outward: float, sign: float) -> Vector:
    """Unit vector of a limb that hangs down, swung forward and turned outward by angles in radians."""
    cos_out = math.cos(outward)
    return np.array([sign * math.sin(outward), -cos_out * math.cos(swing), cos_out * math.sin(swing)])


def _bend(start: Vector, goal: Vector, first: float, second: float, hint: Vector) -> tuple[Vector, Vector]:
    """Middle and end joint of a two-bone limb that reaches for `goal`, bending towards `hint`."""
    line = goal - start
    distance = float(np.sqrt(line @ line))
    reach = min(max(distance, abs(first - second) + 0.01), (first + second) * 0.995)
    line = line / max(distance, 1e-6)
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    aside = hint - (hint @ line) * line
    aside = aside / max(float(np.sqrt(aside @ aside)), 1e-6)
    middle = start + along * line + math.sqrt(max(first**2 - along**2, 0.0)) * aside
    return middle, start + reach * line


def body_joints(pose: Pose, build: Build) -> dict[str, Vector]:
    """Places of joints and landmarks in the body frame, standing on the ground at the origin.

    Args:
        pose: what the body does (its yaw and pitch play no part here).
        build: proportions.

    Returns:
        Vectors (3,) named `pelvis`, `neck`, `chin`, `crown`, `nose`, and per side 0 and 1 `hip0`, `knee0`, `ankle0`,
        `heel0`, `toe0`, `shoulder0`, `elbow0`, `wrist0`, `hand0`, `eye0`, `ear0`.
    """
    stance = _STANCES[pose.activity](pose)
    lean = stance.lean + math.radians(pose.lean_deg)
    cos_lean, sin_lean = math.cos(lean), math.sin(lean)

    def trunk(x: float, y: float, z: float) -> Vector:
        """An offset in the frame of the trunk, turned by its lean."""
        return np.array([x, y * cos_lean - z * sin_lean, y * sin_lean + z * cos_lean])

    joints: dict[str, Vector] = {"pelvis": np.zeros(3)}
    _place_legs(joints, pose, stance, build)
    neck = joints["pelvis"] + trunk(0.0, TRUNK, 0.0)
    joints["neck"] = neck
    for side, sign in enumerate(SIDES):
        shoulder = neck + trunk(sign * build.shoulder, -0.027, 0.0)
        goal = stance.reach[side]
        if pose.activity == "cycle":
            wrist = np.array([sign * 0.115, BARS[0] + 0.01, BARS[1] - 0.005])
            elbow, wrist = _bend(shoulder, wrist, UPPER_ARM, FOREARM, np.array([sign * 0.6, -1.0, -0.3]))
        elif goal is not None:
            wrist = neck + trunk(sign * goal[0], goal[1], goal[2])
            raised = goal[1] > 0.0
            hint = trunk(sign * 0.9, -0.5 if raised else -0.8, 0.2 if raised else -0.8)
            elbow, wrist = _bend(shoulder, wrist, UPPER_ARM, FOREARM, hint)
        else:
            elbow = shoulder + UPPER_ARM * _hanging(stance.arm[side], stance.arm_out[side], sign)
            swing = stance.arm[side] + stance.elbow[side]
            wrist = elbow + FOREARM * _hanging(swing, stance.arm_out[side] * 0.3, sign)
        fore = (wrist - elbow) / FOREARM
        joints |= {f"shoulder{side}": shoulder, f"elbow{side}": elbow, f"wrist{side}": wrist}
        joints[f"hand{side}"] = wrist + HAND * fore
    _place_head(joints, pose, lean, build)
    return joints


def _place_legs(joints: dict[str, Vector], pose: Pose, stance: _Stance, build: Build) -> None:
    """Add hips, legs and feet, and set the height of the pelvis so that the lower foot stands on the ground."""
    thigh, shin = THIGH * build.legs, SHIN * build.legs
    for side, sign in enumerate(SIDES):
        hip = np.array([sign * build.hip, 0.0, 0.0])
        if pose.activity == "cycle":
            hip += np.array([0.0, SADDLE[0], SADDLE[1]])
            turn = 2 * math.pi * (pose.phase + 0.5 * side)
            pedal_y = CRANK[0] + CRANK_RADIUS * math.cos(turn) + 0.045
            pedal = np.array([sign * 0.055, pedal_y, CRANK[1] + CRANK_RADIUS * math.sin(turn) - 0.04])
            knee, ankle = _bend(hip, pedal, thigh, shin, np.array([sign * 0.12, 0.3, 1.0]))
            sole = np.array([0.0, -0.12, 1.0])
        else:
            swing = stance.thigh[side]
            knee = hip + thigh * _hanging(swing, stance.leg_out[side], sign)
            swing -= stance.knee[side]
            ankle = knee + shin * _hanging(swing, stance.leg_out[side] * 0.4, sign)
            tilt = min(0.35, swing + 0.05) if swing > 0 else max(swing * 1.1, -0.9)
            sole = np.array([sign * 0.16, math.sin(tilt), math.cos(tilt)])
        heel = ankle + np.array([0.0, -0.018, 0.0]) - 0.022 * sole
        joints |= {f"hip{side}": hip, f"knee{side}": knee, f"ankle{side}": ankle}
        joints |= {f"heel{side}": heel, f"toe{side}": heel + 0.108 * sole}
    if pose.activity == "cycle":
        joints["pelvis"] = np.array([0.0, SADDLE[0], SADDLE[1]])
        return
    lowest = min(float(joints[name][1]) for name in ("heel0", "heel1", "toe0", "toe1")) - 0.020
    for name in joints:
        joints[name] = joints[name] - np.array([0.0, lowest, 0.0])


def _place_head(joints: dict[str, Vector], pose: Pose, lean: float, build: Build) -> None:
    """Add the head, which follows a part of the trunk's lean and turns by the pose's head turn."""
    tilt = 0.35 * lean + (0.12 if pose.activity == "stand" and 0.55 <= pose.variant < 0.7 else 0.0)
    turn = math.radians(pose.head_turn_deg)
    cos_tilt, sin_tilt = math.cos(tilt), math.sin(tilt)
    up = np.array([0.0, cos_tilt, sin_tilt])
    forward = np.array([math.sin(turn), -sin_tilt * math.cos(turn), cos_tilt * math.cos(turn)])
    left = np.array([math.cos(turn), 0.0, -math.sin(turn)])
    base = joints["neck"] + up * 0.048 + np.array([0.0, 0.0, 0.008])
    size = build.head
    joints |= {"chin": base, "crown": base + up * 0.133 * size, "head_forward": forward, "head_left": left}
    joints["nose"] = base + size * (up * 0.050 + forward * 0.056)
    for side, sign in enumerate(SIDES):
        joints[f"eye{side}"] = base + size * (up * 0.071 + forward * 0.042 + left * sign * 0.018)
        joints[f"ear{side}"] = base + size * (up * 0.060 + left * sign * 0.044 - forward * 0.004)
