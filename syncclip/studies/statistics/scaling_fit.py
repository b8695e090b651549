"""Scaling fit: error = a + b * (1 + n)^(-c) over n synthetic images per class, with intervals and extrapolation.

`a` is the irreducible error, `b` the error that synthetic images can remove, and `c` the exponent. With
real images only (n = 0), the error is a + b. For a fixed `c`, linear regression yields `a` and `b`. Only `c` is
searched, on a grid that is refined around the best value. All bootstrap resamples are fitted at once. `held_out`
compares the power law with other models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from syncclip.evaluation.metrics import Number
from syncclip.studies.statistics.bootstrap import ACCURACY, Floats, Interval, interval

SLOWEST, FASTEST = 0.05, 3.0
"""Bounds of `c`; beyond them, a curve is indistinguishable from a constant or from a single step."""
MIN_AMOUNTS, MIN_SEEDS = 4, 2
"""Minimum numbers of points and of seeds for a power law, whose three parameters fit any three points exactly."""
ENOUGH_SEEN = 0.95
"""Minimum fraction of the synthetic images that the runs with the largest number of images must have used; below it,
the fit is not extrapolated."""

Verdict = Literal["falls", "flat", "rises", "too few points", "too few classes"]


@dataclass(frozen=True)
class Series:
    """Errors (100 - accuracy) of one configuration and metric at several numbers of images.

    Attributes:
        amounts: (A,) numbers of images per class, ascending.
        errors: (S, A) errors of each seed.
        resamples: (R, A) mean errors in each resample of seeds and classes, which all configurations share.
    """

    amounts: Sequence[int]
    errors: Floats
    resamples: Floats

    @property
    def means(self) -> Floats:
        """Errors averaged over seeds, (A,)."""
        return np.asarray(self.errors.mean(axis=0))


@dataclass(frozen=True)
class PowerLaw:
    """Parameters of a power law: scalars for one curve, or arrays (R,) for one curve per resample."""

    a: Floats
    b: Floats
    c: Floats

    def __call__(self, amounts: Sequence[float] | Floats) -> Floats:
        """Return the predicted error for each number of images, with shape (N,) or (R, N)."""
        n = np.asarray(amounts, dtype=np.float64)
        return self.a[..., None] + self.b[..., None] * (1 + n) ** -self.c[..., None]

    def amount_for(self, error: Floats) -> Floats:
        """Return the number of images at which the curve reaches a given error, or infinity if it never does."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n = ((error - self.a) / self.b) ** (-1 / self.c) - 1
        return np.where((error > self.a) & (self.b > 0), n, np.inf)

    @property
    def at_bound(self) -> str:
        """Name of the first parameter that is at its search bound, or "" if there is none; for a single curve only."""
        bounds = {"a": self.a == 0, "b": self.b == 0, "c": np.isclose(self.c, [SLOWEST, FASTEST], rtol=1e-3).any()}
        return next((name for name, reached in bounds.items() if reached), "")


def fit_power_law(amounts: Sequence[float] | Floats, errors: Floats) -> PowerLaw:
    """Fit power laws by least squares, with a >= 0, b >= 0 and SLOWEST <= c <= FASTEST.

    Args:
        amounts: (A,) numbers of images per class, at least `MIN_AMOUNTS` distinct values.
        errors: (A,) errors of one curve, or (R, A) errors of R curves.

    Returns:
        Parameters with shape () or (R,).
    """
    n = np.asarray(amounts, dtype=np.float64)
    y = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    assert len(np.unique(n)) >= MIN_AMOUNTS and y.shape[1] == len(n), "too few numbers of images or errors"
    low, high = np.full(len(y), np.log(SLOWEST)), np.full(len(y), np.log(FASTEST))
    rows = np.arange(len(y))
    for points in (96, 16, 16):  # refine the grid around the best exponent
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)
        a, b, squares = _regress((1 + n) ** -np.exp(grid)[..., None], y)
        best = squares.argmin(axis=1)
        low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, points - 1)]
    law = PowerLaw(a[rows, best], b[rows, best], np.exp(grid[rows, best]))
    return law if np.ndim(errors) == 2 else PowerLaw(law.a[0], law.b[0], law.c[0])


