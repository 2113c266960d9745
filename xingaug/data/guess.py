"""Guesses identities and cameras from the file names of a folder of crops without a description.

Numbers after words such as `id` and `cam` are read as those words say; otherwise the identity is the folder or the
first number of the name. A guess is checked against all names: nearly all must match, and identities must have several
images (all of it our choice).
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xingaug.data.listing import walk_images
from xingaug.data.names import SplitName
from xingaug.data.readers import Dataset, is_described, layout_of, open_dataset, require_none_inside
from xingaug.data.readers.config import DatasetConfig, PatternSplit
from xingaug.data.readers.template import Template, parse_template
from xingaug.errors import BadInput

SPLIT_FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "bounding_box_train", "image_train", "images_train"),
    "query": ("query", "queries", "probe", "image_query"),
    "gallery": ("gallery", "test", "testing", "testset", "bounding_box_test", "image_test", "images_test"),
}
"""Folder names that mean a split, in upper or lower case."""

_PERSON = ("pid", "id", "person", "p", "identity", "subject", "vehicle", "player")
_CAMERA = ("c", "cam", "camera", "cid", "camid", "view")
_NOBODY = (*_CAMERA, "seq", "sequence", "video", "day", "part", "batch", "images", "crops", "set", "scene", "location")
"""First words of folder names that are not identities."""

_TOKEN = re.compile(r"\d+|[A-Za-z]+|[^A-Za-z0-9]+")
_FITTING = 0.95
_IMAGES = 1.5
"""Images per identity, at least, on average."""

_MOST_CAMERAS = 32
"""Most cameras that a number without a word may stand for."""

_SAMPLES = 5


@dataclass(frozen=True)
class Guess:
    """The guessed description of a folder.

    Attributes:
        config: the description, whose root is the folder.
        sentence: how the names were read, for the user.
    """

    config: DatasetConfig
    sentence: str


def open_or_guess(root: Path, pattern: str | None = None) -> tuple[Dataset, str]:
    """Opens a dataset whose layout is known, or guesses how the names of a folder of images are read.

    Args:
        root: a folder, or a YAML file that describes a dataset.
        pattern: as for `guess_dataset`.

    Returns:
        The dataset, and a sentence on its layout for the user.

    Raises:
        BadInput: as `open_dataset` and `guess_dataset`, or a pattern for a known layout.
    """
    if root.is_file() or (root.is_dir() and (layout_of(root) is not None or is_described(root))):
        if pattern is not None:
            raise BadInput(f"--pattern: {root} is a dataset whose layout is known; leave it out")
        dataset = open_dataset(root)
        return dataset, f"{dataset.config.layout} layout"
    require_none_inside(root)
    guess = guess_dataset(root, pattern)
    return Dataset(root, root, guess.config), guess.sentence


def guess_dataset(root: Path, pattern: str | None = None) -> Guess:
    """Describes a folder of images by a pattern; opens no image.

    Folders named as in `SPLIT_FOLDERS` are splits; without them all images are for training.

    Args:
        root: the folder.
        pattern: pattern of the paths below each split's folder (see `xingaug.data.readers.pattern`); None guesses one.

    Raises:
        BadInput: no such folder, no image, an invalid pattern, or names from which no identities can be read.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; needed a folder of images, a dataset, or a .yaml that describes one")
    files = sorted(walk_images(root)[0])
    if not files:
        raise BadInput(f"{root}: holds no image; needed crops of persons, each named by its identity")
    splits = _splits(root, files)
    paths = sorted({file for split, (_, below) in splits.items() for file in below if not _is_extra(split, file)})
    left_out = len(files) - sum(len(below) for _, below in splits.values())
    if pattern is None:
        pattern, how = _guessed(root, paths), "guessed"
    else:
        how = "given"
    try:
        template = parse_template(pattern)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    # Without cameras in the names, query and gallery get different ones, as otherwise no query could be matched.
    numbers: dict[SplitName, int | None] = {"train": 1, "query": 1, "gallery": 2}
    says_camera = "camid" in template.kinds
    described = {
        name: PatternSplit(pattern, folder, None if says_camera else numbers[name])
        for name, (folder, _) in splits.items()
    }
    config = DatasetConfig(
        "pattern", root.resolve(), train=described.get("train"), query=described.get("query"),
        gallery=described.get("gallery"),
    )  # fmt: skip
    where = ", ".join(f"{name} in {folder}" for name, (folder, _) in splits.items() if folder != ".")
    parts = [
        f"the pattern '{pattern}' ({how})",
        where or "all images are for training",
        *([f"{left_out:,} images outside these folders are left out"] if left_out else []),
        *([] if says_camera else ["no camera in the names"]),
    ]
    return Guess(config, "; ".join(parts))


