"""The arms of a study: what they are called, how they look, and their means and standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

METRICS = {
    "hm": "Harmonic mean",
    "base": "Base classes",
    "novel": "Novel classes",
    "open_hm": "Harmonic mean, all classes as candidates",
    "open_base": "Base classes, all classes as candidates",
    "open_novel": "Novel classes, all classes as candidates",
    "open_all": "All test images, all classes as candidates",
}
"""Scores in per cent, in the order in which they are offered."""

_METHODS = {
    "zeroshot": "Zero-shot CLIP",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "kgcoop": "KgCoOp",
    "vpt": "VPT",
    "ivlp": "IVLP",
    "maple": "MaPLe",
    "promptsrc": "PromptSRC",
    "syncclip": "SYNC-CLIP",
}
_LOOKS = {
    ("zeroshot", "none"): (0, "circle"),
    ("ivlp", "real"): (1, "square"),
    ("ivlp", "synthetic"): (2, "triangle"),
    ("ivlp", "both"): (3, "diamond"),
    ("syncclip", "both"): (4, "circle"),
}
_ORDER = {"none": 0, "real": 1, "synthetic": 2, "both": 3}
_SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class ArmLook:
    """One arm: a method and the data that it learns from.

    Attributes:
        id: name of the arm in the study's files.
        label: in full; `short`: where there is little room.
        tone: number of its colour, `shape` of its mark.
    """

    id: str
    method: str
    data: str
    label: str
    short: str
    tone: int
    shape: str

    @property
    def synthetic(self) -> bool:
        """Whether it learns from synthetic images."""
        return self.data in ("synthetic", "both")


def arm_name(row: Any) -> str:
    """The arm's name in a row of the study's table (anything with `get`): its own, else `method-data`."""
    named = row.get("arm")
    if isinstance(named, str) and named:
        return named
    return "zeroshot" if row["method"] == "zeroshot" else f"{row['method']}-{row['data']}"


def describe_arms(found: Iterable[tuple[str, str, str]]) -> list[ArmLook]:
    """Names and looks of arms given as (id, method, data): untrained first, then real, synthetic, both."""
    unique = {name: (method, "none" if method == "zeroshot" else data or "none") for name, method, data in found}
    methods = list(dict.fromkeys(method for method, _ in unique.values()))
    ordered = sorted(
        unique.items(),
        key=lambda item: (_ORDER.get(item[1][1], 9), item[1][0] == "syncclip", methods.index(item[1][0])),
    )
    taken = {_LOOKS[key][0] for key in unique.values() if key in _LOOKS}
    spare = [tone for tone in (5, 6, 7, 3, 2, 1, 0, 4) if tone not in taken] or [5, 6, 7]
    looks: list[ArmLook] = []
    used: set[tuple[str, str]] = set()
    for name, key in ordered:
        if key in _LOOKS and key not in used:
            tone, shape = _LOOKS[key]
            used.add(key)
        else:
            tone, shape = spare[len(looks) % len(spare)], _SHAPES[len(looks) % len(_SHAPES)]
            spare = spare[1:] + spare[:1]
        label, short = _names(name, *key)
        looks.append(ArmLook(name, *key, label=label, short=short, tone=tone, shape=shape))
    return looks


def _names(name: str, method: str, data: str) -> tuple[str, str]:
    method = method.rpartition(":")[2]  # of one's own, the class alone, as its arms are called
    title = _METHODS.get(method, method)
    plain = {
        "none": (title, title.replace(" CLIP", "")),
        "real": (f"{title} on real images", f"{title} real only"),
        "synthetic": (f"{title} on synthetic images", f"{title} synthetic only"),
        "both": (f"{title} on both", f"{title} on both"),
    }
    label, short = plain.get(data, (f"{title}, {data}", f"{title}, {data}"))
    if (method, data) == ("ivlp", "both"):
        label, short = "IVLP, naive mix", "IVLP naive mix"
    elif (method, data) == ("syncclip", "both"):
        label = short = "SYNC-CLIP"
    usual = {method, f"{method}-{data}"}
    if name in usual or not name:
        return label, short
    own = name.removeprefix(f"{method}-{data}").removeprefix(method).strip("-_ ") or name
    return f"{label} ({own})", f"{short} ({own})"


def summarise(table: pd.DataFrame) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Mean and standard error over seeds: {arm: {metric: [{n, mean, se, seeds}]}}, by ascending n.

    Args:
        table: one row a cell, with `method`, `data`, `images_per_class` (missing or 0: no synthetic images), and a
            column for each metric.

    Returns:
        Accuracies in per cent; `se` is None for a single seed, `seeds` its values in order.
    """
    points: dict[str, dict[str, list[dict[str, Any]]]] = {}
    groups: dict[tuple[str, int], list[dict[Any, Any]]] = {}
    for n, row in zip(amounts(table), table.to_dict("records"), strict=True):
        groups.setdefault((arm_name(row), n), []).append(row)
    for (arm, n), rows in sorted(groups.items()):
        for metric in METRICS:
            values = [float(row[metric]) for row in rows if _known(row.get(metric))]
            if values:
                points.setdefault(arm, {}).setdefault(metric, []).append(_point(n, values))
    return points


def amounts(table: pd.DataFrame) -> list[int]:
    """Synthetic images per class of each cell, 0 where it uses none."""
    if "images_per_class" not in table:
        return [0] * len(table)
    unused = [
        data not in ("synthetic", "both") or method == "zeroshot"
        for method, data in zip(table["method"], table["data"], strict=True)
    ]
    return [0 if skip or not _known(n) else int(n) for skip, n in zip(unused, table["images_per_class"], strict=True)]


def _point(n: int, values: list[float]) -> dict[str, Any]:
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values)
    error = math.sqrt(spread / (len(values) - 1) / len(values)) if len(values) > 1 else None
    return {"n": n, "mean": mean, "se": error, "seeds": values if len(values) > 1 else []}


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)
