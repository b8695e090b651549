"""The arms of a study: what they are called, how they look, and their means and standard errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from syncclip.evaluation.metrics import METRICS, mean_and_error

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


@dataclass(frozen=True)
class ScorePoint:
    """What an arm reached with `n` synthetic images per class: per cent, `se` and `seeds` only of several seeds."""

    n: int
    mean: float
    se: float | None
    seeds: list[float]


Points = dict[str, dict[str, list[ScorePoint]]]
"""Arm -> metric -> points, by ascending `n`."""


def with_arms(table: pd.DataFrame) -> pd.DataFrame:
    """The table of cells with each one's `arm` by name, and its `amount`: synthetic images per class, 0 for none."""
    named = table["arm"] if "arm" in table else [None] * len(table)
    known = table["images_per_class"] if "images_per_class" in table else [None] * len(table)
    arms, amounts = [], []
    for own, method, data, n in zip(named, table["method"], table["data"], known, strict=True):
        usual = "zeroshot" if method == "zeroshot" else f"{method}-{data}"
        arms.append(own if isinstance(own, str) and own else usual)
        unused = method == "zeroshot" or data not in ("synthetic", "both")
        amounts.append(0 if unused or pd.isna(n) else int(n))
    return table.assign(arm=arms, amount=amounts)


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
    """Label and short label."""
    method = method.rpartition(":")[2]  # of a user's own, the class alone, as its arms are called
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
    if name in ("", method, f"{method}-{data}"):
        return label, short
    own = name.removeprefix(f"{method}-{data}").removeprefix(method).strip("-_ ") or name
    return f"{label} ({own})", f"{short} ({own})"


def mean_scores(table: pd.DataFrame) -> Points:
    """Means and standard errors over seeds of a table from `with_arms`; the values of seeds in the table's order."""
    points: Points = {}
    groups: Any = table.groupby(["arm", "amount"], sort=True)
    for (arm, n), cells in groups:
        for metric in METRICS:
            values = [float(value) for value in cells[metric].dropna()] if metric in cells else []
            if values:
                seeds = values if len(values) > 1 else []
                point = ScorePoint(int(n), *mean_and_error(values), seeds)
                points.setdefault(str(arm), {}).setdefault(metric, []).append(point)
    return points