_EXTRA = re.compile(r"(-1|0+)(?!\d)")


def _is_extra(split: SplitName, path: str) -> bool:
    """Whether an image of the gallery begins as Market-1501's junk (-1) and distractors (0) do, who are no persons."""
    return split == "gallery" and _EXTRA.match(path) is not None


def _splits(root: Path, files: Sequence[str]) -> dict[SplitName, tuple[str, list[str]]]:
    """The folder below the root of each split, and the paths below that folder."""
    base, below = "", list(files)
    while len(tops := {path.partition("/")[0] for path in below}) == 1 and all("/" in path for path in below):
        (top,) = tops
        if _split_of(top) is not None:
            break
        base, below = f"{base}{top}/", [path.partition("/")[2] for path in below]
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in below:
        top, slash, rest = path.partition("/")
        if slash:
            by_folder[top].append(rest)
    found: dict[SplitName, tuple[str, list[str]]] = {}
    for folder, paths in by_folder.items():
        split = _split_of(folder)
        if split is not None and split in found:
            raise BadInput(
                f"{root}: {found[split][0]} and {base}{folder} both mean {split}; needed one, or a YAML file"
            )
        if split is not None:
            found[split] = f"{base}{folder}", paths
    if not found:
        return {"train": (".", list(files))}
    if "train" not in found:
        raise BadInput(f"{root}: has the folder {next(iter(found.values()))[0]}, but none of training images (train)")
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


def _split_of(folder: str) -> SplitName | None:
    return next((split for split, names in SPLIT_FOLDERS.items() if folder.lower() in names), None)


def _guessed(root: Path, paths: Sequence[str]) -> str:
    samples = [paths[i] for i in np.linspace(0, len(paths) - 1, min(_SAMPLES, len(paths))).astype(int).tolist()]
    # The likeliest identity first; of its patterns those with a camera before those without.
    choices = sorted(_choices(samples, paths), key=lambda choice: (choice.rank, not choice.says_camera))
    seen = set()
    for choice in choices:
        if choice.pattern not in seen:
            seen.add(choice.pattern)
            if _is_borne_out(choice, paths):
                _require_one_folder(root, choice, paths)
                return choice.pattern
    raise BadInput(
        f"{root}: no identities with several images each found in the names of its {len(paths)} images, such as "
        f'{paths[0]}; give their pattern, such as --pattern "{{pid:d}}_c{{camid:d}}_*"'
    )


@dataclass(frozen=True)
class _Choice:
    """A candidate pattern.

    Attributes:
        pattern: its text.
        rank: the place of its identity among the candidates of its path, the likeliest first.
        folder: the folder that is the identity as a whole, counted from the top; None if something else is.
        says_camera: whether it has a camera.
        is_bare: whether the camera is a number without a word.
    """

    pattern: str
    rank: int
    folder: int | None
    says_camera: bool
    is_bare: bool


@dataclass(frozen=True)
class _Slot:
    """A number, word or whole folder (`token` -1) of a path that may be the identity or the camera."""

    part: int
    token: int
    text: str


