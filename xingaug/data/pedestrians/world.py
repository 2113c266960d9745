"""Pedestrian worlds: plans a dataset, writes it in Market-1501 layout, and recovers each image's parameters."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.inputs import read_json, read_text

from .body import Pose, PoseDistribution, draw_pose
from .identity import Identity, draw_identity
from .keyed import keyed_rng
from .render import SIZE, Rendered, render
from .scene import CAMERAS, Background, Camera, Floats, Image, draw_background, make_camera
from .workers import spread

_FILE = "world.json"
_MOST_BYTES = 100_000
VERSION = 1  # of the drawing; raised when the same seed would give other images
JPEG_QUALITY = 95
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
_NAME = re.compile(r"(\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")

Request = tuple[Identity, Pose, Camera, Background]


@dataclass(frozen=True)
class PlannedImage:
    """One image of a world before it is drawn."""

    name: str
    split: str  # folder
    identity_index: int
    image_index: int  # among the images of the identity
    camera_index: int


@dataclass(frozen=True)
class WorldSummary:
    """What `write_world` wrote: the folder and the number of images and identities per split."""

    root: Path
    train_images: int
    query_images: int
    gallery_images: int
    train_identities: int
    test_identities: int


@dataclass(frozen=True)
class RenderedBatch:
    """Many images, stacked; see `Rendered` for the meaning of each array.

    Attributes:
        images: (N, 128, 64, 3) uint8 RGB.
        xy: (N, 18, 2) float32.
        visibility: (N, 18) float32.
        masks: (N, 128, 64) uint8.
    """

    images: Image
    xy: Floats
    visibility: Floats
    masks: Image


class World:
    """A written world: every image's parameters, recomputed from the seed.

    Args:
        root: folder of a written world (with its `world.json`).

    Raises:
        BadInput: there is no readable `world.json` of this version.
    """

    def __init__(self, root: Path | str) -> None:
        """Read `world.json`."""
        self.root = Path(root)
        path = self.root / _FILE
        parameters = read_json(path, "world that `xingaug world` wrote", _MOST_BYTES)
        if not isinstance(parameters, dict) or parameters.get("version") != VERSION:
            raise BadInput(f"{path}: is of another version than {VERSION}; write it again")
        try:
            numbers = [parameters[key] for key in ("seed", "identities", "images_per_identity")]
            if not all(type(number) is int for number in numbers):
                raise TypeError("a number that is not an integer")
            self.seed, self.identities, self.images_per_identity = numbers
            _require_plannable(self.identities, self.images_per_identity, self.seed)
            self.train_poses = _distribution(parameters["train_poses"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"{path}: does not describe a world ({error}); write it again") from None

    def names(self, split: str | None = None) -> list[str]:
        """File names of all images, or of those in one of the folders `bounding_box_train`, `query` and so on."""
        plans = plan_world(self.identities, self.images_per_identity, self.seed)
        return [plan.name for plan in plans if split is None or plan.split == split]

    def request(self, name: str) -> Request:
        """Identity, pose, camera and background of an image.

        Args:
            name: its file name, with or without a folder.

        Raises:
            BadInput: the world has no such image.
        """
        name = Path(name).name
        found = _NAME.fullmatch(name)
        index = int(found[1]) - 1 if found else -1
        if 0 <= index < self.identities:
            for plan in _plan_identity(index, self.identities, self.images_per_identity, self.seed):
                if plan.name == name:
                    return request_of(plan, self.identities, self.seed, self.train_poses)
        raise BadInput(f"{name}: the world {self.root} has no image of this name")

    def render(self, name: str) -> Rendered:
        """The image of this name, before JPEG compression."""
        return render(*self.request(name))

    def render_in_pose(self, name: str, pose_name: str) -> Rendered:
        """The ground truth for pose transfer: person, camera and background of one image in the pose of another.

        Args:
            name: file name of the image that gives person, camera and background.
            pose_name: file name of the image that gives the pose.

        Raises:
            BadInput: the world has no such image.
        """
        identity, _, camera, background = self.request(name)
        return render(identity, self.request(pose_name)[1], camera, background)


def load_world(root: Path | str) -> World:
    """The parameters of a written world; see `World`."""
    return World(root)


def _distribution(parameters: Any) -> PoseDistribution | str:
    """A pose distribution read back from JSON."""
    if isinstance(parameters, str):
        return parameters
    yaws = parameters["yaws_deg"]
    activities = tuple((str(name), float(weight)) for name, weight in parameters["activities"])
    return PoseDistribution(None if yaws is None else tuple(yaws), float(parameters["yaw_spread_deg"]), activities)


def _plan_identity(index: int, identities: int, count: int, seed: int) -> list[PlannedImage]:
    """The images of one identity: its cameras, frame numbers and folders."""
    rng = keyed_rng("plan", seed, index)
    cameras = rng.permutation(CAMERAS)[: int(rng.integers(2, min(CAMERAS, count) + 1))].tolist()
    queries = min(len(cameras), max(1, count // 3))
    frame = int(rng.integers(0, 60_000))
    plans = []
    for image in range(count):
        camera = cameras[image % len(cameras)]
        frame += int(rng.integers(5, 60))
        name = f"{index + 1:04d}_c{camera + 1}s{1 + frame // 20_000}_{frame:06d}_{int(rng.integers(0, 4)):02d}.jpg"
        split = TRAIN if index < identities // 2 else QUERY if image < queries else GALLERY
        plans.append(PlannedImage(name, split, index, image, camera))
    return plans


def plan_world(identities: int, images_per_identity: int, seed: int) -> list[PlannedImage]:
    """All images of a world, by identity; the first half of the identities is for training, the second for testing.

    An identity appears under two to six cameras. One image per camera of a test identity, but at most a third of its
    images, is a query; each query has an image from another camera in the gallery.

    Raises:
        BadInput: fewer than 2 or more than 9999 identities, or fewer than 2 or more than 300 images for each.
    """
    _require_plannable(identities, images_per_identity, seed)
    plans = (_plan_identity(index, identities, images_per_identity, seed) for index in range(identities))
    return [plan for group in plans for plan in group]


def _require_plannable(identities: int, images_per_identity: int, seed: int) -> None:
    if not 2 <= identities <= 9999:
        raise BadInput(f"identities: {identities} cannot be planned, must lie between 2 and 9999")
    if not 2 <= images_per_identity <= 300:
        raise BadInput(f"images_per_identity: {images_per_identity} cannot be planned, must lie between 2 and 300")
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed: {seed} cannot be used, must be 0 or more, and below 2^63")


def request_of(plan: PlannedImage, identities: int, seed: int, train_poses: PoseDistribution | str) -> Request:
    """Identity, pose, camera and background of a planned image.

    Args:
        plan: the image.
        identities: number of identities of the world.
        seed: seed of the world.
        train_poses: a distribution, "any" or "starved", for the training identities; the others take any pose.
    """
    poses = PoseDistribution.any()
    if plan.identity_index < identities // 2:
        if isinstance(train_poses, PoseDistribution):
            poses = train_poses
        elif train_poses == "starved":
            poses = PoseDistribution.starved(seed, plan.identity_index)
    camera = make_camera(plan.camera_index, seed)
    pose = draw_pose((seed, plan.identity_index, plan.image_index), poses, camera.pitch_deg)
    background = draw_background(seed, plan.identity_index, camera, plan.image_index)
    return draw_identity(seed, plan.identity_index), pose, camera, background


def _write_images(
    out: Path, identities: int, seed: int, train_poses: PoseDistribution | str, plans: list[PlannedImage]
) -> list[tuple[Floats, Floats]]:
    """Draw and write some images with their masks; a job for `spread`."""
    keypoints = []
    for plan in plans:
        rendered = render(*request_of(plan, identities, seed, train_poses))
        path = out / plan.split / plan.name
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        path.write_bytes(cv2.imencode(".jpg", rendered.image[..., ::-1], options)[1].tobytes())
        path.with_suffix(".png").write_bytes(cv2.imencode(".png", rendered.mask)[1].tobytes())
        keypoints.append((rendered.xy, rendered.visibility))
    return keypoints


def write_world(
    out: Path | str,
    identities: int,
    images_per_identity: int,
    seed: int,
    train_poses: PoseDistribution | str = "any",
    workers: int | None = None,
    progress: bool = True,
) -> WorldSummary:
    """Write a pedestrian world in Market-1501 layout.

    Beside each image `NAME.jpg` is the mask of the person, `NAME.png`. `annotations.npz` holds the keypoints,
    `world.json` the parameters of the world: the same values give the same bytes, whatever the number of workers.

    Args:
        out: folder to write; must not exist, be empty, or already hold this world, which is then left unchanged. It
            appears under this name only when complete.
        identities: number of people, 2 to 9999; the first half goes to the training split.
        images_per_identity: images of each, 2 to 300.
        seed: seed of the world, 0 or more.
        train_poses: poses of the training identities: "any", "starved" (each seen in two neighbouring directions and
            one activity only) or a distribution. Test identities take any pose.
        workers: number of processes; None for one per core.
        progress: show a progress bar when on a terminal.

    Raises:
        BadInput: `out` holds something already, or a number lies outside its range.
    """
    out = Path(out)
    if isinstance(train_poses, str) and train_poses not in ("any", "starved"):
        raise BadInput(f"train_poses: {train_poses!r} is not known, must be any or starved")
    plans = plan_world(identities, images_per_identity, seed)
    parameters = {
        "version": VERSION,
        "seed": seed,
        "identities": identities,
        "images_per_identity": images_per_identity,
        "train_poses": train_poses if isinstance(train_poses, str) else asdict(train_poses),
    }
    described = json.dumps(parameters, indent=2) + "\n"
    if not _is_written(out, described):
        with atomic_directory(out) as folder:
            for split in (TRAIN, QUERY, GALLERY):
                (folder / split).mkdir()
            shared = (folder, identities, seed, train_poses)
            label = "pedestrian world" if progress else None
            chunks = spread(_write_images, shared, plans, workers, progress=label)
            keypoints = [pair for chunk in chunks for pair in chunk]
            _write_annotations(folder / "annotations.npz", [plan.name for plan in plans], keypoints)
            (folder / _FILE).write_text(described, encoding="utf-8")
    counts = {split: sum(plan.split == split for plan in plans) for split in (TRAIN, QUERY, GALLERY)}
    train = identities // 2
    return WorldSummary(out, counts[TRAIN], counts[QUERY], counts[GALLERY], train, identities - train)


def _is_written(out: Path, described: str) -> bool:
    """Whether a folder holds the world of this description; a written world is always complete."""
    try:
        return read_text(out / _FILE, "world", _MOST_BYTES) == described
    except BadInput:
        return False


def _write_annotations(path: Path, names: list[str], keypoints: list[tuple[Floats, Floats]]) -> None:
    """Write the keypoints of all images."""
    from xingaug.data.annotations import write_npz  # imports torch, which drawing does without

    xy = np.stack([places for places, _ in keypoints])
    write_npz(path, names, xy, np.stack([seen for _, seen in keypoints]), source="pedestrian world, exact")


def _render_requests(requests: list[Request]) -> list[Rendered]:
    """Render some requests; a job for `spread`."""
    return [render(*request) for request in requests]


def render_many(requests: Sequence[Request], workers: int | None = None, progress: bool = False) -> RenderedBatch:
    """Render many images in memory.

    Args:
        requests: (identity, pose, camera, background) of each image.
        workers: number of processes; None for one per core.
        progress: show a progress bar when on a terminal.
    """
    label = "rendering" if progress else None
    chunks = spread(_render_requests, (), requests, workers, chunk=32, progress=label)
    images = [rendered for chunk in chunks for rendered in chunk]
    height, width = SIZE

    def stacked(arrays: list[NDArray[Any]], shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        """All arrays along a new first axis, also when there are none."""
        return np.stack(arrays) if arrays else np.zeros((0, *shape), dtype=dtype)

    return RenderedBatch(
        images=stacked([one.image for one in images], (height, width, 3), np.uint8),
        xy=stacked([one.xy for one in images], (18, 2), np.float32),
        visibility=stacked([one.visibility for one in images], (18,), np.float32),
        masks=stacked([one.mask for one in images], (height, width), np.uint8),
    )


def draw_pairs(
    count: int, seed: int, identities: int = 1000, poses: PoseDistribution | None = None
) -> list[tuple[Request, Request]]:
    """Source and target requests for training a generator: two poses of one person, all else equal.

    Args:
        count: number of pairs.
        seed: key of the draws; the people are those of a world with this seed.
        identities: number of people to draw from.
        poses: where the poses come from; None for any.
    """
    poses = PoseDistribution.any() if poses is None else poses
    pairs = []
    for index in range(count):
        rng = keyed_rng("pair", seed, index)
        person = int(rng.integers(identities))
        camera = make_camera(int(rng.integers(CAMERAS)), seed)
        background = replace(draw_background(seed, person, camera, index), occluder="none")
        identity = draw_identity(seed, person)
        first, second = (draw_pose(("pair", seed, index, k), poses, camera.pitch_deg) for k in (0, 1))
        pairs.append(((identity, first, camera, background), (identity, second, camera, background)))
    return pairs
