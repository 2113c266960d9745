"""Trains arms x shares x seeds with equal iterations: python -m reid_integration.compare --config FILE [key=value ...].

An arm is a set of changes to one base configuration (an augmentation, synthetic images on disk, another model). Every
cell is a run directory of `reid_integration.train`; finished cells are not run again.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reid_integration.arms import Cut, require_world, write_arm, write_cut
from reid_integration.comparison import FIGURES, HELD_OUT, Cell, CompareConfig, ComparisonResult
from reid_integration.config import DataConfig, ReidConfig, listed, reid_config
from reid_integration.first import first_comparison
from reid_integration.models import bare_model
from reid_integration.result import RESOLVED, RESULT, TrainResult, placeless
from reid_integration.train import run
from reid_integration.validation import write_validation
from reid_integration.weights import read_state
from xingaug.augment.gate import GateConfig, build_gate
from xingaug.augment.grounds import wanted_share
from xingaug.commands.parser import Parser
from xingaug.config import load_config, read_yaml, to_mapping
from xingaug.data.annotations import read_annotations
from xingaug.data.market1501 import read_split
from xingaug.data.readers import require_market_tree
from xingaug.errors import BadInput, guarded
from xingaug.files import atomic_write
from xingaug.generators.store import load_generator
from xingaug.poses.bank import PoseBank
from xingaug.poses.samplers import parse_sampler
from xingaug.runs import require_same, settings_of


def load_compare_config(path: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Reads a comparison's YAML file; errors as in `xingaug.config.load_config`."""
    config = load_config(CompareConfig, path, overrides)
    if config.base is None or config.base.is_absolute():
        return config
    return CompareConfig(**{**vars(config), "base": path.parent / config.base})


def cell_configs(config: CompareConfig) -> dict[Cell, ReidConfig]:
    """The checked configuration of every cell, ordered by seed, so that early results can be compared.

    Raises:
        BadInput: an arm has an unknown key or a wrong value, or it or `common` sets a key that the comparison sets.
    """
    for where, changes in {"common": config.common, **{f"arms.{arm}": c for arm, c in config.arms.items()}}.items():
        for section, key in (("train", "seed"), ("train", "max_iterations"), ("data", "save_dir")):
            chosen = changes.get(section) or {}
            if isinstance(chosen, Mapping) and key in chosen:
                raise BadInput(f"{where}: sets {section}.{key}, which the comparison sets for all cells; leave it out")
    settings = {arm: _arm_settings(config, arm) for arm in config.arms}
    cells = {
        (arm, cut, seed): _cell_config(config, settings[arm], arm, cut, seed)
        for seed in config.seeds
        for cut in config.cuts
        for arm in config.arms
    }
    if config.validation and len({_origin(config, arm) for arm in config.arms}) > 1:
        raise BadInput("validation: needed the same data.root and data.sources for all arms")
    first = next(iter(cells.values())).data
    for (arm, *_), cell in cells.items():
        tested, expected = ((d.root, listed(d.targets)) for d in (cell.data, first))
        if tested != expected:
            raise BadInput(
                f"arms.{arm}: tests on {tested[1]} in {tested[0]}, another arm on {expected[1]} in "
                f"{expected[0]}; needed the same data.root and data.targets for all"
            )
    return cells


def _cell_config(config: CompareConfig, settings: dict[str, Any], arm: str, cut: Cut, seed: int) -> ReidConfig:
    data: dict[str, Any] = {"save_dir": str(config.out / arm / cut.name / f"seed_{seed}")}
    held_out, folder = _validation_folder(config, arm), _training_folder(config, arm, cut)
    if held_out is not None:
        data |= {"root": str(held_out.parent), "sources": [held_out.name], "targets": [held_out.name]}
    if folder is not None:
        data |= {"sources": [str(folder.resolve())]}
    set_here = {"train": {"seed": seed, "max_iterations": config.iterations}, "data": data}
    cell = reid_config(merged(settings, set_here), f"arms.{arm}")
    chosen, keypoints = cell.augmentation, config.synthetic.annotations
    holds_its_own = held_out is not None or (folder is not None and not cell.test.poses)  # not of query and gallery
    if chosen is None or keypoints is None or chosen.annotations or holds_its_own:
        return cell
    return replace(cell, augment=replace(chosen, annotations=str(keypoints)))