def _choices(samples: Sequence[str], paths: Sequence[str]) -> Iterator[_Choice]:
    """Candidate patterns from the sampled paths, the likeliest first."""
    folder_first, words_differ = _folders_are_persons(paths), _first_words_differ(paths)
    for sample in samples:
        parts = [_TOKEN.findall(part) for part in _without_suffix(sample).split("/")]
        for rank, person in enumerate(_person_slots(parts, folder_first, words_differ)):
            folder = person.part if person.token == -1 else None
            for camera, is_bare in _camera_slots(parts, person):
                for number, camera_number, loose in itertools.product((True, False), (True, False), (False, True)):
                    fields = {person: "{pid:d}" if number else "{pid}"}
                    if camera is not None:
                        fields[camera] = "{camid:d}" if camera_number else "{camid}"
                    if (number and not person.text.isdigit()) or (camera is None and not camera_number):
                        continue
                    yield _Choice(_pattern(parts, fields, loose), rank, folder, camera is not None, is_bare)


def _person_slots(parts: list[list[str]], folder_first: bool, words_differ: bool) -> list[_Slot]:
    named = [slot for slot in _numbers(parts) if _word_before(parts, slot) in _PERSON]
    cameras = {slot.part for slot in _numbers(parts) if _word_before(parts, slot) in _CAMERA}
    folders = [
        _Slot(i, -1, "".join(tokens))
        for i, tokens in reversed(list(enumerate(parts[:-1])))
        if tokens and tokens[0].lower() not in _NOBODY and i not in cameras
    ]
    last = len(parts) - 1
    others = [
        slot for slot in _numbers(parts)
        if slot.part == last and _word_before(parts, slot) not in _CAMERA and slot not in named
    ][:1]  # fmt: skip
    words = [_Slot(last, 0, parts[last][0])] if words_differ and parts[last] and parts[last][0].isalpha() else []
    return [*named, *(folders + words + others if folder_first else words + others + folders)]


def _camera_slots(parts: list[list[str]], person: _Slot) -> list[tuple[_Slot | None, bool]]:
    """Candidates: numbers after a word for a camera; the next after the person's, if others follow; no camera."""
    numbers = [slot for slot in _numbers(parts) if slot != person and (slot.part, -1) != (person.part, person.token)]
    named = [slot for slot in numbers if _word_before(parts, slot) in _CAMERA]
    behind = [slot for slot in numbers if slot.part == len(parts) - 1 and slot.token > person.token]
    # The last number counts the images.
    bare = behind[:-1][:1] if person.part == len(parts) - 1 and not named else []
    return [*((slot, False) for slot in named), *((slot, True) for slot in bare), (None, False)]


def _numbers(parts: list[list[str]]) -> list[_Slot]:
    return [
        _Slot(i, j, token) for i, tokens in enumerate(parts) for j, token in enumerate(tokens) if token.isdigit()
    ]  # fmt: skip


def _word_before(parts: list[list[str]], slot: _Slot) -> str:
    """The word before a number in the same part of the path, with or without a separator between; "" if none."""
    before = parts[slot.part][max(0, slot.token - 2) : slot.token] if slot.token > 0 else []
    return next((token.lower() for token in reversed(before) if token.isalpha()), "")


def _folders_are_persons(paths: Sequence[str]) -> bool:
    """Whether the folder rather than the first number of a name is the identity, where both could be.

    If each folder has a single number, folder and number agree. If each number occurs in one folder only and recurs
    there, the number is the identity and a folder holds several. Otherwise the number counts the images of a folder.
    """
    numbers: dict[str, set[str]] = defaultdict(set)
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, slash, name = path.rpartition("/")
        number = re.search(r"\d+", name)
        if slash and number:
            numbers[folder].add(number[0])
            folders[number[0]].add(folder)
    if not numbers or all(len(found) == 1 for found in numbers.values()):
        return True
    return not all(len(found) == 1 for found in folders.values()) or len(folders) > len(paths) / _IMAGES


def _first_words_differ(paths: Sequence[str]) -> bool:
    """Whether the first words of the names differ, as persons' names do, rather than all being, say, `frame`."""
    first = [token[0] for path in paths if (token := re.match(r"[A-Za-z]+", path.rpartition("/")[2]))]
    return len(first) == len(paths) and 2 <= len(set(first)) <= len(paths) / _IMAGES


