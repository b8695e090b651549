"""Marginal value of synthetic images: accuracy per hour of generation, and equivalent numbers of real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from syncclip.studies.statistics.bootstrap import Floats, Interval, interval
from syncclip.studies.statistics.scaling_fit import PowerLaw, Series, fit_power_law


@dataclass(frozen=True)
class Marginal:
    """Accuracy gain per hour of one generator, in points, at n synthetic images per class."""

    n: int
    points_per_hour: Interval


@dataclass(frozen=True)
class Exchange:
    """Real-image equivalent of n synthetic images per class.

    Attributes:
        shots: real images per class that alone reach the same error; infinite if no number does.
        per_real: synthetic images that replace one additional real image; infinite if they gain nothing, 0 if no number
            of real images reaches their error.
    """

    n: int
    shots: Interval
    per_real: Interval


def marginal(
    series: Series, images_per_hour: float, classes: int, confidence_level: float = 0.95
) -> tuple[Marginal, ...]:
    """Slope of the fitted power law at each number of images, times the images of a class that are made in an hour.

    Args:
        series: measured errors, at enough numbers of images for a power law.
        images_per_hour: throughput of one generator, rejects included.
        classes: number of classes that share it.
    """
    n = np.asarray(series.amounts, dtype=np.float64)

    def slopes(law: PowerLaw) -> Floats:
        b, c = law.b[..., None], law.c[..., None]
        return np.asarray(b * c * (1 + n) ** (-c - 1) * (images_per_hour / classes))

    estimates, resampled = slopes(fit_power_law(n, series.means)), slopes(fit_power_law(n, series.resamples))
    return tuple(
        Marginal(at, interval(estimates[i], resampled[:, i], confidence_level)) for i, at in enumerate(series.amounts)
    )


def exchange(real: Series, synthetic: Series, own: int, confidence_level: float = 0.95) -> tuple[Exchange, ...]:
    """Real-image equivalents of synthetic images, from the power law of the errors over real images alone.

    The point at which that law reaches the error of `own` shots and n synthetic images is the equivalent number of
    shots; the n images replace those beyond `own`.

    Args:
        real: errors over shots without synthetic images, at enough numbers for a power law.
        synthetic: errors over synthetic images per class with `own` shots, with as many resamples.
    """

    def reached(errors: Floats, targets: Floats) -> tuple[Floats, Floats]:
        law = fit_power_law(real.amounts, np.atleast_2d(errors))
        shots = np.stack([law.amount_for(column) for column in np.atleast_2d(targets).T], axis=1)  # (R, A)
        more = shots - own
        with np.errstate(divide="ignore"):
            return shots, np.where(more > 0, np.asarray(synthetic.amounts, dtype=np.float64) / more, np.inf)

    shots, per_real = reached(real.means, synthetic.means)
    all_shots, all_per_real = reached(real.resamples, synthetic.resamples)
    return tuple(
        Exchange(
            n,
            interval(shots[0, i], all_shots[:, i], confidence_level),
            interval(per_real[0, i], all_per_real[:, i], confidence_level),
        )
        for i, n in enumerate(synthetic.amounts)
    )
