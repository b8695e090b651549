"""Tables of a study as Markdown, and lines about its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from syncclip.core import text
from syncclip.core.text import percent
from syncclip.datasets import load_dataset, suite_of
from syncclip.evaluation.baselines import baseline_warnings, chance
from syncclip.evaluation.metrics import HARMONIC, METRIC_HEADINGS, METRICS, harmonic_mean, legend
from syncclip.recipe.recipe import Recipe
from syncclip.studies.outputs import FEW_SEEDS, Comparison
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.scaling_fit import Curve

HEADINGS = {key: METRIC_HEADINGS[key] for key in METRICS}
DATA = ("real", "synthetic", "both")
SHOWN = ("novel", "all_classes_novel", "hm", "all_classes_hm", "openworld_auc")
"""Metrics shown in comparisons and curves; the files of the study contain all metrics."""


@dataclass(frozen=True)
class TextTable:
    """Table of text cells with a title."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def baseline_lines(recipe: Recipe, table: pd.DataFrame) -> list[str]:
    """Return a line with the chance levels of a study, and warnings about low scores."""
    random = _chance(recipe)
    levels = (f"{HEADINGS[metric]} {level:.1f} %" for metric, level in random.items() if level is not None)
    return [f"chance: {', '.join(levels)}", *(f"warning: {warning}" for warning in low_scores(table, random))]


def low_scores(table: pd.DataFrame, random: Mapping[str, float | None]) -> list[str]:
    """Return the `baseline_warnings` for the mean scores of all configurations, over numbers of images and seeds.

    Args:
        table: scores by configuration, number of images and seed.
        random: chance level of each metric, in per cent.
    """
    means = table.groupby("configuration", sort=False)[list(METRICS)].mean()
    scores = {str(name): _defined(row) for name, row in means.iterrows()}
    untrained = [scores.pop(name) for name in table["configuration"][table["method"] == "zeroshot"].unique()]
    return baseline_warnings(scores, {"chance": random, "zero_shot": untrained[0] if untrained else {}})


