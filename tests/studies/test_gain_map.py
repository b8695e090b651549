"""Gains at several levels of name knowledge, their trend and sign change, from constructed outcomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.analysis import BOOTSTRAP_SEED, Evidence
from syncclip.studies.gain_map import MapCell, Trend, map_cells, table, trends, verdict
from syncclip.studies.statistics.bootstrap import configuration_metrics, differences, interval, make_resamples
from syncclip.studies.statistics.metrics import Outcomes

CONFIGURATIONS = [
    Configuration(method="zeroshot"),
    Configuration(method="ivlp", data="real"),
    Configuration(method="syncclip"),
]
SETTINGS = StudySettings(configurations=CONFIGURATIONS, images_per_class=[1, 4], seeds=[1, 2], resamples=400)
LABEL = np.arange(8).repeat(100)
KNOWLEDGE = {"low": 0.4, "middle": 0.6, "high": 0.8}


def outcomes(*accuracies: float) -> Outcomes:
    """Outcomes of one run on eight classes with these accuracies in per cent, repeated over the classes."""
    right = (np.tile(np.arange(100), 8) < np.resize(accuracies, 8).repeat(100))[None]
    return Outcomes(right, right, right * 1.0, LABEL, 4)


def level(*with_images: Outcomes, real: Outcomes | None = None) -> Evidence:
    """Zero-shot, IVLP on real images and SYNC-CLIP at 1 and 4 images per class, with two equal seeds."""
    cells = {("zeroshot", None, None): (outcomes(40),)}
    for seed in SETTINGS.seeds:
        cells["ivlp-real", None, seed] = (real or outcomes(50),)
        cells |= {("syncclip-both", n, seed): (each,) for n, each in zip((1, 4), with_images, strict=True)}
    return Evidence(CONFIGURATIONS, cells)


def cell_of(cells: list[MapCell], over: str, n: int | None, metric: str = "novel", tag: str = "low") -> MapCell:
    (cell,) = [
        cell
        for cell in cells
        if (cell.pretrained, cell.configuration, cell.over, cell.images_per_class, cell.metric, cell.dataset)
        == (tag, "syncclip-both", over, n, metric, "")
    ]
    assert cell.averaged == (n is None)
    return cell


def trend_of(levels: dict[str, Evidence], metric: str = "novel", **knowledge: float) -> Trend:
    """Trend of SYNC-CLIP's gain over real images only, averaged over numbers of images."""
    found = [
        trend
        for trend in trends(levels, {**KNOWLEDGE, **knowledge}, SETTINGS)
        if (trend.configuration, trend.over, trend.averaged, trend.metric) == ("syncclip-both", "real", True, metric)
    ]
    assert len(found) == 1
    return found[0]


def test_gains_over_real_images_only_and_over_zero_shot() -> None:
    cells = map_cells({"low": level(outcomes(55), outcomes(65))}, SETTINGS, [])
    real, zero = cell_of(cells, "real", 4), cell_of(cells, "zero-shot", 1)
    assert (real.baseline, real.value, real.gain, real.verdict) == ("ivlp-real", 65, 15, "significant gain")
    assert (zero.baseline, zero.value, zero.gain) == ("zeroshot", 55, 15)
    mean = cell_of(cells, "real", None)
    assert (mean.value, mean.gain) == (60, 10)
    assert {(cell.configuration, cell.over) for cell in cells} == {
        ("zeroshot", ""),
        ("ivlp-real", "zero-shot"),
        ("syncclip-both", "real"),
        ("syncclip-both", "zero-shot"),
    }


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 2, "significant gain"),
        (-2, -0.1, "significant loss"),
        (0.1, 1, "significant gain"),
        (-3, 1, "inconclusive"),
        (-1, 3, "inconclusive"),
        (-1.9, 1.9, "equivalent"),
        (np.nan,) * 2 + ("",),
    ],
)
def test_verdict_follows_the_interval(low: float, high: float, expected: str) -> None:
    assert verdict(low, high) == expected


def test_intervals_resample_classes_and_average_resamples_over_numbers_of_images() -> None:
    first, second, real = outcomes(50, 70), outcomes(60, 40, 90), outcomes(50, 55)
    cells = map_cells({"low": level(first, second, real=real)}, SETTINGS, [])
    both = {key: (part.within_split.repeat(2, 0)) for key, part in (("1", first), ("4", second), ("real", real))}
    parts = {
        key: replace(first, within_split=right, all_classes=right, base_score=right * 1.0)
        for key, right in both.items()
    }
    resamples = make_resamples(2, [first], 400, np.random.default_rng(BOOTSTRAP_SEED), "classes")
    metrics = {key: configuration_metrics([part], resamples) for key, part in parts.items()}
    at_four = differences([(metrics["4"], metrics["real"])])["novel"].average()
    cell = cell_of(cells, "real", 4)
    assert (cell.low, cell.high) == (at_four.low, at_four.high) and cell.low < cell.gain < cell.high
    mean = (metrics["1"]["novel"][1] + metrics["4"]["novel"][1]) / 2 - metrics["real"]["novel"][1]
    averaged = cell_of(cells, "real", None)
    expected = interval(mean.mean(), mean, 0.95)
    assert (averaged.low, averaged.high) == pytest.approx((expected.low, expected.high))


