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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reid_integration.arms import SyntheticConfig, require_world, write_arm, write_share
from reid_integration.config import DataConfig, ReidConfig, listed, reid_config
from reid_integration.train import RESOLVED, RESULT, TrainResult, run
from xingaug.commands.parser import Parser
from xingaug.config import load_config, read_yaml, to_mapping
from xingaug.errors import BadInput, guarded
from xingaug.files import atomic_write
from xingaug.generators.store import load_generator

KINDS = ("offline", "duplicates", "oracle")
FIGURES = ("mAP", "rank1", "rank5", "rank10", "mINP")


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
        out: folder of the cells (`out/arm/share_100/seed_1/`), of training folders that arms need (`out/data/`), and
            of results.json, results.csv, report.html and the plots.
        arms: by name, the changes to the base configuration, as a nested mapping; `synthetic: offline`, `duplicates`
            or `oracle` puts such images beside the real ones (`reid_integration.arms`). The first is the one that the
            others are compared with.
        base: torchreid-style YAML that all cells share; a relative path is meant from the comparison's own file.
        common: changes to the base for all arms.
        seeds: of the training, one cell each; draws follow it unless augment.seed is given.
        shares: of each identity's training images that there are, one cell each.
        iterations: optimiser steps of every cell.
        synthetic: how synthetic images on disk are made.
        against: arms that every other one is compared with, seed by seed; empty is the first.

    Raises:
        ValueError: no arm, seed or share, one that is given twice or outside its range, a name that cannot be a folder
            or is unknown, or no iterations.
    """

    out: Path
    arms: dict[str, dict[str, Any]]
    base: Path | None = None
    common: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    shares: list[float] = field(default_factory=lambda: [1.0])
    iterations: int = 240
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    against: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.arms or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("needed at least one arm, and seeds, each once")
        for name in self.arms:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"arms: '{name}', needed a name of letters, digits, - and _")
            if self.arms[name].get("synthetic", KINDS[0]) not in KINDS:
                raise ValueError(
                    f"arms.{name}.synthetic: {self.arms[name]['synthetic']!r}, needed one of {', '.join(KINDS)}"
                )
        unknown = [name for name in self.against if name not in self.arms]
        if unknown:
            raise ValueError(f"against: '{unknown[0]}' is none of the arms ({', '.join(self.arms)})")
        if not self.shares or len(set(self.shares)) != len(self.shares) or not all(0 < s <= 1 for s in self.shares):
            raise ValueError(f"shares: {self.shares}, needed numbers above 0 and up to 1, each once")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: {self.seeds}, needed at least 0")
        if self.iterations < 1:
            raise ValueError(f"iterations: {self.iterations}, needed at least 1")


Cell = tuple[str, float, int]
"""Arm, share and seed."""


@dataclass
class ComparisonResult:
    """What a comparison gave.

    Attributes:
        config: what was compared.
        cells: the runs.
    """

    config: CompareConfig
    cells: dict[Cell, TrainResult]

    def figures(self, arm: str, share: float) -> dict[str, np.ndarray]:
        """(seeds,) values of each figure for the first target, in the order of the seeds."""
        runs = [self.cells[arm, share, seed].reid.figures() for seed in self.config.seeds]
        return {key: np.array([figures[key] for figures in runs]) for key in FIGURES}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each cell and target, as results.csv has them."""
        return [
            {
                "arm": arm,
                "share": share,
                "seed": seed,
                "target": target,
                **reid.figures(),
                "iterations": cell.iterations,
                "images": cell.images,
                "synthetic_share": round(cell.synthetic_share, 4),
                "train_seconds": round(cell.train_seconds, 2),
                "evaluation_seconds": round(cell.evaluation_seconds, 2),
            }
            for (arm, share, seed), cell in self.cells.items()
            for target, reid in cell.results.items()
        ]

    def summary(self) -> list[dict[str, Any]]:
        """For each share and arm, mean, deviation and 95 % interval of each figure over the seeds."""
        return [
            {"arm": arm, "share": share, **{key: statistics_of(v) for key, v in self.figures(arm, share).items()}}
            for share in self.config.shares
            for arm in self.config.arms
        ]

    def differences(self) -> list[dict[str, Any]]:
        """For each share and arm, by how much it exceeds another one, seed by seed."""
        found = []
        for share in self.config.shares:
            against = self.config.against or [next(iter(self.config.arms))]
            for number, other in enumerate(against):
                base = self.figures(other, share)
                for arm in self.config.arms:
                    if arm not in against[: number + 1]:  # nor the other way round
                        gains = {key: statistics_of(v - base[key]) for key, v in self.figures(arm, share).items()}
                        found.append({"arm": arm, "against": other, "share": share, **gains})
        return found

    def to_mapping(self) -> dict[str, Any]:
        """Plain data, as results.json has it."""
        cells = [
            {"arm": arm, "share": share, "seed": seed, **cell.to_mapping()}
            for (arm, share, seed), cell in self.cells.items()
        ]
        return {
            "arms": list(self.config.arms), "shares": self.config.shares, "seeds": self.config.seeds,
            "summary": self.summary(), "differences": self.differences(), "cells": cells,
        }  # fmt: skip


