"""Bootstrap confidence intervals of metrics and of paired differences between configurations.

Two sources of randomness are resampled: the seeds of the trainings, and the test data (images, classes with all of
their images, or datasets). All configurations share the same resamples, so common variation cancels in a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import HARMONIC, METRICS, Number
from syncclip.studies.statistics.metrics import Outcomes, UnitCounts, mean_metrics, resampled_metrics, run_metrics

Floats = npt.NDArray[np.float64]

Unit = Literal["images", "classes", "datasets"]
"""Resampled unit of the test data."""
SINGLE_SPLIT = {"base": 0, "all_classes_base": 0, "novel": 1, "all_classes_novel": 1}
"""Metrics that depend on the images of the base classes (0) or of the novel classes (1) only; all others use both."""


@dataclass(frozen=True)
class SplitResamples:
    """Resamples of the base or the novel split of every dataset; the other split is used once as a whole.

    Attributes:
        units: for each dataset; None if it has no image of the split.
        widen: (R,) factors that correct the deviation of a resample for few units; NaN if the spread is unknown.
    """

    novel: bool
    units: Sequence[UnitCounts | None]
    widen: Floats


@dataclass(frozen=True)
class Resamples:
    """Weights of the seeds and resampled test data.

    Attributes:
        seeds: (R, S) weights of the seeds, rows sum to 1.
        splits: base and novel; empty if datasets are resampled.
        datasets: (R, D) weights of the datasets, rows sum to 1, NaN for a single one; None if they are fixed.
    """

    seeds: Floats
    splits: Sequence[SplitResamples] = ()
    datasets: Floats | None = None


def seed_weights(seeds: int, resamples: int, generator: np.random.Generator) -> Floats:
    """Random weights that give a mean over few seeds an unbiased spread: (R, S), rows sum to 1.

    Resampling whole seeds with replacement underestimates the variance of three or five by (S - 1) / S, with normal
    tails. The weights of this Gaussian multiplier bootstrap give every weighted mean the unbiased variance s^2 / S and,
    by a common random scale per resample, the tails of Student's distribution with S - 1 degrees of freedom.
    """
    if seeds == 1:
        return np.ones((resamples, 1))
    noise = generator.standard_normal((resamples, seeds))
    noise -= noise.mean(axis=1, keepdims=True)
    scale = np.sqrt((seeds - 1) / generator.chisquare(seeds - 1, size=(resamples, 1)))
    weights: Floats = 1 / seeds + scale * noise / np.sqrt(seeds * (seeds - 1))
    return weights


def make_resamples(
    seeds: int, tested: Sequence[Outcomes], resamples: int, generator: np.random.Generator, unit: Unit = "images"
) -> Resamples:
    """Resample seeds, and images, classes or datasets.

    Images and classes are resampled with replacement within each split of each dataset, a class with all of its images;
    `SplitResamples.widen` corrects for few classes as `seed_weights` does for few seeds.

    Args:
        tested: outcomes of any run on each of D datasets.
        unit: intervals over classes are NaN if no dataset has two classes of a split; those over a single dataset are
            NaN.
    """
    weights = seed_weights(seeds, resamples, generator)
    if unit == "datasets":
        few = len(tested) < 2
        return Resamples(weights, (), seed_weights(len(tested), resamples, generator) * (np.nan if few else 1))
    return Resamples(weights, [_split(tested, novel, resamples, generator, unit) for novel in (False, True)])


def _split(
    tested: Sequence[Outcomes], novel: bool, resamples: int, generator: np.random.Generator, unit: Unit
) -> SplitResamples:
    counts: list[UnitCounts | None] = []
    sizes = []
    for outcomes in tested:
        split = outcomes.novel == novel
        if not split.any():
            counts.append(None)
            continue
        ids = np.flatnonzero(split) if unit == "images" else outcomes.label[split]
        _, units = np.unique(ids, return_inverse=True)
        sizes.append(int(units.max()) + 1)
        drawn = generator.multinomial(sizes[-1], np.full(sizes[-1], 1 / sizes[-1]), size=resamples)
        counts.append(UnitCounts(drawn.astype(np.uint16), units))
    widen, freedom = np.ones(resamples), sum(sizes) - len(sizes)
    if unit == "classes" and freedom:
        widen = np.sqrt(sum(sizes) / generator.chisquare(freedom, size=resamples))
    elif unit == "classes":
        widen = np.full(resamples, np.nan)
    return SplitResamples(novel, counts, widen)


def _weighted(
    datasets: Sequence[Mapping[str, Floats]], means: Mapping[str, Floats], weights: Floats
) -> dict[str, Floats]:
    """Metrics under resampled weights of the datasets: (R, S).

    Weights of few datasets are often negative, which makes a harmonic mean of weighted means meaningless; its tangent
    at the means is used instead.
    """
    metrics = {
        name: weights @ np.concatenate([of[name] for of in datasets]) for name in METRICS if name not in HARMONIC
    }
    for name, (first, second) in HARMONIC.items():
        base, novel = means[first], means[second]
        rise = novel**2 * (metrics[first] - base) + base**2 * (metrics[second] - novel)
        metrics[name] = means[name] + np.divide(2 * rise, (base + novel) ** 2, out=0 * rise, where=base + novel > 0)
    return metrics


Resampled = Mapping[str, tuple[Floats, Floats]]
"""Metric -> means over datasets: of every seed (S,), and the mean over seeds in every resample (R,)."""


def configuration_metrics(outcomes: Sequence[Outcomes], resamples: Resamples) -> Resampled:
    """All metrics of a configuration, for every seed and in every resample; a single run stands for every seed.

    Seeds and test data are resampled separately and their deviations added. Resampling both at once would count a
    random
    difference between seeds twice: in the spread over seeds, and in the images resampled for each of them.

    Args:
        outcomes: one entry per dataset.
    """
    datasets = [run_metrics(of) for of in outcomes]
    runs = mean_metrics(datasets)
    splits = [
        mean_metrics(
            [resampled_metrics(of, split.novel, units) for of, units in zip(outcomes, split.units, strict=True)]
        )
        for split in resamples.splits
    ]
    if resamples.datasets is not None:
        weighted = _weighted(datasets, runs, resamples.datasets)
    metrics = {}
    for name in METRICS:
        seeds = runs[name][0]
        values = np.full(len(resamples.seeds), seeds.mean())
        if len(seeds) > 1:
            values = values + (resamples.seeds - 1 / len(seeds)) @ seeds
        if resamples.datasets is not None:
            values = values + weighted[name].mean(axis=1) - seeds.mean()
        for number, split in enumerate(splits):
            if SINGLE_SPLIT.get(name, number) == number:
                values = values + resamples.splits[number].widen * (split[name].mean(axis=1) - seeds.mean())
        metrics[name] = seeds, values
    return metrics


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    estimate: Number
    low: Number
    high: Number


def interval(estimate: float, resamples: Floats, confidence_level: float) -> Interval:
    """Percentile interval over resamples (R,), which may be infinite."""
    edge = (1 - confidence_level) / 2
    low, high = np.quantile(resamples, [edge, 1 - edge], method="inverted_cdf")  # never averages with infinity
    return Interval(float(estimate), float(low), float(high))


def difference(first: Resampled, second: Resampled, confidence_level: float = 0.95) -> Mapping[str, Interval]:
    """The first configuration minus the second, in points, for every metric; both with the same seeds and resamples."""
    return {
        name: interval((first[name][0] - second[name][0]).mean(), first[name][1] - second[name][1], confidence_level)
        for name in METRICS
    }
