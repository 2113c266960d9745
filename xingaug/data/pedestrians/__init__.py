"""The pedestrian world: procedural people before six cameras, with exact keypoints and masks.

Sampling (`draw_identity`, `draw_pose`, `make_camera`, `draw_background`) is separate from rendering (`render`), so that
any person can be rendered in any pose and any camera. `write_world` writes a whole dataset.
"""

from .body import ACTIVITIES, Build, Pose, PoseDistribution, draw_pose
from .identity import Identity, draw_identity
from .render import SIZE, Rendered, render
from .scene import CAMERAS, OCCLUDERS, Background, Camera, draw_background, make_camera
from .world import (
    RenderedBatch,
    Request,
    World,
    WorldSummary,
    draw_pairs,
    load_world,
    plan_world,
    render_many,
    write_world,
)

__all__ = [
    "ACTIVITIES",
    "CAMERAS",
    "OCCLUDERS",
    "SIZE",
    "Background",
    "Build",
    "Camera",
    "Identity",
    "Pose",
    "PoseDistribution",
    "Rendered",
    "RenderedBatch",
    "Request",
    "World",
    "WorldSummary",
    "draw_background",
    "draw_identity",
    "draw_pairs",
    "draw_pose",
    "load_world",
    "make_camera",
    "plan_world",
    "render",
    "render_many",
    "write_world",
]
