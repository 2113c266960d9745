"""`xingaug world`, `import` and `check`: datasets."""

import argparse
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command, print_figures
from xingaug.errors import printable, say


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    _add_world(commands)
    _add_import(commands)
    _add_check(commands)


def _add_world(commands: Any) -> None:
    text = "Write a pedestrian world: a Market-1501 layout with exact keypoints and person masks."
    parser = add_command(
        commands, "world", _world, text, "xingaug world runs/world --identities 200 --images-per-identity 8", False
    )
    parser.add_argument("out", type=Path, help="directory to write, new or empty")
    parser.add_argument("--identities", type=int, default=200, help="number of persons; the first half is for training")
    parser.add_argument("--images-per-identity", type=int, default=8, help="images of each person")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--train-poses", choices=("any", "starved"), default="any", help="poses of training persons")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _world(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from xingaug.data.pedestrians import write_world

    summary = write_world(args.out, args.identities, args.images_per_identity, args.seed, args.train_poses)
    print_figures({**asdict(summary), "root": str(summary.root)}, args.json)


def _add_import(commands: Any) -> None:
    text = "Write any readable dataset as a Market-1501 tree, with a table of old and new names."
    parser = add_command(
        commands, "import", _import, text, "xingaug import msmt17.yaml --out runs/msmt17 --link hard", torch=False
    )
    parser.add_argument("root", type=Path, help="folder of a known dataset, or a YAML file that describes one")
    parser.add_argument("--out", type=Path, required=True, help="directory to write, new or empty")
    parser.add_argument("--link", choices=("copy", "hard", "symbolic"), default="copy", help="copy or link JPEG files")
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="keypoints of its images, .npz or .csv, to convert too"
    )
    parser.add_argument("--follow-links", action="store_true",
                        help="also copy images that symbolic links point to outside the dataset's folder")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _import(args: argparse.Namespace) -> None:
    from xingaug.data.market_tree import write_market_tree

    done = write_market_tree(args.root, args.out, args.link, args.annotations, follow_links=args.follow_links)
    for note in done.notes:
        say(note)
    figures = {f"{split}_images": count for split, count in done.images.items()}
    counts = {name: getattr(done, name) for name in ("identities", "reencoded", "annotations")}
    print_figures({**figures, **counts, "root": str(done.root)}, args.json)


def _add_check(commands: Any) -> None:
    text = "Count a dataset's images; exit code 1 if training and test overlap, or no query can be matched."
    parser = add_command(commands, "check", _check, text, "xingaug check ROOT --json", torch=False)
    parser.add_argument("root", type=Path,
                        help="folder of a known dataset, YAML file that describes one, or folder of crops whose names "
                        "are guessed")  # fmt: skip
    parser.add_argument("--pattern", help='how names are read, such as "{pid:d}_c{camid:d}_*" (default: guessed)')
    parser.add_argument("--json", action="store_true", help="print counts and leaks as JSON")


def _check(args: argparse.Namespace) -> int:
    from xingaug.data.guess import open_or_guess
    from xingaug.data.leaks import check_dataset

    dataset, sentence = open_or_guess(args.root, args.pattern)
    if args.root.is_dir() and dataset.config.layout == "pattern" and dataset.where == args.root:
        say(f"{args.root}: {sentence}")
    counts, report, unmatched, notes = check_dataset(dataset)
    for note in notes:
        say(note)
    if args.json:
        print(json.dumps({"splits": counts, **report.to_json(), "unmatched": unmatched}))
    else:
        for split, row in counts.items():
            print(f"{split}: " + ", ".join(f"{count} {what}" for what, count in row.items()))
        print("\n".join(map(printable, report.lines())) or "no leaks")
        if unmatched:
            print(unmatched)
    return 1 if report or unmatched else 0
