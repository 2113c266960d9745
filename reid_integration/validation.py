"""A validation split: training identities that are held out and tested on, to choose settings without the test set."""

from pathlib import Path

import numpy as np

from reid_integration.arms import write_annotations_of
from xingaug.data.market1501 import FOLDERS, read_split
from xingaug.data.split import Split, SplitName
from xingaug.errors import BadInput
from xingaug.files import atomic_directory
from xingaug.offline.target import copy_or_link, require_linkable
from xingaug.poses.draws import keyed_uniform


def write_validation(source: Path, out: Path, share: float, annotations: Path | None = None) -> Path:
    """Writes a dataset whose query and gallery are training identities of another one, as hard links.

    The test images of `source` are not used. Synthetic images of the held-out identities are left out.

    Args:
        source: a dataset in Market-1501 layout.
        out: the new folder; an existing one counts as finished.
        share: of the training identities, held out, in (0, 1); at least two, and two stay.
        annotations: keypoints of the training images; None is annotations.npz in `source`.

    Returns:
        `out`, in which annotations.npz holds the keypoints of the remaining training images.

    Raises:
        BadInput: unreadable dataset or annotations, fewer than four identities, or no held-out identity that two
            cameras saw.
    """
    if out.exists():
        return out
    require_linkable([source / FOLDERS["train"]], out)
    train = read_split(source, "train")
    if len(np.unique(train.pids)) < 4:
        raise BadInput(f"validation: {source} has {len(np.unique(train.pids))} training identities, needed at least 4")
    is_held_out = held_out_rows(train.pids, share)
    tested = train.select(is_held_out & ~train.synthetic)
    is_query = query_rows(tested)
    if not is_query.any():
        raise BadInput(f"validation: {source}: no held-out identity was seen by two cameras; hold out more")
    splits: dict[SplitName, Split] = {
        "train": train.select(~is_held_out),
        "query": tested.select(is_query),
        "gallery": tested.select(~is_query),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(out) as folder:
        for part, split in splits.items():
            for index in range(len(split)):
                copy_or_link(split.path(index), folder / FOLDERS[part] / str(split.names[index]), link=True)
        write_annotations_of(splits["train"].names, annotations or source / "annotations.npz", folder)
    return out


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
    """(N,) bool: one image of each identity and camera, drawn by name, of identities that two cameras saw.

    So is Market-1501's query made; identities that one camera saw are distractors in the gallery.
    """
    draws = keyed_uniform(0, 0, split.names.tolist(), "query")
    chosen = np.zeros(len(split), bool)
    for pid in np.unique(split.pids):
        of_person = split.pids == pid
        cameras = np.unique(split.camids[of_person])
        if len(cameras) < 2:
            continue
        for camera in cameras:
            rows = np.flatnonzero(of_person & (split.camids == camera))
            chosen[rows[np.argmin(draws[rows])]] = True
        if chosen[of_person].all():  # every camera saw one image: one stays to be found
            chosen[np.flatnonzero(of_person)[np.argmax(draws[of_person])]] = False
    return chosen
