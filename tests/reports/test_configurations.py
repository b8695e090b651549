"""Labels and styles of configurations, and their means over seeds."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from syncclip.reports.configurations import describe_configurations, differences, gather_numbers, mean_scores
from syncclip.reports.inputs import Inputs
from syncclip.studies.outputs import Comparison


def test_means_and_standard_errors_over_seeds() -> None:
    rows = [{"configuration": "ivlp-both", "amount": 4, "seed": seed, "hm": hm} for seed, hm in ((1, 40.0), (2, 44.0))]
    point = mean_scores(pd.DataFrame(rows))["ivlp-both"]["hm"][0]
    assert (point.n, point.mean, point.se) == (4, 42.0, pytest.approx(2.0))  # sqrt(8) / sqrt(2)
    point = mean_scores(pd.DataFrame(rows[:1]))["ivlp-both"]["hm"][0]
    assert (point.mean, point.se, point.seeds) == (40.0, None, [])


def test_real_images_only_means_zero_synthetic_images() -> None:
    rows = [{"configuration": "ivlp-real", "method": "ivlp", "data": "real", "images_per_class": 16, "hm": 40.0}]
    inputs = Inputs("", "study", table=pd.DataFrame(rows).astype({"images_per_class": "Int64"}))
    assert gather_numbers(inputs).points["ivlp-real"]["hm"][0].n == 0


def test_custom_method_is_labelled_with_its_class() -> None:
    (configuration,) = describe_configurations([("Mine-real", "package.module:Mine", "real")])
    assert (configuration.label, configuration.short) == ("Mine on real images", "Mine real only")


def test_short_labels_name_the_training_data() -> None:
    names = [(f"classmeans-{data}", "classmeans", data) for data in ("real", "synthetic", "both")]
    assert [each.short for each in describe_configurations(names)] == [
        "Class means real only",
        "Class means synthetic only",
        "Class means real + synthetic",
    ]


def test_label_contains_a_custom_name() -> None:
    configurations = describe_configurations(
        [("syncclip-both", "syncclip", "both"), ("syncclip-both-unfiltered", "syncclip", "both")]
    )
    assert [configuration.label for configuration in configurations] == ["SYNC-CLIP", "SYNC-CLIP (unfiltered)"]
    assert len({configuration.tone for configuration in configurations}) == 2


def test_average_difference_takes_precedence_over_the_largest_number_of_images() -> None:
    configurations = describe_configurations([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])

    def row(n: int | None, estimate: float, *averaged: int) -> Comparison:
        numbers = estimate, estimate - 1, estimate + 1, 0.95, 5, 900
        pair = Comparison("syncclip-both", n, "ivlp-real", None, "hm", *numbers, "classes", 200)
        return replace(pair, averaged_over=averaged)

    single = [row(1, 2.0), row(64, 4.0)]
    (largest,) = differences(single, configurations)
    (average,) = differences([*single, row(None, 3.0, 1, 64)], configurations)
    assert (largest.difference, largest.images, average.difference, average.images) == (4, "64", 3, "1 to 64")


def test_up_to_eight_configurations_have_distinct_colours() -> None:
    """The configurations of the demo, and one more."""
    names = ["zeroshot-none", "classmeans-real", "classmeans-all_real", "classmeans-both", "tip-both", "ivlp-real"]
    keys = [(name, *name.split("-")) for name in [*names, "syncclip-both", "probe-both"]]
    assert {configuration.tone for configuration in describe_configurations(keys)} == {*range(8)}
