"""Coverage of the confidence intervals of a study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.coverage import Simulation, coverage

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

TRIALS = 300  # the standard error of a coverage of 95 % is 1.3 %; the seeds are fixed


SIMULATIONS = [
    Simulation(),
    Simulation(datasets=1, seeds=5),
    Simulation(datasets=1, classes=44, seeds=5),
    Simulation(datasets=1, classes=12, novel=3, seeds=5),
]


@pytest.mark.parametrize("simulation", SIMULATIONS)
def test_intervals_over_classes_have_nominal_coverage(simulation: Simulation) -> None:
    assert min(coverage(simulation, "classes", TRIALS).values()) >= 93


def test_intervals_over_images_are_too_narrow_if_classes_differ() -> None:
    assert max(coverage(Simulation(), "images", 100).values()) < 85


def test_intervals_over_images_suffice_if_classes_are_alike() -> None:
    assert min(coverage(replace(Simulation(), class_spread=0.0), "images", TRIALS).values()) >= 93


@pytest.mark.parametrize(
    "simulation", [Simulation(dataset_spread=0.05), Simulation(datasets=2, seeds=5, dataset_spread=0.05)]
)
def test_intervals_over_datasets_have_nominal_coverage(simulation: Simulation) -> None:
    assert min(coverage(simulation, "datasets", TRIALS).values()) >= 93