def _training_folder(config: CompareConfig, arm: str, cut: Cut) -> Path | None:
    """The folder below `out/data` that an arm trains on; None if it trains on the base's own sources.

    Its name holds a hash of the images' origin and settings, so that a change of these uses another folder.
    """
    kind = config.arms[arm].get("synthetic")
    if kind is None and cut.is_whole:
        return None
    held_out = _validation_folder(config, arm)
    origin = f"{_origin(config, arm) if held_out is None else held_out.name} {cut} {config.synthetic}"
    folder = f"{cut.name}_{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    return config.out / "data" / folder / ("real" if kind in (None, "none") else kind)


def _validation_folder(config: CompareConfig, arm: str) -> Path | None:
    """The dataset below `out/data` with the held-out identities, named as `_training_folder`; None without one."""
    if not config.validation:
        return None
    origin = f"{_origin(config, arm)} {config.validation}"
    return config.out / "data" / f"validation_{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def _origin(config: CompareConfig, arm: str) -> str:
    data = _arm_data(config, arm)
    return f"{Path(data.root).resolve()} {listed(data.sources)}"


def _arm_settings(config: CompareConfig, arm: str) -> dict[str, Any]:
    """The settings that all cells of an arm share, as plain data."""
    base = read_yaml(config.base) if config.base else {}
    changes = {key: value for key, value in config.arms[arm].items() if key != "synthetic"}
    return merged(merged(base, config.common), changes)


def _arm_data(config: CompareConfig, arm: str) -> DataConfig:
    return reid_config(_arm_settings(config, arm), f"arms.{arm}").data


def _source(config: CompareConfig, arm: str) -> Path:
    """The dataset whose training images an arm uses a share of, or renders.

    Raises:
        BadInput: several sources, no such folder, synthetic images that a part of it would lose, or an oracle arm of a
            dataset that is no pedestrian world.
    """
    from reid_integration.datamanager import find_folder  # imports torchreid, which takes seconds

    data = _arm_data(config, arm)
    sources = listed(data.sources)
    if len(sources) != 1:
        raise BadInput(
            f"arms.{arm}: shares, validation and synthetic images need one source, data.sources has {len(sources)}"
        )
    source = find_folder(data.root, sources[0])
    require_market_tree(source, f"arms.{arm}")
    if config.arms[arm].get("synthetic") == "oracle":
        require_world(source)
    return source


def _needs_folder(config: CompareConfig, arm: str, cut: Cut) -> bool:
    return config.validation > 0 or _training_folder(config, arm, cut) is not None


def _require_sources(config: CompareConfig, cells: Mapping[Cell, ReidConfig]) -> None:
    """Raises `BadInput` unless the images and keypoints of these cells can be used; each is read once."""
    keypoints: set[Path] = set()
    for (arm, cut, _), cell in cells.items():
        if _needs_folder(config, arm, cut):
            source = _source(config, arm)
            kind = config.arms[arm].get("synthetic")
            if kind is None and not cut.is_whole and read_split(source, "train").synthetic.any():
                raise BadInput(
                    f"arms.{arm}: {cut.label} would be without the synthetic images that {source} holds; needed the "
                    "whole, or synthetic: none (or another kind, which makes new ones)"
                )
        keypoints.update(_keypoint_files(config, arm, cut, cell))
    for file in sorted(keypoints):
        read_annotations(file)