def _pattern(parts: list[list[str]], fields: dict[_Slot, str], loose: bool) -> str:
    """The pattern of a path with some of its tokens as fields; `loose` puts `*` for words that may differ."""
    texts = []
    for i, tokens in enumerate(parts):
        here = {slot.token: field for slot, field in fields.items() if slot.part == i}
        is_name = i == len(parts) - 1
        if not here:
            texts.append("*")
        elif -1 in here:
            texts.append(here[-1])
        else:
            texts.append(_part(tokens, here, loose, is_name))
    return "/".join(texts)


def _part(tokens: list[str], here: dict[int, str], loose: bool, is_name: bool) -> str:
    first, last = min(here), max(here)
    text = _between(tokens[:first], loose, at_start=True)
    for index in range(first, last + 1):
        if index in here:
            text += here[index]
            following = min((other for other in here if other > index), default=None)
            if following is not None:
                text += _between(tokens[index + 1 : following], loose)
    rest = tokens[last + 1 :]
    if rest:
        return f"{text}{rest[0][0]}*"
    return f"{text}.*" if is_name else text


def _between(tokens: list[str], loose: bool, at_start: bool = False) -> str:
    """The pattern text between two fields, or before the first; with `*` for what may differ."""
    if not tokens or (not loose and not any(token.isdigit() for token in tokens)):
        return "".join(tokens)
    word = tokens[-1].lower() if tokens[-1].isalpha() else ""
    # The separator before a word belongs to it; a number there may be another in each name.
    is_word = word in (*_PERSON, *_CAMERA) and len(tokens) > 1 and not tokens[-2].isdigit()
    kept = tokens[-2:] if is_word else tokens[-1:]
    ahead = [] if at_start else tokens[:1]
    if len(ahead) + len(kept) >= len(tokens):
        return "".join(tokens)
    return "".join([*ahead, "*", *kept])


def _require_one_folder(root: Path, choice: _Choice, paths: Sequence[str]) -> None:
    """Raises `BadInput` if the identity is a folder, and another folder without a field could be as well."""
    if choice.folder is None:
        return
    parts = choice.pattern.split("/")
    depth = len(parts) - 1
    levels = zip(*(path.split("/")[:-1] for path in paths if path.count("/") == depth), strict=True)
    for level, names in enumerate(levels):
        word = re.match(r"[A-Za-z]*", names[0])
        is_nobody = word is not None and word[0].lower() in _NOBODY
        if "{" not in parts[level] and not is_nobody and len(set(names)) > 1:
            patterns = (
                "/".join("{pid}" if i == one else "*" for i in range(depth + 1)) for one in (choice.folder, level)
            )
            raise BadInput(
                f"{root}: two of the folders in {paths[0]} may be the person; needed their pattern, such as "
                + " or ".join(f'--pattern "{pattern}"' for pattern in sorted(patterns))
            )


def _is_borne_out(choice: _Choice, paths: Sequence[str]) -> bool:
    try:
        template: Template = parse_template(choice.pattern)
    except ValueError:
        return False
    found = [fields for path in paths if (fields := template.fields(path)) is not None]
    if len(found) < _FITTING * len(paths):
        return False
    persons = [fields["pid"] for fields in found]
    if "-1" in persons:  # Market-1501's junk
        return False
    if template.kinds["pid"] == "number" and any(int(person) == 0 for person in set(persons)):
        return False
    if not 2 <= len(set(persons)) <= len(found) / _IMAGES:
        return False
    if not choice.says_camera:
        return True
    cameras = [fields["camid"] for fields in found]
    if template.kinds["camid"] == "number" and any(int(camera) == 0 for camera in set(cameras)):
        return False
    return not choice.is_bare or _are_cameras(persons, cameras)


def _are_cameras(persons: Sequence[str], cameras: Sequence[str]) -> bool:
    """Whether numbers without a word look like cameras rather than image numbers."""
    pairs = list(zip(persons, cameras, strict=True))
    few = len(set(cameras)) <= _MOST_CAMERAS and max(map(int, cameras)) <= _MOST_CAMERAS
    return few and len(set(cameras)) > 1 and len(set(pairs)) <= len(pairs) / _IMAGES


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0] if "." in path.rpartition("/")[2] else path
