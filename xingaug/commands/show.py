"""`xingaug show`."""

import argparse
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, print_figures
from xingaug.files import require_writable


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = (
        "Write a page to click through the identities of a dataset, the most doubtful first: real images, poses, "
        "renderings, gate scores."
    )
    parser = add_command(commands, "show", _show, text, "xingaug show augmented --page look.html")
    parser.add_argument("data", type=Path, metavar="DIR", help="a dataset, such as one written by augment or generate")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="page to write (default: show.html in DIR)")
    parser.add_argument("--annotations", type=Path, metavar="FILE",
                        help="keypoints, .npz or .csv (default: annotations.npz in DIR)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _show(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from xingaug.offline.look import show_dataset

    if args.page is not None:
        require_writable(args.page, "--page")
    shown = show_dataset(args.data, args.page, args.annotations)
    print_figures({**asdict(shown), "page": str(shown.page)}, args.json)