def _require_networks(config: CompareConfig, cells: Mapping[Cell, ReidConfig], generator: nn.Module | None) -> None:
    """Raises `BadInput` unless the models, generators, banks, samplers, gates and weights of these cells can be used.

    Weights of a teacher may come from an earlier cell.
    """
    for cell in {cell.model: cell for cell in cells.values()}.values():
        bare_model(cell, classes=2, pretrained=False, device=torch.device("cpu"))
    for weights in {cell.model.load_weights for cell in cells.values()} - {""}:
        read_state(Path(weights))
    chosen = [cell.augmentation for cell in cells.values() if cell.augmentation is not None]
    makes_images = any(config.arms[arm].get("synthetic", "none") != "none" for arm, *_ in cells)
    named = {augment.generator for augment in chosen} if generator is None else set()
    loaded = {name: load_generator(name) for name in named | ({config.synthetic.generator} if makes_images else set())}
    for augment in chosen:
        _require_ground(generator or loaded[augment.generator], augment.ground)
    for bank in {augment.bank for augment in chosen if augment.bank is not None}:
        PoseBank.load(Path(bank))
    for sampler in {augment.sampler for augment in chosen} | ({config.synthetic.sampler} if makes_images else set()):
        parse_sampler(sampler)
    for gate in {augment.gate for augment in chosen if isinstance(augment.gate, GateConfig)}:
        build_gate(gate, (128, 64), torch.device("cpu"))


def _require_ground(generator: nn.Module, share: float | None) -> None:
    try:
        wanted_share(generator, share)
    except ValueError as error:
        raise BadInput(f"augment.{error}") from None


def _keypoint_files(config: CompareConfig, arm: str, cut: Cut, cell: ReidConfig) -> list[Path]:
    """The files of keypoints that a cell cannot do without."""
    from reid_integration.datamanager import find_folder

    own = cell.augmentation.annotations if cell.augmentation else None
    files = [Path(own)] if own else []
    if _training_folder(config, arm, cut) is None and (own or cell.augmentation is None):
        return files
    if config.synthetic.annotations is not None:
        return [*files, config.synthetic.annotations]
    data = _arm_data(config, arm)
    folders = [find_folder(data.root, source) for source in listed(data.sources)]
    return [*files, *(folder / "annotations.npz" for folder in folders if folder.is_dir())]


def _write_folders(config: CompareConfig, arm: str, cut: Cut) -> None:
    """Writes the folders below `out/data` that a cell trains and is tested on."""
    if not _needs_folder(config, arm, cut):
        return
    whole, annotations = _source(config, arm), config.synthetic.annotations
    source, held_out = whole, _validation_folder(config, arm)
    if held_out is not None:
        source, annotations = write_validation(whole, held_out, config.validation, annotations), None
    folder = _training_folder(config, arm, cut)
    if folder is None:
        return
    real = write_cut(source, folder.parent / "real", cut, annotations)
    kind = config.arms[arm].get("synthetic")
    if kind not in (None, "none"):
        write_arm(kind, real, folder, config.synthetic, whole)


def compare(config: CompareConfig, progress: bool = False, generator: nn.Module | None = None) -> ComparisonResult:
    """Runs every unfinished cell, and updates results.json, results.csv, report.html and the plots after each.

    Args:
        config: what to compare.
        progress: show progress (bars on a terminal only).
        generator: replaces `augment.generator`; synthetic images on disk are made by `synthetic.generator`.

    Raises:
        BadInput: as `cell_configs` and `run`; also when a finished cell was run with another configuration.
    """
    cells = cell_configs(config)
    if progress:
        print(f"{len(cells)} trainings of {config.iterations} iterations; see {config.out}/report.html after each",
              file=sys.stderr, flush=True)  # fmt: skip
    # Report bad input before any work.
    hashes = _hashes(cells, generator)
    finished = {key: _finished(cell, hashes) for key, cell in cells.items()}
    unfinished = {key: cell for key, cell in cells.items() if not finished[key]}
    _require_sources(config, unfinished)
    _require_networks(config, unfinished, generator)
    comparison = ComparisonResult(
        config, {key: TrainResult.load(Path(cells[key].data.save_dir)) for key, done in finished.items() if done}
    )
    for number, (key, cell) in enumerate(cells.items(), start=1):
        arm, cut, seed = key
        if progress:
            state = "finished before" if finished[key] else "training"
            print(f"[{number}/{len(cells)}] {arm}, {cut.label}, seed {seed}: {state}", file=sys.stderr, flush=True)
        if not finished[key]:
            _write_folders(config, arm, cut)
            known = {**comparison.cells, key: run(cell, progress, generator)}
            comparison.cells = {other: known[other] for other in cells if other in known}
            _write(comparison)
    _write(comparison)
    return comparison


