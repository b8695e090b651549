"""Scaling curves, comparisons, and real-image equivalents from constructed outcomes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.analysis import BOOTSTRAP_SEED, SHOTS, Evidence, comparisons, exchanges, fits, gaps_closed, series
from syncclip.studies.outputs import Comparison
from syncclip.studies.statistics.bootstrap import Unit, configuration_metrics, differences, make_resamples
from syncclip.studies.statistics.metrics import Outcomes

REAL = {shots: 0.7 - 0.3 * (1 + shots) ** -0.5 for shots in (1, 3, 8, 15)}
"""Shots -> accuracy, for an error of 30 % + 30 % / sqrt(1 + shots)."""
EQUAL_TO_11_SHOTS = 0.7 - 0.3 / 12**0.5
IMAGES = 4000


def outcomes(accuracy: float) -> tuple[Outcomes]:
    """Outcomes on four classes with the same accuracy."""
    right = np.tile(np.arange(IMAGES // 4) < accuracy * IMAGES / 4, 4)[None]
    return (Outcomes(right, right, right * 1.0, np.arange(4).repeat(IMAGES // 4), 2),)


def trained(configuration: Configuration, accuracy: float) -> dict[tuple[str, int | None, int | None], tuple[Outcomes]]:
    """Two seeds of a configuration without synthetic images."""
    return {(configuration.name, None, seed): outcomes(accuracy) for seed in (1, 2)}


def evidence(shots: dict[int, float], reference: float = 0.65, own: int = 4) -> tuple[Evidence, StudySettings]:
    """A configuration on real images for each number of shots, and the reference at four numbers of images."""
    real = [Configuration(method="ivlp", data="real", name=f"real{k}", overrides={SHOTS: k}) for k in shots]
    configurations = [*real, Configuration(method="syncclip", overrides={SHOTS: own})]
    settings = StudySettings(
        configurations=configurations,
        images_per_class=[1, 2, 4, 64],
        seeds=[1, 2],
        reference="syncclip-both",
        resamples=100,
    )
    cells = {("syncclip-both", n, seed): outcomes(reference) for n in settings.amounts for seed in (1, 2)}
    for configuration, accuracy in zip(real, shots.values(), strict=True):
        cells |= trained(configuration, accuracy)
    return Evidence(configurations, cells), settings


def test_equivalents_follow_the_power_law_of_real_images() -> None:
    for exchange in exchanges(*evidence(REAL, EQUAL_TO_11_SHOTS), shots=16)["all_classes_hm"]:
        assert exchange.shots.estimate == pytest.approx(11, rel=0.05)
        assert exchange.per_real.estimate == pytest.approx(exchange.n / 7, rel=0.1)  # 11 shots minus its own 4


def test_shots_default_to_those_of_the_recipe() -> None:
    study, settings = evidence({k: accuracy for k, accuracy in REAL.items() if k < 15}, EQUAL_TO_11_SHOTS)
    default = Configuration(method="ivlp", data="real")
    extended = Evidence([*study.configurations, default], {**study.cells, **trained(default, REAL[15])})
    assert exchanges(extended, settings, shots=15)["hm"][0].shots.estimate == pytest.approx(11, rel=0.05)


def test_upper_bound_does_not_count_as_real_images_only() -> None:
    study, settings = evidence(REAL, EQUAL_TO_11_SHOTS)
    all_real = Configuration(method="ivlp", data="all_real", overrides={SHOTS: 15})
    extended = Evidence([all_real, *study.configurations], {**study.cells, **trained(all_real, 0.9)})
    assert exchanges(extended, settings, shots=16) == exchanges(study, settings, shots=16)


def test_three_numbers_of_shots_are_too_few_for_equivalents() -> None:
    assert exchanges(*evidence({1: 0.5, 4: 0.6, 8: 0.65}), shots=16) == {}


def test_models_are_compared_for_each_metric() -> None:
    study, settings = evidence({1: 0.5}, own=1)
    models = fits(series(study, settings), settings, "test", {}).models
    assert list(models) == ["syncclip-both"]
    assert {"hm", "all_classes_hm", "openworld_auc"} <= set(models["syncclip-both"])


def curve(study: Evidence, settings: StudySettings) -> tuple[list[int], float]:
    """Numbers of images of the reference's curve, and its first error."""
    points = series(study, settings)["syncclip-both"]["all_classes_hm"]
    return list(points.amounts), float(points.means[0])


def test_curve_starts_with_real_images_only() -> None:
    study, settings = evidence({4: 0.5, 1: 0.2}, own=4)
    assert curve(study, settings) == ([0, 1, 2, 4, 64], pytest.approx(50))
    own = Configuration(method="syncclip", data="real", overrides={SHOTS: 4})  # the same method takes precedence
    extended = Evidence([*study.configurations, own], {**study.cells, **trained(own, 0.4)})
    assert curve(extended, settings) == ([0, 1, 2, 4, 64], pytest.approx(60))


