"""Numbers for the domain shift, on clouds whose shift is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from syncclip.core.order import balanced_rows
from syncclip.synthetic_sets.shift import frechet, measure, normalise, project


def clouds(seed: int = 0, classes: int = 5, each: int = 20, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    return np.eye(classes, 12)[labels] + generator.normal(0, spread, (len(labels), 12)), labels


def test_a_domain_is_not_shifted_against_itself() -> None:
    features, labels = clouds()
    shift = measure(features, labels, features, labels)
    assert shift.centroid_distance == pytest.approx(0, abs=1e-12)
    assert shift.frechet == pytest.approx(0, abs=1e-9)
    assert shift.overlap == 100


def test_turning_every_class_by_an_angle_moves_its_centre_by_it() -> None:
    features, labels = clouds(spread=0)
    turned = np.cos(0.6) * features + np.sin(0.6) * np.eye(12)[11]
    shift = measure(features, labels, turned, labels)
    assert shift.centroid_distance == pytest.approx(1 - np.cos(0.6))
    assert shift.relative_distance == pytest.approx(1 - np.cos(0.6))  # centres of classes are orthogonal: 1 apart
    assert list(shift.per_class.values()) == pytest.approx([1 - np.cos(0.6)] * 5)


def test_classes_that_changed_places_do_not_overlap() -> None:
    features, labels = clouds()
    assert measure(features, labels, features, (labels + 1) % 5).overlap == 0


def test_classes_of_one_domain_alone_are_left_out() -> None:
    features, labels = clouds()
    assert set(measure(features, labels, features[labels < 3], labels[labels < 3]).per_class) == {0, 1, 2}


def test_the_frechet_distance_is_that_of_the_formula() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, (60, 4)), generator.normal(0.5, 2, (80, 4))
    one, two = np.cov(first.T), np.cov(second.T)
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet(first, second) == pytest.approx(expected)


def test_the_map_keeps_the_distance_between_domains_that_differ_along_one_axis() -> None:
    generator = np.random.default_rng(0)
    real = normalise(np.eye(6)[0] + generator.normal(0, 0.01, (30, 6)))
    synthetic = normalise(np.eye(6)[1] + generator.normal(0, 0.01, (90, 6)))
    here, there = project(real, synthetic)
    assert np.linalg.norm(here.mean(0) - there.mean(0)) == pytest.approx(np.sqrt(2), rel=0.01)


def test_images_are_taken_evenly_from_the_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert balanced_rows(labels, 7).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert balanced_rows(labels, 100).tolist() == list(range(9))
