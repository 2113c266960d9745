"""Trains arms x seeds with equal iterations: python -m reid_integration.compare --config FILE [key=value ...].

An arm is a set of changes to one base configuration (an augmentation, another training folder, another model). Every
cell is a run directory of `reid_integration.train`; finished cells are not run again.
"""

import csv
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

from reid_integration.config import ReidConfig, reid_config
from reid_integration.train import RESOLVED, RESULT, TrainResult, run
from xingaug.cli import Parser
from xingaug.config import load_config, read_yaml, to_mapping
from xingaug.errors import BadInput, guarded
from xingaug.files import atomic_write

FIGURES = ("mAP", "rank1", "rank5", "rank10", "mINP")


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
        out: folder of the cells (`out/arm/seed_1/`), results.json and results.csv.
        arms: by name, the changes to the base configuration, as a nested mapping.
        base: torchreid-style YAML that all cells share; a relative path is meant from the comparison's own file.
        common: changes to the base for all arms.
        seeds: of the training, one cell each; draws follow it unless augment.seed is given.
        iterations: optimiser steps of every cell.

    Raises:
        ValueError: no arm or seed, a seed given twice, a name that cannot be a folder, or no iterations.
    """

    out: Path
    arms: dict[str, dict[str, Any]]
    base: Path | None = None
    common: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    iterations: int = 240

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.arms or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("needed at least one arm, and seeds, each once")
        for name in self.arms:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"arms: '{name}', needed a name of letters, digits, - and _")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: {self.seeds}, needed at least 0")
        if self.iterations < 1:
            raise ValueError(f"iterations: {self.iterations}, needed at least 1")


@dataclass
class ComparisonResult:
    """What a comparison gave.

    Attributes:
        out: its folder.
        cells: the runs by (arm, seed).
    """

    out: Path
    cells: dict[tuple[str, int], TrainResult]

    @property
    def arms(self) -> list[str]:
        """The arms, in the order of the configuration."""
        return list(dict.fromkeys(arm for arm, _ in self.cells))

    def figures(self, arm: str) -> dict[str, np.ndarray]:
        """(seeds,) values of each figure for the first target, in the order of the seeds."""
        runs = [cell.reid.figures() for (name, _), cell in self.cells.items() if name == arm]
        return {key: np.array([figures[key] for figures in runs]) for key in FIGURES}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each cell and target, as results.csv has them."""
        return [
            {
                "arm": arm,
                "seed": seed,
                "target": target,
                **reid.figures(),
                "iterations": cell.iterations,
                "images": cell.images,
                "synthetic_share": round(cell.synthetic_share, 4),
                "train_seconds": round(cell.train_seconds, 2),
                "evaluation_seconds": round(cell.evaluation_seconds, 2),
            }
            for (arm, seed), cell in self.cells.items()
            for target, reid in cell.results.items()
        ]

    def to_mapping(self) -> dict[str, Any]:
        """Plain data, as results.json has it."""
        summary = {
            arm: {key: {"mean": float(v.mean()), "std": _deviation(v), "seeds": len(v)} for key, v in values.items()}
            for arm, values in ((arm, self.figures(arm)) for arm in self.arms)
        }
        cells = [{"arm": arm, "seed": seed, **cell.to_mapping()} for (arm, seed), cell in self.cells.items()]
        return {"arms": self.arms, "summary": summary, "cells": cells}


def load_compare_config(path: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Reads a comparison's YAML file; errors as in `xingaug.config.load_config`."""
    config = load_config(CompareConfig, path, overrides)
    if config.base is None or config.base.is_absolute():
        return config
    return CompareConfig(**{**vars(config), "base": path.parent / config.base})


def cell_configs(config: CompareConfig) -> dict[tuple[str, int], ReidConfig]:
    """The configuration of every cell, by (arm, seed), each checked.

    Raises:
        BadInput: an arm has an unknown key or a wrong value, or sets what the comparison sets.
    """
    base = read_yaml(config.base) if config.base else {}
    cells = {}
    for arm, changes in config.arms.items():
        for section, key in (("train", "seed"), ("train", "max_iterations"), ("data", "save_dir")):
            chosen = changes.get(section) or {}
            if isinstance(chosen, Mapping) and key in chosen:
                raise BadInput(
                    f"arms.{arm}: sets {section}.{key}, which the comparison sets for all cells; leave it out"
                )
        for seed in config.seeds:
            set_here = {
                "train": {"seed": seed, "max_iterations": config.iterations},
                "data": {"save_dir": str(config.out / arm / f"seed_{seed}")},
            }
            mapping = merged(merged(merged(base, config.common), changes), set_here)
            cells[arm, seed] = reid_config(mapping, f"arms.{arm}")
    return cells


def compare(config: CompareConfig, progress: bool = False, generator: nn.Module | None = None) -> ComparisonResult:
    """Runs every cell that is not finished, then writes results.json and results.csv.

    Args:
        config: what to compare.
        progress: show progress (bars on a terminal only).
        generator: renders in place of `augment.generator`.

    Raises:
        BadInput: as `cell_configs` and `run`; also when a finished cell was run with another configuration.
    """
    cells = cell_configs(config)
    finished = {key: _finished(cell, generator) for key, cell in cells.items()}  # complains before any work
    results = {}
    for number, (key, cell) in enumerate(cells.items(), start=1):
        done = finished[key]
        if progress:
            state = "finished before" if done else "training"
            print(f"[{number}/{len(cells)}] {key[0]}, seed {key[1]}: {state}", file=sys.stderr, flush=True)
        results[key] = TrainResult.load(Path(cell.data.save_dir)) if done else run(cell, progress, generator)
    comparison = ComparisonResult(config.out, results)
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
    with atomic_write(comparison.out / "results.csv") as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    with atomic_write(comparison.out / "results.json") as path:
        path.write_text(json.dumps(comparison.to_mapping(), indent=1), encoding="utf-8")


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


def _deviation(values: np.ndarray) -> float | None:
    """Sample standard deviation; None for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def table_lines(comparison: ComparisonResult) -> list[str]:
    """Mean and standard deviation over the seeds, in percent."""
    width = max(map(len, comparison.arms))
    lines = [f"{'':{width}}  " + "".join(f"{key:>14}" for key in FIGURES)]
    for arm in comparison.arms:
        cells = []
        for values in comparison.figures(arm).values():
            spread = _deviation(values)
            cells.append(f"{values.mean():.1%}" + ("" if spread is None else f" ± {spread * 100:.1f}"))
        lines.append(f"{arm:{width}}  " + "".join(f"{cell:>14}" for cell in cells))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m reid_integration.compare",
        description="Trains and evaluates arms x seeds with equal iterations; finished cells are kept.",
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
            print("\n".join([*table_lines(result), f"written to {result.out}"]))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