def statistics_of(values: np.ndarray) -> dict[str, float | None]:
    """Mean, sample standard deviation, and the 95 % interval of the mean by Student's t; None for a single value."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "std": None, "low": None, "high": None}
    from scipy.stats import t

    std = float(values.std(ddof=1))
    half = float(t.ppf(0.975, count - 1)) * std / count**0.5
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}


def load_compare_config(path: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Reads a comparison's YAML file; errors as in `xingaug.config.load_config`."""
    config = load_config(CompareConfig, path, overrides)
    if config.base is None or config.base.is_absolute():
        return config
    return CompareConfig(**{**vars(config), "base": path.parent / config.base})


def cell_configs(config: CompareConfig) -> dict[Cell, ReidConfig]:
    """The configuration of every cell, each checked.

    Raises:
        BadInput: an arm has an unknown key or a wrong value, or sets what the comparison sets.
    """
    cells = {}
    for arm, changes in config.arms.items():
        for section, key in (("train", "seed"), ("train", "max_iterations"), ("data", "save_dir")):
            chosen = changes.get(section) or {}
            if isinstance(chosen, Mapping) and key in chosen:
                raise BadInput(
                    f"arms.{arm}: sets {section}.{key}, which the comparison sets for all cells; leave it out"
                )
        shared = _arm_settings(config, arm)
        for share in config.shares:
            data = _training_folder(config, arm, share)
            for seed in config.seeds:
                save_dir = str(config.out / arm / share_name(share) / f"seed_{seed}")
                set_here = {
                    "train": {"seed": seed, "max_iterations": config.iterations},
                    "data": {"save_dir": save_dir, **({} if data is None else {"sources": [str(data.resolve())]})},
                }
                cells[arm, share, seed] = cell = reid_config(merged(shared, set_here), f"arms.{arm}")
                first = next(iter(cells.values())).data
                tested, expected = ((d.root, listed(d.targets)) for d in (cell.data, first))
                if tested != expected:
                    raise BadInput(
                        f"arms.{arm}: tests on {tested[1]} in {tested[0]}, another arm on {expected[1]} in "
                        f"{expected[0]}; needed the same data.root and data.targets for all"
                    )
    return cells


def share_name(share: float) -> str:
    """A folder's name: share_20."""
    return f"share_{100 * share:g}"


def _training_folder(config: CompareConfig, arm: str, share: float) -> Path | None:
    """The folder below `out/data` that an arm trains on; None where it trains on the base's own sources.

    Its name holds a hash of where the images come from and how they are made, so that a change of it is another folder.
    """
    kind = config.arms[arm].get("synthetic")
    if kind is None and share == 1:
        return None
    data = _arm_data(config, arm)
    made = f"{Path(data.root).resolve()} {listed(data.sources)} {share} {config.synthetic}"
    folder = f"{share_name(share)}_{hashlib.sha256(made.encode()).hexdigest()[:8]}"
    return config.out / "data" / folder / (kind or "real")


def _arm_settings(config: CompareConfig, arm: str) -> dict[str, Any]:
    """What all cells of an arm share, as plain data."""
    base = read_yaml(config.base) if config.base else {}
    changes = {key: value for key, value in config.arms[arm].items() if key != "synthetic"}
    return merged(merged(base, config.common), changes)


def _arm_data(config: CompareConfig, arm: str) -> DataConfig:
    return reid_config(_arm_settings(config, arm), f"arms.{arm}").data


def _source(config: CompareConfig, arm: str) -> Path:
    """The dataset whose training images an arm takes a share of, or renders again.

    Raises:
        BadInput: several sources, no such folder, or an oracle of what is no pedestrian world.
    """
    from reid_integration.datamanager import find_folder  # imports torchreid, which takes seconds

    data = _arm_data(config, arm)
    sources = listed(data.sources)
    if len(sources) != 1:
        raise BadInput(f"arms.{arm}: shares and synthetic images need one source, data.sources has {len(sources)}")
    source = find_folder(data.root, sources[0])
    if config.arms[arm].get("synthetic") == "oracle":
        require_world(source)
    return source


