"""Number of synthetic images per class for a target accuracy, from the scaling curve of a finished study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import did_you_mean, duration
from syncclip.studies import analysis, outputs
from syncclip.studies.gain_prediction import METRIC
from syncclip.studies.pilot import REACH
from syncclip.studies.results import read_source
from syncclip.studies.statistics.bootstrap import ACCURACY, Interval, interval
from syncclip.studies.statistics.scaling_fit import MIN_AMOUNTS, fit_curve, fit_power_law

TRENDS = {"flat": "the accuracy has no significant trend", "rises": "the accuracy falls with more images"}
"""Verdict on the error -> reason why the curve cannot be inverted."""


@dataclass(frozen=True)
class Recommendation:
    """Number of images per class for a target accuracy.

    Attributes:
        measured: accuracy at each measured number of images per class.
        needed: number of images per class; the upper bound may exceed the measured range or be infinite. None if the
            study does not determine it, for which `reason` is set.
        pilot: numbers of images per class of a study that would decide; empty if more images do not help to decide.
        seeds: number of seeds of the study.
        images: size of the synthetic dataset for `needed`, or else for the pilot.
        cost: time of one generator and price for `images`; empty if unknown.
    """

    configuration: str
    metric: str
    split: str
    measured: Mapping[int, Interval]
    needed: Interval | None
    reason: str
    pilot: tuple[int, ...]
    seeds: int
    images: int
    cost: str
    confidence_level: float


def recommend(folder: str, accuracy: float, metric: str = METRIC, configuration: str | None = None) -> Recommendation:
    """Invert the scaling curve of a finished study, without extrapolation beyond the measured numbers of images.

    Args:
        folder: path or URL of the study.
        accuracy: target in per cent.
        metric: key of the metric.
        configuration: name of the configuration; default: the study's reference configuration.

    Returns:
        The recommendation. If the study does not determine the number of images, `needed` is None, and `reason` and
        `pilot` contain the cause and the numbers of images of a study that would.

    Raises:
        UserError: there is no finished study, or it has no scaling curve of the configuration and metric.

    Examples:
        >>> from syncclip import recommend
        >>> recommended = recommend("runs/study", accuracy=60, metric="novel")
        >>> list(recommended.measured), recommended.needed
        ([1, 2], None)
    """
    source = read_source(folder, finished=True)
    if source.kind != "study":
        raise UserError(f"{source.url}: a training measures one number of images; pass the folder of a study")
    recipe, evidence, level = source.recipe, source.evidence, source.recipe.study.confidence_level
    name = configuration or recipe.study.reference_configuration.name
    used = [each for each in evidence.configurations if each.name == name or not each.synthetic]
    curves = analysis.series(replace(evidence, configurations=used), recipe.study)
    if name not in curves:
        names = [each.name for each in evidence.configurations if each.synthetic]
        raise UserError(f"the study has no scaling curve of {name!r}; {did_you_mean(name, names)}")
    if metric not in curves[name]:
        raise UserError(f"the study does not measure {metric!r}; {did_you_mean(metric, curves[name])}")
    series = curves[name][metric]
    curve, largest, needed = fit_curve(series, level), series.amounts[-1], None
    reason = curve.reason or TRENDS.get(curve.verdict, curve.verdict)
    if curve.law:
        law, laws = fit_power_law(series.amounts, series.means), fit_power_law(series.amounts, series.resamples)
        estimate, resamples = (
            np.maximum(each.amount_for(np.array(100 - accuracy)), series.amounts[0]) for each in (law, laws)
        )
        needed, fitted = interval(float(estimate), resamples, level), 100 - law([largest])[0]
        outside = f"the target exceeds the fitted accuracy at {largest} images per class, {fitted:.1f} %"
        reason = outside if needed.estimate > largest else ""
    pilot: set[int] = set()
    helps = bool(reason) or (needed is not None and largest < needed.high < math.inf)
    if helps and curve.verdict != "rises":
        pilot = {*series.amounts, math.ceil(min(REACH * largest, needed.high if needed else math.inf))}
        pilot |= {largest // 16, largest // 4} if len(series.amounts) < MIN_AMOUNTS else set()
    synthesis = outputs.read_cost(source.url, storage.read_owner(storage.join(source.url, outputs.STATE))).synthesis
    rate = synthesis.images_per_second if synthesis else recipe.synthesis.cost.throughput
    n = math.ceil(needed.estimate) if needed and not reason else max(pilot, default=largest)
    images, prices = n * len(source.test_images["classnames"]), recipe.synthesis.cost
    cost = f"{duration(images / rate)} on one generator" if rate else ""
    if rate and prices.price:
        money = images / rate / 3600 * (recipe.synthesis.num_gpus or 1) * prices.price
        cost += f", {money:,.2f} {prices.currency}"
    measured = {
        at: interval(100 - error, 100 - errors, level, ACCURACY)
        for at, error, errors in zip(series.amounts, series.means, series.resamples.T, strict=True)
    }
    seeds = len(evidence.seeds(point for each in used if each.name == name for point in evidence.points(each)))
    determined, split = (None if reason else needed), source.test_images["split"]
    return Recommendation(
        name, metric, split, measured, determined, reason, tuple(sorted(pilot - {0})), seeds, images, cost, level
    )
