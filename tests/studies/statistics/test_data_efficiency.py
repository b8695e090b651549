from __future__ import annotations

import numpy as np
import pytest

from syncclip.studies.statistics.bootstrap import Floats
from syncclip.studies.statistics.data_efficiency import exchange, marginal
from syncclip.studies.statistics.scaling_fit import Series
from tests.studies.fabricated import resample_seeds

AMOUNTS = [1, 4, 16, 64]
SHOTS = [1, 2, 4, 8, 16]


def exact(amounts: list[int], errors: Floats) -> Series:
    return Series(amounts, errors[None], np.tile(errors, (8, 1)))


def law(n: list[int], a: float, b: float, c: float) -> Floats:
    return np.asarray(a + b * (1 + np.array(n, float)) ** -c)


def test_an_hour_gains_the_slope_of_the_curve_times_its_images_a_class() -> None:
    # 100 images an hour, 50 classes: two a class; the slope of 20 / sqrt(1 + n) is 10 (1 + n)^(-3/2)
    found = marginal(exact(AMOUNTS, law(AMOUNTS, 30, 20, 0.5)), images_per_hour=100, classes=50)
    assert [one.n for one in found] == AMOUNTS
    for one in found:
        assert one.points_per_hour.estimate == pytest.approx(2 * 10 * (1 + one.n) ** -1.5, rel=0.02)


def test_synthetic_images_are_told_in_real_ones() -> None:
    # Real: 20 + 18 / sqrt(1 + r), so 8 shots have 26. Beside 3 shots, each doubling of n takes away half a point.
    real, mixed = (
        exact(SHOTS, law(SHOTS, 20, 18, 0.5)),
        exact(AMOUNTS, 29 - 0.5 * (1 + np.log2(np.array(AMOUNTS, float)))),
    )
    for one, error in zip(exchange(real, mixed, own=3), mixed.means, strict=True):
        shots = (18 / (error - 20)) ** 2 - 1
        assert one.shots.estimate == pytest.approx(shots, rel=0.02)
        assert one.per_real.estimate == pytest.approx(one.n / (shots - 3), rel=0.1)


def test_equivalents_are_infinite_without_a_gain_or_beyond_the_law() -> None:
    real = exact(SHOTS, law(SHOTS, 20, 16, 0.5))
    worse, best = (exact(AMOUNTS, np.full(len(AMOUNTS), error)) for error in (30.0, 19.0))  # 4 shots alone have 27.2
    assert all(np.isinf(of.per_real.estimate) for of in exchange(real, worse, own=4))
    assert all(np.isinf(of.shots.estimate) and of.per_real.estimate == 0 for of in exchange(real, best, own=4))


def test_intervals_hold_the_true_number_of_shots() -> None:
    hits = 0
    for seed in range(50):
        generator = np.random.default_rng(seed)
        real = law(SHOTS, 20, 16, 0.5) + generator.normal(0, 0.3, (5, len(SHOTS)))
        mixed = np.full(3, 26.0) + generator.normal(0, 0.3, (5, 3))
        joint = resample_seeds(np.hstack([real, mixed]), 300, generator)
        alone, beside = joint[:, : len(SHOTS)], joint[:, len(SHOTS) :]
        one = exchange(Series(SHOTS, real, alone), Series([4, 16, 64], mixed, beside), own=4, confidence_level=0.9)[0]
        hits += one.shots.low <= (16 / 6) ** 2 - 1 <= one.shots.high
    assert hits >= 40