def _write_training_folder(config: CompareConfig, arm: str, share: float) -> None:
    folder = _training_folder(config, arm, share)
    if folder is None:
        return
    source = _source(config, arm)
    real = write_share(source, folder.parent / "real", share, config.synthetic.annotations)
    kind = config.arms[arm].get("synthetic")
    if kind is not None:
        write_arm(kind, real, folder, config.synthetic, source)


def compare(config: CompareConfig, progress: bool = False, generator: nn.Module | None = None) -> ComparisonResult:
    """Runs every cell that is not finished, then writes results.json, results.csv, report.html and the plots.

    Args:
        config: what to compare.
        progress: show progress (bars on a terminal only).
        generator: renders in place of `augment.generator`; synthetic images on disk are made by `synthetic.generator`.

    Raises:
        BadInput: as `cell_configs` and `run`; also when a finished cell was run with another configuration.
    """
    cells = cell_configs(config)
    # What can be complained of before any work.
    finished = {key: _finished(cell, generator) for key, cell in cells.items()}
    for (arm, share, _), done in zip(cells, finished.values(), strict=True):
        if not done and _training_folder(config, arm, share) is not None:
            _source(config, arm)
            if "synthetic" in config.arms[arm]:
                load_generator(config.synthetic.generator)
    results = {}
    for number, (key, cell) in enumerate(cells.items(), start=1):
        arm, share, seed = key
        done = finished[key]
        if progress:
            state = "finished before" if done else "training"
            at = "" if config.shares == [1.0] else f", {share:.0%} of the images"
            print(f"[{number}/{len(cells)}] {arm}{at}, seed {seed}: {state}", file=sys.stderr, flush=True)
        if not done:
            _write_training_folder(config, arm, share)
        results[key] = TrainResult.load(Path(cell.data.save_dir)) if done else run(cell, progress, generator)
    comparison = ComparisonResult(config, results)
    _write(comparison)
    return comparison


def _finished(cell: ReidConfig, generator: nn.Module | None) -> bool:
    """Whether the cell's result is there already, from the very same configuration and generator."""
    directory = Path(cell.data.save_dir)
    if not (directory / RESULT).exists():
        return False
    before, now = _flat(read_yaml(directory / RESOLVED)), _flat(to_mapping(cell))
    if generator is not None and cell.augmentation is not None:
        before["generator"] = TrainResult.load(directory).sources.get("generator")
        now["generator"] = str(generator.content_hash)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise BadInput(
            f"{directory}: finished with another configuration ({key}: {before.get(key)!r}, now {now.get(key)!r}); "
            "choose another `out`, or remove the folder to run it again"
        )
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
    write_compare_page(out, data, comparison.config.iterations)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings are merged key by key, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def table_lines(comparison: ComparisonResult) -> list[str]:
    """Mean and standard deviation over the seeds, in percent, and the differences with their 95 % intervals."""
    rows = comparison.summary()
    several = len(comparison.config.shares) > 1
    heads = [f"{row['arm']} {row['share']:.0%}" if several else row["arm"] for row in rows]
    width = max(map(len, heads))
    lines = [f"{'':{width}}  " + "".join(f"{key:>14}" for key in FIGURES)]
    for head, row in zip(heads, rows, strict=True):
        cells = [f"{row[key]['mean']:.1%}{_spread(row[key]['std'])}" for key in FIGURES]
        lines.append(f"{head:{width}}  " + "".join(f"{cell:>14}" for cell in cells))
    for row in comparison.differences():
        gain = row["mAP"]
        at = f", {row['share']:.0%}" if several else ""
        known = "" if gain["low"] is None else f" (95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        lines.append(f"{row['arm']} - {row['against']}{at}: mAP {100 * gain['mean']:+.1f}{known}")
    return lines


def _spread(std: float | None) -> str:
    return "" if std is None else f" ± {std * 100:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m reid_integration.compare",
        description="Trains and evaluates arms x shares x seeds with equal iterations; finished cells are kept.",
        epilog="example: python -m reid_integration.compare --config configs/compare_pedestrians.yaml iterations=400",
    )
    parser.add_argument("--config", required=True, type=Path, help="YAML file with out, base, arms, seeds, iterations")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as iterations=400")
    given = parser.parse_words(arguments)

    def command() -> None:
        torch.set_flush_denormal(True)
        result = compare(load_compare_config(given.config, given.overrides), progress=True)
        if given.json:
            print(json.dumps(result.to_mapping()))
        else:
            print("\n".join([*table_lines(result), f"written to {result.config.out}"]))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
