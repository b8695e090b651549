"""What the figures draw, as the page's script reads it: scores, fitted curves, classes, maps of features, losses."""

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
from syncclip.reports.configurations import ArmLook, Numbers
from syncclip.reports.images import ImageStrips
from syncclip.reports.inputs import Inputs
from syncclip.reports.table import Part
from syncclip.studies.outputs import DataEfficiency, Fits, StudyShift
from syncclip.studies.statistics.scaling_fit import Curve, HeldOut

MOST_POINTS = 600
"""Points of each domain and stage in the feature map: more make the page heavy and the map no clearer."""
MOST_STEPS = 400
STEPS_AHEAD = 8
"""Points of a curve between the largest amount and a forecast."""


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of a fitted curve at `n` synthetic images per class; where it has no band, its edges are not finite."""

    n: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedCurve:
    """A fit in accuracies: the curve with its forecast, what it says, its formula for the error, and where its line
    begins: the accuracy without synthetic images, None where no configuration shows it, or where a single amount was
    measured,
    which is a point without a line."""

    curve: list[CurvePoint]
    text: str
    formula: str
    begin: float | None = None


def payload(found: Inputs, numbers: Numbers, images: ImageStrips | None, bars: dict[str, list[Part]]) -> dict[str, Any]:
    """Everything that the script draws; what is missing is None, and every number is finite or None."""
    values = {
        "kind": found.kind,
        "base": found.base,
        "configurations": numbers.configurations,
        "points": numbers.points,
        "fits": fitted_curves(found.fits, numbers.configurations, found.worth) if found.fits else {},
        "level": numbers.level,
        "comparisons": [
            vars(one) | {"configuration": one.configuration.id, "baseline": one.baseline.id}
            for one in numbers.differences
        ],
        "classes": _classes(found, numbers),
        "images": images,
        "map": _map(found),
        "cost": bars,
        "history": _history(found.history),
    }
    text = json.dumps(values, default=vars)  # of dataclasses
    plain: dict[str, Any] = json.loads(
        text, parse_float=lambda number: round(float(number), 4), parse_constant=lambda _: None
    )
    return plain


def fitted_curves(
    stored: Fits, configurations: Sequence[ArmLook], worth: DataEfficiency | None = None
) -> dict[str, dict[str, FittedCurve]]:
    """The study's fits by configuration and metric, errors turned into accuracies."""
    found: dict[str, dict[str, FittedCurve]] = {}
    for configuration in configurations:
        for metric, curve in stored.curves.get(configuration.id, {}).items():
            if metric not in METRICS:
                continue
            if len([n for n in curve.amounts if n]) < 2:  # a point: nothing was measured between it and another
                curve = replace(curve, verdict="too few amounts", line=(), forecast=(), reason="")
            said = _sentences(
                curve, stored.models.get(configuration.id, {}).get(metric, ()), coverage(stored.confidence_level)
            )
            if worth is not None and worth.configuration == configuration.id:
                said += _sentences_of_worth(worth, metric, curve.verdict == "falls")
            law = [curve.law[name].estimate for name in "abc"] if curve.law else []
            formula = "{:.1f} + {:.1f} · (1 + n)^(−{:.2f})".format(*law) if law else ""
            begins = curve.amounts[0] == 0 and curve.verdict != "too few amounts"
            found.setdefault(configuration.id, {})[metric] = FittedCurve(
                _points(curve, law), " ".join(said), formula, 100 - curve.means[0] if begins else None
            )
    return found


