"""A study's intervals hold the truth as often as they say, where classes differ as they were measured to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.coverage import World, coverage

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

TRIALS = 300  # the standard error of a coverage of 95 % is 1.3 %; the seeds are fixed


WORLDS = [
    World(),
    World(datasets=1, seeds=5),
    World(datasets=1, classes=44, seeds=5),
    World(datasets=1, classes=12, novel=3, seeds=5),
]


@pytest.mark.parametrize("world", WORLDS)
def test_intervals_over_classes_hold_the_truth(world: World) -> None:
    assert min(coverage(world, "classes", TRIALS).values()) >= 93


def test_intervals_over_images_do_not_where_classes_differ() -> None:
    assert max(coverage(World(), "images", 100).values()) < 85


def test_intervals_over_images_do_where_classes_are_alike() -> None:
    assert min(coverage(replace(World(), class_spread=0.0), "images", TRIALS).values()) >= 93


@pytest.mark.parametrize("world", [World(dataset_spread=0.05), World(datasets=2, seeds=5, dataset_spread=0.05)])
def test_intervals_over_datasets_hold_the_truth_where_these_differ(world: World) -> None:
    assert min(coverage(world, "datasets", TRIALS).values()) >= 93
