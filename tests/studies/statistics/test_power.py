"""Detectable differences, against tables of the t-distribution and simulated studies."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import Simulation, outcomes
from syncclip import storage
from syncclip.recipe.recipe import Recipe
from syncclip.studies import predictions
from syncclip.studies.statistics.bootstrap import configuration_metrics, differences, make_resamples
from syncclip.studies.statistics.power import (
    TYPICAL,
    Design,
    Deviations,
    detectable,
    detectable_difference,
    deviations,
    required,
    t_quantile,
)

STUDY = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 13, 2.160),
        (0.95, 5, 2.015),
        (0.8, 3, 0.978),
        (0.8, 30, 0.854),
        (0.99, 4, 3.747),
    ],
)
def test_quantiles_are_those_of_printed_tables(probability: float, freedom: int, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=2e-3)


def test_detectable_difference_is_2_8_standard_errors_with_many_classes() -> None:
    assert detectable(1.5, 1e6) == pytest.approx(2.8016 * 1.5, rel=1e-4)


def test_typical_deviations_are_those_of_the_published_predictions() -> None:
    settings = Recipe.load(f"{STUDY}/recipe.yaml", own=False).study
    evidence = predictions.read(str(STUDY), settings.configurations, storage.read_owner(f"{STUDY}/study.json"))
    by_name = {configuration.name: configuration for configuration in settings.configurations}
    ours = [evidence.stack(point, settings.seeds) for point in evidence.points(by_name["syncclip-both"])]
    theirs = evidence.stack((by_name["ivlp-real"], None), settings.seeds)
    assert astuple(deviations(ours, theirs)) == pytest.approx(astuple(TYPICAL), abs=0.05)


def test_detectable_difference_follows_from_the_variance_of_a_mean() -> None:
    # Classes: variance (144 + 400 / 25) / 16 = 10, t_15 quantiles 2.131 and 0.866.
    # Seeds: variance 9 / 5 = 1.8, t_4 quantiles 2.776 and 0.941.
    design = Design(classes=16, seeds=5, images=25)
    expected = (10 * 2.997**2 + 1.8 * 3.717**2) ** 0.5
    assert detectable_difference(design, Deviations(12, 20, 3)) == pytest.approx(expected, rel=1e-3)
    assert detectable_difference(replace(design, datasets=16)) == np.inf


def test_required_classes_reach_the_difference_and_fewer_do_not() -> None:
    design = Design(classes=14, seeds=5, images=20)
    classes, seeds = required(5, design) or (0, 0)
    assert detectable_difference(replace(design, classes=classes, seeds=seeds)) <= 5
    assert detectable_difference(replace(design, classes=classes - 1, seeds=seeds)) > 5
    assert seeds > 5, "five seeds alone have a detectable difference of 5.0 points"
    most, _ = required(5, replace(design, seeds=20)) or (0, 0)
    assert classes <= 2 * most
    assert required(1, design) is None, "20 seeds alone have a detectable difference of 2 points"
    assert required(20, Design(classes=50, seeds=3, images=20)) == (50, 3), "never fewer than those of the design"


@pytest.mark.slow
def test_simulated_studies_show_the_detectable_difference_with_80_percent_power() -> None:
    simulation = Simulation(datasets=1, classes=20, images=12, seeds=5)
    several = Simulation(datasets=60, classes=20, images=12, seeds=5)
    first, second = outcomes(several, np.random.default_rng(0))
    spread = deviations([first], second)
    shown = detectable_difference(Design(20, 5, 12), spread)

    significant, trials = 0, 200
    for trial in range(trials):
        generator = np.random.default_rng((1, trial))
        first, second = outcomes(replace(simulation, gain=shown / 100), generator)
        drawn = make_resamples(simulation.seeds, first, 300, generator, "classes")
        pair = configuration_metrics(first, drawn), configuration_metrics(second, drawn)
        significant += differences([pair])["all_classes_novel"].average().low > 0
    assert 0.68 * trials <= significant <= 0.9 * trials