def _regress(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit y = a + b x with a, b >= 0 for x (R, K, A) and y (R, A); return a, b and residual sums of squares, (R, K)."""
    target = y[:, None, :]
    x_mean, y_mean = x.mean(axis=-1), target.mean(axis=-1)
    b = np.maximum(
        ((x - x_mean[..., None]) * (target - y_mean[..., None])).sum(axis=-1) / x.var(axis=-1) / x.shape[-1], 0
    )
    a = y_mean - b * x_mean
    through_zero = (x * target).sum(axis=-1) / (x * x).sum(axis=-1)
    b = np.where(a < 0, np.maximum(through_zero, 0), b)
    a = np.maximum(a, 0)
    return a, b, ((a[..., None] + b[..., None] * x - target) ** 2).sum(axis=-1)


@dataclass(frozen=True)
class Point:
    """Error of a fitted curve at n images per class."""

    n: float
    error: Interval


@dataclass(frozen=True)
class Curve:
    """Scaling curve of one configuration and metric.

    Attributes:
        verdict: "falls" or "rises" if the interval of the slope excludes zero, else "flat".
        slope: change of the error in points per doubling of 1 + n.
        law: parameters of the power law with intervals; None if the error does not fall significantly, or if `reason`
            explains why there is no fit.
        rmse: root-mean-square error of the fit in points.
        line: fitted curve over the measured range.
        forecast: fitted curve at larger numbers of images; empty if `reason` explains why it is missing.
        plus_one: images per class at which the error is one point lower than at the largest measured number; infinite
            if there is no such number, None without a forecast.
        reachable: share of the resamples in which `plus_one` is finite; None without a forecast.
        reason: explanation of a missing power law or forecast.
    """

    amounts: list[int]
    means: list[Number]
    standard_errors: list[Number]
    verdict: Verdict
    slope: Interval
    law: dict[str, Interval] | None = None
    rmse: float | None = None
    line: tuple[Point, ...] = ()
    forecast: tuple[Point, ...] = ()
    plus_one: Interval | None = None
    reachable: float | None = None
    reason: str = ""


def fit_curve(
    series: Series, confidence_level: float = 0.95, forecast: Sequence[int] = (), seen: float | None = None
) -> Curve:
    """Fit the scaling curve of one configuration and metric, with intervals.

    Args:
        forecast: numbers of images to extrapolate to; extrapolation requires a falling error.
        seen: share of the synthetic images used by the runs with the largest number of images; None if unknown.
    """
    n = np.asarray(series.amounts, dtype=np.float64)
    means, errors, resamples = series.means, series.errors, series.resamples
    spread = errors.std(axis=0, ddof=1) / np.sqrt(len(errors)) if len(errors) > 1 else np.full(len(n), np.nan)
    measured = {"amounts": list(series.amounts), "means": means.tolist(), "standard_errors": spread.tolist()}
    unknown = Interval(np.nan, np.nan, np.nan)
    if len(n) < 2:
        return Curve(**measured, verdict="too few points", slope=unknown)
    if np.isnan(resamples).any():
        return Curve(**measured, verdict="too few classes", slope=unknown)
    steps = np.log2(1 + n) - np.log2(1 + n).mean()
    steps /= steps @ steps
    slope = interval(means @ steps, resamples @ steps, confidence_level)
    verdict: Verdict = "falls" if slope.high < 0 else "rises" if slope.low > 0 else "flat"
    curve = Curve(**measured, verdict=verdict, slope=slope)
    if verdict != "falls":
        return curve
    if len(n) < MIN_AMOUNTS:
        return replace(curve, reason=f"{len(n)} numbers of images, a power law requires {MIN_AMOUNTS}")
    if len(errors) < MIN_SEEDS:
        return replace(curve, reason=f"{len(errors)} seed, a power law requires {MIN_SEEDS}")
    law, laws = fit_power_law(n, means), fit_power_law(n, resamples)
    if name := law.at_bound:
        return replace(curve, reason=f"the best {name} is on a bound of the search")
    largest = n.max()
    curve = replace(
        curve,
        law={name: interval(getattr(law, name), getattr(laws, name), confidence_level) for name in "abc"},
        rmse=float(np.sqrt(np.mean((law(n) - means) ** 2))),
        line=_points(np.geomspace(1 + n.min(), 1 + largest, 33) - 1, law, laws, confidence_level),
    )
    if seen is not None and seen < ENOUGH_SEEN:
        reason = (
            f"only {100 * seen:.0f} % of the images were used at {largest:.0f} per class, so more would hardly change "
            "the training; set training.epochs_over so that more images mean more steps"
        )
        return replace(curve, reason=reason)
    if len(forecast) and law([min(forecast)])[0] > means[-1]:
        reason = f"at {min(forecast)} images per class, the fit is below the accuracy measured at {largest:.0f}"
        return replace(curve, reason=reason)
    needed = laws.amount_for(laws([largest])[:, 0] - 1)
    return replace(
        curve,
        forecast=_points(np.asarray(forecast, dtype=np.float64), law, laws, confidence_level),
        plus_one=interval(float(law.amount_for(np.asarray(law([largest])[0] - 1))), needed, confidence_level),
        reachable=float(np.isfinite(needed).mean()),
    )


def _points(at: Floats, law: PowerLaw, laws: PowerLaw, confidence_level: float) -> tuple[Point, ...]:
    estimates, resampled = law(at), laws(at)
    return tuple(
        Point(float(x), interval(estimates[i], resampled[:, i], confidence_level, ACCURACY)) for i, x in enumerate(at)
    )


Model = Callable[[Floats, Floats, float], Floats]
"""Function that predicts errors (R,) at a target number of images, given numbers of images (A,) and errors (R, A)."""


def constant(amounts: Floats, errors: Floats, target: float) -> Floats:  # noqa: ARG001
    """Predict the mean error, as if the number of images had no effect."""
    mean: Floats = errors.mean(axis=1)
    return mean


def logarithm(amounts: Floats, errors: Floats, target: float) -> Floats:
    """Predict with a linear fit in log(1 + n), as if each doubling had the same effect."""
    steps = np.log(1 + amounts) - np.log(1 + amounts).mean()
    slope = errors @ steps / (steps @ steps)
    expected: Floats = errors.mean(axis=1) + slope * (np.log(1 + target) - np.log(1 + amounts).mean())
    return expected


def power_law(amounts: Floats, errors: Floats, target: float) -> Floats:
    """Predict with the power law of `fit_power_law`."""
    return fit_power_law(amounts, errors)([target])[:, 0]


MODELS: dict[str, Model] = {"constant": constant, "logarithm": logarithm, "power law": power_law}


@dataclass(frozen=True)
class HeldOut:
    """Held-out error of a model of the scaling curve.

    Attributes:
        model: key in `MODELS`.
        miss: root-mean-square error of the predictions, in points.
        best: share of the resamples in which this model has the smallest held-out error.
    """

    model: str
    miss: Number
    best: Number


def held_out(series: Series) -> tuple[HeldOut, ...]:
    """Measure how well each model, fitted to smaller numbers of images, predicts the error at the next larger
    number.

    The smallest `MIN_AMOUNTS` numbers are always used for the fit.

    Returns:
        Held-out errors of the models, best model first; empty for `MIN_AMOUNTS` numbers of images or fewer.
    """
    n = np.asarray(series.amounts, dtype=np.float64)
    if len(n) <= MIN_AMOUNTS:
        return ()
    rows = np.vstack([series.means, series.resamples])
    folds = range(MIN_AMOUNTS, len(n))
    misses = {
        name: np.sqrt(np.mean([(model(n[:k], rows[:, :k], n[k]) - rows[:, k]) ** 2 for k in folds], axis=0))
        for name, model in MODELS.items()
    }
    winners = np.stack([miss[1:] for miss in misses.values()]).argmin(axis=0)
    entries = [
        HeldOut(name, float(miss[0]), float((winners == i).mean())) for i, (name, miss) in enumerate(misses.items())
    ]
    return tuple(sorted(entries, key=lambda entry: entry.miss))
