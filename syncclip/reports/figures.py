"""What the page shows of the fitted curves: accuracy over amount, its interval, and the forecast in a sentence.

MERGED What it cost: speed, hours, busy share, rejects, from the study's account and from the shards' own markers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from syncclip.reports.arms import METRICS, ArmLook, arm_name
from syncclip.reports.inputs import Sources
from syncclip.reports.verdict import per_cent, signed


def fits_for_page(
    stored: Mapping[str, Any], arms: Sequence[ArmLook], worth: Mapping[str, Any] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """The fits of fit.json by arm and metric, errors turned into accuracies.

    Args:
        stored: fit.json, `curves` as {arm: {metric: curve}}; each a `studies.fit.Curve` with null for infinity.
        worth: worth.json, where there is one.

    Returns:
        {arm: {metric: {curve: [{n, value, low, high}], text, formula}}}; what cannot be understood is left out.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    curves = stored.get("curves")
    for arm in arms:
        metrics = curves.get(arm.id) if isinstance(curves, Mapping) else None
        if not isinstance(metrics, Mapping):
            continue
        for metric in METRICS:
            curve = metrics.get(metric)
            if isinstance(curve, Mapping):
                fit = _fit(curve, per_cent(float(stored.get("level") or 0.95)))
                models = ((stored.get("models") or {}).get(arm.id) or {}).get(metric)
                own = worth if worth and worth.get("arm") == arm.id else {}
                said = [fit["text"], _foretold(models), _marginal(own, metric, curve), _exchanged(own, metric)]
                found.setdefault(arm.id, {})[metric] = {**fit, "text": " ".join(filter(None, said))}
    return found


def _fit(curve: Mapping[str, Any], level: str) -> dict[str, Any]:
    line = [point for point in map(_point, curve.get("line") or []) if point]
    ahead = [point for point in map(_point, curve.get("forecast") or []) if point]
    law = _law(curve)
    if line and law:
        for point in [point for point in ahead if point["n"] > line[-1]["n"]]:
            line += _between(line[-1], point, law)
    return {"curve": line, "text": _sentence(curve, level), "formula": _formula(law)}


def _between(
    start: Mapping[str, float], end: Mapping[str, float], law: Sequence[float], steps: int = 8
) -> list[dict[str, float]]:
    """Points from `start` (left out) to `end`: the value from the law, the band's edges straight over log n."""
    a, b, c = law
    points = []
    for step in range(1, steps + 1):
        share = step / steps
        n = start["n"] * (end["n"] / start["n"]) ** share
        point = {"n": n, "value": 100 - a - b * n**-c}
        if "low" in start and "low" in end:
            point |= {edge: start[edge] + share * (end[edge] - start[edge]) for edge in ("low", "high")}
        points.append(point)
    return points


def _point(value: Mapping[str, Any]) -> dict[str, float] | None:
    """{n, value, low, high} in accuracy from {n, error: {estimate, low, high}}; None where the estimate is missing."""
    error = value.get("error") or {}
    n = value.get("n")
    estimate, low, high = (error.get(key) for key in ("estimate", "low", "high"))
    if not (_finite(n) and _finite(estimate)):
        return None
    point = {"n": float(n), "value": 100 - float(estimate)}
    if _finite(low) and _finite(high):
        point |= {"low": 100 - float(high), "high": 100 - float(low)}
    return point


def _sentence(curve: Mapping[str, Any], level: str) -> str:
    slope = curve.get("slope") or {}
    a_doubling = ""
    if all(_finite(slope.get(key)) for key in ("estimate", "low", "high")):
        gain, low, high = (signed(-slope[key]) for key in ("estimate", "high", "low"))
        a_doubling = f" ({gain} points for each doubling, {level} interval {low} to {high})"
    match curve.get("verdict"):
        case "falls":
            return _forecast(curve, level)
        case "rises":
            return f"gets worse with more images{a_doubling}."
        case "flat":
            return f"flat, no amount is surely better than another{a_doubling}."
        case _:
            return "too few amounts for a curve."


def _forecast(curve: Mapping[str, Any], level: str) -> str:
    wanted = curve.get("plus_one") or {}
    needed, low, high = (wanted.get(key) for key in ("estimate", "low", "high"))
    if not _finite(needed):
        return "rises but has nearly levelled off; by this fit no amount adds another whole point."
    sure = ""
    if _finite(low):
        sure = (
            f" ({level} interval {_amount(low)} to {_amount(high)})"
            if _finite(high)
            else f" (at least {_amount(low)}, perhaps never)"
        )
    return f"one more point would take about {_amount(needed)} images per class{sure}."


def _foretold(models: Sequence[Mapping[str, Any]] | None) -> str:
    if not models or not _finite(models[0].get("miss")):
        return ""
    best = models[0]
    return (
        f"Of {len(models)} models, a {best['model']} foretold amounts held out best: it missed by "
        f"{best['miss']:.1f} points, and least in {100 * best['best']:.0f} % of the draws."
    )


