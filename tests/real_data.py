"""Where the files of the real Market-1501 lie."""

import os
from pathlib import Path

import pytest


def patn_file(name: str) -> Path:
    """One of PATN's files, or the test is skipped."""
    root = Path(os.environ["XINGAUG_MARKET1501"])
    given_folder = os.environ.get("XINGAUG_MARKET1501_ANNOTATIONS")
    for folder in [Path(given_folder)] if given_folder else [root, root.parent, root.parent / "data"]:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"no {name} beside XINGAUG_MARKET1501 nor in XINGAUG_MARKET1501_ANNOTATIONS")
