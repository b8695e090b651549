"""Bootstrap over seeds, and over test images, classes or datasets: how certain is a difference between two
configurations?

Two sources of randomness are resampled together: the seed (shots, start, order of a training), and what is tested.
That may be images of the same classes, other classes with all of their images, or other datasets: three questions, of
which the second is that of a reader with classes of their own. Both configurations of a comparison see the same
seeds and the
same images in every draw, so what they share cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from syncclip.evaluation.metrics import HARMONIC, METRICS, Number
from syncclip.studies.statistics.metrics import Answers, Taken, drawn_metrics, mean_metrics, run_metrics

Floats = npt.NDArray[np.float64]

Unit = Literal["images", "classes", "datasets"]
"""What of the test data is drawn again, beside the seeds."""
ONE_HALF = {"base": 0, "all_classes_base": 0, "novel": 1, "all_classes_novel": 1}
"""Metrics that only the base classes' images decide (0), or the novel ones' (1); all others rest on both."""


@dataclass(frozen=True)
class Half:
    """What of one half of every dataset, base or novel, is taken in each draw; of the other half all is taken once.

    Attributes:
        novel: which half.
        taken: for each dataset; None where it has no image of the half.
        widen: (R,) by how much the deviation of a draw is too small; NaN where no spread can be known.
    """

    novel: bool
    taken: Sequence[Taken | None]
    widen: Floats


@dataclass(frozen=True)
class Draws:
    """Weights of seeds, and what of the test data is taken, in each draw.

    Attributes:
        seeds: (R, S) weights of the seeds, each row's sum is 1.
        halves: base and novel; none where datasets are drawn.
        datasets: (R, D) weights of the datasets, each row's sum is 1, NaN of a single one; None where they are fixed.
    """

    seeds: Floats
    halves: Sequence[Half] = ()
    datasets: Floats | None = None


def seed_weights(seeds: int, resamples: int, generator: np.random.Generator) -> Floats:
    """Random weights that give a mean over few seeds the spread that is fair to it: (R, S), rows sum to 1.

    Taking whole seeds with replacement fails for the usual three or five: the variance is too small by (S - 1) / S
    and the tails are those of a normal distribution where the mean of a few runs follows Student's. So weights are
    drawn instead (a Gaussian multiplier bootstrap): every weighted mean has the unbiased variance s^2 / S and, by a
    common random scale in each draw, the tails of Student's distribution with S - 1 degrees of freedom. One seed
    alone always weighs 1.

    Args:
        seeds: S, at least 1.
        resamples: R.
        generator: source of randomness.
    """
    if seeds == 1:
        return np.ones((resamples, 1))
    noise = generator.standard_normal((resamples, seeds))
    noise -= noise.mean(axis=1, keepdims=True)
    scale = np.sqrt((seeds - 1) / generator.chisquare(seeds - 1, size=(resamples, 1)))
    weights: Floats = 1 / seeds + scale * noise / np.sqrt(seeds * (seeds - 1))
    return weights


def make_draws(
    seeds: int, tested: Sequence[Answers], resamples: int, generator: np.random.Generator, unit: Unit = "images"
) -> Draws:
    """Draw seeds' weights and, with replacement, images or classes; of datasets, weights.

    Images and classes are drawn within each half of each dataset, whose sizes are not random. A class brings all of
    its images. Few classes, as few seeds, would give too little spread and the tails of a normal distribution:
    `Half.widen` has what is missing to the unbiased variance, and Student's tails.

    Args:
        seeds: S.
        tested: any run's answers on each of D datasets.
        resamples: R.
        generator: source of randomness.
        unit: what is drawn; where no dataset has two classes of a half, or there is one dataset alone, the intervals
            over them are NaN.
    """
    weights = seed_weights(seeds, resamples, generator)
    if unit == "datasets":
        few = len(tested) < 2
        return Draws(weights, (), seed_weights(len(tested), resamples, generator) * (np.nan if few else 1))
    return Draws(weights, [_half(tested, novel, resamples, generator, unit) for novel in (False, True)])


def _half(tested: Sequence[Answers], novel: bool, resamples: int, generator: np.random.Generator, unit: Unit) -> Half:
    taken: list[Taken | None] = []
    sizes = []
    for one in tested:
        half = one.novel == novel
        if not half.any():
            taken.append(None)
            continue
        _, units = np.unique(np.flatnonzero(half) if unit == "images" else one.label[half], return_inverse=True)
        sizes.append(int(units.max()) + 1)
        counts = generator.multinomial(sizes[-1], np.full(sizes[-1], 1 / sizes[-1]), size=resamples)
        taken.append(Taken(counts.astype(np.uint16), units))
    widen, freedom = np.ones(resamples), sum(sizes) - len(sizes)
    if unit == "classes":
        widen = (
            np.sqrt(sum(sizes) / generator.chisquare(freedom, size=resamples))
            if freedom
            else np.full(resamples, np.nan)
        )
    return Half(novel, taken, widen)


def _weighted(
    datasets: Sequence[Mapping[str, Floats]], means: Mapping[str, Floats], weights: Floats
) -> dict[str, Floats]:
    """The metrics under drawn weights of the datasets: (R, S).

    Of few datasets weights are often negative, and the harmonic mean of what they give is no mean of anything: it goes
    along its tangent at the means.
    """
    found = {
        name: weights @ np.concatenate([one[name] for one in datasets]) for name in METRICS if name not in HARMONIC
    }
    for name, (first, second) in HARMONIC.items():
        base, novel = means[first], means[second]
        rise = novel**2 * (found[first] - base) + base**2 * (found[second] - novel)
        found[name] = means[name] + np.divide(2 * rise, (base + novel) ** 2, out=0 * rise, where=base + novel > 0)
    return found


Drawn = Mapping[str, tuple[Floats, Floats]]
"""Each metric of a configuration, mean over datasets: of every seed (S,), and the mean over seeds in every draw
(R,)."""


def configuration_metrics(answers: Sequence[Answers], resamples: Draws) -> Drawn:
    """What a configuration reached, and reaches in each draw.

    One run stands for every seed. Seeds and what is tested are drawn apart and their deviations added. Drawing both at
    once would count twice what a seed answers differently by chance: in the spread between seeds, and again in the
    images drawn for each of them.

    Args:
        answers: on each of the datasets.
    """
    each = [run_metrics(one) for one in answers]
    runs = mean_metrics(each)
    halves = [
        (
            mean_metrics([drawn_metrics(a, half.novel, b) for a, b in zip(answers, half.taken, strict=True)]),
            half.widen,
        )
        for half in resamples.halves
    ]
    if resamples.datasets is not None:
        drawn = _weighted(each, runs, resamples.datasets)
    found = {}
    for name in METRICS:
        of_seeds = runs[name][0]
        values = np.full(len(resamples.seeds), of_seeds.mean())
        if len(of_seeds) > 1:
            values = values + (resamples.seeds - 1 / len(of_seeds)) @ of_seeds
        if resamples.datasets is not None:
            values = values + drawn[name].mean(axis=1) - of_seeds.mean()
        for number, (taken, widen) in enumerate(halves):
            if ONE_HALF.get(name, number) == number:
                values = values + widen * (taken[name].mean(axis=1) - of_seeds.mean())
        found[name] = of_seeds, values
    return found


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it."""

    estimate: Number
    low: Number
    high: Number


def interval(estimate: float, resamples: Floats, confidence_level: float) -> Interval:
    """The percentile interval over draws (R,), infinite draws included."""
    edge = (1 - confidence_level) / 2
    low, high = np.quantile(resamples, [edge, 1 - edge], method="inverted_cdf")  # never mixes a number with infinity
    return Interval(float(estimate), float(low), float(high))


def difference(ours: Drawn, theirs: Drawn, confidence_level: float = 0.95) -> Mapping[str, Interval]:
    """The first configuration minus the second, in points, for every metric.

    Args:
        ours, theirs: of both configurations, with the same draws; of the same seeds in the same order, or of one run
        for all.
        confidence_level: coverage of the intervals: percentiles over the draws.
    """
    return {
        name: interval((ours[name][0] - theirs[name][0]).mean(), ours[name][1] - theirs[name][1], confidence_level)
        for name in METRICS
    }
