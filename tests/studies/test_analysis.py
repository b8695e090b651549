"""Curves, comparisons, and real-image equivalents, from constructed outcomes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.analysis import BOOTSTRAP_SEED, SHOTS, Evidence, comparisons, exchanges, fits, series
from syncclip.studies.outputs import Comparison
from syncclip.studies.statistics.bootstrap import Unit, configuration_metrics, difference, make_resamples
from syncclip.studies.statistics.metrics import Outcomes

REAL = {shots: 0.7 - 0.3 * (1 + shots) ** -0.5 for shots in (1, 3, 8, 15)}
"""Shots -> share of the images that are right: the error is 30 % + 30 % / sqrt(1 + shots)."""
IMAGES = 4000


def answers(share: float) -> tuple[Outcomes]:
    """Of each of four classes, so large a share is right."""
    right = np.tile(np.arange(IMAGES // 4) < share * IMAGES / 4, 4)[None]
    return (Outcomes(right, right, right * 1.0, np.arange(4).repeat(IMAGES // 4), 2),)


def evidence(shots: dict[int, float], reference: float = 0.65, own: int = 4) -> tuple[Evidence, StudySettings]:
    configurations = [Configuration(method="ivlp", data="real", name=f"real{k}", overrides={SHOTS: k}) for k in shots]
    configurations.append(Configuration(method="syncclip", overrides={SHOTS: own}))
    settings = StudySettings(
        configurations=configurations,
        images_per_class=[1, 2, 4, 64],
        seeds=[1, 2],
        reference="syncclip-both",
        resamples=100,
    )
    cells = {(f"real{k}", None, seed): answers(share) for k, share in shots.items() for seed in (1, 2)}
    cells |= {("syncclip-both", n, seed): answers(reference) for n in settings.amounts for seed in (1, 2)}
    return Evidence(configurations, cells), settings


def test_real_image_equivalent_follows_the_curve_of_real_images() -> None:
    for one in exchanges(*evidence(REAL, reference=0.7 - 0.3 / 12**0.5), shots=16)["all_classes_hm"]:
        assert one.shots.estimate == pytest.approx(11, rel=0.05)
        assert one.per_real.estimate == pytest.approx(one.n / 7, rel=0.1)  # it has four itself


def test_shots_of_the_recipe_count_where_a_configuration_overrides_nothing() -> None:
    found, settings = evidence({shots: share for shots, share in REAL.items() if shots < 15}, 0.7 - 0.3 / 12**0.5)
    whole = Evidence(
        [*found.configurations, Configuration(method="ivlp", data="real")],
        {**found.cells, **{("ivlp-real", None, seed): answers(REAL[15]) for seed in (1, 2)}},
    )
    assert exchanges(whole, settings, shots=15)["hm"][0].shots.estimate == pytest.approx(11, rel=0.05)


def test_all_real_is_no_configuration_of_real_images_alone() -> None:
    found, settings = evidence(REAL, reference=0.7 - 0.3 / 12**0.5)
    all_real = Configuration(method="ivlp", data="all_real", overrides={SHOTS: 15})
    cells = {**found.cells, **{(all_real.name, None, seed): answers(0.9) for seed in (1, 2)}}
    with_all_real = exchanges(Evidence([all_real, *found.configurations], cells), settings, shots=16)
    assert with_all_real == exchanges(found, settings, shots=16)


def test_three_numbers_of_shots_are_too_few() -> None:
    assert exchanges(*evidence({1: 0.5, 4: 0.6, 8: 0.65}), shots=16) == {}


def test_models_are_held_against_each_other_for_every_metric() -> None:
    found, settings = evidence({1: 0.5}, own=1)
    judged = fits(series(found, settings), settings, "test", {}).models
    assert list(judged) == ["syncclip-both"]
    assert {"hm", "all_classes_hm", "openworld_auc"} <= set(judged["syncclip-both"])


def curve(found: Evidence, settings: StudySettings) -> tuple[list[int], float]:
    one = series(found, settings)["syncclip-both"]["all_classes_hm"]
    return list(one.amounts), float(one.means[0])


def test_a_curve_begins_with_the_configuration_that_learns_from_real_images_alone() -> None:
    found, settings = evidence({4: 0.5, 1: 0.2}, own=4)
    assert curve(found, settings) == ([0, 1, 2, 4, 64], pytest.approx(50))


def test_of_several_such_configurations_that_of_the_same_method_counts() -> None:
    found, settings = evidence({4: 0.5}, own=4)
    own = Configuration(method="syncclip", data="real", overrides={SHOTS: 4})
    cells = {**found.cells, **{(own.name, None, seed): answers(0.4) for seed in (1, 2)}}
    assert curve(Evidence([*found.configurations, own], cells), settings) == ([0, 1, 2, 4, 64], pytest.approx(60))


@pytest.mark.parametrize(
    ("method", "others", "begins"),
    [
        ("probe", ["ivlp"], 1),
        ("probe", ["ivlp", "probe"], 0),
        ("kgcoop", ["coop"], 1),
        ("syncclip", ["coop", "ivlp"], 0),
    ],
)
def test_a_configuration_of_another_method_is_no_beginning_of_a_curve(
    method: str, others: list[str], begins: int
) -> None:
    found, settings = evidence({4: 0.5})
    configurations = [
        *(Configuration(method=one, data="real") for one in others),
        Configuration(method=method, name="syncclip-both"),
    ]
    cells = {key: one for key, one in found.cells.items() if key[0] == "syncclip-both"}
    cells |= {
        (configuration.name, None, seed): answers(0.4) for configuration in configurations[:-1] for seed in (1, 2)
    }
    assert curve(Evidence(configurations, cells), settings)[0][0] == begins


def test_without_such_a_configuration_a_curve_begins_at_the_smallest_amount() -> None:
    assert curve(*evidence({1: 0.2}, own=4)) == ([1, 2, 4, 64], pytest.approx(35))


def test_a_configuration_without_real_images_begins_where_nothing_was_learned() -> None:
    found, settings = evidence({4: 0.5})
    configurations = [
        Configuration(method="zeroshot"),
        Configuration(method="syncclip", data="synthetic", name="syncclip-both"),
    ]
    cells = {**found.cells, ("zeroshot", None, None): answers(0.45)}
    assert curve(Evidence(configurations, cells), settings) == ([0, 1, 2, 4, 64], pytest.approx(55))


def test_every_pair_has_an_interval_over_images_and_one_over_classes() -> None:
    found, settings = evidence({4: 0.5}, own=4)
    pairs = [one for one in comparisons(found, settings) if one.metric == "hm" and one.images_per_class == 64]
    images, classes = (one for one in pairs if one.baseline == "real4")
    assert (images.unit, classes.unit) == ("images", "classes")
    assert images.estimate == classes.estimate == pytest.approx(15)
    assert (classes.images, classes.smaller_split, classes.caution) == (IMAGES, IMAGES // 2, "")


def test_several_datasets_have_an_interval_over_datasets_too() -> None:
    found, settings = evidence({4: 0.5}, own=4)
    two = Evidence(found.configurations, {key: (*one, *one) for key, one in found.cells.items()})
    assert {one.unit for one in comparisons(two, settings)} == {"images", "classes", "datasets"}


def test_each_interval_draws_again_what_it_says() -> None:
    """Configurations that differ by as much on all images of a class, and not on all classes, nor on all datasets."""
    label = np.arange(12).repeat(40)

    def part(*shares: float) -> Outcomes:
        right = (np.tile(np.arange(40), 12) < 40 * np.resize(shares, 12).repeat(40))[None].repeat(2, 0)
        return Outcomes(right, right, right * 1.0, label, 6)

    configurations = [Configuration(method="ivlp", data="real"), Configuration(method="syncclip")]
    ours, theirs = (part(0.9, 0.6, 0.8), part(0.7, 0.6, 0.9), part(0.5, 0.5, 0.6)), (part(0.5),) * 3
    points = {(configurations[0].name, None): theirs, (configurations[1].name, 4): ours}
    cells = {
        (name, n, seed): tuple(
            replace(one, **{key: getattr(one, key)[[seed]] for key in ("within_split", "all_classes", "base_score")})
            for one in parts
        )
        for (name, n), parts in points.items()
        for seed in (0, 1)
    }
    settings = StudySettings(
        configurations=configurations, images_per_class=[4], seeds=[0, 1], reference="syncclip-both", resamples=500
    )
    found = {one.unit: one for one in comparisons(Evidence(configurations, cells), settings) if one.metric == "novel"}
    for unit in get_args(Unit):
        resamples = make_resamples(2, ours, 500, np.random.default_rng(BOOTSTRAP_SEED), unit)
        alone = difference(configuration_metrics(ours, resamples), configuration_metrics(theirs, resamples))["novel"]
        assert (found[unit].low, found[unit].high) == pytest.approx((alone.low, alone.high))
    widths = [found[unit].high - found[unit].low for unit in ("images", "classes", "datasets")]
    assert widths == sorted(widths) and widths[1] > 1.5 * widths[0] and widths[2] > 1.5 * widths[1]


def test_few_images_and_one_seed_are_cautioned_against() -> None:
    common = {
        "images_per_class": 4,
        "baseline": "b",
        "baseline_images_per_class": None,
        "metric": "hm",
        "confidence_level": 0.95,
        "unit": "images",
    }
    one = Comparison("a", estimate=1, low=0, high=2, seeds=1, images=150, smaller_split=64, **common)
    assert one.caution == "one seed, a split has only 64 test images"
    assert replace(one, seeds=2, smaller_split=100).caution == ""
