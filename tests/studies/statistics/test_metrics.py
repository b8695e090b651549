"""Metrics from outcomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import Predictions, results
from syncclip.studies.statistics.bootstrap import Unit, make_resamples
from syncclip.studies.statistics.metrics import Outcomes, mean_metrics, resampled_metrics, run_metrics
from tests.studies.statistics.test_bootstrap import outcomes


def test_metrics_equal_those_of_the_evaluation() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 6, 50)
    within_split = np.where(generator.random(50) < 0.6, label, (label + 1) % 3 + 3 * (label >= 3))
    all_classes = np.where(generator.random(50) < 0.5, label, (label + 1) % 6)
    confidence = np.full(50, 0.5)
    score = generator.random(50)
    predictions = Predictions(np.arange(50), label, within_split, all_classes, confidence, confidence, score)
    expected = results(predictions, list("abcdef"), 3)
    metrics = run_metrics(Outcomes((within_split == label)[None], (all_classes == label)[None], score[None], label, 3))
    assert {name: float(metrics[name][0, 0]) for name in METRICS} == pytest.approx(
        {name: expected[name] for name in METRICS}
    )


@pytest.mark.parametrize("novel", [False, True])
@pytest.mark.parametrize("unit", ["images", "classes"])
def test_resample_equals_repeated_images(novel: bool, unit: Unit) -> None:
    generator = np.random.default_rng(0)
    tested = outcomes(3, 60, 0.6, generator)
    tested = replace(tested, base_score=tested.base_score.round(1))  # with ties
    (units,) = make_resamples(3, [tested], 20, generator, unit).splits[novel].units
    assert units is not None
    metrics = resampled_metrics(tested, novel, units)
    for resample in range(20):
        counts = np.ones(60, np.int64)
        counts[tested.novel == novel] = units.counts[resample, units.unit]
        rows = np.repeat(np.arange(60), counts)
        parts = tested.within_split[:, rows], tested.all_classes[:, rows], tested.base_score[:, rows]
        repeated = run_metrics(Outcomes(*parts, tested.label[rows], tested.base))
        for name in METRICS:
            assert metrics[name][resample] == pytest.approx(repeated[name][0], nan_ok=True)


def test_empty_split_is_not_resampled() -> None:
    tested = replace(outcomes(2, 40, 0.5, np.random.default_rng(0)), base=8)
    (units,) = make_resamples(2, [tested], 20, np.random.default_rng(0)).splits[True].units
    assert units is None
    for name, values in resampled_metrics(tested, True, units).items():
        assert np.array_equal(values, run_metrics(tested)[name], equal_nan=True)


def test_mean_over_datasets_has_harmonic_means_of_means() -> None:
    generator = np.random.default_rng(0)
    parts = [run_metrics(outcomes(2, 40, right, generator)) for right in (0.3, 0.8)]
    metrics = mean_metrics(parts)
    base, novel = ((parts[0][name] + parts[1][name]) / 2 for name in ("base", "novel"))
    assert metrics["base"] == pytest.approx(base) and metrics["hm"] == pytest.approx(2 * base * novel / (base + novel))


def test_unknown_metrics_are_nan() -> None:
    tested = outcomes(2, 40, 0.5, np.random.default_rng(0))
    unscored = replace(tested, base_score=np.full_like(tested.base_score, np.nan))
    assert np.isnan(run_metrics(unscored)["openworld_auc"]).all()
    only_base = run_metrics(replace(tested, base=8))
    assert np.isnan([only_base["hm"], only_base["all_classes_hm"]]).all() and np.isfinite(only_base["base"]).all()
