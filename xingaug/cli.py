"""The command line. torch is imported only by the command that runs."""

import sys
from collections.abc import Sequence

from xingaug import __version__
from xingaug.commands import annotate, augment, bank, bench, data, demo, generate, generators, show
from xingaug.commands.parser import Help, Parser
from xingaug.errors import BadInput, guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `xingaug ARGUMENTS`; exit code 0 done, 1 failed while working, 2 bad input."""
    args = build_parser().parse_words(arguments)

    def command() -> int | None:
        if args.needs_torch:
            import torch

            # Denormal numbers (below 1e-38) are negligible here and slow a CPU down by an order of magnitude.
            torch.set_flush_denormal(True)
        if hasattr(args, "device"):
            _require_device(args.device)
        result: int | None = args.run(args)
        return result

    return guarded(command)


def build_parser() -> Parser:
    """The parser with all commands."""
    text = "Pose augmentation for person re-identification."
    example = "example: xingaug demo --out demo-out"
    parser = Parser(prog="xingaug", description=text, epilog=example, formatter_class=Help)
    parser.add_argument("--version", action="version", version=f"xingaug {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, augment, data, annotate, generators, bank, generate, show, bench):
        module.add(commands)
    return parser


def _require_device(name: str) -> None:
    from xingaug.programs import device_problem

    problem = device_problem(name)
    if problem:
        raise BadInput(f"--device: {problem}; such as cpu or cuda")


if __name__ == "__main__":
    sys.exit(main())
