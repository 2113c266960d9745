"""`xingaug demo`."""

import argparse
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import add_command


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = "Run the whole pipeline on a small scale: data, bank, generation, re-ID with and without, and a page."
    parser = add_command(commands, "demo", _demo, text, "xingaug demo --out demo-out")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="directory to write, new or empty")
    parser.add_argument("--data", type=Path, help="a Market-1501 tree instead of the pedestrian world")
    parser.add_argument("--annotations", type=Path, help="keypoints of the tree's training images, .csv or .npz")
    parser.add_argument("--identities", type=int, help="identities in training and in test each; 100 for the world")
    parser.add_argument("--generator", default="pedestrians-small", help="bundled name or .safetensors file")
    parser.add_argument("--iterations", type=int, default=150, help="re-ID training iterations of each arm")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world, the draws and the training")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _demo(args: argparse.Namespace) -> None:
    from xingaug.demo import DemoConfig, run_demo

    fields = ("out", "data", "annotations", "identities", "generator", "iterations", "seed")
    figures = run_demo(DemoConfig(**{name: getattr(args, name) for name in fields}))
    if args.json:
        print(json.dumps(figures))
