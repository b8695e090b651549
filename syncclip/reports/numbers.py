"""The numbers behind the figures, as the page's script reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from syncclip.reports.arms import METRICS, ArmLook, amounts, arm_name, describe_arms, summarise
from syncclip.reports.figures import fits_for_page
from syncclip.reports.images import image_strips
from syncclip.reports.inputs import Sources
from syncclip.reports.verdict import Difference, differences, focus_of, per_cent

MOST_POINTS = 600
"""Points of each domain and stage in the feature map: more make the page heavy and the map no clearer."""
MOST_STEPS = 400


@dataclass(frozen=True)
class Numbers:
    """What both the page's words and its figures are made from."""

    arms: list[ArmLook]
    points: dict[str, dict[str, list[dict[str, Any]]]]
    focus: ArmLook | None
    differences: list[Difference]


def gather_numbers(found: Sources) -> Numbers:
    """Arms, means, and paired differences of a study; the one arm of a run; nothing of a bare set."""
    table = found.table if found.kind == "study" else _run_table(found)
    if table is None or not len(table):
        return Numbers([], {}, None, [])
    arms = describe_arms((arm_name(row), str(row["method"]), str(row["data"])) for row in table.to_dict("records"))
    points = summarise(table)
    named = found.state.get("focus") or found.section("study").get("focus")
    focus = focus_of(arms, str(named))
    compared = differences(found.comparisons, points, arms, focus) if found.kind == "study" else []
    return Numbers(arms, points, focus, compared)


def _run_table(found: Sources) -> pd.DataFrame | None:
    """A study's table with the one row of a run."""
    results = found.results.get("", {})
    if found.kind != "run" or not results:
        return None
    training = found.section("training")
    row = {"method": training.get("method", "run"), "data": training.get("data", "none"), "images_per_class": None}
    row |= {metric: results.get(metric) for metric in METRICS}
    table: pd.DataFrame = pd.DataFrame([row])
    return table


def build_payload(found: Sources, numbers: Numbers, cost: dict[str, Any]) -> dict[str, Any]:
    """Everything that the script draws; what is missing is None, and every number is finite or None."""
    images, lost = None, 0
    if found.classnames:
        try:
            images, lost = image_strips(found.classnames, found.dataset, found.synthetic)
        except Exception as error:  # a set that is being rewritten or was cut off must not cost the rest of the report
            found.notes.append(f"The images could not be read and are left out ({error}).")
    if lost:
        found.notes.append(f"{lost} unreadable images are left out of the page.")
    payload = {
        "kind": found.kind,
        "base": found.base,
        "metrics": [{"key": key, "label": label} for key, label in METRICS.items()],
        "arms": [asdict(arm) for arm in numbers.arms],
        "points": numbers.points,
        "fits": fits_for_page(found.fits, numbers.arms, found.worth),
        "level": level_of(found, numbers),
        "comparisons": [_comparison(one) for one in numbers.differences],
        "classes": _classes(found, numbers),
        "images": images if images and images["strips"] else None,
        "map": _map(found),
        "cost": cost,
        "history": _history(found.history),
    }
    return {key: _finite(value) for key, value in payload.items()}


def level_of(found: Sources, numbers: Numbers) -> str:
    """Coverage of the study's intervals, such as "95 %"."""
    stored = numbers.differences[0].level if numbers.differences else found.fits.get("level")
    return per_cent(float(stored or 0.95))


def _comparison(one: Difference) -> dict[str, Any]:
    same = one.arm == one.against
    said = f", {one.n}" if same else ""
    other = f"{one.against_n} per class" if same else None
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


def _classes(found: Sources, numbers: Numbers) -> dict[str, Any] | None:
    """Accuracy of each class for each arm at its largest amount, mean over seeds."""
    names = found.classnames
    arms: dict[str, dict[str, list[float | None]]] = {}
    counts: list[int] | None = None
    for arm in numbers.arms:
        lists = [found.results[cell].get("per_class") or [] for cell in _cells_of(found, arm) if cell in found.results]
        lists = [rows for rows in lists if rows]
        if not lists:
            continue
        names = names or [str(row["name"]) for row in lists[0]]
        lists = [rows for rows in lists if len(rows) == len(names)]
        if not lists:
            continue
        counts = [int(row.get("count") or 0) for row in lists[0]]
        arms[arm.id] = {
            "own": [_mean([rows[label].get("half") for rows in lists]) for label in range(len(names))],
            "open": [_mean([rows[label].get("open") for rows in lists]) for label in range(len(names))],
        }
    pairs = _pairs([arm for arm in numbers.arms if arm.id in arms], numbers.focus)
    return {"names": names, "count": counts, "arms": arms, "pairs": pairs} if pairs else None


