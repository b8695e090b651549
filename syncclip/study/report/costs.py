"""What it cost: speed, hours, busy share, rejects, from the study's account and from the shards' own markers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from syncclip.study.report.arms import ArmLook, arm_name
from syncclip.study.report.sources import Sources

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
        tiles.append(_tile("pictures drawn", _count(count)))
    if drawing.get("images_per_second"):
        tiles.append(_tile("pictures drawn per second", _short(drawing["images_per_second"])))
    elif count and seconds:
        tiles.append(_tile("pictures per second and actor", _short(count / seconds)))
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