def _marginal(worth: Mapping[str, Any], metric: str, curve: Mapping[str, Any]) -> str:
    if curve.get("verdict") != "falls" or not (slopes := (worth.get("marginal") or {}).get(metric)):
        return ""
    last = slopes[-1]
    gained = last["points_per_hour"]["estimate"]
    return f"At {last['n']} a class an hour of drawing adds {gained:.2g} points." if _finite(gained) else ""


def _exchanged(worth: Mapping[str, Any], metric: str) -> str:
    if not (steps := (worth.get("exchange") or {}).get(metric)):
        return ""
    last = steps[-1]
    shots, each = (last[key].get("estimate") for key in ("shots", "per_real"))
    if not _finite(shots):
        return (
            f"With {last['n']} synthetic images a class it does better than any number of real ones alone, by this fit."
        )
    if not _finite(each):
        return f"{last['n']} synthetic images a class replace no real one."
    return (
        f"{last['n']} synthetic images a class do as well as {shots:.1f} real ones alone: {each:.1f} of them stand "
        "for one real image more."
    )


def _amount(value: Any) -> str:
    """A count as one would say it: two digits, thousands apart."""
    number = float(value)
    if number > 1e6:
        return "over a million"
    digits = max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 0
    return f"{round(number / 10**digits) * 10**digits:,}".replace(",", " ")


def _law(curve: Mapping[str, Any]) -> list[float] | None:
    law = curve.get("law") or {}
    values = [(law.get(name) or {}).get("estimate") for name in "abc"]
    found = [float(value) for value in values if _finite(value)]
    return found if len(found) == len(values) else None


def _formula(law: Sequence[float] | None) -> str:
    return "{:.1f} + {:.1f} · n^(−{:.2f})".format(*law) if law else ""


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


Tile = dict[str, str]
Part = dict[str, Any]


def cost_for_page(found: Sources, arms: Sequence[ArmLook]) -> tuple[list[Tile], dict[str, list[Part]]]:
    """Tiles (label, number, unit), and the parts of two bars: `time` and `rejects` (name, value, text, colour).

    A bar of fewer than two parts says nothing and comes back empty.
    """
    drawing, training = found.cost.get("synthesis") or {}, found.cost.get("training") or {}
    count = sum(shard.count for shard in found.stats.values())
    seconds = math.fsum(shard.seconds for shard in found.stats.values())
    hours = drawing.get("hours") or seconds / 3600

    tiles = []
    if count:
        tiles.append(_tile("images drawn", _count(count)))
    if drawing.get("images_per_second"):
        tiles.append(_tile("images drawn per second", _short(drawing["images_per_second"])))
    elif count and seconds:
        tiles.append(_tile("images per second and actor", _short(count / seconds)))
    if hours:
        tiles.append(_tile("of drawing", *_duration(3600 * (drawing.get("wall_hours") or hours))))
    if drawing.get("busy_share") is not None:
        tiles.append(_tile("of the drawing time busy", f"{100 * drawing['busy_share']:.0f}", "%"))
    trained = training.get("cells") or (len(found.table) if found.table is not None else 0)
    if trained:
        tiles.append(_tile("runs trained and tested", _count(trained)))
    spent = 3600 * (training.get("wall_hours") or training.get("hours") or 0) or float(found.record.get("seconds") or 0)
    if spent:
        tiles.append(_tile("of training" if found.kind == "run" else "of training and testing", *_duration(spent)))
    if training.get("busy_share") is not None:
        tiles.append(_tile("of the training time busy", f"{100 * training['busy_share']:.0f}", "%"))

    return tiles, {"time": _time(found, arms, 3600 * hours), "rejects": _rejects(found, count)}


def _time(found: Sources, arms: Sequence[ArmLook], drawing: float) -> list[Part]:
    """Seconds of work by what they were spent on: drawing, then each arm's runs."""
    spent = [("drawing", drawing, "unsure")]
    if found.table is not None and "seconds" in found.table:
        rows = found.table.to_dict("records")
        for arm in arms:
            mine = [float(row["seconds"]) for row in rows if arm_name(row) == arm.id]
            spent.append((arm.short, math.fsum(value for value in mine if math.isfinite(value)), f"tone-{arm.tone}"))
    parts = [
        {"name": name, "value": value, "text": " ".join(_duration(value)), "colour": colour}
        for name, value, colour in spent
        if value
    ]
    return parts if len(parts) > 1 else []


def _rejects(found: Sources, kept: int) -> list[Part]:
    refused: Counter[str] = Counter()
    for shard in found.stats.values():
        refused.update(shard.rejects)
    if not kept or not refused:
        return []
    parts = [("kept", kept), *((reason.replace("_", " "), number) for reason, number in refused.most_common())]
    return [
        {
            "name": name,
            "value": number,
            "text": _count(number),
            "colour": ("gain", "loss", "tone-3", "tone-2", "tone-0")[min(i, 4)],
        }
        for i, (name, number) in enumerate(parts)
    ]


def _tile(label: str, number: str, unit: str = "") -> Tile:
    return {"label": label, "number": number, "unit": unit}


def _count(value: float) -> str:
    return f"{int(value):,}".replace(",", " ")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _duration(seconds: float) -> tuple[str, str]:
    if seconds < 90:
        return f"{seconds:.0f}", "s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f}", "min"
    return f"{seconds / 3600:.1f}", "h"
