"""What the page shows of fitted curves, and says of its map."""

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
    models: tuple[HeldOut, ...] = (), worth: outputs.DataEfficiency | None = None, **changes: object
) -> FittedCurve:
    """What the page shows of the curve of SYNC-CLIP: error 40 + 20 / (1 + n)."""
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
    curve = dataclasses.replace(curve, **changes)  # type: ignore[arg-type]
    curves = {configuration: {"hm": curve} for configuration in ("syncclip-both", "ivlp-both")}
    stored = outputs.Fits(0.9, 400, "test", curves, {"syncclip-both": {"hm": models}})
    configurations = describe_configurations([("syncclip-both", "syncclip", "both"), ("ivlp-both", "ivlp", "both")])
    fits = fitted_curves(stored, configurations, worth)
    assert "synthetic images" not in fits["ivlp-both"]["hm"].text, "only the focus configuration's images have a worth"
    return fits["syncclip-both"]["hm"]


def test_a_fit_is_shown_as_accuracy_with_its_band_turned_over() -> None:
    curve = fit_of().curve
    assert curve[0] == CurvePoint(1, 50, 48, 51)
    assert dataclasses.astuple(curve[-1]) == pytest.approx((15, 60 - 20 / 16, 58 - 20 / 16, 61 - 20 / 16))


def test_a_curve_that_was_measured_without_images_begins_there() -> None:
    assert fit_of().begin is None
    assert fit_of(amounts=[0, 1, 4], means=[62, 50, 44]).begin == 38


@pytest.mark.parametrize("amounts", [[0, 64], [16], [1]])
def test_an_configuration_that_was_measured_at_one_amount_has_no_line(amounts: list[int]) -> None:
    shown = fit_of(amounts=amounts, means=[60.0, 50.0][: len(amounts)], reason="2 amounts")
    assert (shown.begin, shown.curve) == (None, [])
    assert shown.text == "too few amounts for a curve."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "one more point would take about 7 images per class (at least 5, perhaps never)."),
        (
            {"plus_one": Interval(430.2, 254.6, 2e6)},
            "430 images per class (90 % interval 250 to over a million).",
        ),
        ({"plus_one": Interval(math.nan, 8.0, math.nan)}, "rises but has nearly levelled off"),
        (
            {"verdict": "flat"},
            "no amount is clearly better than another (+3.0 points per doubling, 90 % interval +1.0 to +4.0).",
        ),
        ({"verdict": "rises"}, "gets worse with more images"),
        ({"verdict": "too few amounts"}, "too few amounts for a curve."),
        ({"verdict": "too few classes"}, "too few classes for a curve."),
        (
            {"law": None, "plus_one": None, "reason": "1 seed, and a law needs 2"},
            "rises (+3.0 points per doubling, 90 % interval +1.0 to +4.0). It has no law: 1 seed, and a law needs 2.",
        ),
        (
            {"forecast": (), "plus_one": None, "reason": "only 44 % of the images were shown"},
            "rises (+3.0 points per doubling, 90 % interval +1.0 to +4.0). It has no forecast: only 44 %",
        ),
    ],
)
def test_a_fits_sentence_says_what_the_fit_can_say(changes: dict, said: str) -> None:
    assert said in fit_of(**changes).text.replace("\u00a0", " ")


def test_a_fits_sentence_says_which_model_predicted_best() -> None:
    said = fit_of((HeldOut("logarithm", 0.42, 0.6), HeldOut("constant", 1.0, 0.4))).text
    assert (
        "a logarithm predicted held-out amounts best: it missed by 0.4 points, and least of all in 60 % of the draws"
        in said
    )


@pytest.mark.parametrize(
    ("shots", "per_real", "said"),
    [
        (7.1, 20.7, "64 synthetic images per class do as well as 7.1 real ones alone: 20.7 of them are worth one more"),
        (math.inf, 0.0, "With 64 synthetic images per class it does better than any number of real ones alone"),
        (3.0, math.nan, "64 synthetic images per class replace no real one."),
    ],
)
def test_a_fits_sentence_says_what_images_are_worth(shots: float, per_real: float, said: str) -> None:
    marginal = {"hm": (Marginal(64, around(0.0512)),)}
    exchange = {"hm": (Exchange(64, around(shots), around(per_real)),)}
    text = fit_of(worth=outputs.DataEfficiency("syncclip-both", 0.9, 1000.0, marginal, exchange)).text
    assert "At 64 per class, an hour of generation adds 0.051 points." in text
    assert said in text


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.74, 1.29, "Training moved the domains farther apart: a shift of 0.74 became 1.29."),
        (0.74, 0.31, "Training brought the domains nearer to each other: a shift of 0.74 became 0.31."),
        (0.741, 0.739, "Training left the domains as far apart as they were: a shift of 0.74."),
        (math.nan, 0.5, ""),
    ],
)
def test_the_map_is_read_out_in_a_sentence(before: float, after: float, said: str) -> None:
    frozen, trained = (Shift(0.1, value, 50.0, 0.2, {}) for value in (before, after))
    shift = outputs.StudyShift("a", "syncclip-both", 4, 1, "test", {}, "images", frozen, trained)
    assert nearer(shift) == said
    assert nearer(None) == ""