@pytest.mark.parametrize(
    ("method", "others", "first"),
    [
        ("probe", ["ivlp"], 1),
        ("probe", ["ivlp", "probe"], 0),
        ("kgcoop", ["coop"], 1),
        ("syncclip", ["coop", "ivlp"], 0),
    ],
)
def test_curve_starts_with_the_same_or_the_reduced_method_only(method: str, others: list[str], first: int) -> None:
    study, settings = evidence({4: 0.5})
    real = [Configuration(method=other, data="real") for other in others]
    cells = {key: tested for key, tested in study.cells.items() if key[0] == "syncclip-both"}
    for configuration in real:
        cells |= trained(configuration, 0.4)
    configurations = [*real, Configuration(method=method, name="syncclip-both")]
    assert curve(Evidence(configurations, cells), settings)[0][0] == first


def test_curve_starts_at_the_smallest_number_without_a_counterpart() -> None:
    assert curve(*evidence({1: 0.2}, own=4)) == ([1, 2, 4, 64], pytest.approx(35))


def test_curve_without_real_images_starts_with_zero_shot() -> None:
    study, settings = evidence({4: 0.5})
    synthetic = Configuration(method="syncclip", data="synthetic", name="syncclip-both")
    cells = {**study.cells, ("zeroshot", None, None): outcomes(0.45)}
    study = Evidence([Configuration(method="zeroshot"), synthetic], cells)
    assert curve(study, settings) == ([0, 1, 2, 4, 64], pytest.approx(55))


