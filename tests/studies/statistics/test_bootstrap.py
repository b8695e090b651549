"""The paired bootstrap over seeds, images, classes and datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import get_args

import numpy as np
import pytest

from syncclip.studies.statistics.bootstrap import (
    ACCURACY,
    METRICS,
    Differences,
    Interval,
    Resamples,
    Unit,
    configuration_metrics,
    differences,
    interval,
    make_resamples,
    seed_weights,
)
from syncclip.studies.statistics.metrics import Outcomes


def outcomes(seeds: int, images: int, right: float, generator: np.random.Generator, classes: int = 8) -> Outcomes:
    within_split = generator.random((seeds, images)) < right
    all_classes, score = within_split & (generator.random((seeds, images)) < 0.9), generator.random((seeds, images))
    return Outcomes(within_split, all_classes, score, np.arange(images) % classes, classes // 2)


def intervals_of(
    first: Sequence[Outcomes], second: Sequence[Outcomes], resamples: Resamples, confidence_level: float = 0.95
) -> Mapping[str, Interval]:
    pair = configuration_metrics(first, resamples), configuration_metrics(second, resamples)
    return {metric: each.average(confidence_level) for metric, each in differences([pair]).items()}


@pytest.mark.parametrize("unit", get_args(Unit))
def test_single_dataset_may_lack_novel_images(unit: Unit) -> None:
    generator = np.random.default_rng(0)
    pair = [outcomes(2, 40, 0.7, generator), replace(outcomes(2, 24, 0.5, generator), base=8)]
    _, resampled = configuration_metrics(pair, make_resamples(2, pair, 50, generator, unit))["base"]
    assert resampled.shape == (50,) and (unit == "datasets" or np.ptp(resampled) > 0)


def test_seed_weights_sum_to_one_and_give_the_unbiased_variance() -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 3.0, 7.0, 9.0, 2.5])
    weights = seed_weights(len(values), 200_000, np.random.default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (seed_weights(1, 10, np.random.default_rng(0)) == 1).all()
    # Student's variance is f / (f - 2) times the normal tested, f = 8
    assert (weights @ values).var() == pytest.approx(values.var(ddof=1) / 9 * 8 / 6, rel=0.03)


def test_resamples_keep_the_sizes_of_the_splits() -> None:
    tested = outcomes(3, 12, 0.5, np.random.default_rng(0), classes=3)
    for split, size in zip(make_resamples(3, [tested], 50, np.random.default_rng(0)).splits, (4, 8), strict=True):
        (units,) = split.units
        assert units is not None and (tested.novel == split.novel).sum() == size
        assert (units.counts.sum(axis=1) == size).all() and units.unit.tolist() == list(range(size))


def test_class_is_resampled_with_all_of_its_images() -> None:
    tested = outcomes(3, 40, 0.5, np.random.default_rng(0))
    splits = make_resamples(3, [tested], 50, np.random.default_rng(0), "classes").splits
    for split, first in zip(splits, (0, 4), strict=True):
        (units,) = split.units
        assert units is not None and (units.counts.sum(axis=1) == 4).all()
        assert units.unit.tolist() == (tested.label[tested.novel == split.novel] - first).tolist()


def test_configuration_does_not_differ_from_itself() -> None:
    generator = np.random.default_rng(0)
    for unit in get_args(Unit):
        pair = [outcomes(3, 40, 0.5, generator), outcomes(3, 24, 0.5, generator)]
        for bounds in intervals_of(pair, pair, make_resamples(3, pair, 200, generator, unit)).values():
            assert (bounds.estimate, bounds.low, bounds.high) == (0, 0, 0)


def test_untrained_run_is_used_for_all_seeds() -> None:
    generator = np.random.default_rng(0)
    trained, untrained = outcomes(4, 60, 0.7, generator), outcomes(1, 60, 0.5, generator)
    of_seeds = (part.repeat(4, 0) for part in (untrained.within_split, untrained.all_classes, untrained.base_score))
    repeated = Outcomes(*of_seeds, untrained.label, untrained.base)
    resamples = make_resamples(4, [trained], 300, generator)
    short, long = intervals_of([trained], [untrained], resamples), intervals_of([trained], [repeated], resamples)
    for name in METRICS:
        assert vars(short[name]) == pytest.approx(vars(long[name]))


def test_harmonic_mean_is_unbounded_over_few_datasets() -> None:
    """Weights of two datasets extrapolate so far that harmonic means of weighted means would be zero."""
    label = np.arange(200) % 8

    def part(base: float, novel: float) -> Outcomes:
        right = (np.arange(200) // 8 < 25 * np.where(label < 4, base, novel))[None]
        return Outcomes(right, right, right * 1.0, label, 4)

    first, second = [part(0.92, 0.8), part(0.48, 0.36)], [part(0.92, 0.72), part(0.48, 0.32)]
    intervals = intervals_of(first, second, make_resamples(1, first, 4000, np.random.default_rng(0), "datasets"))
    assert intervals["novel"].low < -10 and intervals["novel"].high > 20
    assert intervals["hm"].low < -5 and intervals["hm"].high > 10


def test_few_classes_give_wide_intervals() -> None:
    label = np.arange(600) % 20
    gain = np.where(label % 2, 0.3, 0.1)  # larger for every second class of both splits

    def part(right: np.ndarray) -> Outcomes:
        return Outcomes(right[None], right[None], right[None] * 1.0, label, 18)

    first, second = part(np.arange(600) // 20 < 30 * (0.4 + gain)), part(np.arange(600) // 20 < 30 * 0.4)
    intervals = intervals_of([first], [second], make_resamples(1, [first], 4000, np.random.default_rng(0), "classes"))
    base, novel = (intervals[name].high - intervals[name].low for name in ("base", "novel"))
    assert novel > 10 * base  # Student's quantile is 12.7 for two classes and 2.1 for eighteen


def test_split_with_one_class_has_no_interval() -> None:
    generator = np.random.default_rng(0)
    first, second = (replace(outcomes(2, 60, right, generator, 3), base=2) for right in (0.7, 0.5))
    intervals = intervals_of([first], [second], make_resamples(2, [first], 400, generator, "classes"))
    assert np.isfinite([intervals["base"].low, intervals["all_classes_base"].high]).all()
    assert np.isnan([intervals[name].low for name in ("novel", "hm", "all_classes_accuracy", "openworld_auc")]).all()


@pytest.mark.parametrize(("unit", "classes", "datasets"), [("classes", 2, 3), ("datasets", 8, 1)])
def test_single_unit_has_no_interval(unit: Unit, classes: int, datasets: int) -> None:
    generator = np.random.default_rng(0)
    first, second = ([outcomes(2, 40, 0.5, generator, classes) for _ in range(datasets)] for _ in range(2))
    resamples = make_resamples(2, first, 100, generator, unit)
    assert all(
        np.isnan([intervals.low, intervals.high]).all() for intervals in intervals_of(first, second, resamples).values()
    )


def test_interval_has_nominal_coverage() -> None:
    hits = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        shared = generator.random(300)  # difficulty of each image
        luck = generator.normal(0, 0.02, (2, 5, 1))  # effect of each configuration's seeds
        within_split = [
            shared[None] < 0.5 + gain + luck[i] + generator.normal(0, 0.1, (5, 300)) for i, gain in enumerate((0.04, 0))
        ]
        label = np.arange(300) % 2
        first, second = ([Outcomes(right, right, right * 1.0, label, 1)] for right in within_split)
        interval = intervals_of(first, second, make_resamples(5, first, 300, generator), confidence_level=0.9)[
            "all_classes_accuracy"
        ]
        hits += interval.low <= 4 <= interval.high
    assert hits >= 170


def test_shared_images_cancel_in_the_difference() -> None:
    generator = np.random.default_rng(0)
    first = outcomes(1, 400, 0.5, generator)
    within_split = first.within_split.copy()
    within_split[0, :8] = ~within_split[0, :8]
    second = replace(first, within_split=within_split)
    resamples = make_resamples(1, [first], 500, generator)
    paired = intervals_of([first], [second], resamples)["hm"]
    alone = np.quantile(configuration_metrics([first], resamples)["hm"][1], [0.025, 0.975])
    assert paired.high - paired.low < 0.5 * (alone[1] - alone[0])


def test_average_and_simultaneous_intervals_of_independent_normal_differences() -> None:
    noise = np.random.default_rng(0).standard_normal((3, 200_000)) * [[1.0], [2.0], [5.0]]
    estimates = np.array([1.0, 2.0, 6.0])
    several = Differences(estimates, noise + estimates[:, None])
    average = several.average()
    error = np.sqrt(1 + 4 + 25) / 3
    assert (average.estimate, average.low, average.high) == pytest.approx(
        (3, 3 - 1.96 * error, 3 + 1.96 * error), abs=0.03
    )
    factor = NormalDist().inv_cdf((1 + 0.95 ** (1 / 3)) / 2)  # 2.388, since P(max |z| < c) = (2 Phi(c) - 1)^3
    for bounds, estimate, spread in zip(several.simultaneous(), estimates, (1, 2, 5), strict=True):
        assert bounds.estimate == estimate
        reach = factor * spread
        assert (bounds.low, bounds.high) == pytest.approx((estimate - reach, estimate + reach), abs=0.02 * spread)


def test_perfectly_correlated_differences_need_no_correction() -> None:
    noise = np.random.default_rng(0).standard_normal(50_000)
    first, second = Differences(np.zeros(2), np.stack([noise, 3 * noise])).simultaneous()
    assert (first.high, second.high) == pytest.approx((1.96, 3 * 1.96), rel=0.02)


def test_simultaneous_interval_of_a_single_number_is_its_own() -> None:
    single = Differences(np.ones(1), np.random.default_rng(0).exponential(size=(1, 1000)))
    assert single.simultaneous(0.9) == [single.average(0.9)]


def test_differences_without_variation_have_intervals_of_zero_width() -> None:
    intervals = Differences(np.array([0.0, 1.0]), np.array([[0.0] * 9, [1.0] * 9])).simultaneous()
    assert [(each.low, each.high) for each in intervals] == [(0, 0), (1, 1)]


def test_intervals_of_differences_contain_only_possible_values() -> None:
    """A percentage lies between 0 and 100, so two percentages differ by at most 100 points."""
    noise = 60 * np.random.default_rng(0).standard_normal(2000)
    several = Differences(np.array([90.0, -90.0]), np.stack([90 + noise, -90 - noise]))
    first, second = several.simultaneous()
    assert first.high == 100 and second.low == -100 and first.low > -100 and second.high < 100
    single = Differences(several.estimates[:1], several.resamples[:1]).average()
    assert single.high == 100 and -40 < single.low < -10  # 90 - 1.96 * 60


def test_bounds_of_an_interval_are_limited_to_possible_values() -> None:
    values = np.array([-7.0, 50.0, 107.0])
    assert interval(50, values, 0.95, ACCURACY) == Interval(50, 0, 100)
    assert interval(50, values, 0.95) == Interval(50, -7, 107)