def _hashes(cells: Mapping[Cell, ReidConfig], generator: nn.Module | None) -> dict[str, str]:
    """The content hash of each generator that finished cells name, but of files that are gone."""
    done = [cell for cell in cells.values() if (Path(cell.data.save_dir) / RESULT).exists()]
    found = {}
    for name in {cell.augmentation.generator for cell in done if cell.augmentation is not None}:
        with suppress(BadInput):
            found[name] = str((generator or load_generator(name)).content_hash)
    return found


def _finished(cell: ReidConfig, hashes: Mapping[str, str]) -> bool:
    """Whether the cell is finished; `BadInput` if with another configuration, or another generator than now."""
    directory = Path(cell.data.save_dir)
    if not (directory / RESULT).exists():
        return False
    before, now = (
        placeless(settings) for settings in (settings_of(directory / RESOLVED, type(cell)), to_mapping(cell))
    )
    made_with = TrainResult.load(directory).sources.get("generator")  # None if it was only tested
    if made_with is not None and cell.augmentation is not None and cell.augmentation.generator in hashes:
        before["generator"], now["generator"] = made_with, hashes[cell.augmentation.generator]
    require_same(directory, before, now, "choose another `out`, or remove the folder to run it again")
    return True


def _write(comparison: ComparisonResult) -> None:
    rows = comparison.rows()
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    from reid_integration.compare_page import write_compare_page  # matplotlib takes a second

    out, data = comparison.config.out, comparison.to_mapping()
    with atomic_write(out / "results.csv") as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    with atomic_write(out / "results.json") as path:
        path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    write_compare_page(out, data)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings are merged key by key, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def table_lines(comparison: ComparisonResult) -> list[str]:
    """Mean and standard deviation over the seeds, in percent, and the differences with their 95 % intervals."""
    rows = comparison.summary()
    several = len(comparison.config.cuts) > 1
    heads = [f"{row['arm']}, {_cut(row).label}" if several else row["arm"] for row in rows]
    width = max(map(len, heads))
    lines = [*([HELD_OUT] if comparison.config.validation else []), *comparison.mixed()]
    lines.append(f"{'':{width}}  " + "".join(f"{key:>14}" for key in FIGURES))
    for head, row in zip(heads, rows, strict=True):
        cells = [f"{row[key]['mean']:.1%}{_spread(row[key]['std'])}" for key in FIGURES]
        lines.append(f"{head:{width}}  " + "".join(f"{cell:>14}" for cell in cells))
    for row in comparison.differences():
        gain = row["mAP"]
        at = f", {_cut(row).label}" if several else ""
        known = "" if gain["low"] is None else f" (95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        lines.append(f"{row['arm']} - {row['against']}{at}: mAP {100 * gain['mean']:+.1f}{known}")
    return lines


def _cut(row: Mapping[str, Any]) -> Cut:
    return Cut(row["share"], row["identity_share"])


def _spread(std: float | None) -> str:
    return "" if std is None else f" ± {std * 100:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m reid_integration.compare",
        description="Trains and evaluates arms x shares x seeds with equal iterations; finished cells are kept.",
        epilog="example: python -m reid_integration.compare --config configs/compare_pedestrians.yaml iterations=400",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="YAML file with out, base, arms, seeds, iterations")
    what.add_argument("--data", type=Path, metavar="DIR",
                      help="or only a dataset, such as the output of xingaug augment, for a first answer: real "
                      "images, the same twice, and with synthetic ones")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as iterations=400")
    given = parser.parse_words(arguments)

    def command() -> None:
        torch.set_flush_denormal(True)
        if given.config is not None:
            config = load_compare_config(given.config, given.overrides)
        else:
            config = first_comparison(given.data, given.overrides)
        result = compare(config, progress=True)
        if given.json:
            print(json.dumps(result.to_mapping()))
        else:
            print("\n".join([*table_lines(result), f"written to {result.config.out}"]))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
