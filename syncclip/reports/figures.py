"""Data for the figures of a report: scores, scaling curves, classes, 2-D feature projections and losses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from syncclip.core.text import coverage, signed, thousands
from syncclip.evaluation.metrics import METRICS
from syncclip.reports.configurations import Numbers, ReportConfiguration
from syncclip.reports.images import ImageStrips
from syncclip.reports.inputs import Inputs
from syncclip.reports.table import Part
from syncclip.studies.outputs import DataEfficiency, Fits, StudyShift
from syncclip.studies.statistics.scaling_fit import Curve, HeldOut

MAX_POINTS = 600
"""Maximum number of points per domain and stage in the 2-D feature projection."""
MAX_STEPS = 400
"""Maximum number of steps in the loss curves."""
FORECAST_STEPS = 8
"""Number of curve points between two forecasts, and between the measured range and the first forecast."""


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy and confidence band of a fitted curve at `n` synthetic images per class."""

    n: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedCurve:
    """Fitted accuracy curve, with a description and the formula for the error.

    Attributes:
        curve: points over the measured range and the forecasts.
        text: description of the trend.
        formula: formula for the error; empty without a power law.
        begin: accuracy without synthetic images, or None if unknown or if there are too few points for a curve.
    """

    curve: list[CurvePoint]
    text: str
    formula: str
    begin: float | None = None


def payload(
    inputs: Inputs, numbers: Numbers, images: ImageStrips | None, bars: dict[str, list[Part]], metric: str
) -> dict[str, Any]:
    """Collect the data for all figures as JSON values; missing parts and non-finite numbers are None.

    Args:
        metric: metric that the figures show initially; the harmonic mean if `metric` is empty or not measured.
    """
    rows = [row for row in inputs.history if isinstance(row.get("step"), int)]
    rows = rows[:: max(1, math.ceil(len(rows) / MAX_STEPS))]
    terms = [
        {"name": name, "values": [row.get(name) for row in rows]}
        for name, value in (rows[0].items() if len(rows) > 1 else ())
        if name not in ("step", "epoch", "lr") and isinstance(value, (int, float))
    ]
    values = {
        "kind": inputs.kind,
        "metric": metric,
        "base": inputs.base,
        "configurations": numbers.configurations,
        "points": numbers.points,
        "fits": fitted_curves(inputs.fits, numbers.configurations, inputs.data_efficiency) if inputs.fits else {},
        "level": numbers.level,
        "comparisons": [
            vars(pair) | {"configuration": pair.configuration.id, "baseline": pair.baseline.id, "images": pair.images}
            for pair in numbers.differences
        ],
        "classes": None if numbers.table is None else _classes(inputs, numbers, numbers.table),
        "images": images,
        "map": None if inputs.features is None else _map(inputs.features, inputs.shift),
        "cost": bars,
        "history": {"steps": [row["step"] for row in rows], "terms": terms} if terms else None,
    }
    text = json.dumps(values, default=vars)
    plain: dict[str, Any] = json.loads(
        text, parse_float=lambda number: round(float(number), 4), parse_constant=lambda _: None
    )
    return plain


def fitted_curves(
    stored: Fits, configurations: Sequence[ReportConfiguration], efficiency: DataEfficiency | None = None
) -> dict[str, dict[str, FittedCurve]]:
    """Convert a study's fits from errors to accuracies, and return {configuration: {metric: curve}}."""
    fits: dict[str, dict[str, FittedCurve]] = {}
    level = coverage(stored.confidence_level)
    for configuration in configurations:
        for metric, curve in stored.curves.get(configuration.id, {}).items():
            if metric not in METRICS:
                continue
            if len([n for n in curve.amounts if n]) < 2:  # a point without a line
                curve = replace(curve, verdict="too few points", line=(), forecast=(), reason="")
            sentences = _sentences(curve, stored.models.get(configuration.id, {}).get(metric, ()), level)
            if efficiency is not None and efficiency.configuration == configuration.id:
                sentences += _efficiency_sentences(efficiency, metric, curve)
            law = [curve.law[name].estimate for name in "abc"] if curve.law else []
            formula = "{:.1f} + {:.1f} · (1 + n)^(−{:.2f})".format(*law) if law else ""
            begins = curve.amounts[0] == 0 and curve.verdict != "too few points"
            begin = 100 - curve.means[0] if begins else None
            fits.setdefault(configuration.id, {})[metric] = FittedCurve(
                _points(curve, law), " ".join(sentences), formula, begin
            )
    return fits


