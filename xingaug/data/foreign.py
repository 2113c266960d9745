"""Annotation files of other programs: JSON of OpenPose, COCO and AlphaPose, and .npz of other layouts."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from xingaug.data.annotations import Annotations, annotations_from_arrays, read_arrays, read_patn_csv
from xingaug.data.findings import Report
from xingaug.data.layouts import LAYOUTS, joint_names, to_joints18
from xingaug.data.lsp import read_lsp_mat
from xingaug.errors import BadInput
from xingaug.inputs import read_json
from xingaug.progress import ProgressBar

OPENPOSE_SUFFIX = "_keypoints.json"
_OPENPOSE_LAYOUTS = {18: "openpose18", 25: "body25"}
_COCO_LAYOUTS = {17: "coco17"}
_ALPHAPOSE_LAYOUTS = {17: "coco17", 26: "halpe26"}
_LARGEST_PX = 1e6  # beyond any image; comparing with it also rejects NaN

SizesOf = Callable[[Sequence[str]], list[tuple[int, int] | None]]
"""(height, width) of images by their names in an annotation file; None for an image that does not exist."""

# One detected person: its score, and (J, 3) float32 x, y, confidence.
_Person = tuple[float, np.ndarray]


def read_openpose_json(folder: Path, sizes_of: SizesOf | None = None) -> tuple[Annotations, Report]:
    """Reads the output folder of OpenPose's `--write_json`, with a file `<image stem>_keypoints.json` for each image.

    The image is `<image stem>.jpg`. A person has 18 or 25 joints, depending on the length of `pose_keypoints_2d` (54 or
    75 numbers x, y, confidence). Pixels count from 0 and are used unchanged; confidences are clipped to [0, 1]. Of
    several persons the one with the largest sum of confidences is kept: the files do not state the size of the image.
    If no coordinate in any file exceeds 1, they were written with `--keypoint_scale 3` (0 to 1, from the centre of the
    first pixel to that of the last), or, if some are negative, 4 (-1 to 1), and are scaled by the images' sizes.

    Args:
        folder: the folder of these files.
        sizes_of: the images' sizes, needed for those scales.

    Raises:
        BadInput: no such folder, no such file in it, a file that is not JSON or has other contents, no person, or
            scaled coordinates without the sizes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise BadInput(f"{folder}: {what}; needed a folder of <image stem>{OPENPOSE_SUFFIX}")
    files = sorted(file for file in folder.iterdir() if file.name.endswith(OPENPOSE_SUFFIX))
    if not files:
        raise BadInput(f"{folder}: holds no *{OPENPOSE_SUFFIX}; needed one for each image")
    persons: dict[str, list[_Person]] = {}
    for file in ProgressBar(files, "OpenPose", unit="file"):
        candidates: list[_Person] = []
        for index, person in enumerate(_list(read_json(file, "annotation file"), "people", str(file))):
            where = f"{file}: people[{index}]"
            values = _value(person, "pose_keypoints_2d", where)
            candidates.append((0.0, _joints(values, _OPENPOSE_LAYOUTS, f"{where}: pose_keypoints_2d")))
        persons[file.name.removesuffix(OPENPOSE_SUFFIX) + ".jpg"] = candidates
    annotations, report = _annotations(folder, persons, _OPENPOSE_LAYOUTS, f"OpenPose JSON {folder.name}")
    seen = np.abs(annotations.xy[annotations.visibility > 0])
    if not seen.size or seen.max() > 1:
        return annotations, report
    return _from_shares(folder, annotations, report, sizes_of)


def read_coco_json(path: Path, sizes_of: SizesOf | None = None) -> tuple[Annotations, Report]:
    """Reads COCO keypoint JSON, hand-annotated or from a detector.

    Its `images` have `id`, `file_name` and optionally `height` and `width`, the frame of the joints: if the image file
    has another size but the same aspect ratio, joints are scaled; with another aspect ratio, they are dropped. Its
    `annotations` have `image_id`, `keypoints` (51 numbers x, y, v) and optionally `score`. Pixels count from 0 and are
    used unchanged. v is clipped to [0, 1]: COCO's 0 is a missing joint, 1 (hidden) and 2 (visible) are present ones; a
    detector's v is a confidence. Of several persons in an image the one with the highest score is kept; if scores are
    equal or absent, the one with the largest sum of v.

    Args:
        path: the file.
        sizes_of: the sizes of the image files; None uses pixels unchanged.

    Raises:
        BadInput: no such file, not JSON, other contents, other joints than COCO's 17, an annotation of an image that is
            not listed, or no person.
    """
    path = Path(path)
    data = read_json(path, "annotation file")
    names = _coco_images(data, path)
    annotations = _list(data, "annotations", str(path))
    _require_coco_joints(data, path)
    persons: dict[str, list[_Person]] = {}
    for index, entry in enumerate(annotations):
        where = f"{path}: annotations[{index}]"
        image = _id(_value(entry, "image_id", where), f"{where}: image_id")
        if image not in names:
            raise BadInput(f"{where}: image_id {repr(image)[:40]} is the id of none of the {len(names)} images")
        joints = _joints(_value(entry, "keypoints", where), _COCO_LAYOUTS, f"{where}: keypoints")
        persons.setdefault(names[image], []).append((_score(entry, where), joints))
    chosen, report = _annotations(path, persons, _COCO_LAYOUTS, f"COCO JSON {path.name}")
    return _in_frames(path, chosen, report, _coco_frames(data, names), sizes_of), report


