"""How the error falls with the amount of synthetic data: error = a + b * (1 + n)^(-c), its intervals and forecast.

The curve begins at n = 0, where the error is a + b: that of real images alone. `a` is what no amount of this data
removes, `b` what it can remove, `c` how fast that goes. For a given `c` the best `a` and `b` are a linear regression,
so the search is over `c` alone and cannot end in a local minimum; it is done for thousands of bootstrap draws at once.

At the end: which model of the curve predicts amounts that it has not seen, a constant, a logarithm, or the power law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from syncclip.evaluation.metrics import Number
from syncclip.studies.statistics.bootstrap import Floats, Interval, interval

SLOWEST, FASTEST = 0.05, 3.0
"""Bounds of `c`. Outside them the curve is indistinguishable from a constant or from a single step over any affordable
amounts."""
MIN_AMOUNTS, MIN_SEEDS = 4, 2
"""Three parameters pass through three points whatever these are; and a single seed shows no spread."""
ENOUGH_SEEN = 0.95
"""Share of the synthetic images that the trainings at the largest amount must have shown for a forecast beyond it."""

Verdict = Literal["falls", "flat", "rises", "too few amounts", "too few classes"]


@dataclass(frozen=True)
class Series:
    """The errors of one configuration and metric over its amounts, in points (100 - accuracy).

    Attributes:
        amounts: (A,) images per class, ascending.
        errors: (S, A) of each seed.
        resamples: (R, A) mean over seeds in each draw of seeds and classes; the same draws for every configuration.
    """

    amounts: Sequence[int]
    errors: Floats
    resamples: Floats

    @property
    def means(self) -> Floats:
        """(A,) over seeds."""
        return np.asarray(self.errors.mean(axis=0))


@dataclass(frozen=True)
class PowerLaw:
    """One curve (scalars) or one for each of R draws ((R,) arrays)."""

    a: Floats
    b: Floats
    c: Floats

    def __call__(self, amounts: Sequence[float] | Floats) -> Floats:
        """Errors at some amounts: (N,) or (R, N)."""
        n = np.asarray(amounts, dtype=np.float64)
        return self.a[..., None] + self.b[..., None] * (1 + n) ** -self.c[..., None]

    def amount_for(self, error: Floats) -> Floats:
        """The amount at which the curve reaches an error; infinite where it never does."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n = ((error - self.a) / self.b) ** (-1 / self.c) - 1
        return np.where((error > self.a) & (self.b > 0), n, np.inf)

    @property
    def at_bound(self) -> str:
        """The parameter of a single curve that sits on the bound of what `fit_power_law` tries; empty if none does."""
        edges = {"a": self.a == 0, "b": self.b == 0, "c": np.isclose(self.c, [SLOWEST, FASTEST], rtol=1e-3).any()}
        return next((name for name, there in edges.items() if there), "")


def fit_power_law(amounts: Sequence[float] | Floats, errors: Floats) -> PowerLaw:
    """Least squares fit with a >= 0, b >= 0, SLOWEST <= c <= FASTEST.

    Args:
        amounts: (A,) images per class, at least `MIN_AMOUNTS` different ones.
        errors: (A,) errors, or (R, A) for R fits at once.

    Returns:
        The parameters, shaped () or (R,).
    """
    n = np.asarray(amounts, dtype=np.float64)
    y = np.atleast_2d(np.asarray(errors, dtype=np.float64))
    assert len(np.unique(n)) >= MIN_AMOUNTS and y.shape[1] == len(n), "amounts enough, one error each"
    low, high = np.full(len(y), np.log(SLOWEST)), np.full(len(y), np.log(FASTEST))
    rows = np.arange(len(y))
    for points in (96, 16, 16):  # each round looks closer around the best exponent of the round before
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)
        a, b, squares = _regress((1 + n) ** -np.exp(grid)[..., None], y)
        best = squares.argmin(axis=1)
        low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, points - 1)]
    law = PowerLaw(a[rows, best], b[rows, best], np.exp(grid[rows, best]))
    return law if np.ndim(errors) == 2 else PowerLaw(law.a[0], law.b[0], law.c[0])