def _points(curve: Curve, law: Sequence[float]) -> list[CurvePoint]:
    """Return points over the measured range and up to each forecast, with bands interpolated linearly in log n."""
    line, forecast = (
        [
            CurvePoint(point.n, 100 - point.error.estimate, 100 - point.error.high, 100 - point.error.low)
            for point in points
            if math.isfinite(point.error.estimate)
        ]
        for points in (curve.line, curve.forecast)
    )
    if not line or not law:
        return line
    a, b, c = law
    for end in [point for point in forecast if point.n > line[-1].n]:
        start = line[-1]
        for share in np.arange(1, FORECAST_STEPS + 1) / FORECAST_STEPS:
            n = start.n * (end.n / start.n) ** share
            low, high = start.low + share * (end.low - start.low), start.high + share * (end.high - start.high)
            line.append(CurvePoint(n, 100 - a - b * (1 + n) ** -c, low, high))
    return line


def _sentences(curve: Curve, models: Sequence[HeldOut], level: str) -> list[str]:
    """Describe the trend of a curve, and the model with the smallest held-out error."""
    slope, needed = curve.slope, curve.plus_one
    gain, low, high = (signed(-value) for value in (slope.estimate, slope.high, slope.low))
    per_doubling = f"({gain} points per doubling, {level} CI {low} to {high})"
    if curve.verdict in ("rises", "flat"):
        trends = {"rises": "accuracy falls with more images", "flat": "no significant trend"}
        sentence = f"{trends[curve.verdict]} {per_doubling}."
    elif curve.verdict != "falls":
        sentence = f"{curve.verdict} for a curve."
    elif needed is None:
        sentence = f"accuracy rises {per_doubling}."
    elif not math.isfinite(needed.estimate):
        sentence = "accuracy rises but has nearly levelled off; according to the fit, a further point is unreachable."
    else:
        interval = ""
        if math.isfinite(needed.low):
            low = _rounded(needed.low)
            interval = f" (at least {low}, possibly never)"
            if math.isfinite(needed.high):
                interval = f" ({level} CI {low} to {_rounded(needed.high)})"
        sentence = f"one more point requires about {_rounded(needed.estimate)} images per class{interval}."
    sentences = [sentence]
    if curve.reason:
        sentences.append(f"No {'extrapolation' if curve.law else 'power law'}: {curve.reason}.")
    if models and math.isfinite(models[0].miss):
        best = models[0]
        sentences.append(
            f"Of {len(models)} models, the {best.model} has the smallest held-out error ({best.miss:.1f} points; "
            f"smallest in {100 * best.best:.0f} % of the resamples)."
        )
    return sentences


def _efficiency_sentences(efficiency: DataEfficiency, metric: str, curve: Curve) -> list[str]:
    """Describe the marginal value and the real-image equivalent at the largest number of images.

    The marginal value is limited to the distance from the curve's asymptote, and omitted without a power law.
    """
    sentences = []
    slopes, steps = efficiency.marginal.get(metric, ()), efficiency.exchange.get(metric, ())
    rest = curve.means[-1] - curve.law["a"].estimate if curve.law else 0.0
    if rest > 0 and slopes and math.isfinite(gain := slopes[-1].points_per_hour.estimate):
        gain, limit = min(gain, rest), "at most " if gain > rest else ""
        sentences.append(
            f"At {slopes[-1].n} images per class, another hour of generation adds {limit}{gain:.2g} points."
        )
    if steps:
        shots, per_real = steps[-1].shots.estimate, steps[-1].per_real.estimate
        images = f"{steps[-1].n} synthetic images per class"
        if not math.isfinite(shots):
            sentences.append(f"According to the fit, no number of real images alone is equivalent to {images}.")
        elif not math.isfinite(per_real):
            sentences.append(f"{images} do not replace any real images.")
        else:
            sentences.append(
                f"{images} are equivalent to {shots:.1f} real images per class; {per_real:.1f} synthetic images "
                "replace one real image."
            )
    return sentences


def _rounded(number: float) -> str:
    """Format a count with two significant digits."""
    if number > 1e6:
        return "over a million"
    digits = max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 0
    return thousands(round(number / 10**digits) * 10**digits)


