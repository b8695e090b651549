"""Scaling fit: error = a + b * (1 + n)^(-c) over n synthetic images per class, with intervals and extrapolation.

`a` is the irreducible error, `b` the error that synthetic images can remove, `c` the exponent; at n = 0 the error is
that of real images alone, a + b. Given `c`, `a` and `b` are a linear regression, so the search is over `c` only and has
no local minima. All bootstrap resamples are fitted at once. `held_out` compares the power law with other models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from syncclip.evaluation.metrics import Number
from syncclip.studies.statistics.bootstrap import Floats, Interval, interval

SLOWEST, FASTEST = 0.05, 3.0
"""Bounds of `c`, beyond which a curve is indistinguishable from a constant or from a single step."""
MIN_AMOUNTS, MIN_SEEDS = 4, 2
"""Minimum numbers for a power law: three parameters fit any three points, and a single seed has no variance."""
ENOUGH_SEEN = 0.95
"""Minimum share of the synthetic images that trainings at the largest number must have used for extrapolation."""

Verdict = Literal["falls", "flat", "rises", "too few points", "too few classes"]


@dataclass(frozen=True)
class Series:
    """Errors (100 - accuracy) of one configuration and metric over numbers of images.

    Attributes:
        amounts: (A,) images per class, ascending.
        errors: (S, A) errors of each seed.
        resamples: (R, A) mean errors in each resample of seeds and classes, which all configurations share.
    """

    amounts: Sequence[int]
    errors: Floats
    resamples: Floats

    @property
    def means(self) -> Floats:
        """(A,) mean errors over seeds."""
        return np.asarray(self.errors.mean(axis=0))


@dataclass(frozen=True)
class PowerLaw:
    """Parameters of one curve (scalars), or of one curve per resample (arrays (R,))."""

    a: Floats
    b: Floats
    c: Floats

    def __call__(self, amounts: Sequence[float] | Floats) -> Floats:
        """Errors at numbers of images: (N,) or (R, N)."""
        n = np.asarray(amounts, dtype=np.float64)
        return self.a[..., None] + self.b[..., None] * (1 + n) ** -self.c[..., None]

    def amount_for(self, error: Floats) -> Floats:
        """Number of images at which the curve reaches an error; infinite if it does not."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n = ((error - self.a) / self.b) ** (-1 / self.c) - 1
        return np.where((error > self.a) & (self.b > 0), n, np.inf)

    @property
    def at_bound(self) -> str:
        """Name of a parameter that is on a bound of the search, for a single curve; empty if none is."""
        bounds = {"a": self.a == 0, "b": self.b == 0, "c": np.isclose(self.c, [SLOWEST, FASTEST], rtol=1e-3).any()}
        return next((name for name, reached in bounds.items() if reached), "")


def fit_power_law(amounts: Sequence[float] | Floats, errors: Floats) -> PowerLaw:
    """Least-squares fit with a >= 0, b >= 0, SLOWEST <= c <= FASTEST; parameters are shaped () or (R,).

    Args:
        amounts: (A,) images per class, at least `MIN_AMOUNTS` distinct values.
        errors: (A,) errors, or (R, A) for R fits.
    """
    n = np.asarray(amounts, dtype=np.float64)
    y = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    assert len(np.unique(n)) >= MIN_AMOUNTS and y.shape[1] == len(n), "enough numbers of images, one error each"
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
    """Fit y = a + b x with a, b >= 0: x (R, K, A), y (R, A) -> a, b and residual sum of squares, (R, K) each."""
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
        slope: error in points per doubling of 1 + n.
        law: parameters with intervals; None if the error does not fall, or for the given `reason`.
        line: fitted curve over the measured range.
        forecast: fitted curve at larger numbers of images; empty for the given `reason`.
        plus_one: images per class that reduce the error by one more point; infinite if no number does, None without a
            forecast.
        reachable: share of the resamples in which `plus_one` is finite; None without a forecast.
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
    """Fit the curve of one configuration and metric, with intervals.

    Args:
        forecast: numbers of images for extrapolation, which requires a falling error.
        seen: share of the synthetic images used by trainings at the largest number of images; None if unknown.
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
            "the training; set training.epochs_over so that steps grow with the images"
        )
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
    return tuple(Point(float(x), interval(estimates[i], resampled[:, i], confidence_level)) for i, x in enumerate(at))


Model = Callable[[Floats, Floats, float], Floats]
"""Numbers of images (A,), errors (R, A) and a target number of images -> predicted errors (R,)."""


def constant(amounts: Floats, errors: Floats, target: float) -> Floats:  # noqa: ARG001
    """Predict the mean error: more images have no effect."""
    mean: Floats = errors.mean(axis=1)
    return mean


def logarithm(amounts: Floats, errors: Floats, target: float) -> Floats:
    """Predict by a line in log(1 + n): each doubling has the same effect."""
    steps = np.log(1 + amounts) - np.log(1 + amounts).mean()
    slope = errors @ steps / (steps @ steps)
    expected: Floats = errors.mean(axis=1) + slope * (np.log(1 + target) - np.log(1 + amounts).mean())
    return expected


def power_law(amounts: Floats, errors: Floats, target: float) -> Floats:
    """Predict by `fit_power_law`."""
    return fit_power_law(amounts, errors)([target])[:, 0]


MODELS: dict[str, Model] = {"constant": constant, "logarithm": logarithm, "power law": power_law}


@dataclass(frozen=True)
class HeldOut:
    """Held-out error of a model.

    Attributes:
        model: a key of `MODELS`.
        miss: root-mean-square error of its predictions, in points.
        best: share of the resamples in which this model has the smallest error.
    """

    model: str
    miss: Number
    best: Number


def held_out(series: Series) -> tuple[HeldOut, ...]:
    """Fit each model to the smaller numbers of images and predict the next one, for each number beyond `MIN_AMOUNTS`.

    Returns:
        One entry per model, the best first; empty without more than `MIN_AMOUNTS` numbers of images.
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
