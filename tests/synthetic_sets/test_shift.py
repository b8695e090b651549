"""Domain shift between point clouds with a known shift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from syncclip.core.balance import balanced_rows
from syncclip.synthetic_sets.shift import frechet, measure, normalise, project


def clouds(seed: int = 0, classes: int = 5, per_class: int = 20, std: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Features around orthogonal class centres, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return np.eye(classes, 12)[labels] + generator.normal(0, std, (len(labels), 12)), labels


def test_a_domain_has_no_shift_to_itself() -> None:
    features, labels = clouds()
    shift = measure(features, labels, features, labels)
    assert shift.centroid_distance == pytest.approx(0, abs=1e-12)
    assert shift.frechet == pytest.approx(0, abs=1e-9)
    assert shift.overlap == 100


def test_a_rotation_shifts_all_centres() -> None:
    features, labels = clouds(std=0)
    rotated = np.cos(0.6) * features + np.sin(0.6) * np.eye(12)[11]
    shift = measure(features, labels, rotated, labels)
    assert shift.centroid_distance == pytest.approx(1 - np.cos(0.6))
    assert shift.relative_distance == pytest.approx(1 - np.cos(0.6))  # the distance of orthogonal centres is 1
    assert list(shift.per_class.values()) == pytest.approx([1 - np.cos(0.6)] * 5)


def test_permuted_classes_do_not_overlap() -> None:
    features, labels = clouds()
    assert measure(features, labels, features, (labels + 1) % 5).overlap == 0


def test_classes_of_a_single_domain_are_excluded() -> None:
    features, labels = clouds()
    assert set(measure(features, labels, features[labels < 3], labels[labels < 3]).per_class) == {0, 1, 2}


def test_the_frechet_distance_matches_its_formula() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, (60, 4)), generator.normal(0.5, 2, (80, 4))
    c1, c2 = np.cov(first.T), np.cov(second.T)
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet(first, second) == pytest.approx(expected)


def test_the_projection_preserves_the_distance_between_domains() -> None:
    generator = np.random.default_rng(0)
    real = normalise(np.eye(6)[0] + generator.normal(0, 0.01, (30, 6)))
    synthetic = normalise(np.eye(6)[1] + generator.normal(0, 0.01, (90, 6)))
    first, second = project(real, synthetic)
    assert np.linalg.norm(first.mean(0) - second.mean(0)) == pytest.approx(np.sqrt(2), rel=0.01)


def test_rows_are_balanced_over_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert balanced_rows(labels, 7).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert balanced_rows(labels, 100).tolist() == list(range(9))
