"""The mixed model against known parameters, analysis of variance, and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.studies.statistics.mixed_model import fit_mixed_model, student

INTERCEPT, SLOPE = 12.0, -14.0
DATASETS, LEVELS = 6, 6


def simulate(
    generator: np.random.Generator, between: float, within: float, datasets: int = DATASETS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictor, value and dataset of each measurement, for standard deviations between and within datasets."""
    x = generator.uniform(0.4, 1.1, (datasets, LEVELS))
    effects = generator.normal(0, between, (datasets, 1))
    y = INTERCEPT + SLOPE * x + effects + generator.normal(0, within, x.shape)
    return x.ravel(), y.ravel(), np.repeat(np.arange(datasets), LEVELS)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (30, 2.0423)])
def test_quantiles_of_students_t_distribution(freedom: int, expected: float) -> None:
    assert student(0.95, freedom) == pytest.approx(expected, abs=1e-4)


def test_values_without_noise_are_fitted_exactly() -> None:
    x, y, dataset = simulate(np.random.default_rng(1), 0, 0)
    model = fit_mixed_model(x, y, dataset)
    assert model is not None
    assert model.coefficients == pytest.approx([INTERCEPT, SLOPE])
    prediction = model.predict(0.5)
    assert prediction.estimate == pytest.approx(INTERCEPT + SLOPE / 2)
    assert prediction.high - prediction.low < 1e-3


def test_coefficients_and_variances_are_recovered_on_average() -> None:
    generator = np.random.default_rng(2)
    models = [fit_mixed_model(*simulate(generator, 2, 1.5)) for _ in range(150)]
    values = np.array([[*model.coefficients, model.between, model.within] for model in models if model is not None])
    assert len(values) == 150
    error = 4 * values.std(axis=0) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - [INTERCEPT, SLOPE, 4, 2.25]) < np.maximum(error, 0.05))


def test_balanced_data_have_the_variances_of_the_analysis_of_variance() -> None:
    """With the same predictor values in all datasets, REML has this closed form."""
    generator = np.random.default_rng(3)
    x = np.linspace(0.4, 1.1, LEVELS)
    y = SLOPE * x + generator.normal(0, 5, (DATASETS, 1)) + generator.normal(0, 1, (DATASETS, LEVELS))
    model = fit_mixed_model(np.tile(x, DATASETS), y.ravel(), np.repeat(np.arange(DATASETS), LEVELS))
    centred = y - y.mean(axis=1, keepdims=True)
    residual = centred - np.polyval(np.polyfit(x, centred.mean(axis=0), 1), x)
    within = (residual**2).sum() / (DATASETS * LEVELS - DATASETS - 1)
    between = y.mean(axis=1).var(ddof=1) - within / LEVELS
    assert model is not None
    assert model.within == pytest.approx(within, rel=0.02)
    assert model.between == pytest.approx(between, rel=0.1), "the ratio is searched on a grid"


@pytest.mark.parametrize(("between", "within"), [(0, 2), (2, 1.5), (4, 1)])
def test_prediction_intervals_cover_measurements_on_new_datasets(between: float, within: float) -> None:
    generator = np.random.default_rng(4)
    covered = []
    for _ in range(300):
        model = fit_mixed_model(*simulate(generator, between, within))
        x, y, _ = simulate(generator, between, within, datasets=1)
        assert model is not None
        prediction = model.predict(x[0])
        covered.append(prediction.low <= y[0] <= prediction.high)
    assert 0.93 <= np.mean(covered) <= 0.995


def test_the_interval_contains_the_variation_between_datasets() -> None:
    """A regression that ignores datasets would have the standard error of 36 independent measurements."""
    x, y, dataset = simulate(np.random.default_rng(5), 5, 0.5)
    model = fit_mixed_model(x, y, dataset)
    assert model is not None
    interval = model.predict(0.8)
    assert interval.high - interval.low > 2 * 2.57 * np.std([y[dataset == i].mean() for i in range(DATASETS)], ddof=1)


def test_intervals_are_widened_by_the_errors_on_left_out_datasets() -> None:
    x, y, dataset = simulate(np.random.default_rng(6), 0, 0.5)
    y[dataset == 0] += 40 * (x[dataset == 0] - 0.7)  # another slope, which the model does not contain
    model = fit_mixed_model(x, y, dataset)
    assert model is not None and model.widen > 1.2


@pytest.mark.parametrize("datasets", [1, 2])
def test_few_datasets_have_no_model(datasets: int) -> None:
    assert fit_mixed_model(*simulate(np.random.default_rng(7), 1, 1, datasets)) is None


def test_a_constant_predictor_has_no_model() -> None:
    _, y, dataset = simulate(np.random.default_rng(8), 1, 1)
    assert fit_mixed_model(np.full(len(y), 0.5), y, dataset) is None
