"""The numbers behind the words and the figures, as the page's script reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from syncclip.core.text import coverage
from syncclip.evaluation.metrics import METRICS
from syncclip.reports.arms import ArmLook, Points, describe_arms, mean_scores, with_arms
from syncclip.reports.figures import Bars, fitted_curves
from syncclip.reports.images import ImageStrips
from syncclip.reports.inputs import Inputs
from syncclip.reports.verdict import Difference, differences, focus_of

MOST_POINTS = 600
"""Points of each domain and stage in the feature map: more make the page heavy and the map no clearer."""
MOST_STEPS = 400


@dataclass(frozen=True)
class Numbers:
    """What both the page's words and its figures are made from; `table` holds a row for each finished run."""

    table: pd.DataFrame | None
    arms: list[ArmLook]
    points: Points
    focus: ArmLook | None
    differences: list[Difference]
    level: str


def gather_numbers(found: Inputs) -> Numbers:
    """Arms, means, and paired differences of a study; the one arm of a run; nothing of a bare set."""
    table = found.table
    if found.kind == "run" and found.results[""]:
        training, results = found.section("training"), found.results[""]
        row = {"method": training.get("method", "run"), "data": training.get("data", "none"), "cell": ""}
        table = pd.DataFrame([row | {metric: results.get(metric) for metric in METRICS}])
    level = coverage(found.fits.level if found.fits else 0.95)
    if table is None or not len(table):
        return Numbers(None, [], {}, None, [], level)
    table = with_arms(table)
    arms = describe_arms(table[["arm", "method", "data"]].astype(str).itertuples(index=False, name=None))
    points = mean_scores(table)
    named = found.state.focus if found.state else found.section("study").get("focus")
    focus = focus_of(arms, named)
    compared = differences(found.comparisons, points, arms, focus) if found.kind == "study" else []
    return Numbers(table, arms, points, focus, compared, coverage(compared[0].level) if compared else level)


def payload(found: Inputs, numbers: Numbers, images: ImageStrips | None, bars: Bars) -> dict[str, Any]:
    """Everything that the script draws; what is missing is None, and every number is finite or None."""
    values = {
        "kind": found.kind,
        "base": found.base,
        "arms": numbers.arms,
        "points": numbers.points,
        "fits": fitted_curves(found.fits, numbers.arms, found.worth),
        "level": numbers.level,
        "comparisons": [_comparison(one) for one in numbers.differences],
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


def _comparison(one: Difference) -> dict[str, Any]:
    said, other = "", None
    if one.arm == one.against:
        said, other = f", {one.n}", f"{one.against_n} per class"
    return {
        "metric": one.metric,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "n": one.n,
        "arm_label": one.arm.label + said,
        "arm_short": one.arm.short + said,
        "against_label": other or one.against.label,
        "against_short": other or one.against.short,
    }


def _classes(found: Inputs, numbers: Numbers) -> dict[str, Any] | None:
    """Names of the classes, their counts of test images, and for each arm at its largest amount the accuracy of each
    class (None where unknown), mean over seeds; and the pairs of arms that the figure compares."""
    table = numbers.table
    if table is None or "cell" not in table:
        return None
    names, counts = found.classnames, []
    arms: dict[str, dict[str, list[float | None]]] = {}
    for arm in numbers.arms:
        mine = table[table["arm"] == arm.id]
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
            for key in ("half", "open")
        )
        arms[arm.id] = {"own": half.tolist(), "open": opened.tolist()}
    if not arms:
        return None
    pairs = _pairs([arm for arm in numbers.arms if arm.id in arms], numbers.focus)
    return {"names": names, "count": counts, "arms": arms, "pairs": pairs}


def _pairs(arms: Sequence[ArmLook], focus: ArmLook | None) -> list[dict[str, str | None]]:
    """Which arms the class figure can compare: the focus with all others, then the others with zero-shot; of a single
    arm it shows the accuracies."""
    if len(arms) == 1:
        only = arms[0]
        return [{"arm": only.id, "against": None, "label": only.label, "arm_short": only.short, "against_short": ""}]
    lead = focus if focus is not None and focus in arms else arms[-1]
    rank = {"real": 0, "both": 1, "none": 2, "synthetic": 3}
    found = [(lead, other) for other in sorted(arms, key=lambda arm: rank.get(arm.data, 4)) if other != lead]
    still = next((arm for arm in arms if arm.method == "zeroshot"), None)
    found += [(arm, still) for arm in arms if still is not None and arm not in (lead, still)]
    return [
        {
            "arm": arm.id,
            "against": other.id,
            "label": f"{arm.short} against {other.short}",
            "arm_short": arm.short,
            "against_short": other.short,
        }
        for arm, other in found
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