def test_trend_is_the_line_through_the_gains_with_its_sign_change() -> None:
    levels = {
        tag: level(outcomes(50 + gain - 2), outcomes(50 + gain + 2))
        for tag, gain in {"low": 10, "middle": 0, "high": -10}.items()
    }
    trend = trend_of(levels)
    assert trend.pretrained == ("low", "middle", "high")
    assert trend.slope.estimate == pytest.approx(-50)
    assert [end.estimate for end in trend.ends] == pytest.approx([10, -10])
    assert trend.crossing == pytest.approx(0.6)
    assert trend.gain_range == pytest.approx((0.4, 0.6), abs=0.005)
    assert trend.loss_range == pytest.approx((0.6, 0.8), abs=0.005)


def test_sign_change_outside_the_measured_range_is_unknown() -> None:
    levels = {
        tag: level(outcomes(50 + gain), outcomes(50 + gain))
        for tag, gain in {"low": 10, "middle": 6, "high": 2}.items()
    }
    trend = trend_of(levels)
    assert trend.crossing is None and trend.loss_range == ()
    assert trend.gain_range == pytest.approx((0.4, 0.8))


def test_levels_share_resamples() -> None:
    """Gains vary between classes, but their change between levels does not."""
    levels = {
        tag: level(outcomes(50 + change, 90 + change), outcomes(50 + change, 90 + change))
        for tag, change in {"low": 10, "high": 0}.items()
    }
    cell = cell_of(map_cells(levels, SETTINGS, []), "real", None)
    assert cell.high - cell.low > 20
    slope = trend_of(levels).slope
    assert (slope.estimate, slope.low, slope.high) == pytest.approx((-25, -25, -25))


def test_named_comparisons_use_the_same_numbers_of_images() -> None:
    """A baseline in the recipe's `compare` that already is a usual baseline is not repeated."""
    mix, named = Configuration(method="ivlp"), [("syncclip-both", "ivlp-both"), ("syncclip-both", "ivlp-real")]
    configurations = [*CONFIGURATIONS, mix]
    cells = dict(level(outcomes(60), outcomes(70)).cells)
    cells |= {("ivlp-both", n, seed): (outcomes(50 + n),) for n in (1, 4) for seed in SETTINGS.seeds}
    del cells["ivlp-both", 1, 2]
    evidence = Evidence(configurations, cells)
    settings = SETTINGS.model_copy(update={"configurations": configurations, "compare": named})

    rows = map_cells({"low": evidence, "high": evidence}, settings, [])

    gains = {n: cell_of(rows, "named", n) for n in (1, 4, None)}
    assert {n: (cell.baseline, cell.gain, cell.seeds) for n, cell in gains.items()} == {
        1: ("ivlp-both", 60 - 51, 1),
        4: ("ivlp-both", 70 - 54, 2),
        None: ("ivlp-both", pytest.approx(12.5), 1),
    }
    assert gains[None].averaged_over == (1, 4)
    assert {cell.baseline for cell in rows if cell.over == "named"} == {"ivlp-both"}
    (trend,) = (
        trend
        for trend in trends({"low": evidence, "high": evidence}, KNOWLEDGE, settings)
        if (trend.over, trend.averaged, trend.metric) == ("named", True, "novel")
    )
    assert trend.ends[0].estimate == pytest.approx(12.5)


def test_level_without_the_baseline_or_with_unknown_name_knowledge_has_no_trend() -> None:
    complete = level(outcomes(60), outcomes(60))
    unfinished = Evidence(CONFIGURATIONS, {key: each for key, each in complete.cells.items() if key[0] != "ivlp-real"})
    levels = {"low": complete, "middle": complete, "high": unfinished}
    assert trend_of(levels).pretrained == ("low", "middle")
    assert trend_of({**levels, "high": complete}, middle=float("nan")).pretrained == ("low", "high")
    assert trends({"low": complete}, KNOWLEDGE, SETTINGS) == []
    over = {cell.over for cell in map_cells(levels, SETTINGS, []) if cell.pretrained == "high"}
    assert over == {"", "zero-shot"}


