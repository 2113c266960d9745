"""A validation split: training identities that are held out and tested on, to choose settings without the test set."""

from pathlib import Path

import numpy as np

from reid_integration.arms import MADE_OF, facts_of, write_annotations_of
from xingaug.data.market1501 import FOLDERS, read_split
from xingaug.data.split import Split, SplitName
from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.offline.target import copy_or_link, require_linkable
from xingaug.poses.draws import keyed_uniform
from xingaug.runs import require_same_or_write


def write_validation(source: Path, out: Path, share: float, annotations: Path | None = None) -> Path:
    """Writes a dataset whose query and gallery are training identities of another one, as hard links.

    The test images of `source` are not used. Synthetic images of the held-out identities are left out.

    Args:
        source: a dataset in Market-1501 layout.
        out: the new folder, or an earlier one of the same call.
        share: of the training identities, held out, in (0, 1); at least two, and two stay.
        annotations: keypoints of the training images; None is annotations.npz in `source`, if there is one.

    Returns:
        `out`, in which annotations.npz holds the keypoints of all its images that have any.

    Raises:
        BadInput: unreadable dataset or annotations, fewer than four identities, no held-out identity that two cameras
            saw, or an `out` of other images or keypoints.
    """
    require_linkable([source / FOLDERS["train"]], out)
    train = read_split(source, "train")
    beside = source / "annotations.npz"
    keypoints = annotations or (beside if beside.is_file() else None)
    made_of = {"share": share, **facts_of(train, keypoints)}
    if out.exists():
        require_same_or_write(out / MADE_OF, made_of, "remove the folder, and it is written again")
        return out
    splits = _splits(source, train, share)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(out) as folder:
        if keypoints is not None:
            write_annotations_of(np.concatenate([split.names for split in splits.values()]), keypoints, folder)
        for part, split in splits.items():
            for index in range(len(split)):
                copy_or_link(split.path(index), folder / FOLDERS[part] / str(split.names[index]), link=True)
        require_same_or_write(folder / MADE_OF, made_of, "")
    return out


def _splits(source: Path, train: Split, share: float) -> dict[SplitName, Split]:
    if len(np.unique(train.pids)) < 4:
        raise BadInput(f"validation: {source} has {len(np.unique(train.pids))} training identities, needed at least 4")
    is_held_out = held_out_rows(train.pids, share)
    tested = train.select(is_held_out & ~train.synthetic)
    is_query = query_rows(tested)
    if not is_query.any():
        raise BadInput(f"validation: {source}: no held-out identity was seen by two cameras; hold out more")
    return {
        "train": train.select(~is_held_out),
        "query": tested.select(is_query),
        "gallery": tested.select(~is_query),
    }


def held_out_rows(pids: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the images of the held-out identities, drawn by identity.

    Args:
        pids: (N,) identities, at least four of them.
        share: of the identities, in (0, 1); at least two are held out, and two are not.
    """
    people = np.unique(pids)
    order = np.argsort(keyed_uniform(0, 0, [str(pid) for pid in people.tolist()], "validation"))
    count = min(max(2, round(share * len(people))), len(people) - 2)
    return np.isin(pids, people[order[:count]])


def query_rows(split: Split) -> np.ndarray:
    """(N,) bool: one image of each identity and camera, drawn by name, as in Market-1501's query.

    No query is taken whose person would be left in the gallery by its own camera alone, where it must not be found.
    """
    draws = keyed_uniform(0, 0, split.names.tolist(), "query")
    chosen = np.zeros(len(split), bool)
    for pid in np.unique(split.pids):
        of_person = split.pids == pid
        cameras, counts = np.unique(split.camids[of_person], return_counts=True)
        stays = cameras[counts > 1]  # cameras that leave an image in the gallery
        if len(stays) == 0:
            stays = cameras[:1]
        for camera in cameras:
            if len(stays) == 1 and camera == stays[0]:
                continue
            rows = np.flatnonzero(of_person & (split.camids == camera))
            chosen[rows[np.argmin(draws[rows])]] = True
    return chosen
