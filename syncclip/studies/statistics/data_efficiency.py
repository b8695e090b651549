"""What one more image is worth: in points per hour of generation, and in real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from syncclip.studies.statistics.bootstrap import Floats, Interval, interval
from syncclip.studies.statistics.scaling_fit import PowerLaw, Series, fit_power_law


@dataclass(frozen=True)
class Marginal:
    """What generating more gains at an amount of images per class: points for each hour of one generator."""

    n: int
    points_per_hour: Interval


@dataclass(frozen=True)
class Exchange:
    """How real images would have to grow to reach what synthetic ones reached.

    Attributes:
        n: synthetic images a class.
        shots: real images a class that alone do as well; infinite where no number does.
        per_real: synthetic images that stand for one real image more; infinite where they bring nothing, 0 where
            no number of real ones does as well.
    """

    n: int
    shots: Interval
    per_real: Interval


def marginal(
    series: Series, images_per_hour: float, classes: int, confidence_level: float = 0.95
) -> tuple[Marginal, ...]:
    """The slope of the fitted power law at each amount, paid in hours.

    Args:
        series: the measured errors, at as many amounts as a law needs.
        images_per_hour: what one generator makes, rejects included.
        classes: that share the hour's images.
        confidence_level: coverage of the intervals.
    """
    n = np.asarray(series.amounts, dtype=np.float64)
    each = images_per_hour / classes

    def slopes(law: PowerLaw) -> Floats:
        b, c = law.b[..., None], law.c[..., None]
        return np.asarray(b * c * (1 + n) ** (-c - 1) * each)

    estimates, drawn = slopes(fit_power_law(n, series.means)), slopes(fit_power_law(n, series.resamples))
    return tuple(
        Marginal(at, interval(estimates[i], drawn[:, i], confidence_level)) for i, at in enumerate(series.amounts)
    )


def exchange(real: Series, synthetic: Series, own: int, confidence_level: float = 0.95) -> tuple[Exchange, ...]:
    """How many synthetic images a real one is worth.

    The errors of real images alone over their number are a power law too. Where it reaches the error that `own`
    shots and n synthetic images reached, it gives the equivalent number of shots; n replaced those beyond `own`.

    Args:
        real: over the shots of the runs without synthetic images, as many numbers as a law needs.
        synthetic: over the synthetic images per class of the runs with `own` shots, with the same number of draws.
        own: real images per class beside the synthetic ones.
        confidence_level: coverage of the intervals.
    """

    def reached(errors: Floats, targets: Floats) -> tuple[Floats, Floats]:
        law = fit_power_law(real.amounts, np.atleast_2d(errors))
        equal = np.stack([law.amount_for(column) for column in np.atleast_2d(targets).T], axis=1)  # (R, A)
        more = equal - own
        with np.errstate(divide="ignore"):
            each = np.where(more > 0, np.asarray(synthetic.amounts, dtype=np.float64) / more, np.inf)
        return equal, each

    (estimate, one), (drawn, ones) = reached(real.means, synthetic.means), reached(real.resamples, synthetic.resamples)
    return tuple(
        Exchange(
            n,
            interval(estimate[0, i], drawn[:, i], confidence_level),
            interval(one[0, i], ones[:, i], confidence_level),
        )
        for i, n in enumerate(synthetic.amounts)
    )
