"""Bootstrap confidence intervals of metrics and of paired differences between configurations.

Training seeds and test data are both resampled. The resampled unit of the test data is an image, a class with all of
its images, or a dataset. All configurations share the resamples, so common variation cancels out in differences.
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
"""Metrics that depend on one split only: base (0) or novel (1)."""
ACCURACY, DIFFERENCE = (0.0, 100.0), (-100.0, 100.0)
"""Possible values of an accuracy (or an error) in per cent, and of a difference in points."""


@dataclass(frozen=True)
class SplitResamples:
    """Resamples of the base or novel split of each dataset; the other split is not resampled.

    Attributes:
        novel: whether the novel split is resampled instead of the base split.
        units: resampled units of each dataset; None for a dataset without images of the split.
        widen: (R,) factors that correct the deviation of each resample for a small number of units; NaN if the spread
            is unknown.
    """

    novel: bool
    units: Sequence[UnitCounts | None]
    widen: Floats


@dataclass(frozen=True)
class Resamples:
    """Resampled seed weights and resampled test data.

    Attributes:
        seeds: (R, S) weights of the seeds, with rows that sum to 1.
        splits: resamples of the base and the novel split; empty if datasets are resampled.
        datasets: (R, D) weights of the datasets, with rows that sum to 1, or NaN for a single dataset. None if datasets
            are not resampled.
    """

    seeds: Floats
    splits: Sequence[SplitResamples] = ()
    datasets: Floats | None = None


def seed_weights(seeds: int, resamples: int, generator: np.random.Generator) -> Floats:
    """Draw random seed weights (R, S) that give weighted means an unbiased variance; rows sum to 1.

    Resampling S seeds with replacement underestimates the variance by a factor of (S - 1) / S. This Gaussian multiplier
    bootstrap gives every weighted mean the unbiased variance s^2 / S. A random scale factor per resample, shared by all
    seeds, adds the tails of Student's t-distribution with S - 1 degrees of freedom.
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
    """Resample the seeds and the test data.

    Images and classes are resampled with replacement within each split of each dataset. `SplitResamples.widen` corrects
    for a small number of classes, as `seed_weights` does for a small number of seeds.

    Args:
        tested: outcomes of any run on each of D datasets.
        unit: unit to resample. Intervals over classes are NaN if no dataset has more than one class in a split;
            intervals over datasets are NaN for a single dataset.
    """
    weights = seed_weights(seeds, resamples, generator)
    if unit == "datasets":
        datasets = seed_weights(len(tested), resamples, generator)
        return Resamples(weights, (), datasets if len(tested) > 1 else datasets * np.nan)
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
    """Compute metrics (R, S) with resampled dataset weights.

    With few datasets, weights are often negative, which makes a harmonic mean of weighted means meaningless. The
    harmonic mean is linearised at the unweighted means instead.
    """
    metrics = {
        name: weights @ np.concatenate([each[name] for each in datasets]) for name in METRICS if name not in HARMONIC
    }
    for name, (first, second) in HARMONIC.items():
        base, novel = means[first], means[second]
        rise = novel**2 * (metrics[first] - base) + base**2 * (metrics[second] - novel)
        metrics[name] = means[name] + np.divide(2 * rise, (base + novel) ** 2, out=0 * rise, where=base + novel > 0)
    return metrics


Resampled = Mapping[str, tuple[Floats, Floats]]
"""Metric -> means over datasets for each seed (S,), and means over datasets and seeds for each resample (R,)."""


def configuration_metrics(outcomes: Sequence[Outcomes], resamples: Resamples) -> Resampled:
    """Compute all metrics of a configuration for each seed and in each resample.

    An untrained configuration has a single run, which is used for all seeds. Seeds and test data are resampled
    separately, and their deviations are added, because joint resampling would count the between-seed variance twice.

    Args:
        outcomes: outcomes on each dataset.
    """
    datasets = [run_metrics(tested) for tested in outcomes]
    runs = mean_metrics(datasets)
    splits = []
    for split in resamples.splits:
        pairs = zip(outcomes, split.units, strict=True)
        splits.append(mean_metrics([resampled_metrics(tested, split.novel, units) for tested, units in pairs]))
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
        for number, resampled in enumerate(splits):
            if SINGLE_SPLIT.get(name, number) == number:
                values = values + resamples.splits[number].widen * (resampled[name].mean(axis=1) - seeds.mean())
        metrics[name] = seeds, values
    return metrics


@dataclass(frozen=True)
class Interval:
    """Estimate with its confidence interval."""

    estimate: Number
    low: Number
    high: Number


def interval(
    estimate: float, resamples: Floats, confidence_level: float, possible: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    """Compute the percentile interval of resamples (R,), which may be infinite, within the `possible` values."""
    edge = (1 - confidence_level) / 2
    # "inverted_cdf" avoids interpolation, which fails between finite and infinite values.
    low, high = np.quantile(resamples, [edge, 1 - edge], method="inverted_cdf").clip(*possible)
    return Interval(float(estimate), float(low), float(high))


@dataclass(frozen=True)
class Differences:
    """Differences between two configurations at A numbers of images per class, in points, for one metric.

    Attributes:
        estimates: (A,) estimates.
        resamples: (A, R) differences in each resample of seeds and test data, which all numbers of images share.
    """

    estimates: Floats
    resamples: Floats

    def average(self, confidence_level: float = 0.95) -> Interval:
        """Return the mean over the numbers of images with its percentile interval."""
        return interval(self.estimates.mean(), self.resamples.mean(axis=0), confidence_level, DIFFERENCE)

    def simultaneous(self, confidence_level: float = 0.95) -> list[Interval]:
        """Return simultaneous confidence intervals of the differences at all numbers of images.

        Each interval extends on both sides by the same multiple of its standard error: the quantile of the largest
        absolute standardised deviation in each resample (max-|t|). For a single number of images, the percentile
        interval is returned.

        Source: Montiel Olea and Plagborg-Møller 2019, Journal of Applied Econometrics 34(1), algorithm 2.
        """
        if len(self.estimates) == 1:
            return [self.average(confidence_level)]
        errors = self.resamples.std(axis=1, keepdims=True)
        deviations = np.abs(self.resamples - self.estimates[:, None])
        largest = np.divide(deviations, errors, out=0 * deviations, where=errors != 0).max(axis=0)
        reach = np.quantile(largest, confidence_level) * errors[:, 0]
        limits = np.clip([self.estimates - reach, self.estimates + reach], *DIFFERENCE)
        bounds = zip(self.estimates, *limits, strict=True)
        return [Interval(*map(float, bound)) for bound in bounds]


def differences(pairs: Sequence[tuple[Resampled, Resampled]]) -> Mapping[str, Differences]:
    """Return the differences at several numbers of images; both members of a pair share seeds and resamples."""
    return {
        name: Differences(
            np.array([(first[name][0] - second[name][0]).mean() for first, second in pairs]),
            np.stack([first[name][1] - second[name][1] for first, second in pairs]),
        )
        for name in METRICS
    }
