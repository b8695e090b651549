"""The fitted curves and the costs as the page shows them: points of curves, sentences, tiles, and the parts of bars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from syncclip.core.text import coverage, signed, thousands
from syncclip.evaluation.metrics import METRICS
from syncclip.reports.arms import ArmLook
from syncclip.reports.inputs import Inputs
from syncclip.studies.fit import Curve, HeldOut
from syncclip.studies.fit import Point as FitPoint
from syncclip.studies.outputs import Fits, Worth
from syncclip.studies.worth import Exchange, Marginal


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of a fitted curve at `n` synthetic images per class; the band's edges are None where it has none."""

    n: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FittedCurve:
    """A fit in accuracies: the curve with its forecast, what it says, and its formula for the error."""

    curve: list[CurvePoint]
    text: str
    formula: str


@dataclass(frozen=True)
class Tile:
    """A number with its label."""

    label: str
    number: str
    unit: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a bar; `text` is its value in words, `colour` a variable of the page's style."""

    name: str
    value: float
    text: str
    colour: str


@dataclass(frozen=True)
class Bars:
    """Where the time went, and what was rejected; a bar of fewer than two parts says nothing and is empty."""

    time: list[Part]
    rejects: list[Part]


def fitted_curves(
    stored: Fits | None, arms: Sequence[ArmLook], worth: Worth | None = None
) -> dict[str, dict[str, FittedCurve]]:
    """The study's fits by arm and metric, errors turned into accuracies."""
    found: dict[str, dict[str, FittedCurve]] = {}
    for arm in arms if stored is not None else []:
        assert stored is not None
        own = worth if worth is not None and worth.arm == arm.id else None
        for metric, curve in stored.curves.get(arm.id, {}).items():
            if metric not in METRICS:
                continue
            said = [
                _sentence(curve, coverage(stored.level)),
                _best_model(stored.models.get(arm.id, {}).get(metric, ())),
            ]
            if own is not None:
                if curve.verdict == "falls":
                    said.append(_worth_of_an_hour(own.marginal.get(metric, ())))
                said.append(_worth_in_real_images(own.exchange.get(metric, ())))
            law = [curve.law[name].estimate for name in "abc"] if curve.law else []
            formula = "{:.1f} + {:.1f} · n^(−{:.2f})".format(*law) if law else ""
            fit = FittedCurve(_points(curve, law), " ".join(filter(None, said)), formula)
            found.setdefault(arm.id, {})[metric] = fit
    return found


def _points(curve: Curve, law: Sequence[float], steps: int = 8) -> list[CurvePoint]:
    """The curve over the measured range, and on to each forecast: the band's edges there are straight over log n."""
    line, ahead = (
        [_accuracy(point) for point in points if math.isfinite(point.error.estimate)]
        for points in (curve.line, curve.forecast)
    )
    if not line or not law:
        return line
    a, b, c = law
    for end in [point for point in ahead if point.n > line[-1].n]:
        start = line[-1]
        for share in np.arange(1, steps + 1) / steps:
            n = start.n * (end.n / start.n) ** share
            low, high = (
                None if near is None or far is None else near + share * (far - near)
                for near, far in ((start.low, end.low), (start.high, end.high))
            )
            line.append(CurvePoint(n, 100 - a - b * n**-c, low, high))
    return line


def _accuracy(point: FitPoint) -> CurvePoint:
    error = point.error
    low, high = (100 - error.high, 100 - error.low) if error.finite else (None, None)
    return CurvePoint(point.n, 100 - error.estimate, low, high)


def _sentence(curve: Curve, level: str) -> str:
    slope, wanted = curve.slope, curve.plus_one
    if curve.verdict in ("rises", "flat"):
        trends = {"rises": "gets worse with more images", "flat": "flat, no amount is clearly better than another"}
        gain, low, high = (signed(-value) for value in (slope.estimate, slope.high, slope.low))
        return f"{trends[curve.verdict]} ({gain} points per doubling, {level} interval {low} to {high})."
    if curve.verdict != "falls":
        return "too few amounts for a curve."
    if wanted is None or not math.isfinite(wanted.estimate):
        return "rises but has nearly levelled off; according to this fit, no amount adds another whole point."
    sure = ""
    if wanted.finite:
        sure = f" ({level} interval {_rounded(wanted.low)} to {_rounded(wanted.high)})"
    elif math.isfinite(wanted.low):
        sure = f" (at least {_rounded(wanted.low)}, perhaps never)"
    return f"one more point would take about {_rounded(wanted.estimate)} images per class{sure}."


