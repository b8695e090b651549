"""Fitted curves of the page, and their descriptions."""

from __future__ import annotations

import dataclasses
import math

import pytest

from syncclip.reports.configurations import describe_configurations
from syncclip.reports.figures import CurvePoint, FittedCurve, fitted_curves, nearer
from syncclip.studies import outputs
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.data_efficiency import Exchange, Marginal
from syncclip.studies.statistics.scaling_fit import Curve, HeldOut, Point
from syncclip.synthetic_sets.shift import Shift


def around(value: float) -> Interval:
    return Interval(value, value - 1, value + 2)


def fit_of(
    models: tuple[HeldOut, ...] = (), efficiency: outputs.DataEfficiency | None = None, **changes: object
) -> FittedCurve:
    """SYNC-CLIP's curve in the page, for the error 40 + 20 / (1 + n)."""
    curve = Curve(
        amounts=[1, 2, 4],
        means=[50, 45, 42.5],
        standard_errors=[1, 1, 1],
        verdict="falls",
        slope=around(-3),
        law={"a": around(40), "b": around(20), "c": around(1)},
        line=tuple(Point(n, around(40 + 20 / (1 + n))) for n in (1, 3, 4)),
        forecast=(Point(15, around(40 + 20 / 16)),),
        plus_one=Interval(6.7, 5.2, math.inf),
    )
    curve = dataclasses.replace(curve, **changes)
    curves = {configuration: {"hm": curve} for configuration in ("syncclip-both", "ivlp-both")}
    stored = outputs.Fits(0.9, 400, "test", curves, {"syncclip-both": {"hm": models}})
    configurations = describe_configurations([("syncclip-both", "syncclip", "both"), ("ivlp-both", "ivlp", "both")])
    fits = fitted_curves(stored, configurations, efficiency)
    assert "synthetic images" not in fits["ivlp-both"]["hm"].text, "only the reference has a data efficiency"
    return fits["syncclip-both"]["hm"]


def test_curve_and_band_are_converted_to_accuracy() -> None:
    curve = fit_of().curve
    assert curve[0] == CurvePoint(1, 50, 48, 51)
    assert dataclasses.astuple(curve[-1]) == pytest.approx((15, 60 - 20 / 16, 58 - 20 / 16, 61 - 20 / 16))


def test_curve_begins_with_the_accuracy_without_synthetic_images() -> None:
    assert fit_of().begin is None
    assert fit_of(amounts=[0, 1, 4], means=[62, 50, 44]).begin == 38


@pytest.mark.parametrize("amounts", [[0, 64], [16], [1]])
def test_single_number_of_synthetic_images_has_no_curve(amounts: list[int]) -> None:
    shown = fit_of(amounts=amounts, means=[60.0, 50.0][: len(amounts)], reason="2 amounts")
    assert (shown.begin, shown.curve) == (None, [])
    assert shown.text == "too few points for a curve."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "about 7 images per class (at least 5, possibly never)."),
        ({"plus_one": Interval(430.2, 254.6, 2e6)}, "430 images per class (90 % CI 250 to over a million)."),
        ({"plus_one": Interval(math.nan, 8.0, math.nan)}, "nearly levelled off"),
        ({"verdict": "flat"}, "no significant trend (+3.0 points per doubling, 90 % CI +1.0 to +4.0)."),
        ({"verdict": "rises"}, "accuracy falls with more images"),
        ({"verdict": "too few classes"}, "too few classes for a curve."),
        ({"law": None, "plus_one": None, "reason": "1 seed"}, "90 % CI +1.0 to +4.0). No power law: 1 seed."),
        ({"forecast": (), "plus_one": None, "reason": "only 44 %"}, "No extrapolation: only 44 %."),
    ],
)
def test_description_of_a_fit(changes: dict, expected: str) -> None:
    assert expected in fit_of(**changes).text.replace("\u00a0", " ")


def test_description_of_the_best_model() -> None:
    text = fit_of((HeldOut("logarithm", 0.42, 0.6), HeldOut("constant", 1.0, 0.4))).text
    assert "the logarithm has the smallest held-out error (0.4 points; smallest in 60 % of the resamples)" in text


@pytest.mark.parametrize(
    ("shots", "per_real", "expected"),
    [
        (7.1, 20.7, "are equivalent to 7.1 real images per class; 20.7 synthetic images replace one real image."),
        (math.inf, 0.0, "no number of real images alone is equivalent to 64 synthetic images per class."),
        (3.0, math.nan, "64 synthetic images per class do not replace any real images."),
    ],
)
def test_description_of_the_real_image_equivalent(shots: float, per_real: float, expected: str) -> None:
    marginal = {"hm": (Marginal(64, around(0.0512)),)}
    exchange = {"hm": (Exchange(64, around(shots), around(per_real)),)}
    text = fit_of(efficiency=outputs.DataEfficiency("syncclip-both", 0.9, 1000.0, marginal, exchange)).text
    assert "At 64 images per class, another hour of generation adds 0.051 points." in text
    assert expected in text


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (41.0, "another hour of generation adds at most 1.5 points."),  # the error at 64 images is 42.5
        (43.0, None),
        (None, None),
    ],
)
def test_value_of_another_hour_is_limited_by_the_asymptote(law: float | None, expected: str | None) -> None:
    efficiency = outputs.DataEfficiency("syncclip-both", 0.9, 1000.0, {"hm": (Marginal(64, around(27.0)),)}, {})
    parameters = law and {"a": around(law), "b": around(20), "c": around(1)}
    text = fit_of(efficiency=efficiency, law=parameters).text
    assert "another hour" not in text if expected is None else expected in text


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.74, 1.29, "Training increased the domain shift from 0.74 to 1.29."),
        (0.74, 0.31, "Training reduced the domain shift from 0.74 to 0.31."),
        (0.741, 0.739, "Training did not change the domain shift of 0.74."),
        (math.nan, 0.5, ""),
    ],
)
def test_description_of_the_domain_shift(before: float, after: float, expected: str) -> None:
    frozen, trained = (Shift(0.1, value, 50.0, 0.2, {}) for value in (before, after))
    shift = outputs.StudyShift("a", "syncclip-both", 4, 1, "test", {}, "images", frozen, trained)
    assert nearer(shift) == expected