def _classes(inputs: Inputs, numbers: Numbers, table: pd.DataFrame) -> dict[str, Any] | None:
    """Collect the data for the class figure: names, test images, accuracies by configuration, and pairs to compare.

    Accuracies are averaged over seeds at each configuration's largest number of images. Return None without results.
    """
    names, counts = inputs.classnames, []
    accuracies: dict[str, dict[str, list[float | None]]] = {}
    for configuration in numbers.configurations:
        rows = table[table["configuration"] == configuration.id]
        cells = rows[rows["amount"] == rows["amount"].max()]["cell"]
        runs = [inputs.results.get(cell, {}).get("per_class") or [] for cell in cells]
        names = names or [str(entry["name"]) for entries in runs[:1] for entry in entries]
        runs = [entries for entries in runs if entries and len(entries) == len(names)]
        if not runs:
            continue
        counts = [int(entry.get("count") or 0) for entry in runs[0]]
        accuracies[configuration.id] = {
            key: pd.DataFrame([[entry.get(key) for entry in entries] for entries in runs], dtype=float).mean().tolist()
            for key in ("within_split", "all_classes")
        }
    if not accuracies:
        return None
    pairs = _pairs([each for each in numbers.configurations if each.id in accuracies], numbers.reference)
    return {"names": names, "count": counts, "configurations": accuracies, "pairs": pairs}


def _pairs(
    configurations: Sequence[ReportConfiguration], reference: ReportConfiguration | None
) -> list[tuple[str, str | None]]:
    """List the comparisons in the class figure: the reference vs. all others, then the others vs. zero-shot CLIP.

    If there is only one configuration, its baseline is None.
    """
    if len(configurations) == 1:
        return [(configurations[0].id, None)]
    lead = reference if reference is not None and reference in configurations else configurations[-1]
    rank = {"real": 0, "both": 1, "none": 2, "synthetic": 3}
    others = sorted((each for each in configurations if each != lead), key=lambda each: rank.get(each.data, 4))
    zero = next((each for each in configurations if each.method == "zeroshot"), None)
    return [
        *((lead.id, other.id) for other in others),
        *((each.id, zero.id) for each in configurations if zero is not None and each not in (lead, zero)),
    ]


_STAGES = {"frozen": "Before training: frozen CLIP", "trained": "After training"}
_MEASURES = {
    "relative_distance": ("class-centre distance between domains, relative to the distance between classes", 2),
    "centroid_distance": ("class-centre distance between domains (1 − cosine)", 3),
    "overlap": ("synthetic images nearest to the real centre of their own class, %", 1),
    "frechet": ("Fréchet distance between the domains", 3),
}
"""Field of `Shift` -> label and number of decimals."""


def _map(features: pd.DataFrame, shift: StudyShift | None) -> dict[str, Any] | None:
    """Collect the 2-D features before and after training, and the domain shift as text; `domain` 1 is synthetic."""
    if not {"x", "y", "domain", "label", "model"} <= set(features):
        return None
    stages: list[dict[str, Any]] = []
    for model, title in _STAGES.items():
        rows = features[features["model"] == model]
        if not len(rows):
            continue
        # Show evenly spaced rows, which are the same in both stages.
        shown = pd.concat(
            part.iloc[np.unique(np.linspace(0, len(part) - 1, min(len(part), MAX_POINTS)).round()).astype(int)]
            for _, part in rows.groupby("domain", sort=True)
        )
        stages.append(
            {
                "key": model,
                "title": title,
                "x": shown["x"].astype(float).round(3).tolist(),
                "y": shown["y"].astype(float).round(3).tolist(),
                "domain": (shown["domain"] == "synthetic").astype(int).tolist(),
                "label": shown["label"].astype(int).tolist(),
                "number": f"shift {getattr(shift, model).relative_distance:.2f}" if shift else "",
            }
        )
    measures = [
        {
            "label": label,
            "values": [f"{getattr(getattr(shift, stage['key']), name):.{digits}f}" for stage in stages],
        }
        for name, (label, digits) in (_MEASURES.items() if shift else ())
    ]
    return {"stages": stages, "measures": measures} if stages else None


def nearer(shift: StudyShift) -> str:
    """Describe the effect of training on the domain shift; return "" if the shift is not finite."""
    before, after = round(shift.frozen.relative_distance, 2), round(shift.trained.relative_distance, 2)
    if not (math.isfinite(before) and math.isfinite(after)):
        return ""
    if before == after:
        return f"Training did not change the domain shift of {after:.2f}."
    verb = "reduced" if after < before else "increased"
    return f"Training {verb} the domain shift from {before:.2f} to {after:.2f}."