def _best_model(models: Sequence[HeldOut]) -> str:
    if not models or not math.isfinite(models[0].miss):
        return ""
    best = models[0]
    return (
        f"Of {len(models)} models, a {best.model} predicted held-out amounts best: it missed by {best.miss:.1f} "
        f"points, and least of all in {100 * best.best:.0f} % of the draws."
    )


def _worth_of_an_hour(slopes: Sequence[Marginal]) -> str:
    if not slopes or not math.isfinite(slopes[-1].points_per_hour.estimate):
        return ""
    last = slopes[-1]
    return f"At {last.n} per class, an hour of generation adds {last.points_per_hour.estimate:.2g} points."


def _worth_in_real_images(steps: Sequence[Exchange]) -> str:
    if not steps:
        return ""
    last = steps[-1]
    given = f"{last.n} synthetic images per class"
    if not math.isfinite(last.shots.estimate):
        return f"With {given} it does better than any number of real ones alone, according to this fit."
    if not math.isfinite(last.per_real.estimate):
        return f"{given} replace no real one."
    return (
        f"{given} do as well as {last.shots.estimate:.1f} real ones alone: {last.per_real.estimate:.1f} of them are "
        "worth one more real image."
    )


def _rounded(number: float) -> str:
    """A count to two digits."""
    if number > 1e6:
        return "over a million"
    digits = max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 0
    return thousands(round(number / 10**digits) * 10**digits)


def costs(found: Inputs, arms: Sequence[ArmLook], table: pd.DataFrame | None) -> tuple[list[Tile], Bars]:
    """What the study, the run or the set took: by its own account, else by the markers of the shards."""
    synthesis, training = found.cost.synthesis, found.cost.training
    count = sum(shard.count for shard in found.stats.values())
    seconds = math.fsum(shard.seconds for shard in found.stats.values())
    hours = (synthesis.hours if synthesis else 0) or seconds / 3600
    trained = training.cells or (0 if found.table is None else len(found.table))
    spent = training.wall_hours or training.hours or float(found.record.get("seconds") or 0) / 3600
    tiles = []
    if count:
        tiles.append(Tile("images generated", thousands(count)))
    if synthesis and synthesis.images_per_second:
        tiles.append(Tile("images generated per second", _short(synthesis.images_per_second)))
    elif count and seconds:
        tiles.append(Tile("images per second and actor", _short(count / seconds)))
    if hours:
        tiles.append(Tile("of generation", *_time((synthesis and synthesis.wall_hours) or hours)))
    if synthesis and synthesis.busy_share is not None:
        tiles.append(Tile("of the generation time busy", f"{100 * synthesis.busy_share:.0f}", "%"))
    if trained:
        tiles.append(Tile("runs trained and tested", thousands(trained)))
    if spent:
        tiles.append(Tile("of training" if found.kind == "run" else "of training and testing", *_time(spent)))
    if training.busy_share is not None:
        tiles.append(Tile("of the training time busy", f"{100 * training.busy_share:.0f}", "%"))
    return tiles, Bars(_time_parts(arms, table, 3600 * hours), _reject_parts(found, count))


def _time_parts(arms: Sequence[ArmLook], table: pd.DataFrame | None, generation: float) -> list[Part]:
    """Seconds of work by what they were spent on: generation, then each arm's runs."""
    spent = [("generation", generation, "unsure")]
    if table is not None and "seconds" in table:
        sums = table.groupby("arm")["seconds"].sum()
        spent += [(arm.short, float(sums[arm.id]), f"tone-{arm.tone}") for arm in arms]
    parts = [Part(name, value, " ".join(_time(value / 3600)), colour) for name, value, colour in spent if value]
    return parts if len(parts) > 1 else []


def _reject_parts(found: Inputs, kept: int) -> list[Part]:
    refused: Counter[str] = Counter()
    for shard in found.stats.values():
        refused.update(shard.rejects)
    if not kept or not refused:
        return []
    named = [("kept", kept), *((reason.replace("_", " "), number) for reason, number in refused.most_common())]
    colours = ("gain", "loss", "tone-3", "tone-2", "tone-0")
    return [Part(name, number, thousands(number), colours[min(i, 4)]) for i, (name, number) in enumerate(named)]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _time(hours: float) -> tuple[str, str]:
    """A duration and its unit."""
    if hours < 1.5 / 60:
        return f"{3600 * hours:.0f}", "s"
    return (f"{60 * hours:.0f}", "min") if hours < 1.5 else (f"{hours:.1f}", "h")
