from __future__ import annotations

import numpy as np
import pytest

from syncclip.evaluation.metrics import calibration_error, harmonic_mean, openworld_auc, pairs_won


def brute_force(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high]
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return 100 * error


def test_two_bins_by_hand() -> None:
    # bin (0, .5]: confidence .4, none of two right; bin (.5, 1]: confidence .8 and 1, both right
    error = calibration_error(np.array([0.4, 0.4, 0.8, 1.0]), np.array([False, False, True, True]), bins=2)
    assert error == pytest.approx(100 * (0.5 * 0.4 + 0.5 * 0.1))


def test_a_sure_and_right_model_has_no_error() -> None:
    assert calibration_error(np.ones(5), np.ones(5, bool)) == 0


def test_it_equals_a_loop_over_bins() -> None:
    generator = np.random.default_rng(0)
    confidence, right = generator.uniform(0.01, 1, 500), generator.uniform(size=500) < 0.6
    assert calibration_error(confidence, right, 15) == pytest.approx(brute_force(confidence, right, 15), rel=1e-9)


def test_the_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(60.0, 30.0) == pytest.approx(40.0)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(np.array([60.0, 0.0]), np.array([30.0, 0.0])) == pytest.approx([40.0, 0.0])


@pytest.mark.parametrize("decimals", [1, 9])
def test_pairs_are_won_as_counting_every_pair_tells(decimals: int) -> None:
    generator = np.random.default_rng(decimals)
    score, right, novel = generator.random(80).round(decimals), generator.random(80) < 0.6, generator.random(80) < 0.4
    apart = (score[:, None] > score[None, :]) & ~novel[:, None] & novel[None, :]  # [base image, novel image]
    won = (apart & right[None, :]).sum(axis=1) + (apart & right[:, None]).sum(axis=0)
    assert pairs_won(score, right, novel).tolist() == won.tolist()
    true = (apart & right[:, None] & right[None, :]).sum()
    assert openworld_auc(score, right, novel) == pytest.approx(100 * true / ((~novel).sum() * novel.sum()))


def test_of_a_half_without_images_there_are_no_pairs() -> None:
    assert np.isnan(openworld_auc(np.array([0.5, 0.2]), np.array([True, False]), np.array([True, True])))