def without(evidence: Evidence, *dropped: tuple[int, int]) -> Evidence:
    """Evidence without SYNC-CLIP's runs at these numbers of images and seeds."""
    keys = {("syncclip-both", *each) for each in dropped}
    return Evidence(CONFIGURATIONS, {key: each for key, each in evidence.cells.items() if key not in keys})


def test_levels_use_the_seeds_and_numbers_of_images_in_common() -> None:
    """Single numbers have cells at the levels that contain them, with the seeds in common at that number."""
    complete = level(outcomes(60), outcomes(70))
    levels = {
        "low": complete,
        "middle": without(complete, (1, 2)),
        "high": without(complete, (4, 1), (4, 2)),
    }
    cells = [
        cell
        for cell in map_cells(levels, SETTINGS, [])
        if (cell.configuration, cell.over, cell.metric) == ("syncclip-both", "real", "novel")
    ]
    assert {(cell.images_per_class, cell.pretrained): cell.seeds for cell in cells if not cell.averaged} == {
        (1, "low"): 1,
        (1, "middle"): 1,
        (1, "high"): 1,
        (4, "low"): 2,
        (4, "middle"): 2,
    }
    of_levels = {
        trend.images_per_class: trend.pretrained
        for trend in trends(levels, KNOWLEDGE, SETTINGS)
        if (trend.configuration, trend.over, trend.metric, trend.averaged) == ("syncclip-both", "real", "novel", False)
    }
    assert of_levels == {1: ("low", "middle", "high"), 4: ("low", "middle")}


def test_mean_lists_the_numbers_of_images_that_all_levels_have_in_common() -> None:
    complete = level(outcomes(60), outcomes(70))
    for levels, numbers in (
        ({"low": complete, "high": complete}, {None: (1, 4), 1: (), 4: ()}),
        ({"low": complete, "high": without(complete, (4, 1), (4, 2))}, {1: (), 4: ()}),
    ):
        rows = [*map_cells(levels, SETTINGS, []), *trends({"middle": complete, **levels}, KNOWLEDGE, SETTINGS)]
        assert {
            row.images_per_class: row.averaged_over for row in rows if row.configuration == "syncclip-both"
        } == numbers, "a single number is not a mean"
        assert {row.averaged_over for row in rows if row.configuration == "ivlp-real"} == {()}


def test_trend_and_cells_average_over_the_same_numbers_of_images() -> None:
    complete = level(outcomes(60), outcomes(70))
    levels = {"low": complete, "middle": without(complete, (4, 1), (4, 2)), "high": complete}
    fitted = trends(levels, {**KNOWLEDGE, "middle": float("nan")}, SETTINGS)
    assert {trend.averaged for trend in fitted} == {False}
    assert {cell.averaged for cell in map_cells(levels, SETTINGS, [])} == {False}


def test_levels_without_numbers_of_images_in_common_have_no_mean() -> None:
    complete = level(outcomes(60), outcomes(70))
    levels = {"low": without(complete, (4, 1), (4, 2)), "high": without(complete, (1, 1), (1, 2))}
    cells = map_cells(levels, SETTINGS, [])
    points = {(cell.images_per_class, cell.pretrained) for cell in cells if cell.configuration == "syncclip-both"}
    assert points == {(1, "low"), (4, "high")}


def test_number_of_images_without_seeds_in_common_is_omitted() -> None:
    complete = level(outcomes(60), outcomes(70))
    levels = {"low": without(complete, (4, 1)), "high": without(complete, (4, 2))}
    cells = map_cells(levels, SETTINGS, [])
    assert {cell.images_per_class for cell in cells if cell.configuration == "syncclip-both"} == {1}


def test_cells_of_each_dataset_and_of_their_average() -> None:
    complete = level(outcomes(60), outcomes(60))
    worse = {key: (parts[0], outcomes(30)) for key, parts in complete.cells.items()}
    cells = map_cells({"low": Evidence(CONFIGURATIONS, worse)}, SETTINGS, ["first", "second"])
    gains = {
        cell.dataset: cell.gain
        for cell in cells
        if (cell.configuration, cell.over, cell.images_per_class, cell.metric) == ("syncclip-both", "real", 4, "hm")
    }
    assert gains == pytest.approx({"": 5, "first": 10, "second": 0})
    assert table(cells)["images_per_class"].isna().sum() == sum(cell.images_per_class is None for cell in cells)


def test_metrics_without_images_are_omitted() -> None:
    base = outcomes(60)
    cells = {key: (replace(parts[0], base=8),) for key, parts in level(base, base).cells.items()}
    assert {cell.metric for cell in map_cells({"low": Evidence(CONFIGURATIONS, cells)}, SETTINGS, [])} == {
        "base",
        "all_classes_base",
        "all_classes_accuracy",
    }
