"""The scaling fit on curves with known parameters."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.optimize import least_squares

from syncclip.studies.statistics.bootstrap import Floats
from syncclip.studies.statistics.scaling_fit import (
    FASTEST,
    MODELS,
    SLOWEST,
    Curve,
    Series,
    fit_curve,
    fit_power_law,
    held_out,
)
from tests.studies.fabricated import resample_seeds

FEW = [0, 1, 4, 16, 64]
MANY = [0, 1, 2, 4, 8, 16, 32, 64]
AMOUNTS = {"few": FEW, "many": MANY}


@cache
def noisy_curve(
    seed: int,
    a: float,
    b: float,
    c: float,
    which: str,
    seeds: int = 5,
    noise: float = 0.5,
    confidence_level: float = 0.9,
) -> Curve:
    generator, amounts = np.random.default_rng(seed), AMOUNTS[which]
    shared = generator.normal(0, 0.3, (seeds, 1))  # effect of each seed at all numbers of images
    errors = a + b * (1 + np.array(amounts, float)) ** -c + shared + generator.normal(0, noise, (seeds, len(amounts)))
    return fit_curve(Series(amounts, errors, resample_seeds(errors, 400, generator)), confidence_level, [256, 1024])


def test_noiseless_parameters_are_recovered() -> None:
    law = fit_power_law(MANY, 20 + 15 * (1 + np.array(MANY, float)) ** -0.5)
    assert [float(law.a), float(law.b), float(law.c)] == pytest.approx([20, 15, 0.5], rel=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_fit_matches_a_general_bounded_optimiser(seed: int) -> None:
    n = np.array(MANY, float)
    errors = 30 + 10 * (1 + n) ** -0.4 + np.random.default_rng(seed).normal(0, 0.7, len(n))
    starts = [
        least_squares(
            lambda p: p[0] + p[1] * (1 + n) ** -p[2] - errors,
            (20, 10, c),
            bounds=([0, 0, SLOWEST], [np.inf, np.inf, FASTEST]),
        )
        for c in (0.1, 0.5, 1.5)
    ]
    law = fit_power_law(MANY, errors)
    assert ((law(n) - errors) ** 2).sum() <= 2 * min(start.cost for start in starts) * (1 + 1e-4)


def test_batched_fits_equal_single_fits() -> None:
    errors = 25 + np.random.default_rng(0).normal(0, 3, (20, len(MANY)))
    together = fit_power_law(MANY, errors)
    for i, row in enumerate(errors):
        alone = fit_power_law(MANY, row)
        assert (together.a[i], together.b[i], together.c[i]) == (alone.a, alone.b, alone.c)


def test_parameters_stay_within_their_bounds() -> None:
    law = fit_power_law(FEW, np.random.default_rng(1).uniform(0, 5, (200, len(FEW))))
    assert (law.a >= 0).all() and (law.b >= 0).all()
    assert (law.c >= SLOWEST * 0.999).all() and (law.c <= FASTEST * 1.001).all()


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b", "c", "which"), [(20, 15, 0.5, "few"), (30, 20, 0.3, "few"), (20, 15, 0.5, "many")])
def test_90_percent_intervals_contain_the_parameters(a: float, b: float, c: float, which: str) -> None:
    hits = dict.fromkeys("abc", 0)
    for seed in range(100):
        law = noisy_curve(seed, a, b, c, which).law
        assert law is not None
        for name, true in zip("abc", (a, b, c), strict=True):
            hits[name] += law[name].low <= true <= law[name].high
    assert min(hits.values()) >= 85, hits


def test_forecast_interval_contains_the_error() -> None:
    hits = 0
    for seed in range(100):
        point = noisy_curve(seed, 30, 20, 0.3, "few").forecast[1]
        hits += point.error.low <= 30 + 20 * 1025**-0.3 <= point.error.high
    assert hits >= 85


def test_flat_curve_has_no_forecast() -> None:
    curves = [noisy_curve(seed, 40, 0, 1, "few", confidence_level=0.95) for seed in range(100)]
    assert sum(curve.verdict == "flat" for curve in curves) >= 90
    assert all(curve.law is None and curve.forecast == () for curve in curves if curve.verdict == "flat")


def fitted(errors: Floats, amounts: list[int] = FEW, seeds: int = 3, seen: float | None = None) -> Curve:
    """Fit of seeds with nearly equal errors."""
    generator = np.random.default_rng(0)
    each = errors + generator.normal(0, 1e-3, (seeds, len(amounts)))
    return fit_curve(Series(amounts, each, resample_seeds(each, 100, generator)), forecast=[256], seen=seen)


def test_images_for_one_more_point_follow_the_formula() -> None:
    n = 1 + np.array(FEW, float)
    # at 64: 10 + 8 / sqrt(65) is just below 11; one point less is below the asymptote
    curve = fitted(10 + 8 * n**-0.5)
    assert curve.plus_one is not None and np.isinf(curve.plus_one.estimate)
    # at 64: 5 + 16 / sqrt(65); one point less at 1 + n = (16 / (16 / sqrt(65) - 1))^2
    curve = fitted(5 + 16 * n**-0.5)
    assert curve.plus_one is not None
    assert curve.plus_one.estimate == pytest.approx((16 / (16 / 65**0.5 - 1)) ** 2 - 1, rel=0.05)


def test_too_few_points_or_seeds() -> None:
    assert fitted(np.array([40.0]), [16]).verdict == "too few points"
    curve = fitted(np.array([40.0, 36, 32]), [0, 3, 15])
    assert curve.verdict == "falls" and curve.law is None and "3 numbers" in curve.reason
    assert curve.slope.estimate == pytest.approx(-2, rel=1e-2)
    curve = fitted(5 + 16 * (1 + np.array(FEW, float)) ** -0.5, seeds=1)
    assert curve.verdict == "falls" and curve.law is None and "1 seed" in curve.reason


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("a", 16 * (1 + np.array(FEW, float)) ** -0.5 - 1.5),  # best with a negative asymptote
        ("c", 30 - np.log(1 + np.array(FEW, float))),  # best with the smallest exponent
        ("c", np.array([40.0, 30, 30, 30, 30])),  # best with the largest exponent
    ],
)
def test_no_law_if_a_parameter_is_on_its_bound(name: str, errors: Floats) -> None:
    curve = fitted(errors)
    assert curve.verdict == "falls" and curve.law is None and curve.forecast == ()
    assert curve.reason.startswith(f"the best {name} is on a bound")


def test_no_curve_without_a_spread() -> None:
    errors = 5 + 16 * (1 + np.array(FEW, float)) ** -0.5 * np.ones((3, 1))
    curve = fit_curve(Series(FEW, errors, np.full((100, len(FEW)), np.nan)))
    assert curve.verdict == "too few classes" and curve.law is None and np.isnan(curve.slope.estimate)


def test_no_forecast_below_the_last_measurement() -> None:
    errors = 20 + 16 * (1 + np.array(FEW, float)) ** -1
    assert fitted(errors).forecast
    curve = fitted(errors - np.array([0, 0, 0, 0, 2]))  # the last point is far below the curve of the others
    assert curve.verdict == "falls" and curve.law is not None and curve.plus_one is None and curve.forecast == ()
    assert curve.reason == "at 256 images per class, the fit is below the accuracy measured at 64"


def test_no_forecast_if_images_are_unused() -> None:
    errors = 5 + 16 * (1 + np.array(FEW, float)) ** -0.5
    assert fitted(errors, seen=1.0).forecast
    curve = fitted(errors, seen=0.44)
    assert curve.law is not None and curve.forecast == ()
    assert curve.plus_one is None and curve.reachable is None
    assert curve.reason.startswith("only 44 % of the images were used at 64 per class")


N = np.array(MANY, float)


def noisy(errors: Floats, noise: float = 0.05) -> Series:
    generator = np.random.default_rng(0)
    seeds = errors + generator.normal(0, noise, (5, len(errors)))
    return Series(MANY, seeds, resample_seeds(seeds, 200, generator))


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("constant", np.full(len(N), 40.0)),
        ("logarithm", 40 - 2 * np.log2(1 + N)),
        ("power law", 20 + 15 * (1 + N) ** -0.7),
    ],
)
def test_the_true_model_has_the_smallest_held_out_error(name: str, errors: Floats) -> None:
    best, *others = held_out(noisy(errors))
    assert best.model == name and best.best > 0.5
    assert best.miss < min(other.miss for other in others)
    assert sum(model.best for model in (best, *others)) == pytest.approx(1)


@pytest.mark.parametrize("name", MODELS)
def test_model_predicts_its_own_curve(name: str) -> None:
    curves = {"constant": 0 * N + 30, "logarithm": 30 - np.log(1 + N), "power law": 20 + 10 * (1 + N) ** -0.5}
    assert MODELS[name](N[:4], curves[name][None, :4], N[6]) == pytest.approx(curves[name][6], rel=1e-3)


def test_held_out_error_is_a_root_mean_square() -> None:
    errors = np.array([40.0, 40, 40, 40, 45, 40])
    models = {model.model: model for model in held_out(Series(MANY[:6], errors[None], errors[None]))}
    assert models["constant"].miss == pytest.approx(np.sqrt((5**2 + 1**2) / 2))
    assert held_out(Series(MANY[:4], N[None, :4], N[None, :4])) == ()
