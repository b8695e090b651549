"""Metrics against values by hand and brute-force loops."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.evaluation.metrics import calibration_error, harmonic_mean, openworld_auc, pairs_won


def brute_force(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    error = 0.0
    for number in range(bins):
        inside = (number / bins < confidence) & (confidence <= (number + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * error


def test_calibration_error_by_hand() -> None:
    # bin (0, .5]: confidence .4, none of two right; bin (.5, 1]: confidence .8 and 1, both right
    error = calibration_error(np.array([0.4, 0.4, 0.8, 1.0]), np.array([False, False, True, True]), bins=2)
    assert error == pytest.approx(100 * (0.5 * 0.4 + 0.5 * 0.1))
    assert calibration_error(np.ones(5), np.ones(5, bool)) == 0


def test_calibration_error_equals_a_loop_over_bins() -> None:
    generator = np.random.default_rng(0)
    confidence, right = generator.uniform(0.01, 1, 500), generator.uniform(size=500) < 0.6
    assert calibration_error(confidence, right, 15) == pytest.approx(brute_force(confidence, right, 15), rel=1e-9)


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(60.0, 30.0) == pytest.approx(40.0)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(np.array([60.0, 0.0]), np.array([30.0, 0.0])) == pytest.approx([40.0, 0.0])


@pytest.mark.parametrize("decimals", [1, 9])
def test_openworld_auc_equals_a_loop_over_pairs(decimals: int) -> None:
    generator = np.random.default_rng(decimals)
    score, right, novel = generator.random(80).round(decimals), generator.random(80) < 0.6, generator.random(80) < 0.4
    ranked = (score[:, None] > score[None, :]) & ~novel[:, None] & novel[None, :]  # [base image, novel image]
    won = (ranked & right[None, :]).sum(axis=1) + (ranked & right[:, None]).sum(axis=0)
    assert pairs_won(score, right, novel).tolist() == won.tolist()
    correct = (ranked & right[:, None] & right[None, :]).sum()
    assert openworld_auc(score, right, novel) == pytest.approx(100 * correct / ((~novel).sum() * novel.sum()))


def test_openworld_auc_of_an_empty_split_is_unknown() -> None:
    assert np.isnan(openworld_auc(np.array([0.5, 0.2]), np.array([True, False]), np.array([True, True])))
