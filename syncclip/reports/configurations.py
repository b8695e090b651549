"""Configurations in a report: labels and colours, mean scores, and paired differences."""

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
    "classmeans": "Class means",
    "cliplora": "CLIP-LoRA",
    "twostage": "2SFS",
    "mma": "MMA",
    "mmrl": "MMRL",
    "tcp": "TCP",
    "promptkd": "PromptKD",
}
_STYLES = {
    ("zeroshot", "none"): (0, "circle"),
    ("ivlp", "real"): (1, "square"),
    ("ivlp", "synthetic"): (2, "triangle"),
    ("ivlp", "both"): (3, "diamond"),
    ("syncclip", "both"): (4, "circle"),
    ("ivlp", "all_real"): (5, "square"),
}
"""(Method, data) -> colour number (`--tone-0` to `--tone-7` in `assets/palette.css`) and marker shape."""
_ORDER = {"none": 0, "real": 1, "synthetic": 2, "both": 3, "all_real": 4}
_SHAPES = ("circle", "square", "triangle", "diamond")
_BASELINES = (("ivlp", "real"), ("syncclip", "real"), ("ivlp", "both"), ("zeroshot", "none"), ("ivlp", "synthetic"))
"""Display order of baselines (method, data); other baselines follow."""


@dataclass(frozen=True)
class ReportConfiguration:
    """Configuration in a report, with its labels and style.

    Attributes:
        id: name in the study's files.
        label, short: full label and short label.
        tone: number of the colour in `assets/palette.css`.
        shape: marker shape.
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
        """Whether the configuration uses synthetic images."""
        return self.data in ("synthetic", "both")


@dataclass(frozen=True)
class ScorePoint:
    """Mean score at `n` synthetic images per class, with standard error and all scores if there are several seeds."""

    n: int
    mean: float
    se: float | None
    seeds: list[float]


Points = dict[str, dict[str, list[ScorePoint]]]
"""Configuration -> metric -> points in ascending order of `n`."""


@dataclass(frozen=True)
class Difference:
    """Paired difference between a configuration and a baseline, in points, with its confidence interval.

    Attributes:
        n, baseline_n: number of synthetic images per class in the configuration and in the baseline.
        averaged_over: numbers of images over which the difference is averaged; empty for a single number.
        unit: unit that is resampled in addition to seeds; empty if only seeds are resampled.
    """

    configuration: ReportConfiguration
    baseline: ReportConfiguration
    metric: str
    difference: float
    low: float
    high: float
    n: int | None = None
    baseline_n: int | None = None
    confidence_level: float = 0.95
    unit: str = ""
    caution: str = ""
    averaged_over: Sequence[int] = ()

    @property
    def images(self) -> str:
        """Number of synthetic images per class as text, such as `16` or `1 to 64`; empty without synthetic images."""
        if self.averaged_over:
            return f"{min(self.averaged_over)} to {max(self.averaged_over)}"
        return str(self.n or self.baseline_n or "")

    @property
    def kind(self) -> Literal["gain", "loss", "unsure"]:
        """Direction of a significant difference, or "unsure" if the interval includes zero."""
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "unsure"

    @cached_property
    def size(self) -> str:
        """Difference as text, such as `+1.2`."""
        return signed(self.difference)

    @cached_property
    def interval(self) -> str:
        """Confidence interval as text, such as `+0.3 to +2.0`."""
        return signed(self.low, self.high)


@dataclass(frozen=True)
class Numbers:
    """Scores shown in the text and figures of a report; empty for a synthetic dataset.

    Attributes:
        table: one row per finished run; the `amount` column is the number of synthetic images per class, or 0.
        level: confidence level as text.
    """

    table: pd.DataFrame | None = None
    configurations: list[ReportConfiguration] = field(default_factory=list)
    points: Points = field(default_factory=dict)
    reference: ReportConfiguration | None = None
    differences: list[Difference] = field(default_factory=list)
    level: str = "95\u00a0%"

    @property
    def several_seeds(self) -> bool:
        """Whether any mean score has a standard error."""
        series = [points for metrics in self.points.values() for points in metrics.values()]
        return any(point.se is not None for points in series for point in points)


def gather_numbers(inputs: Inputs) -> Numbers:
    """Collect configurations, mean scores and paired differences of a study, or the scores of a run.

    The reference configuration is set by the study and defaults to SYNC-CLIP on real and synthetic images, or else to
    the last configuration with synthetic images.
    """
    table = inputs.table
    if inputs.kind == "run" and inputs.results[""]:
        training, results = inputs.section("training"), inputs.results[""]
        method, data = training.get("method", "run"), training.get("data", "none")
        name = method if method == "zeroshot" else f"{method}-{data}"
        row = {"cell": "", "configuration": name, "method": method, "data": data, "images_per_class": math.nan}
        table = pd.DataFrame([row | {metric: results.get(metric) for metric in METRICS}])
    level = coverage(inputs.fits.confidence_level if inputs.fits else 0.95)
    if table is None or not len(table):
        return Numbers(level=level)
    amounts = table["images_per_class"].where(table["data"].isin(("synthetic", "both")))
    table = table.assign(amount=amounts.fillna(0).astype(int))
    names = table[["configuration", "method", "data"]].astype(str).itertuples(index=False, name=None)
    configurations = describe_configurations(names)
    synthetic = [configuration for configuration in configurations if configuration.synthetic]
    reference = inputs.state.reference if inputs.state else inputs.section("study").get("reference")
    candidates = [
        *(each for each in synthetic if each.id == reference),
        *(each for each in synthetic if (each.method, each.data) == ("syncclip", "both")),
        *reversed(synthetic),
    ]
    pairs = differences(inputs.comparisons, configurations) if inputs.kind == "study" else []
    if pairs:
        level = coverage(pairs[0].confidence_level)
    return Numbers(table, configurations, mean_scores(table), next(iter(candidates), None), pairs, level)


def describe_configurations(names: Iterable[tuple[str, str, str]]) -> list[ReportConfiguration]:
    """Assign labels and styles to configurations (id, method, data), and sort them by training data."""
    unique = {name: (method, "none" if method == "zeroshot" else data or "none") for name, method, data in names}
    methods = list(dict.fromkeys(method for method, _ in unique.values()))
    ordered = sorted(
        unique.items(),
        key=lambda item: (_ORDER.get(item[1][1], 9), item[1][0] == "syncclip", methods.index(item[1][0])),
    )
    used_tones = {_STYLES[key][0] for key in unique.values() if key in _STYLES}
    spare = [tone for tone in (5, 6, 7, 3, 2, 1, 0, 4) if tone not in used_tones] or [5, 6, 7]
    configurations: list[ReportConfiguration] = []
    used: set[tuple[str, str]] = set()
    others = 0
    for name, key in ordered:
        if key in _STYLES and key not in used:
            tone, shape = _STYLES[key]
            used.add(key)
        else:
            # Independent of other configurations in `_STYLES`, so that plots of different subsets agree.
            tone, shape = spare[others % len(spare)], _SHAPES[others % len(_SHAPES)]
            others += 1
        label, short = _labels(name, *key)
        configurations.append(ReportConfiguration(name, *key, label=label, short=short, tone=tone, shape=shape))
    return configurations


def _labels(name: str, method: str, data: str) -> tuple[str, str]:
    """Return the full label and the short label of a configuration."""
    method = method.rpartition(":")[2]  # class of a custom method
    title = _METHODS.get(method, method)
    labels = {
        "none": (title, title.replace(" CLIP", "")),
        "real": (f"{title} on real images", f"{title} real only"),
        "synthetic": (f"{title} on synthetic images", f"{title} synthetic only"),
        "both": (f"{title} on real and synthetic images", f"{title} real + synthetic"),
        "all_real": (f"{title} on real images of all classes", f"{title} upper bound"),
    }
    label, short = labels.get(data, (f"{title}, {data}", f"{title}, {data}"))
    if (method, data) == ("ivlp", "both"):
        label, short = "IVLP, naive mix", "IVLP naive mix"
    elif (method, data) == ("syncclip", "both"):
        label = short = "SYNC-CLIP"
    if name in ("", method, f"{method}-{data}"):
        return label, short
    suffix = name.removeprefix(f"{method}-{data}").removeprefix(method).strip("-_ ") or name
    return f"{label} ({suffix})", f"{short} ({suffix})"


def mean_scores(table: pd.DataFrame) -> Points:
    """Compute mean scores and standard errors over the seeds in `Numbers.table`."""
    points: Points = {}
    groups: Any = table.groupby(["configuration", "amount"], sort=True)
    for (configuration, n), cells in groups:
        for metric in [metric for metric in METRICS if metric in table]:
            values = cells[metric].dropna().astype(float)
            if len(values):
                error, seeds = (float(values.sem()), values.tolist()) if len(values) > 1 else (None, [])
                point = ScorePoint(int(n), float(values.mean()), error, seeds)
                points.setdefault(str(configuration), {}).setdefault(metric, []).append(point)
    return points


def differences(stored: Sequence[Comparison], configurations: Sequence[ReportConfiguration]) -> list[Difference]:
    """Select a study's comparisons: averages over numbers of images or, if there is only one number, those at it.

    Intervals from resampled classes take precedence. The last entries compare a configuration with itself at the
    smallest number of images.
    """
    by_id = {configuration.id: configuration for configuration in configurations}
    ranks: dict[tuple[str, str, str], tuple[bool, bool, int, int]] = {}
    selected: dict[tuple[str, str, str], Difference] = {}
    for pair in stored:
        configuration, baseline = by_id.get(pair.configuration), by_id.get(pair.baseline)
        if configuration is None or baseline is None or pair.unit == "datasets" or pair.metric not in METRICS:
            continue
        if not all(map(math.isfinite, (pair.estimate, pair.low, pair.high))):
            continue
        n, baseline_n = pair.images_per_class, pair.baseline_images_per_class
        sign = -1 if configuration == baseline else 1
        rank = (pair.unit == "classes", bool(pair.averaged_over), n or 0, sign * (baseline_n or 0))
        key = (pair.configuration, pair.baseline, pair.metric)
        if rank >= ranks.get(key, rank):
            ranks[key] = rank
            numbers = pair.metric, pair.estimate, pair.low, pair.high, n, baseline_n, pair.confidence_level
            rest = pair.unit, pair.caution, pair.averaged_over
            selected[key] = Difference(configuration, baseline, *numbers, *rest)
    order = {key: number for number, key in enumerate(_BASELINES)}
    return sorted(
        selected.values(),
        key=lambda pair: (
            pair.configuration == pair.baseline,
            order.get((pair.baseline.method, pair.baseline.data), len(order)),
        ),
    )
