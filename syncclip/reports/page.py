"""The page itself: one HTML file with style, script, numbers and images inside."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup

from syncclip import embedded
from syncclip.reports.arms import ArmLook, amounts, arm_name
from syncclip.reports.figures import cost_for_page
from syncclip.reports.images import quality_for_page, rejects_for_page
from syncclip.reports.inputs import Sources
from syncclip.reports.numbers import build_payload, gather_numbers
from syncclip.reports.text import eyebrow_of, ribbon_note, unfinished, verdict_of

SCRIPTS = ("core.js", "curve.js", "bars.js", "classes.js", "spread.js", "page.js")
"""In the order in which they run; each uses what those before it define."""
SECTIONS = {
    "curve": "Curve",
    "methods": "Methods",
    "classes": "Classes",
    "images": "Images",
    "set": "Set",
    "map": "Domains",
    "training": "Training",
    "cost": "Cost",
    "appendix": "Numbers",
}

_COLUMNS = {
    "hm": "HM",
    "base": "base",
    "novel": "novel",
    "open_hm": "open HM",
    "open_base": "open base",
    "open_novel": "open novel",
    "open_all": "open all",
    "ece": "ECE",
    "seconds": "seconds",
}


def render_page(found: Sources) -> str:
    """The report as HTML. Everything in it is escaped; nothing in it is fetched."""
    numbers = gather_numbers(found)
    tiles, cost = cost_for_page(found, numbers.arms)
    payload = build_payload(found, numbers, cost)
    verdict = verdict_of(found, numbers)
    growing = any(
        point["n"] > 0 for metrics in numbers.points.values() for series in metrics.values() for point in series
    )
    has = {
        "curve": found.kind == "study" and growing,
        "bars": bool(numbers.points),
        "differences": bool(numbers.differences),
        "classes": payload["classes"] is not None,
        "images": payload["images"] is not None,
        "map": payload["map"] is not None,
        "history": payload["history"] is not None,
        "time": bool(cost["time"]),
        "rejects": bool(cost["rejects"]),
    }
    quality, rejects = quality_for_page(found), rejects_for_page(found)
    columns, rows = _results(found.table, numbers.arms)
    present = {
        **has,
        "methods": has["bars"] or has["differences"],
        "set": bool(quality or rejects),
        "training": has["history"],
        "cost": bool(tiles or cost["time"] or cost["rejects"]),
        "appendix": bool(rows or found.recipe_text or found.plan),
    }
    late = unfinished(found)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2")).render(
        title=f"{verdict.headline.rstrip('.')} · syncclip",
        verdict=verdict,
        eyebrow=eyebrow_of(found, numbers),
        study=found.kind == "study",
        images=payload["images"],
        level=payload["level"],
        ribbon_note=ribbon_note(payload["images"]),
        sections=[(key, label) for key, label in SECTIONS.items() if present.get(key)],
        has=has,
        tiles=tiles,
        quality=quality,
        rejects=rejects,
        columns=columns,
        rows=rows,
        csv=_csv(columns, rows),
        recipe=found.recipe_text,
        plan=json.dumps(found.plan, indent=2, ensure_ascii=False) if found.plan else "",
        attribution=_attribution(found),
        notes=[*([late] if late else []), *found.notes],
        colophon=f"Made by syncclip {_version()}. This page holds all that it shows and asks no server for anything.",
        version=_version(),
        style=Markup(_asset("style.css")),
        script=Markup("\n".join(map(_asset, SCRIPTS))),
        payload=Markup(_json(payload)),
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end its script element, whatever names are in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _results(table: pd.DataFrame | None, arms: list[ArmLook]) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """Head and cells of the table of all runs; a cell has `text`, a `value` to sort by, `words` if no number."""
    if table is None or not len(table):
        return [], []
    labels = {arm.id: (place, arm.label) for place, arm in enumerate(arms)}
    shown = [key for key in _COLUMNS if key in table]
    rows = []
    for n, row in sorted(
        zip(amounts(table), table.to_dict("records"), strict=True),
        key=lambda item: (labels[arm_name(item[1])][0], item[0], _number(item[1].get("seed")) or 0),
    ):
        seed = _number(row.get("seed"))
        cells = [
            {"text": labels[arm_name(row)][1], "value": labels[arm_name(row)][1], "words": True},
            {"text": str(n) if n else "–", "value": n},
            {"text": "–" if seed is None else f"{seed:.0f}", "value": -1 if seed is None else int(seed)},
        ]
        for key in shown:
            value = _number(row[key])
            cells.append(
                {"text": "" if value is None else f"{value:.1f}", "value": "" if value is None else f"{value:.6g}"}
            )
        rows.append(cells)
    return ["method and data", "per class", "seed", *(_COLUMNS[key] for key in shown)], rows


def _csv(columns: list[str], rows: list[list[dict[str, Any]]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell["value"] for cell in row] for row in rows)
    return buffer.getvalue()


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _attribution(found: Sources) -> str:
    """Authors and licences of the images that are shipped; empty for a user's own."""
    if found.dataset is None or found.dataset.name not in ("icons",):
        return ""
    for path in (embedded.folder("icons/dataset") / "NOTICE", embedded.folder("NOTICE")):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _version() -> str:
    try:
        return importlib.metadata.version("syncclip")
    except importlib.metadata.PackageNotFoundError:  # run from a working folder without being installed
        return "(not installed)"
