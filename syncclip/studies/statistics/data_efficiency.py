"""Data efficiency of synthetic images: gain per hour of generation, real-image equivalents, share of the gap closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from syncclip.studies.statistics.bootstrap import DIFFERENCE, Differences, Floats, Interval, interval
from syncclip.studies.statistics.scaling_fit import PowerLaw, Series, fit_power_law


@dataclass(frozen=True)
class Marginal:
    """Accuracy gain in points per additional hour of generation (one generator), at n synthetic images per class."""

    n: int
    points_per_hour: Interval


@dataclass(frozen=True)
class Exchange:
    """Real-image equivalent of n synthetic images per class.

    Attributes:
        shots: number of real images per class that reaches the same error without synthetic images; infinite if there
            is no such number.
        per_real: number of synthetic images that replace one additional real image; infinite if the synthetic images
            bring no gain, 0 if no number of real images reaches the same error.
    """

    n: int
    shots: Interval
    per_real: Interval


@dataclass(frozen=True)
class GapClosed:
    """Gap between real images of base classes and of all classes, and the share closed by synthetic images.

    Attributes:
        gap: difference between the two configurations without synthetic images, in points.
        share: gain of the synthetic images, averaged over the numbers of images, divided by the gap; None unless the
            gap is significantly positive.
    """

    baseline: str
    upper_bound: str
    gap: Interval
    share: Interval | None


def gap_closed(baseline: str, upper_bound: str, over: Differences, confidence_level: float = 0.95) -> GapClosed:
    """Compute the share of the gap closed, with the interval of the ratio of paired resamples.

    Args:
        over: differences from the baseline, first for the configuration with synthetic images at each number of images,
            then for the upper bound.
    """
    gap = interval(over.estimates[-1], over.resamples[-1], confidence_level, DIFFERENCE)
    if not gap.low > 0:
        return GapClosed(baseline, upper_bound, gap, None)
    gains, gaps = over.resamples[:-1].mean(axis=0), over.resamples[-1]
    shares = np.divide(gains, gaps, out=np.copysign(np.inf, gains), where=gaps > 0)
    share = interval(over.estimates[:-1].mean() / gap.estimate, shares, confidence_level)
    return GapClosed(baseline, upper_bound, gap, share)


def marginal(
    series: Series, images_per_hour: float, classes: int, confidence_level: float = 0.95
) -> tuple[Marginal, ...]:
    """Return the marginal value at each number of images.

    The marginal value is the slope of the power law times the number of images generated per class and hour.

    Args:
        series: errors at enough different numbers of images to fit a power law.
        images_per_hour: throughput of one generator, including the time for rejected images.
        classes: number of classes that share the throughput.
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
    """Compute the real-image equivalents of synthetic images.

    A power law is fitted to the error without synthetic images as a function of the number of shots. The equivalent of
    n synthetic images is the number of shots at which the power law reaches the same error. Synthetic images replace
    the shots beyond `own`.

    Args:
        real: errors by number of shots, without synthetic images, for enough different numbers to fit a power law.
        synthetic: errors by number of synthetic images per class, at `own` shots, with as many resamples as `real`.
        own: number of shots used together with the synthetic images.
    """

    def equivalents(errors: Floats, targets: Floats) -> tuple[Floats, Floats]:
        law = fit_power_law(real.amounts, np.atleast_2d(errors))
        shots = np.stack([law.amount_for(column) for column in np.atleast_2d(targets).T], axis=1)  # (R, A)
        more = shots - own
        with np.errstate(divide="ignore"):
            return shots, np.where(more > 0, np.asarray(synthetic.amounts, dtype=np.float64) / more, np.inf)

    shots, per_real = equivalents(real.means, synthetic.means)
    all_shots, all_per_real = equivalents(real.resamples, synthetic.resamples)
    return tuple(
        Exchange(
            n,
            interval(shots[0, i], all_shots[:, i], confidence_level),
            interval(per_real[0, i], all_per_real[:, i], confidence_level),
        )
        for i, n in enumerate(synthetic.amounts)
    )
