"""The YAML file that describes a dataset."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from xingaug.config import to_mapping, to_yaml
from xingaug.data.readers.template import parse_template

Layout = Literal["market1501", "msmt17", "cuhk03", "veri", "deepfashion", "pattern"]
Kind = Literal["detected", "labelled"]


@dataclass(frozen=True)
class PatternSplit:
    """One split of a `pattern` layout.

    Attributes:
        pattern: of the paths below `folder`, such as "{pid:d}_{camid:d}_*.jpg"; see `xingaug.data.readers.pattern`.
        folder: the split's folder below the dataset's root.
        camid: the camera of all images of the split, from 1, if the pattern has no camera.
    """

    pattern: str
    folder: str = "."
    camid: int | None = None

    def __post_init__(self) -> None:
        """Checks the pattern, and that the folder lies below the root."""
        kinds = parse_template(self.pattern).kinds
        if self.camid is not None and not 1 <= self.camid < 10**9:
            raise ValueError(f"camid: {self.camid}, needed a number from 1 to 999999999")
        if self.camid is not None and "camid" in kinds:
            raise ValueError(f"camid: {self.camid}, but the pattern '{self.pattern}' has it too; needed one of them")
        folder = PurePosixPath(self.folder)
        if folder.is_absolute() or ".." in folder.parts or "\\" in self.folder:
            raise ValueError(f"folder: '{self.folder}', needed a path below the dataset's root")
        object.__setattr__(self, "folder", str(folder))


@dataclass(frozen=True)
class DatasetConfig:
    """Layout and location of a dataset.

    Attributes:
        layout: how its files are laid out.
        root: its folder, relative to the folder of the YAML file.
        kind: CUHK03 only: detected or hand-labelled boxes.
        with_val: MSMT17 only: train on list_val.txt too.
        train: the training split of a pattern layout.
        query: the query split of a pattern layout; None in a dataset for training only.
        gallery: the gallery split of a pattern layout; None in a dataset for training only.
    """

    layout: Layout
    root: Path = Path()
    kind: Kind | None = None
    with_val: bool = False
    train: PatternSplit | None = None
    query: PatternSplit | None = None
    gallery: PatternSplit | None = None

    def __post_init__(self) -> None:
        """Refuses keys that the layout does not use, and a pattern layout without patterns."""
        if self.kind is not None and self.layout != "cuhk03":
            raise ValueError(f"kind: '{self.kind}', of the layout cuhk03 only; this is {self.layout}")
        if self.with_val and self.layout != "msmt17":
            raise ValueError(f"with_val: of the layout msmt17 only; this is {self.layout}")
        described = [name for name in ("train", "query", "gallery") if getattr(self, name) is not None]
        if described and self.layout != "pattern":
            raise ValueError(f"{described[0]}: of the layout pattern only; {self.layout} knows its splits")
        for field in ("pid", "camid"):
            splits = [getattr(self, name) for name in described]
            kinds = {parse_template(split.pattern).kinds.get(field) for split in splits} - {None}
            if field == "camid" and any(split.camid is not None for split in splits):
                kinds.add("number")
            if len(kinds) > 1:
                raise ValueError(f"{field}: a number in one split and text in another; needed the same in all")
        if not described and self.layout == "pattern":
            raise ValueError('train: missing; needed such as {folder: train, pattern: "{pid:d}_{camid:d}_*.jpg"}')

    def to_yaml(self) -> str:
        """The text of the YAML file, without keys at their defaults."""
        return to_yaml(_without_defaults(to_mapping(self)))


def _without_defaults(mapping: dict[str, Any]) -> dict[str, Any]:
    """A mapping without keys that are null, false or the folder itself."""
    inner = {key: _without_defaults(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in inner.items() if value not in (None, False, ".")}