def read_alphapose_json(path: Path, sizes_of: SizesOf | None = None) -> tuple[Annotations, Report]:
    """Reads AlphaPose's list of results in its default format, `alphapose-results.json`.

    An entry is a person: `image_id`, the image's file name, optionally with folders; `keypoints`, 51 numbers x, y,
    confidence of COCO's 17 joints or 78 of Halpe's 26; and `score`, the person's score, which may exceed 1. Pixels
    count from 0 and are used unchanged; confidences, which exceed 1 with some of its models, are clipped to [0, 1]. Of
    several persons in an image the one with the highest score is kept. Images without a person are not in the list.

    Args:
        path: the file.
        sizes_of: not used; the format has no image sizes.

    Raises:
        BadInput: no such file, not JSON, its formats `cmu` and `open`, other joints or contents, or no person.
    """
    path = Path(path)
    entries = read_json(path, "annotation file")
    if not isinstance(entries, list):
        what = "an object, as AlphaPose's --format cmu and open write" if isinstance(entries, dict) else "no list"
        raise BadInput(f"{path}: {what}; needed the list that it writes without --format")
    persons: dict[str, list[_Person]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: [{index}]"
        name = _image_name(_value(entry, "image_id", where), f"{where}: image_id")
        joints = _joints(_value(entry, "keypoints", where), _ALPHAPOSE_LAYOUTS, f"{where}: keypoints")
        persons.setdefault(name, []).append((_score(entry, where), joints))
    return _annotations(path, persons, _ALPHAPOSE_LAYOUTS, f"AlphaPose JSON {path.name}")


def read_any_npz(path: Path, sizes_of: SizesOf | None = None) -> tuple[Annotations, Report]:
    """Reads an annotation .npz: the native one, or `names` (N,) with `xy` (N, J, 2) in another joint layout.

    The other kind may hold `joints` (J,), the names of its joints in their order (see `layouts.joint_names`); without
    them, 14 joints are read as Leeds Sports Pose. Its pixels count from 1, as in MATLAB, and are shifted by -1. It may
    hold `visibility` (N, J) in [0, 1]; without it, joints at (0, 0), outside the 1-based grid, are missing.

    Args:
        path: the file.
        sizes_of: not used; the format has no image sizes.

    Raises:
        BadInput: no such file, not an .npz, or contents that fit neither kind.
    """
    path = Path(path)
    arrays = read_arrays(path)
    other = "joints" in arrays or ("xy" in arrays and arrays["xy"].ndim == 3 and arrays["xy"].shape[1] == 14)
    return (_other_npz(path, arrays) if other else annotations_from_arrays(path, arrays)), Report()


READERS: dict[str, Callable[[Path, SizesOf | None], tuple[Annotations, Report]]] = {
    "patn-csv": lambda path, _: read_patn_csv(path, frame=None),  # the size is read from the images
    "openpose-json": read_openpose_json,
    "coco-json": read_coco_json,
    "alphapose-json": read_alphapose_json,
    "lsp-mat": lambda path, _: (read_lsp_mat(path), Report()),
    "npz": read_any_npz,
}
"""The reader of each format of `xingaug annotate --from`."""


def _other_npz(path: Path, arrays: dict[str, np.ndarray]) -> Annotations:
    lacking, strange = {"names", "xy"} - set(arrays), set(arrays) - {"names", "xy", "joints", "visibility", "source"}
    if lacking or strange:
        raise BadInput(f"{path}: holds {', '.join(sorted(arrays))}; needed names, xy and at most joints, visibility")
    try:
        layout = joint_names([str(n) for n in np.atleast_1d(arrays["joints"])] if "joints" in arrays else "lsp14")
        names, pixels = arrays["names"], arrays["xy"]
        if pixels.dtype.kind not in "iuf" or pixels.shape != (*names.shape, len(layout), 2):
            needed = f"numbers of shape {(*names.shape, len(layout), 2)}, {len(layout)} joints for each name"
            raise BadInput(f"xy: {pixels.dtype} of shape {pixels.shape}, needed {needed}")
        visibility = arrays.get("visibility", (pixels != 0).any(-1))
        if visibility.shape != pixels.shape[:-1] or visibility.dtype.kind not in "biuf":
            needed = f"numbers of shape {pixels.shape[:-1]}"
            raise BadInput(f"visibility: {visibility.dtype} of shape {visibility.shape}, needed {needed}")
        for row, joint in np.argwhere((visibility > 0) & ~(np.abs(pixels.astype(np.float64)) < _LARGEST_PX).all(-1)):
            x, y = pixels[row, joint].tolist()
            raise BadInput(f"{names[row]}: {layout[joint]} at ({x}, {y}), needed pixels or visibility 0")
        keypoints = to_joints18(pixels.astype(np.float64) - 1, visibility, layout)
        source = f"{path.name}, {len(layout)} joints"
        return Annotations(names, keypoints.xy.numpy(), keypoints.visibility.numpy(), source)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def _annotations(
    path: Path, persons: dict[str, list[_Person]], layouts: dict[int, str], source: str
) -> tuple[Annotations, Report]:
    """One person per image, in 18 joints, in the order of `persons`."""
    report = Report()
    chosen: dict[str, np.ndarray] = {}
    for name, candidates in persons.items():
        seen = [(score, float(joints[:, 2].sum()), joints) for score, joints in candidates if joints[:, 2].any()]
        if not seen:
            report.without_person.add(name)
            continue
        if len(seen) > 1:
            report.several_persons.add(name)
        chosen[name] = max(seen, key=lambda person: person[:2])[2]
    if not chosen:
        raise BadInput(f"{path}: shows no person in {len(persons)} annotated images")
    xy = np.zeros((len(chosen), 18, 2), np.float32)
    visibility = np.zeros((len(chosen), 18), np.float32)
    counts = np.array([len(joints) for joints in chosen.values()])
    for count, layout in layouts.items():
        rows = np.flatnonzero(counts == count)
        points = np.array([joints for joints in chosen.values() if len(joints) == count]).reshape(len(rows), count, 3)
        keypoints = to_joints18(points[..., :2], points[..., 2], layout)
        xy[rows], visibility[rows] = keypoints.xy.numpy(), keypoints.visibility.numpy()
    return Annotations(np.array(list(chosen)), xy, visibility, source), report


def _from_shares(
    where: Path, annotations: Annotations, report: Report, sizes_of: SizesOf | None
) -> tuple[Annotations, Report]:
    """Scales coordinates, 0 or -1 at the first pixel and 1 at the last, to pixels; drops names without an image."""
    if sizes_of is None:
        raise BadInput(
            f"{where}: no coordinate exceeds 1, as written with --keypoint_scale 3 and 4; needed the images' sizes"
        )
    low = -1.0 if (annotations.xy[annotations.visibility > 0] < 0).any() else 0.0
    sizes = sizes_of(annotations.names.tolist())
    kept = np.array([size is not None for size in sizes])
    for name, size in zip(annotations.names.tolist(), sizes, strict=True):
        (report.without_image if size is None else report.scaled).add(name)
    last = np.array([(size[1] - 1, size[0] - 1) for size in sizes if size is not None], np.float32).reshape(-1, 1, 2)
    xy = (annotations.xy[kept] - low) / (1 - low) * last
    return Annotations(annotations.names[kept], xy, annotations.visibility[kept], annotations.source), report


def _in_frames(
    path: Path,
    annotations: Annotations,
    report: Report,
    frames: dict[str, tuple[int, int]],
    sizes_of: SizesOf | None,
) -> Annotations:
    """Scales joints from the `frames` (height, width) stated in a file to the sizes of the image files."""
    names = annotations.names.tolist()
    sizes = [None] * len(names) if sizes_of is None else sizes_of(names)
    xy, kept = annotations.xy.copy(), np.ones(len(names), bool)
    for row, (name, size) in enumerate(zip(names, sizes, strict=True)):
        frame = frames.get(name)
        if size is None or frame is None or size == frame:
            continue
        scale = np.array([size[1] / frame[1], size[0] / frame[0]])
        # The same aspect ratio, up to the rounding of the smaller image's sides.
        if abs(scale[0] / scale[1] - 1) * min(*size, *frame) <= 1:
            xy[row] = (xy[row] + 0.5) * scale - 0.5
            report.scaled.add(name)
        else:
            kept[row] = False
            report.other_frame.add(f"{name} ({size[0]}x{size[1]}, the file says {frame[0]}x{frame[1]})")
    if not kept.any():
        raise BadInput(f"{path}: every image has another shape than the file says: {report.other_frame.examples[0]}")
    return Annotations(annotations.names[kept], xy[kept], annotations.visibility[kept], annotations.source)


def _coco_images(data: Any, path: Path) -> dict[int | str, str]:
    """The file names by id."""
    names: dict[int | str, str] = {}
    taken: set[str] = set()
    for index, entry in enumerate(_list(data, "images", str(path))):
        where = f"{path}: images[{index}]"
        image = _id(_value(entry, "id", where), f"{where}: id")
        name = _image_name(_value(entry, "file_name", where), f"{where}: file_name")
        if image in names or name in taken:
            raise BadInput(
                f"{where}: id {repr(image)[:40]} or name {name[:80]!r} is that of an earlier image, needed each once"
            )
        names[image] = name
        taken.add(name)
    return names


def _coco_frames(data: Any, names: dict[int | str, str]) -> dict[str, tuple[int, int]]:
    """(height, width) by file name, for the images whose size the file states."""
    stated = {names[entry["id"]]: (entry.get("height"), entry.get("width")) for entry in data["images"]}
    return {
        name: frame
        for name, frame in stated.items()
        if all(type(side) is int and 0 < side < _LARGEST_PX for side in frame)
    }


def _image_name(value: Any, where: str) -> str:
    """A path with forward slashes."""
    name = PurePosixPath(value.replace("\\", "/")) if isinstance(value, str) else PurePosixPath()
    if not name.name or "\0" in name.name:
        raise BadInput(f"{where}: {_shown(value)}, needed the file name of an image")
    return name.as_posix()


def _require_coco_joints(data: Any, path: Path) -> None:
    """Refuses a file that states other joints than COCO's."""
    categories = data.get("categories", [])
    for index, entry in enumerate(categories if isinstance(categories, list) else []):
        stated = entry.get("keypoints") if isinstance(entry, dict) else None
        if isinstance(stated, list) and tuple(stated) != LAYOUTS["coco17"]:
            where = f"{path}: categories[{index}]: keypoints"
            raise BadInput(f"{where}: not COCO's 17 joints; needed {', '.join(LAYOUTS['coco17'])}")


def _joints(values: Any, counts: Collection[int], where: str) -> np.ndarray:
    """(J, 3) float32 of a flat list x, y, confidence, x, ...; confidences are clipped to [0, 1]."""
    needed = f"{' or '.join(str(3 * count) for count in counts)} numbers: x, y, confidence of each joint"
    if not isinstance(values, list) or len(values) not in {3 * count for count in counts}:
        what = f"{len(values)} entries" if isinstance(values, list) else f"{str(values)[:40]!r}"
        raise BadInput(f"{where}: {what}, needed {needed}")
    for index, value in enumerate(values):
        if not _is_number(value):
            raise BadInput(f"{where}[{index}]: {_shown(value)}, needed a finite number")
    joints = np.array(values, np.float32).reshape(-1, 3)
    joints[:, 2] = joints[:, 2].clip(0, 1)
    return joints


def _score(entry: dict[str, Any], where: str) -> float:
    """The score of a person; 0 if the file has none."""
    score = entry.get("score", 0)
    if not _is_number(score):
        raise BadInput(f"{where}: score: {_shown(score)}, needed a finite number")
    return float(score)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_PX


def _shown(value: Any) -> str:
    """A short form of any value, for error messages."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(str(value)[:40])


def _value(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        what = f"has no key '{key}'" if isinstance(entry, dict) else f"{_shown(entry)}"
        raise BadInput(f"{where}: {what}; needed an object with '{key}'")
    return entry[key]


def _list(entry: Any, key: str, where: str) -> list[Any]:
    value = _value(entry, key, where)
    if not isinstance(value, list):
        raise BadInput(f"{where}: {key}: {_shown(value)}, needed a list")
    return value


def _id(value: Any, where: str) -> int | str:
    if not isinstance(value, int | str):
        raise BadInput(f"{where}: {_shown(value)}, needed a number or a text")
    return value