def test_comparisons_have_intervals_over_images_and_over_classes() -> None:
    pairs = [pair for pair in comparisons(*evidence({4: 0.5})) if pair.metric == "hm" and pair.images_per_class == 64]
    images, classes = (pair for pair in pairs if pair.baseline == "real4")
    assert (images.unit, classes.unit) == ("images", "classes")
    assert images.estimate == classes.estimate == pytest.approx(15)
    assert (classes.images, classes.smaller_split, classes.caution) == (IMAGES, IMAGES // 2, "only 2 seeds")


def test_each_interval_resamples_its_unit() -> None:
    """Differences are equal for all images of a class, but not for all classes or datasets."""
    label = np.arange(12).repeat(40)

    def part(*accuracies: float) -> Outcomes:
        right = (np.tile(np.arange(40), 12) < 40 * np.resize(accuracies, 12).repeat(40))[None].repeat(2, 0)
        return Outcomes(right, right, right * 1.0, label, 6)

    configurations = [Configuration(method="ivlp", data="real"), Configuration(method="syncclip")]
    ours, theirs = (part(0.9, 0.6, 0.8), part(0.7, 0.6, 0.9), part(0.5, 0.5, 0.6)), (part(0.5),) * 3
    points = {(configurations[0].name, None): theirs, (configurations[1].name, 4): ours}
    keys = ("within_split", "all_classes", "base_score")
    cells = {
        (name, n, seed): tuple(replace(each, **{key: getattr(each, key)[[seed]] for key in keys}) for each in parts)
        for (name, n), parts in points.items()
        for seed in (0, 1)
    }
    settings = StudySettings(
        configurations=configurations, images_per_class=[4], seeds=[0, 1], reference="syncclip-both", resamples=500
    )
    pairs = {
        pair.unit: pair for pair in comparisons(Evidence(configurations, cells), settings) if pair.metric == "novel"
    }
    for unit in get_args(Unit):
        resamples = make_resamples(2, ours, 500, np.random.default_rng(BOOTSTRAP_SEED), unit)
        expected = differences([(configuration_metrics(ours, resamples), configuration_metrics(theirs, resamples))])[
            "novel"
        ].average()
        assert (pairs[unit].low, pairs[unit].high) == pytest.approx((expected.low, expected.high))
    images, classes, datasets = (pairs[unit].high - pairs[unit].low for unit in ("images", "classes", "datasets"))
    assert classes > 1.5 * images and datasets > 1.5 * classes


def test_average_over_the_numbers_of_images_and_simultaneous_intervals() -> None:
    study, settings = evidence({4: 0.5})
    study = replace(study, cells=study.cells | {("syncclip-both", 64, seed): outcomes(0.69) for seed in (1, 2)})
    pairs = [pair for pair in comparisons(study, settings) if (pair.metric, pair.unit) == ("hm", "images")]
    single, average = [pair for pair in pairs if pair.baseline == "real4"][:-1], pairs[-1]

    assert [(pair.images_per_class, pair.averaged_over) for pair in single] == [(n, []) for n in (1, 2, 4, 64)]
    assert (average.images_per_class, average.averaged_over, average.seeds) == (None, [1, 2, 4, 64], 2)
    assert average.estimate == pytest.approx(np.mean([pair.estimate for pair in single])) == pytest.approx(16)
    assert np.isnan([average.simultaneous_low, average.simultaneous_high]).all()
    for pair in single:
        assert pair.simultaneous_low < pair.estimate - 0.1
        assert (pair.simultaneous_low + pair.simultaneous_high) / 2 == pytest.approx(pair.estimate)
    itself = next(pair for pair in pairs if pair.baseline == "syncclip-both")
    assert (itself.simultaneous_low, itself.simultaneous_high) == (itself.low, itself.high)


def test_average_uses_the_seeds_that_are_finished_at_all_numbers_of_images() -> None:
    study, settings = evidence({4: 0.5})
    cells = {key: tested for key, tested in study.cells.items() if key != ("syncclip-both", 2, 1)}
    pairs = [pair for pair in comparisons(replace(study, cells=cells), settings) if pair.baseline == "real4"]
    assert {(pair.images_per_class, pair.seeds) for pair in pairs} == {(1, 2), (2, 1), (4, 2), (64, 2), (None, 1)}


def test_share_of_the_gap_to_the_upper_bound_of_the_same_method() -> None:
    study, settings = evidence({4: 0.5})
    others = [Configuration(method=method, data="all_real") for method in ("probe", "ivlp")]
    cells = study.cells | trained(others[0], 0.9) | trained(others[1], 0.8)
    closed = gaps_closed(Evidence([*study.configurations, *others], cells), settings, 4)["hm"]
    assert (closed.baseline, closed.upper_bound) == ("real4", "ivlp-all_real")
    assert closed.gap.estimate == pytest.approx(30)
    assert closed.share is not None and closed.share.estimate == pytest.approx(0.5)
    assert gaps_closed(Evidence([*study.configurations, others[0]], cells), settings, 4) == {}


def test_the_upper_bound_has_the_shots_and_preferably_the_overrides_of_the_counterpart() -> None:
    study, settings = evidence({4: 0.5})
    overrides = {
        "sixteen": {SHOTS: 16},
        "longer": {SHOTS: 4, "training.epochs": 9},
        "same": {SHOTS: 4},
        "default": {},
    }
    bounds = {
        name: Configuration(method="ivlp", data="all_real", name=name, overrides=values)
        for name, values in overrides.items()
    }
    cells = dict(study.cells)
    for bound in bounds.values():
        cells |= trained(bound, 0.8)

    def chosen(*names: str, shots: int = 4) -> str | None:
        configurations = [*study.configurations, *map(bounds.__getitem__, names)]
        closed = gaps_closed(Evidence(configurations, cells), settings, shots)
        return closed["hm"].upper_bound if closed else None

    assert chosen("sixteen") is None
    assert chosen("sixteen", "longer") == "longer"
    assert chosen("sixteen", "longer", "same") == "same"
    assert chosen("longer", "default") == "default" and chosen("default", shots=16) is None


def test_named_pairs_are_compared_at_the_same_number_of_images() -> None:
    study, settings = evidence({4: 0.5, 8: 0.6})
    mix = Configuration(method="ivlp", data="both")
    cells = study.cells | {("ivlp-both", n, seed): outcomes(0.55) for n in (1, 64) for seed in (1, 2)}
    study = Evidence([*study.configurations, mix], cells)
    compare = [("ivlp-both", "real4"), ("real8", "ivlp-both"), ("syncclip-both", "ivlp-both"), ("real4", "real8")]
    pairs = comparisons(study, settings.model_copy(update={"compare": compare}))

    def compared(name: str, baseline: str) -> dict[int | None, float]:
        keys = name, baseline, "hm", "classes"
        return {
            pair.images_per_class or pair.baseline_images_per_class: round(pair.estimate, 6)
            for pair in pairs
            if (pair.configuration, pair.baseline, pair.metric, pair.unit) == keys and not pair.averaged_over
        }

    assert compared("ivlp-both", "real4") == {1: 5, 64: 5}
    assert compared("real8", "ivlp-both") == {1: 5, 64: 5}
    assert compared("syncclip-both", "ivlp-both") == {1: 10, 64: 10}
    assert compared("real4", "real8") == {None: -10}
    assert len(pairs) == len({tuple(map(str, vars(pair).values())) for pair in pairs})


def test_caution_reports_few_images_and_few_seeds() -> None:
    test_data = {"confidence_level": 0.95, "unit": "images", "metric": "hm", "images": 150}
    pair = Comparison("a", 4, "b", None, estimate=1, low=0, high=2, seeds=1, smaller_split=64, **test_data)
    assert pair.caution == "only 1 seed, a split has only 64 test images"
    assert replace(pair, seeds=4, smaller_split=100).caution == ""
