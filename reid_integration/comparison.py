"""Configuration and result of a comparison: arms x cuts x seeds, means, paired differences, intervals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reid_integration.arms import Cut, SyntheticConfig
from reid_integration.result import TrainResult

KINDS = ("none", "offline", "duplicates", "oracle")
FIGURES = ("mAP", "rank1", "rank5", "rank10", "mINP")

HELD_OUT = "Tested on training identities that were held out for validation, not on query and gallery."


@dataclass(frozen=True)
class CompareConfig:
    """The arms, shares and seeds to compare.

    Attributes:
        out: folder of the cells (`out/arm/share_100/seed_1/`), of training folders that arms need (`out/data/`), and
            of results.json, results.csv, report.html and the plots.
        arms: by name, the changes to the base configuration, as a nested mapping; `synthetic: offline`, `duplicates`
            or `oracle` adds such images to the real ones (`reid_integration.arms`), and `none` removes those that the
            source holds. The first is the default control.
        base: torchreid-style YAML that all cells share; a relative path starts at the comparison's own file.
        common: changes to the base for all arms.
        seeds: of the training, one cell each; also of the pose draws unless augment.seed is given.
        shares: of each identity's training images, one cell each.
        identity_shares: of the training identities, with all their images, one cell each.
        validation: share of the training identities to hold out and test on, in place of query and gallery and of
            whatever `data.targets` names, so that settings can be chosen without the test set; 0 tests on query and
            gallery. It needs one source, a Market-1501 tree, for all arms. A generator or estimator that was trained on
            these identities, as `market1501-augment` was on Market-1501's, has seen the held-out ones, which favours
            its arms against those without one; so do synthetic images in the source, whose poses and grounds may be
            those of held-out images.
        iterations: optimiser steps of every cell.
        synthetic: how synthetic images on disk are made.
        against: controls that every other arm is compared with, seed by seed; empty is the first arm.
        headline: the arm that the page's first sentence is about, other than the first control; empty is the last one
            of these.

    Raises:
        ValueError: no arm, seed or share, a repeated one or one outside its range, a name that cannot be a folder or
            is unknown, or no iterations.
    """

    out: Path
    arms: dict[str, dict[str, Any]]
    base: Path | None = None
    common: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    shares: list[float] = field(default_factory=lambda: [1.0])
    identity_shares: list[float] = field(default_factory=list)
    validation: float = 0.0
    iterations: int = 240
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    against: list[str] = field(default_factory=list)
    headline: str = ""

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
        for key, names in (("against", self.against), ("headline", [self.headline] if self.headline else [])):
            unknown = [name for name in names if name not in self.arms]
            if unknown:
                raise ValueError(f"{key}: '{unknown[0]}' is none of the arms ({', '.join(self.arms)})")
        if len(self.arms) > 1 and self.headline == self.controls[0]:
            raise ValueError(f"headline: '{self.headline}' is the first control; needed another arm")
        for key, values in (("shares", self.shares), ("identity_shares", self.identity_shares)):
            if len(set(values)) != len(values) or not all(0 < share <= 1 for share in values):
                raise ValueError(f"{key}: {values}, needed numbers above 0 and up to 1, each once")
        if not self.cuts or len(set(self.cuts)) != len(self.cuts):
            raise ValueError(f"shares, identity_shares: {len(self.cuts)}, needed at least one, and the whole only once")
        if len({cut.name for cut in self.cuts}) != len(self.cuts):
            raise ValueError(
                f"shares: {self.shares}, identity_shares: {self.identity_shares}; some are too close to tell apart"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: {self.validation}, needed a share of the identities, at least 0 and below 1")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: {self.seeds}, needed at least 0")
        if self.iterations < 1:
            raise ValueError(f"iterations: {self.iterations}, needed at least 1")

    @property
    def cuts(self) -> list[Cut]:
        """The parts of the training set, one cell each."""
        return [*(Cut(images=share) for share in self.shares), *(Cut(identities=s) for s in self.identity_shares)]

    @property
    def controls(self) -> list[str]:
        """The arms that the others are compared with."""
        return self.against or [next(iter(self.arms))]

    @property
    def main(self) -> str:
        """The arm of `headline`; the first control if there is no other arm."""
        others = [arm for arm in self.arms if arm != self.controls[0]]
        return self.headline or (others or self.controls)[-1]


Cell = tuple[str, Cut, int]
"""Arm, cut and seed."""


@dataclass
class ComparisonResult:
    """The result of a comparison, or a partial one while it runs.

    Attributes:
        config: what was compared.
        cells: the finished runs.
    """

    config: CompareConfig
    cells: dict[Cell, TrainResult]

    def seeds(self, arm: str, cut: Cut) -> list[int]:
        """Seeds with a finished cell."""
        return [seed for seed in self.config.seeds if (arm, cut, seed) in self.cells]

    def figures(self, arm: str, cut: Cut, seeds: list[int] | None = None) -> dict[str, np.ndarray]:
        """(seeds,) values of each figure for the first target, of finished cells, or of the given seeds."""
        chosen = self.seeds(arm, cut) if seeds is None else seeds
        runs = [self.cells[arm, cut, seed].reid.figures() for seed in chosen]
        return {key: np.array([figures[key] for figures in runs]) for key in FIGURES}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each cell and target, as in results.csv."""
        return [
            {
                **_columns(arm, cut),
                "seed": seed,
                "target": target,
                **reid.figures(),
                "iterations": cell.iterations,
                "images": cell.images,
                "identities": cell.identities,
                "synthetic_share": round(cell.synthetic_share, 4),
                "train_seconds": round(cell.train_seconds, 2),
                "evaluation_seconds": round(cell.evaluation_seconds, 2),
                "machine": cell.machine,
            }
            for (arm, cut, seed), cell in self.cells.items()
            for target, reid in cell.results.items()
        ]

    def summary(self) -> list[dict[str, Any]]:
        """For each cut and arm, mean, standard deviation and 95 % interval of each figure over the seeds."""
        return [
            {
                **_columns(arm, cut),
                "seeds": len(self.seeds(arm, cut)),
                **{key: statistics_of(values) for key, values in self.figures(arm, cut).items()},
                "train_seconds": self._mean(arm, cut, lambda cell: cell.train_seconds),
            }
            for cut in self.config.cuts
            for arm in self.config.arms
            if self.seeds(arm, cut)
        ]

    def _mean(self, arm: str, cut: Cut, value: Callable[[TrainResult], float]) -> float:
        return float(np.mean([value(self.cells[arm, cut, seed]) for seed in self.seeds(arm, cut)]))

    def differences(self) -> list[dict[str, Any]]:
        """For each cut and arm, the differences to each control, over the seeds that both have."""
        found, controls = [], self.config.controls
        for cut in self.config.cuts:
            for number, other in enumerate(controls):
                for arm in self.config.arms:
                    shared = [seed for seed in self.seeds(arm, cut) if seed in self.seeds(other, cut)]
                    if arm in controls[: number + 1] or not shared:  # each pair of controls only once
                        continue
                    base = self.figures(other, cut, shared)
                    figures = self.figures(arm, cut, shared)
                    gains = {key: statistics_of(values - base[key]) for key, values in figures.items()}
                    of_shared = {arm: float(figures["mAP"].mean()), other: float(base["mAP"].mean())}
                    row = {**_columns(arm, cut), "against": other, "seeds": len(shared), "mean_mAP": of_shared}
                    found.append({**row, **gains})
        return found

    def mixed(self) -> list[str]:
        """A sentence where seeds of an arm, or arms of the same training images, were made with different files."""
        found = []
        for cut in self.config.cuts:
            for arm in self.config.arms:
                sources = [self.cells[arm, cut, seed].sources for seed in self.seeds(arm, cut)]
                keys = dict.fromkeys(key for made_with in sources for key in made_with if key != "rendering")
                differing = [key for key in keys if len({made_with.get(key) for made_with in sources}) > 1]
                if differing:
                    found.append(
                        f"{arm}, {cut.label}: the seeds were made with different {' and '.join(differing)}, so their "
                        "mean and interval mix these."
                    )
            apart = {tuple(arms.values()): None for arms in self._arms_by_images(cut) if len(arms) > 1}
            found += [
                f"{' and '.join(arms)}, {cut.label}: trained on different real images, so their difference mixes these."
                for arms in apart
            ]
        return found

    def _arms_by_images(self, cut: Cut) -> Iterator[dict[str, str]]:
        """For each seed, by hash of the training images the first arm with these, of those that choose no others."""
        for kind in (None, "none"):
            arms = [arm for arm, c in self.config.arms.items() if c.get("synthetic") == kind and "data" not in c]
            for seed in self.config.seeds:
                found: dict[str, str] = {}
                for arm in arms:
                    cell = self.cells.get((arm, cut, seed))
                    if cell is not None and "images" in cell.sources:
                        found.setdefault(cell.sources["images"], arm)
                yield found

    def to_mapping(self) -> dict[str, Any]:
        """Plain data, as in results.json."""
        cells = [
            {**_columns(arm, cut), "seed": seed, **cell.to_mapping()} for (arm, cut, seed), cell in self.cells.items()
        ]
        config = self.config
        wanted = len(config.arms) * len(config.cuts) * len(config.seeds)
        return {
            "arms": list(config.arms), "cuts": [vars(cut) for cut in config.cuts], "seeds": config.seeds,
            "validation": config.validation, "iterations": config.iterations,
            "headline": config.main, "controls": config.controls,
            "missing": wanted - len(cells), "mixed": self.mixed(), "cells": cells,
            "summary": self.summary(), "differences": self.differences(),
        }  # fmt: skip


def _columns(arm: str, cut: Cut) -> dict[str, Any]:
    """The columns of a cell: the arm, and its shares of each identity's images and of the identities."""
    return {"arm": arm, "share": cut.images, "identity_share": cut.identities}


def statistics_of(values: np.ndarray) -> dict[str, float | None]:
    """Mean, sample standard deviation, and the 95 % interval of the mean by Student's t; None for a single value."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "std": None, "low": None, "high": None}
    from scipy.stats import t

    std = float(values.std(ddof=1))
    half = float(t.ppf(0.975, count - 1)) * std / count**0.5
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