def _regress(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Best a >= 0, b >= 0 of y = a + b x and the squared error left: x (R, K, A), y (R, A) -> (R, K) each."""
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
    """The curve's error at an amount."""

    n: float
    error: Interval


@dataclass(frozen=True)
class Curve:
    """What a study can say about one configuration and metric.

    Attributes:
        verdict: "falls" where the error's slope over log(1 + n) is below zero clearly, "rises" where above, else
            "flat".
        slope: points of error for each doubling of 1 + n.
        law: the parameters with their intervals; None where the error doesn't fall, or where `reason` says why not.
        line: the fitted curve over the measured range, for the figure.
        forecast: the curve at larger amounts; empty where `reason` says why.
        plus_one: amount per class for one point less error than at the largest measured amount; infinite if never,
            None where `reason` says why nothing is forecast.
        reachable: share of the draws in which that amount is finite; None as above.
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
    """Fit one configuration's curve, with its uncertainty.

    Args:
        series: the measured errors.
        confidence_level: coverage of the intervals.
        forecast: amounts to forecast; only a falling curve is forecast.
        seen: share of the synthetic images that the trainings at the largest amount have shown; None: not known.
    """
    n = np.asarray(series.amounts, dtype=np.float64)
    means, errors, resamples = series.means, series.errors, series.resamples
    spread = errors.std(axis=0, ddof=1) / np.sqrt(len(errors)) if len(errors) > 1 else np.full(len(n), np.nan)
    known = {"amounts": list(series.amounts), "means": means.tolist(), "standard_errors": spread.tolist()}
    unknown = Interval(np.nan, np.nan, np.nan)
    if len(n) < 2:
        return Curve(**known, verdict="too few amounts", slope=unknown)
    if np.isnan(resamples).any():
        return Curve(**known, verdict="too few classes", slope=unknown)
    steps = np.log2(1 + n) - np.log2(1 + n).mean()
    steps /= steps @ steps
    slope = interval(means @ steps, resamples @ steps, confidence_level)
    verdict: Verdict = "falls" if slope.high < 0 else "rises" if slope.low > 0 else "flat"
    if verdict != "falls":
        return Curve(**known, verdict=verdict, slope=slope)
    if len(n) < MIN_AMOUNTS or len(errors) < MIN_SEEDS:
        few = (len(n), "amounts", MIN_AMOUNTS) if len(n) < MIN_AMOUNTS else (len(errors), "seed", MIN_SEEDS)
        reason = "{} {}, and a law needs {}".format(*few)
        return Curve(**known, verdict=verdict, slope=slope, reason=reason)
    law, drawn = fit_power_law(n, means), fit_power_law(n, resamples)
    if name := law.at_bound:
        return Curve(**known, verdict=verdict, slope=slope, reason=f"its best {name} is on the bound of the search")
    return Curve(
        **known, verdict=verdict, slope=slope, **_of_law(n, means, law, drawn, confidence_level, forecast, seen)
    )


def _of_law(
    n: Floats,
    means: Floats,
    law: PowerLaw,
    drawn: PowerLaw,
    confidence_level: float,
    forecast: Sequence[int],
    seen: float | None,
) -> dict[str, Any]:
    """What a law adds to a curve."""

    def points(at: Floats) -> tuple[Point, ...]:
        estimates, values = law(at), drawn(at)
        return tuple(Point(float(x), interval(estimates[i], values[:, i], confidence_level)) for i, x in enumerate(at))

    largest = n.max()
    measured = {
        "law": {name: interval(getattr(law, name), getattr(drawn, name), confidence_level) for name in "abc"},
        "rmse": float(np.sqrt(np.mean((law(n) - means) ** 2))),
        "line": points(np.geomspace(1 + n.min(), 1 + largest, 33) - 1),
    }
    if seen is not None and seen < ENOUGH_SEEN:
        reason = (
            f"only {100 * seen:.0f} % of the images were ever shown at {largest:.0f} per class, so more would change "
            "little: no forecast; let the steps grow with training.epochs_over"
        )
        return {**measured, "reason": reason}
    target = law([largest])[0] - 1, drawn([largest])[:, 0] - 1
    needed = drawn.amount_for(target[1])
    return {
        **measured,
        "forecast": points(np.asarray(forecast, dtype=np.float64)),
        "plus_one": interval(float(law.amount_for(np.asarray(target[0]))), needed, confidence_level),
        "reachable": float(np.isfinite(needed).mean()),
    }


Model = Callable[[Floats, Floats, float], Floats]
"""Amounts (A,) and errors (R, A) -> the errors (R,) that it expects at another amount."""


def constant(amounts: Floats, errors: Floats, ahead: float) -> Floats:  # noqa: ARG001
    """The mean of what was seen: more images change nothing."""
    mean: Floats = errors.mean(axis=1)
    return mean


def logarithm(amounts: Floats, errors: Floats, ahead: float) -> Floats:
    """Each doubling removes as many points as the one before."""
    steps = np.log(1 + amounts) - np.log(1 + amounts).mean()
    slope = errors @ steps / (steps @ steps)
    expected: Floats = errors.mean(axis=1) + slope * (np.log(1 + ahead) - np.log(1 + amounts).mean())
    return expected


def power_law(amounts: Floats, errors: Floats, ahead: float) -> Floats:
    """`fit_power_law`: it levels off."""
    return fit_power_law(amounts, errors)([ahead])[:, 0]


MODELS: dict[str, Model] = {"constant": constant, "logarithm": logarithm, "power law": power_law}


@dataclass(frozen=True)
class HeldOut:
    """How far a model is off where it has not looked.

    Attributes:
        model: a key of `MODELS`.
        miss: root mean square of its errors, in points.
        best: share of the draws in which it misses least.
    """

    model: str
    miss: Number
    best: Number


def held_out(series: Series) -> tuple[HeldOut, ...]:
    """Fit every model to the first amounts and ask it for the next one, for each next one that there is.

    Returns:
        One entry a model, the best first; empty with as few amounts as a law needs, or fewer.
    """
    n = np.asarray(series.amounts, dtype=np.float64)
    if len(n) <= MIN_AMOUNTS:
        return ()
    rows = np.vstack([series.means, series.resamples])
    missed = {
        name: np.sqrt(
            np.mean([(model(n[:k], rows[:, :k], n[k]) - rows[:, k]) ** 2 for k in range(MIN_AMOUNTS, len(n))], axis=0)
        )
        for name, model in MODELS.items()
    }
    least = np.stack([miss[1:] for miss in missed.values()]).argmin(axis=0)
    found = [HeldOut(name, float(miss[0]), float((least == i).mean())) for i, (name, miss) in enumerate(missed.items())]
    return tuple(sorted(found, key=lambda one: one.miss))
