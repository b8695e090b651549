"""The configurations of a study: what they are called, how they look, what they reached over seeds, and how they
differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from syncclip.core.text import coverage, signed
from syncclip.evaluation.metrics import METRICS
from syncclip.reports.inputs import Inputs
from syncclip.studies.outputs import Comparison

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
    "probe": "Linear probe",
    "tip": "Tip-Adapter",
    "cliplora": "CLIP-LoRA",
    "twostage": "2SFS",
    "mma": "MMA",
    "mmrl": "MMRL",
    "tcp": "TCP",
    "promptkd": "PromptKD",
}
_LOOKS = {
    ("zeroshot", "none"): (0, "circle"),
    ("ivlp", "real"): (1, "square"),
    ("ivlp", "synthetic"): (2, "triangle"),
    ("ivlp", "both"): (3, "diamond"),
    ("syncclip", "both"): (4, "circle"),
    ("ivlp", "all_real"): (5, "square"),
}
"""Colour and mark of a configuration in every figure. A colour is a number: `--tone-0` to `--tone-7` in
`assets/style.css`."""
_ORDER = {"none": 0, "real": 1, "synthetic": 2, "both": 3, "all_real": 4}
_SHAPES = ("circle", "square", "triangle", "diamond")
_AGAINST = (("ivlp", "real"), ("syncclip", "real"), ("ivlp", "both"), ("zeroshot", "none"), ("ivlp", "synthetic"))
"""The order of the configurations that the focus is compared with; others follow."""


@dataclass(frozen=True)
class ArmLook:
    """One configuration: a method and the data that it learns from.

    Attributes:
        id: name of the configuration in the study's files.
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
    """What a configuration reached with `n` synthetic images per class: per cent, `se` and `seeds` only of several
    seeds."""

    n: int
    mean: float
    se: float | None
    seeds: list[float]


Points = dict[str, dict[str, list[ScorePoint]]]
"""Configuration -> metric -> points, by ascending `n`."""


@dataclass(frozen=True)
class Difference:
    """One configuration minus another in points, paired, with its interval.

    Attributes:
        n, baseline_n: synthetic images per class.
        unit: what the interval is over, beside seeds; empty where it is over seeds alone.
        caution: what the interval can't show.
    """

    configuration: ArmLook
    baseline: ArmLook
    metric: str
    difference: float
    low: float
    high: float
    n: int | None = None
    baseline_n: int | None = None
    confidence_level: float = 0.95
    unit: str = ""
    caution: str = ""

    @property
    def kind(self) -> Literal["gain", "loss", "unsure"]:
        """Whether the interval excludes zero, and on which side it lies."""
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "unsure"

    @cached_property
    def size(self) -> str:
        """`+1.2`."""
        return signed(self.difference)

    @cached_property
    def interval(self) -> str:
        """`+0.3 to +2.0`."""
        return signed(self.low, self.high)


@dataclass(frozen=True)
class Numbers:
    """What both the page's words and its figures are made from; nothing of a bare set.

    Attributes:
        table: a row for each finished run, with its `amount` of synthetic images per class, 0 for none.
        level: coverage of the intervals.
    """

    table: pd.DataFrame | None = None
    configurations: list[ArmLook] = field(default_factory=list)
    points: Points = field(default_factory=dict)
    reference: ArmLook | None = None
    differences: list[Difference] = field(default_factory=list)
    level: str = "95\u00a0%"


