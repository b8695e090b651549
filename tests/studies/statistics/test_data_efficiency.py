"""Marginal value and real-image equivalents, for errors that follow known laws."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.studies.statistics.bootstrap import Differences, Floats
from syncclip.studies.statistics.data_efficiency import exchange, gap_closed, marginal
from syncclip.studies.statistics.scaling_fit import Series
from tests.studies.fabricated import resample_seeds

AMOUNTS = [1, 4, 16, 64]
SHOTS = [1, 2, 4, 8, 16]


def exact(amounts: list[int], errors: Floats) -> Series:
    return Series(amounts, errors[None], np.tile(errors, (8, 1)))


def law(n: list[int], a: float, b: float, c: float) -> Floats:
    return np.asarray(a + b * (1 + np.array(n, float)) ** -c)


def test_marginal_value_is_the_slope_times_images_per_class_and_hour() -> None:
    # 100 images per hour for 50 classes are two per class; the slope of 20 / sqrt(1 + n) is 10 (1 + n)^(-3/2)
    gains = marginal(exact(AMOUNTS, law(AMOUNTS, 30, 20, 0.5)), images_per_hour=100, classes=50)
    assert [gain.n for gain in gains] == AMOUNTS
    for gain in gains:
        assert gain.points_per_hour.estimate == pytest.approx(2 * 10 * (1 + gain.n) ** -1.5, rel=0.02)


def test_equivalent_number_of_shots_has_the_same_error() -> None:
    # Real images: 20 + 18 / sqrt(1 + r), so 26 for 8 shots. With 3 shots, each doubling of n removes half a point.
    real, mixed = (
        exact(SHOTS, law(SHOTS, 20, 18, 0.5)),
        exact(AMOUNTS, 29 - 0.5 * (1 + np.log2(np.array(AMOUNTS, float)))),
    )
    for equivalent, error in zip(exchange(real, mixed, own=3), mixed.means, strict=True):
        shots = (18 / (error - 20)) ** 2 - 1
        assert equivalent.shots.estimate == pytest.approx(shots, rel=0.02)
        assert equivalent.per_real.estimate == pytest.approx(equivalent.n / (shots - 3), rel=0.1)


def test_equivalents_are_infinite_without_a_gain_or_beyond_the_law() -> None:
    real = exact(SHOTS, law(SHOTS, 20, 16, 0.5))
    worse, best = (exact(AMOUNTS, np.full(len(AMOUNTS), error)) for error in (30.0, 19.0))  # 27.2 for 4 shots
    assert all(np.isinf(each.per_real.estimate) for each in exchange(real, worse, own=4))
    assert all(np.isinf(each.shots.estimate) and each.per_real.estimate == 0 for each in exchange(real, best, own=4))


def test_intervals_contain_the_true_number_of_shots() -> None:
    hits = 0
    for seed in range(50):
        generator = np.random.default_rng(seed)
        real = law(SHOTS, 20, 16, 0.5) + generator.normal(0, 0.3, (5, len(SHOTS)))
        mixed = np.full(3, 26.0) + generator.normal(0, 0.3, (5, 3))
        joint = resample_seeds(np.hstack([real, mixed]), 300, generator)
        series = Series(SHOTS, real, joint[:, : len(SHOTS)]), Series([4, 16, 64], mixed, joint[:, len(SHOTS) :])
        shots = exchange(*series, own=4, confidence_level=0.9)[0].shots
        hits += shots.low <= (16 / 6) ** 2 - 1 <= shots.high
    assert hits >= 40


def test_share_of_the_gap_is_the_average_gain_over_the_gap_in_each_resample() -> None:
    gap = np.linspace(4, 8, 101)
    over = Differences(np.array([2.0, 4.0, 6.0]), np.stack([gap / 4, gap / 2, gap]))
    closed = gap_closed("ivlp-real", "ivlp-all_real", over)
    assert (closed.gap.low, closed.gap.high) == pytest.approx((4.1, 7.9), abs=0.05)
    assert closed.share is not None
    assert (closed.share.estimate, closed.share.low, closed.share.high) == pytest.approx((0.5, 0.375, 0.375))


def test_share_of_a_gap_that_may_be_zero_is_undefined() -> None:
    over = Differences(np.array([2.0, 1.0]), np.stack([np.ones(100), np.linspace(-0.5, 3, 100)]))
    assert gap_closed("a", "b", over).share is None


def test_share_is_unbounded_in_resamples_without_a_gap() -> None:
    gap = np.r_[-1.0, np.linspace(0.1, 3, 99)]  # 1 % of the resamples
    share = gap_closed("a", "b", Differences(np.array([1.0, 1.5]), np.stack([np.ones(100), gap]))).share
    assert share is not None and np.isfinite(share.high)
