"""`xingaug augment`."""

import argparse
from pathlib import Path
from typing import Any

from xingaug.commands.annotate import add_weights
from xingaug.commands.generate import add_real, add_where, add_which_images
from xingaug.commands.parser import add_command, print_figures
from xingaug.errors import BadInput

_OF_GENERATE = (
    "per_image", "per_identity", "budget", "sampler", "fit", "reference", "ground", "seed", "tries", "real",
    "batch_size", "dtype", "runtime", "device", "follow_links",
)  # fmt: skip


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = (
        "Turn a folder of crops into an augmented dataset with a page about it: layout, leak check, keypoints, pose "
        "bank and rendering in one command. Continues if stopped."
    )
    parser = add_command(commands, "augment", _augment, text, "xingaug augment crops --out augmented --per-image 2")
    parser.add_argument(
        "root", type=Path, help="folder of crops or of a known dataset, or a YAML file that describes one"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write, new or of the same run")
    parser.add_argument("--pattern", help='how names are read, such as "{pid:d}_c{camid:d}_*" (default: guessed)')
    parser.add_argument("--layout", choices=("market", "same"), default="market",
                        help="write a Market-1501 tree, or the dataset's own layout and file names")  # fmt: skip
    parser.add_argument("--allow-leaks", action="store_true",
                        help="continue even if people or files of training are also in query or gallery")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="where the results of finished steps are kept (default: the user's cache)")  # fmt: skip
    keypoints = parser.add_argument_group("keypoints")
    keypoints.add_argument("--annotations", type=Path, metavar="FILE",
                           help="in a format of annotate --from (default: files beside the images)")  # fmt: skip
    keypoints.add_argument("--estimator", metavar="NAME", help="pose estimator, as in annotate (default: bundled)")
    add_weights(keypoints)
    parser.add_argument("--generator", default="market1501-augment", help="bundled name or .safetensors file")
    add_which_images(parser)
    parser.add_argument("--no-gate", action="store_true", help="keep all images, even empty or saturated ones")
    add_real(parser)
    add_where(parser.add_argument_group("rendering"))
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def _augment(args: argparse.Namespace) -> None:
    from xingaug.augment.gate import GateConfig
    from xingaug.augmenting import FolderConfig, augment_folder
    from xingaug.config import from_mapping, override

    if args.no_gate and args.gate is not None:
        raise BadInput("--gate, --no-gate: give one of them")
    gate = None if args.no_gate else from_mapping(GateConfig, override({}, args.gate or []), "--gate")
    config = FolderConfig(
        root=args.root, out=args.out, pattern=args.pattern, layout=args.layout, annotations=args.annotations,
        estimator=args.estimator, weights=args.weights, download=args.download, sha256=args.sha256,
        generator=args.generator, gate=gate,
        allow_leaks=args.allow_leaks, work=args.work,
        generating={name: getattr(args, name) for name in _OF_GENERATE},
    )  # fmt: skip
    print_figures(augment_folder(config), args.json)
