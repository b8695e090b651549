"""Confidence intervals of simulated studies have their nominal coverage."""

from __future__ import annotations

import pytest

from benchmarks.coverage import Simulation, coverage, joint_coverage
from syncclip.studies.statistics.bootstrap import Unit

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

TRIALS = 300  # standard error 1.3 % at a coverage of 95 %; seeds are fixed

SIMULATIONS: list[tuple[Unit, Simulation]] = [
    ("classes", Simulation()),
    ("classes", Simulation(datasets=1, seeds=5)),
    ("classes", Simulation(datasets=1, classes=44, seeds=5)),
    ("classes", Simulation(datasets=1, classes=12, novel=3, seeds=5)),
    ("images", Simulation(class_spread=0.0)),
    ("datasets", Simulation(dataset_spread=0.05)),
    ("datasets", Simulation(datasets=2, seeds=5, dataset_spread=0.05)),
]


@pytest.mark.parametrize(("unit", "simulation"), SIMULATIONS)
def test_intervals_have_nominal_coverage(unit: Unit, simulation: Simulation) -> None:
    assert min(coverage(simulation, unit, TRIALS).values()) >= 93


def test_intervals_over_images_are_too_narrow_if_classes_differ() -> None:
    assert max(coverage(Simulation(), "images", 100).values()) < 85


@pytest.mark.parametrize(
    ("unit", "simulation"),
    [
        ("classes", Simulation()),
        ("classes", Simulation(datasets=1, seeds=5)),
        ("classes", Simulation(datasets=1, classes=12, novel=3, seeds=5)),
        ("datasets", Simulation()),
    ],
)
def test_average_and_simultaneous_intervals_have_nominal_coverage(unit: Unit, simulation: Simulation) -> None:
    assert min(map(min, joint_coverage(simulation, unit, TRIALS).values())) >= 93