def _cells_of(found: Sources, arm: ArmLook) -> list[str]:
    """Names of an arm's cells at its largest amount."""
    if found.table is None:
        return [""]
    if "cell" not in found.table:
        return []
    rows = [
        (n, str(row["cell"]))
        for n, row in zip(amounts(found.table), found.table.to_dict("records"), strict=True)
        if arm_name(row) == arm.id
    ]
    most = max((n for n, _ in rows), default=0)
    return [cell for n, cell in rows if n == most]


def _pairs(arms: Sequence[ArmLook], focus: ArmLook | None) -> list[dict[str, Any]]:
    """Which arms the class figure can compare: the focus with all others, then the others with zero-shot."""
    if not arms:
        return []
    if len(arms) == 1:
        arm = arms[0]
        return [{"arm": arm.id, "against": None, "label": arm.label, "arm_short": arm.short, "against_short": ""}]
    lead = focus if focus in arms else arms[-1]
    assert lead is not None
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


def _map(found: Sources) -> dict[str, Any] | None:
    features = found.features
    if features is None or not len(features) or not {"x", "y", "domain", "label", "model"} <= set(features):
        return None
    stages = []
    for model, title in (("frozen", "Before: frozen CLIP"), ("trained", "After alignment")):
        rows = features[features["model"] == model]
        # The same evenly spread rows of both stages and domains, whatever their number.
        parts = [part.iloc[_spread(len(part))] for _, part in rows.groupby("domain", sort=True)]
        if not parts:
            continue
        shown = pd.concat(parts)
        stages.append(
            {
                "key": model,
                "title": title,
                "x": [round(float(value), 3) for value in shown["x"]],
                "y": [round(float(value), 3) for value in shown["y"]],
                "domain": [int(value == "synthetic") for value in shown["domain"]],
                "label": [int(value) for value in shown["label"]],
            }
        )
    if not stages:
        return None
    for stage in stages:
        relative = (found.shift.get(str(stage["key"])) or {}).get("relative_distance")
        stage["number"] = f"shift {relative:.2f}" if relative is not None else ""
    measures = _measures(found.shift, [str(stage["key"]) for stage in stages])
    return {"stages": stages, "measures": measures}


def _spread(count: int) -> list[int]:
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round())]


_MEASURES = {
    "relative_distance": ("distance of a class's two centres, relative to that between classes", 2),
    "centroid_distance": ("distance of a class's two centres (1 − cosine)", 3),
    "overlap": ("synthetic images nearest to their own class's real centre, %", 1),
    "frechet": ("Fréchet distance of the two domains", 3),
}
"""Numbers of `syncclip.synthesis.shift.Shift` and their digits."""


def _measures(shift: dict[str, Any], stages: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the shift table: each measure's value in each stage, as text."""
    found = []
    for key, (label, digits) in _MEASURES.items():
        values = [(shift.get(stage) or {}).get(key) for stage in stages]
        if any(value is not None for value in values):
            found.append(
                {"label": label, "values": ["–" if value is None else f"{value:.{digits}f}" for value in values]}
            )
    return found


def _history(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Losses over steps, thinned to what a screen can show."""
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    rows = rows[:: max(1, math.ceil(len(rows) / MOST_STEPS))]
    if len(rows) < 2:
        return None
    skipped = {"step", "epoch", "lr"}
    names = [name for name, value in rows[0].items() if name not in skipped and isinstance(value, (int, float))]
    terms = [{"name": name, "values": [row.get(name) for row in rows]} for name in names]
    return {"steps": [row["step"] for row in rows], "terms": terms} if terms else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None


def _finite(value: Any) -> Any:
    """Numbers short enough for a page, None for what is not finite, in any nesting."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
