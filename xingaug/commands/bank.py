"""`xingaug bank`: build, merge, show and query."""

import argparse
import json
from pathlib import Path
from typing import Any

from xingaug.commands.parser import Help, add_command, print_figures
from xingaug.errors import BadInput
from xingaug.files import require_new_directory, require_writable


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    text = "Build, merge, show and query a pose bank."
    example = "example: xingaug bank build --data ROOT --annotations A.npz --out bank"
    bank = commands.add_parser("bank", help=text, description=text, epilog=example, formatter_class=Help)
    actions = bank.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = add_command(
        actions, "build", _bank_build, "Collect the poses of a training split.",
        "xingaug bank build --data ROOT --annotations A.npz --out bank",
    )  # fmt: skip
    build.add_argument("--data", type=Path, required=True, help="folder of a known dataset, or a YAML file")
    build.add_argument("--annotations", type=Path, required=True, help="keypoints, .npz or .csv")
    build.add_argument("--out", type=Path, required=True, help="directory to write, new, empty, or with the same bank")
    build.add_argument("--index", default="auto", metavar="FACTORY", help="FAISS factory string, such as IVF256,PQ24np")
    build.add_argument("--candidates", type=int, default=0, help="poses ranked by OKS for each query; 0: automatic")
    build.add_argument("--probes", type=int, default=0, help="inverted lists searched; 0: automatic")
    build.add_argument("--json", action="store_true", help="print the counts as JSON")
    merge = add_command(
        actions, "merge", _bank_merge, "Merge several banks into one.", "xingaug bank merge first second --out both"
    )
    merge.add_argument("banks", type=Path, nargs="+", metavar="BANK", help="directories of banks")
    merge.add_argument("--out", type=Path, required=True, help="directory to write, new, empty, or with the same bank")
    merge.add_argument("--json", action="store_true", help="print the counts as JSON")
    show = add_command(
        actions, "show", _bank_show, "Write a page: map, clusters, coverage, and what each sampler draws.",
        "xingaug bank show --bank bank --out bank.html",
    )  # fmt: skip
    show.add_argument("--bank", type=Path, required=True, help="directory of the bank")
    show.add_argument("--out", type=Path, required=True, help="HTML file to write")
    show.add_argument("--name", help="image that samplers draw for (the first of the bank if left out)")
    show.add_argument("--count", type=int, default=120, help="skeletons at the end of the page, spread over the bank")
    query = add_command(
        actions, "query", _bank_query, "Find the poses nearest to one image's.",
        "xingaug bank query --bank bank --name 0002_c1s1_000451_03.jpg --k 5",
    )  # fmt: skip
    query.add_argument("--bank", type=Path, required=True, help="directory of the bank")
    query.add_argument("--name", required=True, help="image whose pose is in the bank")
    query.add_argument("--k", type=int, default=5, help="number of poses")
    query.add_argument("--mirror", action="store_true", help="also find poses that match with left and right swapped")
    query.add_argument("--json", action="store_true", help="print the poses as JSON")


def _bank_build(args: argparse.Namespace) -> None:
    from xingaug.poses.collect import bank_from_tree
    from xingaug.poses.index import IndexSettings

    _require_place(args.out)
    try:
        settings = IndexSettings(args.index, args.candidates, args.probes)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    _save_bank(bank_from_tree(args.data, args.annotations, settings=settings), args)


def _bank_merge(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank

    _require_place(args.out)
    _save_bank(PoseBank.merge([PoseBank.load(path) for path in args.banks]), args)


def _require_place(out: Path) -> None:
    """Raises `BadInput` early if `out` could not be written after minutes of work."""
    if not (out / "bank.json").exists():
        require_new_directory(out)
    require_writable(out / "bank.json", "--out")


def _save_bank(bank: Any, args: argparse.Namespace) -> None:
    if not bank.is_saved_as(args.out):
        bank.save(args.out)
    print_figures({"poses": len(bank), "usable": int(bank.usable.sum()), "written": str(args.out)}, args.json)


def _bank_show(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank
    from xingaug.report.bank import write_bank_page

    require_writable(args.out, "--out")
    print(write_bank_page(PoseBank.load(args.bank), args.out, args.count, args.name))


def _bank_query(args: argparse.Namespace) -> None:
    from xingaug.poses.bank import PoseBank

    if args.k < 1:
        raise BadInput(f"--k: {args.k}, needed at least 1")
    bank = PoseBank.load(args.bank)
    rows = [i for i, name in enumerate(bank.names.tolist()) if name == args.name]
    if not rows:
        raise BadInput(f"--name: the bank {args.bank} has no pose of '{args.name}'")
    rows = [i for i in rows if bank.usable[i]]
    if not rows:
        raise BadInput(f"--name: the pose of '{args.name}' has too few joints to search with; name another image")
    hits = bank.search(bank.keypoints([rows[0]]), args.k, args.mirror)
    found = [
        {"row": int(row), "name": str(bank.names[row]), "oks": round(float(oks), 4), "mirrored": bool(mirrored)}
        for row, oks, mirrored in zip(hits.indices[0], hits.oks[0], hits.mirrored[0], strict=True)
    ]
    if args.json:
        print(json.dumps(found))
    else:
        for hit in found:
            mark = ", mirrored" if hit["mirrored"] else ""
            print(f"{hit['oks']:.4f}  {hit['name']}  (row {hit['row']}{mark})")
