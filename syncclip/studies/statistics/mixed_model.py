"""Linear mixed model y = a + b x + u_d + e with a random effect of the dataset, and its prediction intervals.

The variances of u (between datasets) and e (within a dataset, including sampling error) are estimated by restricted
maximum likelihood (REML). A prediction interval applies to the value measured on a new dataset, so it accounts for both
variances and the uncertainty of a and b. Its width is calibrated by leave-one-dataset-out
cross-validation.

Source: Laird and Ware 1982, Biometrics 38, equations 3.1 to 3.5, with a random intercept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from syncclip.studies.statistics.bootstrap import Floats, Interval

MIN_DATASETS = 3
"""Minimum number of datasets to estimate the variance between datasets."""
RATIOS = np.concatenate([[0.0], np.logspace(-3, 3, 121)])
"""Searched ratios of the variance between datasets to the variance within a dataset."""


@dataclass(frozen=True)
class MixedModel:
    """Fitted model.

    Attributes:
        coefficients: (2,) intercept a and slope b.
        covariance: (2, 2) covariance of the coefficients.
        between: variance between datasets.
        within: variance within a dataset.
        datasets: number of datasets.
        widen: calibration factor of prediction intervals, at least 1: root mean square of the standardised errors on
            held-out datasets.
    """

    coefficients: Floats
    covariance: Floats
    between: float
    within: float
    datasets: int
    widen: float = 1.0

    def predict(self, x: float, level: float = 0.95) -> Interval:
        """Predict the measured value at x on a new dataset, with a prediction interval.

        The interval uses Student's t-distribution with `datasets` - 1 degrees of freedom.
        """
        estimate, half = self._estimate(x), student(level, self.datasets - 1) * self.widen * self._deviation(x)
        return Interval(estimate, estimate - half, estimate + half)

    def _estimate(self, x: float) -> float:
        return float(self.coefficients @ (1, x))

    def _deviation(self, x: float) -> float:
        """Standard deviation of the prediction at x before calibration."""
        point = np.array([1, x])
        return math.sqrt(point @ self.covariance @ point + self.between + self.within)

    def standardised(self, x: Floats, y: Floats) -> Floats:
        """Return the prediction errors (n,) in units of their standard deviation before calibration."""
        errors = [(value - self._estimate(at)) / self._deviation(at) for at, value in zip(x, y, strict=True)]
        return np.array(errors)


def fit_mixed_model(x: npt.ArrayLike, y: npt.ArrayLike, dataset: npt.ArrayLike) -> MixedModel | None:
    """Fit the model to N measurements, and calibrate its prediction intervals.

    Args:
        x, y: (N,) predictor and measured value.
        dataset: (N,) names or ids of the datasets.

    Returns:
        The model, or None if there are fewer than `MIN_DATASETS` datasets or `x` is constant.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    names, ids = np.unique(np.asarray(dataset), return_inverse=True)
    if len(names) < MIN_DATASETS or np.ptp(xs) == 0 or len(xs) < MIN_DATASETS + 2:
        return None
    model, squares = _fit(xs, ys, ids), []
    for left_out in range(len(names)):
        kept = ids != left_out
        if np.ptp(xs[kept]) == 0 or kept.sum() <= 2:
            return None
        errors = _fit(xs[kept], ys[kept], ids[kept]).standardised(xs[~kept], ys[~kept])
        squares.append((errors**2).mean())
    return replace(model, widen=max(1.0, math.sqrt(np.mean(squares))))


def _fit(x: Floats, y: Floats, ids: npt.NDArray[np.int64]) -> MixedModel:
    """Estimate the model by REML, for all `RATIOS` at once; the ratio with the largest likelihood is selected."""
    design = np.stack([np.ones_like(x), x, y], axis=1)
    groups = np.stack([design[ids == group].sum(axis=0) for group in np.unique(ids)])  # (D, 3)
    shrink = RATIOS[:, None] / (1 + RATIOS[:, None] * groups[:, 0])  # (R, D)
    # Inverse covariance of a dataset with m measurements: I - ratio / (1 + ratio m) 11', by Sherman and Morrison.
    moments = design.T @ design - np.einsum("rd,di,dj->rij", shrink, groups, groups)
    inverse = np.linalg.inv(moments[:, :2, :2])
    coefficients = np.einsum("rij,rj->ri", inverse, moments[:, :2, 2])
    free = len(x) - 2
    # Without noise, the residual sum of squares may round to a negative number.
    scale = max(float(np.ptp(y)) ** 2, 1.0) * 1e-12
    within = np.maximum(moments[:, 2, 2] - (coefficients * moments[:, :2, 2]).sum(axis=1), scale) / free
    volume = np.log1p(RATIOS[:, None] * groups[:, 0]).sum(axis=1) - np.log(np.linalg.det(inverse))
    best = int((free * np.log(within) + volume).argmin())
    variance = float(within[best])
    return MixedModel(
        coefficients[best], inverse[best] * variance, float(RATIOS[best]) * variance, variance, len(groups)
    )


def student(level: float, freedom: int, steps: int = 10_000) -> float:
    """Return t such that a t-distributed variable (`freedom` degrees of freedom) is within ±t with probability `level`.

    With t = sqrt(freedom) tan(angle), the density is proportional to cos(angle)^(freedom - 1).
    """
    edges = np.linspace(0, math.pi / 2, steps + 1)
    mass = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(level, mass / mass[-1], edges[1:]))