def recomputed(means: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[TextTable]:
    """Return tables of recomputed comparisons and of recomputed means by configuration and number of images."""
    rows = [
        [
            str(row["configuration"]),
            "" if pd.isna(row["images_per_class"]) else f"{row['images_per_class']:.0f}",
            str(row["seeds"]),
            *(f"{row[metric]:.1f}" for metric in METRICS),
        ]
        for row in means.to_dict("records")
    ]
    headings = ["method", "images per class", "seeds", *HEADINGS.values()]
    return [TextTable("Accuracy, per cent; means over seeds.", headings, rows), *_compared(comparisons)]


def markdown(
    recipe: Recipe,
    table: pd.DataFrame,
    curves: Mapping[str, Mapping[str, Curve]],
    comparisons: Sequence[Comparison],
    datasets: Mapping[str, pd.DataFrame] | None = None,
) -> str:
    """Format means, comparisons and curves as Markdown; for a suite, averages over datasets, then means by dataset."""
    tables = [_means(recipe, table)]
    if rows := by_data(table):
        metrics = " / ".join(HEADINGS[metric] for metric in SHOWN)
        tables.append(TextTable(f"By training data, {metrics}.", ["method", "images per class", *DATA], rows))
    tables += _compared(comparisons)
    rows = [
        [configuration, HEADINGS[metric], *described(of_configuration[metric])]
        for configuration, of_configuration in curves.items()
        for metric in SHOWN
        if metric in of_configuration and len(recipe.study.amounts) > 1
    ]
    if rows:
        intervals = f"{percent(recipe.study.confidence_level)} intervals over seeds and classes"
        title = f"Error = a + b (1 + n)^(-c) over n synthetic images per class; {intervals}."
        headings = ["trend", "a", "b", "c", "extrapolated accuracy", "images per class for +1 point"]
        tables.append(TextTable(title, ["method", "error of", *headings], rows))
    tables += [_means(recipe, rows_of_dataset, f"{name}. ") for name, rows_of_dataset in (datasets or {}).items()]
    parts = [part for each in tables for part in (each.title, text.markdown_grid(each.headings, each.rows))]
    return "\n\n".join([f"# {recipe.name}", *parts, f"{legend(parts, '; ')}."]) + "\n"


def by_data(table: pd.DataFrame) -> list[list[str]]:
    """Return one row per method and number of images, with the scores for real images, synthetic images and both.

    The result is empty unless at least two methods have exactly one configuration for each kind of training data.
    """
    rows = table[table["data"].isin(DATA)]
    complete = rows.groupby("method").filter(
        lambda cells: [*cells.groupby("data")["configuration"].nunique()] == [1] * len(DATA)
    )
    if complete["method"].nunique() < 2:
        return []
    result = []
    for method in dict.fromkeys(complete["method"]):
        runs = complete[complete["method"] == method]
        for n in sorted(runs["images_per_class"].dropna().unique()):
            cells = runs[runs["images_per_class"].fillna(n) == n]
            scores = (" / ".join(_scores(cells[cells["data"] == data], SHOWN)) for data in DATA)
            result.append([method, str(n), *scores])
    return result


def described(curve: Curve) -> list[str]:
    """Format a curve's trend, parameters, forecasts and images per class for +1 point; unknown values are empty."""
    reason = f"; {curve.reason}" if curve.reason else ""
    if curve.law is None:
        unknown = np.isnan(curve.slope.estimate)
        slope = "" if unknown else f" ({_interval(curve.slope, '+.2f')} points of error per doubling)"
        return [f"{curve.verdict}{slope}{reason}", *[""] * 5]
    forecast = [
        f"{100 - point.error.estimate:.1f} [{100 - point.error.high:.1f}, {100 - point.error.low:.1f}] at {point.n:.0f}"
        for point in curve.forecast
    ]
    more = curve.plus_one
    needed = [_count(value) for value in (more.estimate, more.low, more.high)] if more is not None else []
    return [
        f"{curve.verdict}{reason}",
        *(_interval(curve.law[name], form) for name, form in (("a", ".1f"), ("b", ".1f"), ("c", ".2f"))),
        "; ".join(forecast),
        "{} [{}, {}]".format(*needed) if needed else "",
    ]


def _means(recipe: Recipe, table: pd.DataFrame, prefix: str = "") -> TextTable:
    """Return a table of mean scores by configuration and number of images."""
    rows = [
        [str(configuration), "" if pd.isna(n) else str(n), str(len(group)), *_scores(group, METRICS)]
        for configuration, cells in table.groupby("configuration", sort=False)
        for n, group in cells.groupby("images_per_class", dropna=False)
    ]
    title = f"{prefix}Accuracy on {recipe.evaluation.split} images, per cent; mean ± standard error over seeds."
    return TextTable(title, ["method", "images per class", "seeds", *HEADINGS.values()], rows)


def _chance(recipe: Recipe) -> dict[str, float | None]:
    """Return the chance level of each metric in per cent, averaged over the datasets of a suite."""
    suite = suite_of(recipe.dataset) or {"": recipe.dataset}
    datasets = [load_dataset(settings) for settings in suite.values()]
    levels = pd.DataFrame([chance(each.candidates, len(each.base)) for each in datasets], dtype=float).mean()
    for metric, (first, second) in HARMONIC.items():
        levels[metric] = harmonic_mean(levels[first], levels[second])
    return _defined(levels)


def _defined(scores: pd.Series) -> dict[str, float | None]:
    """Return the scores by metric, with None for undefined scores."""
    return {metric: None if np.isnan(scores[metric]) else float(scores[metric]) for metric in METRICS}


def _compared(comparisons: Sequence[Comparison]) -> list[TextTable]:
    """Return tables of comparisons by configuration and resampled unit, starting with classes, the recommended unit.

    A table of simultaneous intervals over classes follows, for pairs that are compared at several numbers of images
    with at least `FEW_SEEDS` seeds.
    """
    several = {(each.configuration, each.baseline) for each in comparisons if each.averaged_over}
    tables: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    cautions: dict[str, str] = {}
    for pair in sorted(comparisons, key=lambda pair: pair.unit != "classes"):
        level, over = percent(pair.confidence_level), f"over seeds and {pair.unit}"
        shown = {f"{level} intervals {over}": (pair.low, pair.high)}
        joined = pair.unit == "classes" and (pair.configuration, pair.baseline) in several and not pair.averaged_over
        if joined and pair.seeds >= FEW_SEEDS:
            joint = f"simultaneous {level} intervals {over} for all numbers of images"
            shown[joint] = (pair.simultaneous_low, pair.simultaneous_high)
        for kind, bounds in shown.items():
            title = f"{pair.configuration} minus the baselines, points; {kind}."
            text = _interval(Interval(pair.estimate, *bounds), "+.1f")
            tables.setdefault(title, {}).setdefault(_points(pair), {})[pair.metric] = text
            cautions.setdefault(title, f" Caution: {pair.caution}." if pair.caution else "")
    headings = ["images per class", "baseline", *(HEADINGS[metric] for metric in SHOWN)]
    return [
        TextTable(
            title + cautions[title],
            headings,
            [[*points, *(metrics.get(metric, "") for metric in SHOWN)] for points, metrics in rows.items()],
        )
        for title, rows in tables.items()
    ]


def _points(pair: Comparison) -> tuple[str, str]:
    """Format the number of images and the baseline of a comparison."""
    n, baseline_n = pair.images_per_class, pair.baseline_images_per_class
    if pair.averaged_over:
        return f"mean of {min(pair.averaged_over)} to {max(pair.averaged_over)}", pair.baseline
    return "" if n is None else str(n), pair.baseline if baseline_n in (n, None) else f"{pair.baseline} at {baseline_n}"


def _scores(cells: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Format mean ± standard error over seeds for each metric, or the score of a single seed; empty without runs."""
    scores = cells[list(metrics)]
    pairs = zip(scores.mean(), scores.sem(), strict=True) if len(scores) else ()
    return [f"{mean:.1f}" if len(scores) == 1 else f"{mean:.1f} ± {error:.1f}" for mean, error in pairs]


def _interval(interval: Interval | Comparison, form: str) -> str:
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.0e}" if np.isfinite(value) else "never"
