"""What the page shows of the fitted curves: accuracy over amount, its interval, and the forecast in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from syncclip.study.report.arms import METRICS, ArmLook
from syncclip.study.report.verdict import per_cent, signed


def fits_for_page(
    stored: Mapping[str, Any], arms: Sequence[ArmLook], worth: Mapping[str, Any] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """The fits of fit.json by arm and metric, errors turned into accuracies.

    Args:
        stored: fit.json, `curves` as {arm: {metric: curve}}; each a `syncclip.study.fit.Curve` with null for infinity.
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
            return f"gets worse with more pictures{a_doubling}."
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
    return f"one more point would take about {_amount(needed)} pictures per class{sure}."


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
            f"With {last['n']} synthetic pictures a class it does better than any number of real ones alone, by this "
            "fit."
        )
    if not _finite(each):
        return f"{last['n']} synthetic pictures a class replace no real one."
    return (
        f"{last['n']} synthetic pictures a class do as well as {shots:.1f} real ones alone: {each:.1f} of them stand "
        "for one real picture more."
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