def gather_numbers(found: Inputs) -> Numbers:
    """Configurations, means, and paired differences of a study; the one configuration of a run.

    The focus is the configuration that the study names, else SYNC-CLIP on both, else the last that uses synthetic data.
    """
    table = found.table
    if found.kind == "run" and found.results[""]:
        training, results = found.section("training"), found.results[""]
        method, data = training.get("method", "run"), training.get("data", "none")
        configuration = method if method == "zeroshot" else f"{method}-{data}"
        row = {"cell": "", "configuration": configuration, "method": method, "data": data, "images_per_class": math.nan}
        table = pd.DataFrame([row | {metric: results.get(metric) for metric in METRICS}])
    level = coverage(found.fits.confidence_level if found.fits else 0.95)
    if table is None or not len(table):
        return Numbers(level=level)
    amounts = table["images_per_class"].where(table["data"].isin(("synthetic", "both")))  # of others they say nothing
    table = table.assign(amount=amounts.fillna(0).astype(int))
    configurations = describe_configurations(
        table[["configuration", "method", "data"]].astype(str).itertuples(index=False, name=None)
    )
    points = mean_scores(table)
    named = found.state.reference if found.state else found.section("study").get("reference")
    using = [configuration for configuration in configurations if configuration.data in ("synthetic", "both")]
    wanted = [configuration for configuration in using if configuration.id == named]
    wanted = (
        wanted
        or [
            configuration
            for configuration in using
            if (configuration.method, configuration.data) == ("syncclip", "both")
        ]
        or using[-1:]
    )
    reference = wanted[0] if wanted else None
    compared = differences(found.comparisons, configurations) if found.kind == "study" else []
    return Numbers(
        table,
        configurations,
        points,
        reference,
        compared,
        coverage(compared[0].confidence_level) if compared else level,
    )


def describe_configurations(found: Iterable[tuple[str, str, str]]) -> list[ArmLook]:
    """Names and looks of configurations given as (id, method, data): untrained first, then real, synthetic, both."""
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
    method = method.rpartition(":")[2]  # of a user's own, the class alone, as its configurations are called
    title = _METHODS.get(method, method)
    plain = {
        "none": (title, title.replace(" CLIP", "")),
        "real": (f"{title} on real images", f"{title} real only"),
        "synthetic": (f"{title} on synthetic images", f"{title} synthetic only"),
        "both": (f"{title} on both", f"{title} on both"),
        "all_real": (f"{title} on real images of all classes", "Oracle"),
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
    """Means and standard errors over seeds of `Numbers.table`; the values of seeds in the table's order."""
    points: Points = {}
    groups: Any = table.groupby(["configuration", "amount"], sort=True)
    measured = [metric for metric in METRICS if metric in table]
    for (configuration, n), cells in groups:
        for metric in measured:
            values = cells[metric].dropna().astype(float)
            if len(values):
                error, seeds = (float(values.sem()), values.tolist()) if len(values) > 1 else (None, [])
                point = ScorePoint(int(n), float(values.mean()), error, seeds)
                points.setdefault(str(configuration), {}).setdefault(metric, []).append(point)
    return points


def differences(stored: Sequence[Comparison], configurations: Sequence[ArmLook]) -> list[Difference]:
    """The study's comparisons at the largest amount: over classes, or over images where it has no other.

    A configuration may be compared with itself at another amount: then the widest step counts, and it comes last.
    """
    by_id = {configuration.id: configuration for configuration in configurations}
    largest: dict[tuple[str, str, str], tuple[tuple[bool, int, int], Difference]] = {}
    for one in stored:
        if one.unit == "datasets":
            continue
        configuration, baseline = by_id.get(one.configuration), by_id.get(one.baseline)
        numbers = (one.estimate, one.low, one.high)
        if (
            configuration is None
            or baseline is None
            or one.metric not in METRICS
            or not all(map(math.isfinite, numbers))
        ):
            continue
        n, other = one.images_per_class, one.baseline_images_per_class
        rank = (one.unit == "classes", n or 0, -(other or 0) if configuration == baseline else other or 0)
        key = (one.configuration, one.baseline, one.metric)
        if key not in largest or rank >= largest[key][0]:
            largest[key] = (
                rank,
                Difference(
                    configuration, baseline, one.metric, *numbers, n, other, one.confidence_level, one.unit, one.caution
                ),
            )
    places = {key: place for place, key in enumerate(_AGAINST)}
    return sorted(
        (difference for _, difference in largest.values()),
        key=lambda one: (
            one.configuration == one.baseline,
            places.get((one.baseline.method, one.baseline.data), len(places)),
        ),
    )