def _points(curve: Curve, law: Sequence[float]) -> list[CurvePoint]:
    """The curve over the measured range, and on to each forecast: the band's edges there are straight over log n."""
    line, ahead = (
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
    for end in [point for point in ahead if point.n > line[-1].n]:
        start = line[-1]
        for share in np.arange(1, STEPS_AHEAD + 1) / STEPS_AHEAD:
            n = start.n * (end.n / start.n) ** share
            low, high = start.low + share * (end.low - start.low), start.high + share * (end.high - start.high)
            line.append(CurvePoint(n, 100 - a - b * (1 + n) ** -c, low, high))
    return line


def _sentences(curve: Curve, models: Sequence[HeldOut], level: str) -> list[str]:
    """What a curve says, and which of its models predicts best."""
    slope, wanted = curve.slope, curve.plus_one
    if curve.verdict in ("rises", "flat"):
        trends = {"rises": "gets worse with more images", "flat": "flat, no amount is clearly better than another"}
        gain, low, high = (signed(-value) for value in (slope.estimate, slope.high, slope.low))
        said = f"{trends[curve.verdict]} ({gain} points per doubling, {level} interval {low} to {high})."
    elif curve.verdict != "falls":
        said = f"{curve.verdict} for a curve."
    elif wanted is None:
        gain, low, high = (signed(-value) for value in (slope.estimate, slope.high, slope.low))
        said = f"rises ({gain} points per doubling, {level} interval {low} to {high})."
    elif not math.isfinite(wanted.estimate):
        said = "rises but has nearly levelled off; according to this fit, no amount adds another whole point."
    else:
        sure = ""
        if math.isfinite(wanted.low):
            low = _rounded(wanted.low)
            sure = f" (at least {low}, perhaps never)"
            if math.isfinite(wanted.high):
                sure = f" ({level} interval {low} to {_rounded(wanted.high)})"
        said = f"one more point would take about {_rounded(wanted.estimate)} images per class{sure}."
    found = [said, f"It has no {'forecast' if curve.law else 'law'}: {curve.reason}."] if curve.reason else [said]
    if not models or not math.isfinite(models[0].miss):
        return found
    best = models[0]
    return [
        *found,
        f"Of {len(models)} models, a {best.model} predicted held-out amounts best: it missed by {best.miss:.1f} "
        f"points, and least of all in {100 * best.best:.0f} % of the draws.",
    ]


def _sentences_of_worth(worth: DataEfficiency, metric: str, falls: bool) -> list[str]:
    """What the images of the largest amount are worth: in points per hour where the error falls, and in real images."""
    said = []
    slopes, steps = worth.marginal.get(metric, ()), worth.exchange.get(metric, ())
    if falls and slopes and math.isfinite(slopes[-1].points_per_hour.estimate):
        gain = slopes[-1].points_per_hour.estimate
        said.append(f"At {slopes[-1].n} per class, an hour of generation adds {gain:.2g} points.")
    if steps:
        shots, per_real = steps[-1].shots.estimate, steps[-1].per_real.estimate
        given = f"{steps[-1].n} synthetic images per class"
        if not math.isfinite(shots):
            said.append(f"With {given} it does better than any number of real ones alone, according to this fit.")
        elif not math.isfinite(per_real):
            said.append(f"{given} replace no real one.")
        else:
            equal = f"{given} do as well as {shots:.1f} real ones alone"
            said.append(f"{equal}: {per_real:.1f} of them are worth one more real image.")
    return said


def _rounded(number: float) -> str:
    """A count to two digits."""
    if number > 1e6:
        return "over a million"
    digits = max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 0
    return thousands(round(number / 10**digits) * 10**digits)


def _classes(found: Inputs, numbers: Numbers) -> dict[str, Any] | None:
    """Names of the classes, their counts of test images, and for each configuration at its largest amount the
    accuracy of each
    class (None where unknown), mean over seeds; and the pairs of configurations that the figure compares."""
    table = numbers.table
    if table is None:
        return None
    names, counts = found.classnames, []
    configurations: dict[str, dict[str, list[float | None]]] = {}
    for configuration in numbers.configurations:
        mine = table[table["configuration"] == configuration.id]
        cells = mine[mine["amount"] == mine["amount"].max()]["cell"]
        lists = [found.results.get(cell, {}).get("per_class") or [] for cell in cells]
        names = names or [str(row["name"]) for rows in lists[:1] for row in rows]
        lists = [rows for rows in lists if rows and len(rows) == len(names)]
        if not lists:
            continue
        counts = [int(row.get("count") or 0) for row in lists[0]]
        # (runs, classes): a class without images has no accuracy
        half, opened = (
            pd.DataFrame([[row.get(key) for row in rows] for rows in lists], dtype=float).mean()
            for key in ("within_split", "all_classes")
        )
        configurations[configuration.id] = {"own": half.tolist(), "open": opened.tolist()}
    if not configurations:
        return None
    pairs = _pairs(
        [configuration for configuration in numbers.configurations if configuration.id in configurations],
        numbers.reference,
    )
    return {"names": names, "count": counts, "configurations": configurations, "pairs": pairs}


def _pairs(configurations: Sequence[ArmLook], reference: ArmLook | None) -> list[tuple[str, str | None]]:
    """Which configurations the class figure can compare: the focus with all others, then the others with zero-shot;
    of a single
    configuration it shows the accuracies."""
    if len(configurations) == 1:
        return [(configurations[0].id, None)]
    lead = reference if reference is not None and reference in configurations else configurations[-1]
    rank = {"real": 0, "both": 1, "none": 2, "synthetic": 3}
    others = [
        (lead.id, other.id)
        for other in sorted(configurations, key=lambda configuration: rank.get(configuration.data, 4))
        if other != lead
    ]
    still = next((configuration for configuration in configurations if configuration.method == "zeroshot"), None)
    return [
        *others,
        *(
            (configuration.id, still.id)
            for configuration in configurations
            if still is not None and configuration not in (lead, still)
        ),
    ]


_STAGES = {"frozen": "Before: frozen CLIP", "trained": "After alignment"}
_MEASURES = {
    "relative_distance": ("distance of a class's two centres, relative to that between classes", 2),
    "centroid_distance": ("distance of a class's two centres (1 − cosine)", 3),
    "overlap": ("synthetic images nearest to their own class's real centre, %", 1),
    "frechet": ("Fréchet distance of the two domains", 3),
}
"""Numbers of `sets.shift.Shift` and their digits."""


def _map(found: Inputs) -> dict[str, Any] | None:
    """The maps of features before and after training, `domain` 1 for synthetic images; and the shift of both, each
    measure as text."""
    features = found.features
    if features is None or not {"x", "y", "domain", "label", "model"} <= set(features):
        return None
    stages: list[dict[str, Any]] = []
    for model, title in _STAGES.items():
        rows = features[features["model"] == model]
        if not len(rows):
            continue
        # The same evenly spread rows of both stages and domains, whatever their number.
        shown = pd.concat(
            part.iloc[np.unique(np.linspace(0, len(part) - 1, min(len(part), MOST_POINTS)).round()).astype(int)]
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
                "number": f"shift {getattr(found.shift, model).relative_distance:.2f}" if found.shift else "",
            }
        )
    measures = [
        {
            "label": label,
            "values": [f"{getattr(getattr(found.shift, stage['key']), name):.{digits}f}" for stage in stages],
        }
        for name, (label, digits) in (_MEASURES.items() if found.shift else ())
    ]
    return {"stages": stages, "measures": measures} if stages else None


def nearer(shift: StudyShift | None) -> str:
    """Whether training brought the domains together, as a sentence; empty where that was not measured."""
    if shift is None:
        return ""
    before, after = (round(one.relative_distance, 2) for one in (shift.frozen, shift.trained))
    if not (math.isfinite(before) and math.isfinite(after)):
        return ""
    if before == after:
        return f"Training left the domains as far apart as they were: a shift of {after:.2f}."
    how = "brought the domains nearer to each other" if after < before else "moved the domains farther apart"
    return f"Training {how}: a shift of {before:.2f} became {after:.2f}."


def _history(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Terms of the loss over steps, thinned to what a screen can show."""
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    rows = rows[:: max(1, math.ceil(len(rows) / MOST_STEPS))]
    if len(rows) < 2:
        return None
    skipped = {"step", "epoch", "lr"}
    names = [name for name, value in rows[0].items() if name not in skipped and isinstance(value, (int, float))]
    terms = [{"name": name, "values": [row.get(name) for row in rows]} for name in names]
    return {"steps": [row["step"] for row in rows], "terms": terms} if terms else None
