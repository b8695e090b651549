"""Statistical power of a study: the smallest difference that it can detect."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from syncclip.studies.statistics.bootstrap import Floats
from syncclip.studies.statistics.metrics import Outcomes

POWER = 0.8
"""Probability with which a difference of the detectable size has an interval that excludes zero."""

EQUIVALENT = 2.0
"""Differences whose interval lies within this number of points are equivalent (two one-sided tests)."""

MOST_CLASSES, MOST_SEEDS = 100_000, 20
"""Largest numbers of novel classes and of seeds to consider."""


def t_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t-distribution, with a relative error below 0.2 % for probabilities up to 0.99.

    Source: Abramowitz and Stegun 1964, equation 26.7.5; the closed forms apply to one and two degrees of freedom.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def detectable(standard_error: float, freedom: float, confidence_level: float = 0.95) -> float:
    """Return the smallest difference that a two-sided test detects with power `POWER`.

    Source: Bloom 1995, Evaluation Review 19(5): (t_{1 - alpha/2} + t_{power}) times the standard error.
    """
    return (t_quantile((1 + confidence_level) / 2, freedom) + t_quantile(POWER, freedom)) * standard_error


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of a paired difference on novel classes, in points.

    Attributes:
        classes: between the classes of a dataset.
        images: between the images of a class, averaged over seeds.
        seeds: between the seeds, for the average over a dataset's classes.
    """

    classes: float
    images: float
    seeds: float


TYPICAL = Deviations(classes=11.8, images=19.6, seeds=3.0)
"""SYNC-CLIP minus real images only on `icons`, novel accuracy with all classes as candidates, averaged over 1 to 64
synthetic images per class; a test recomputes these values from the published predictions."""


def deviations(configuration: Sequence[Sequence[Outcomes]], baseline: Sequence[Outcomes]) -> Deviations:
    """Estimate the standard deviations of a difference in `all_classes_novel` by the method of moments.

    The variance between classes is the variance of the class means minus their sampling variance over images.

    Args:
        configuration: outcomes at each of A numbers of images, on each of D datasets, over which they are averaged.
        baseline: outcomes on each dataset, with the same seeds and test images.
    """
    variances = []
    for dataset, theirs in enumerate(baseline):
        ours = np.mean([parts[dataset].all_classes for parts in configuration], axis=0)
        gain = 100 * (ours - theirs.all_classes)[:, theirs.novel]  # (S, P_novel)
        label = theirs.label[theirs.novel]
        by_class: list[Floats] = [gain[:, label == each] for each in np.unique(label)]
        means = np.stack([part.mean(axis=1) for part in by_class])  # (C, S)
        images = np.array([part.mean(axis=0).var(ddof=1) for part in by_class])
        sizes = np.array([part.shape[1] for part in by_class])
        between = means.mean(axis=1).var(ddof=1) - (images / sizes).mean()
        variances.append((between, images.mean(), means.mean(axis=0).var(ddof=1)))
    return Deviations(*np.sqrt(np.maximum(np.mean(variances, axis=0), 0)).tolist())


@dataclass(frozen=True)
class Design:
    """Size of a study.

    Attributes:
        classes: number of novel classes, summed over the datasets.
        images: number of test images per novel class.
    """

    classes: int
    seeds: int
    images: float
    datasets: int = 1


def detectable_difference(design: Design, spread: Deviations = TYPICAL, confidence_level: float = 0.95) -> float:
    """Return the smallest difference on novel classes, in points, that a study detects with power `POWER`.

    Each dataset has its own training runs, so seeds are independent across datasets. As in the bootstrap, classes and
    seeds have t-distributions of their own. The detectable differences of the two parts are added in quadrature, which
    is exact for many classes and seeds. A single seed is assumed to be as uncertain as two. The result is infinite if
    no dataset has more than one novel class.
    """
    freedom = design.classes - design.datasets
    if freedom < 1:
        return math.inf
    of_classes = math.sqrt((spread.classes**2 + spread.images**2 / design.images) / design.classes)
    of_seeds = spread.seeds / math.sqrt(design.seeds * design.datasets)
    return math.hypot(
        detectable(of_classes, freedom, confidence_level),
        detectable(of_seeds, max(1, design.seeds - 1), confidence_level),
    )


def required(
    points: float, design: Design, spread: Deviations = TYPICAL, confidence_level: float = 0.95
) -> tuple[int, int] | None:
    """Return the numbers of novel classes and of seeds that detect a difference, at least those of the design.

    The result has the smallest number of seeds that requires at most twice as many classes as `MOST_SEEDS` seeds do.

    Returns:
        Numbers of classes and seeds; None if `MOST_CLASSES` classes and `MOST_SEEDS` seeds are too few.
    """

    def classes(seeds: int) -> int | None:
        def detected(classes: int) -> bool:
            planned = replace(design, classes=classes, seeds=seeds)
            return detectable_difference(planned, spread, confidence_level) <= points

        first = bisect_left(range(MOST_CLASSES + 1), True, lo=design.classes, key=detected)
        return first if first <= MOST_CLASSES else None

    most = max(design.seeds, MOST_SEEDS)
    fewest = classes(most)
    if fewest is None:
        return None
    sizes = ((classes(seeds), seeds) for seeds in range(design.seeds, most + 1))
    return next((size, seeds) for size, seeds in sizes if size is not None and size <= 2 * fewest)
