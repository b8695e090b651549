"""The study in words and tables: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from syncclip.core import text
from syncclip.core.text import percent
from syncclip.evaluation.metrics import METRIC_HEADINGS, METRICS
from syncclip.recipe.recipe import Recipe
from syncclip.studies.outputs import Comparison
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.scaling_fit import Curve

HEADINGS = {key: METRIC_HEADINGS[key] for key in METRICS}
DATA = ("real", "synthetic", "both")
SHOWN = ("novel", "hm", "all_classes_hm", "openworld_auc")
"""Metrics of the comparisons and curves that are printed; the files hold all."""


@dataclass(frozen=True)
class TextTable:
    """One table: what it is about, its headings, its cells as text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(recipe: Recipe, url: str, table: pd.DataFrame, pairs: Sequence[Comparison]) -> None:
    """Print the means, and what the focus configuration gains over the others."""
    for one in [_means(recipe, table), *_compared(pairs)[:1]]:
        text.show(text.table(f"{recipe.name}: {one.title}", one.headings, one.rows), keys=2)
    text.show(url)


def recomputed(means: pd.DataFrame, pairs: Sequence[Comparison]) -> list[TextTable]:
    """The means of a table with one row for each configuration and amount, and the comparisons."""
    rows = [
        [
            str(row["configuration"]),
            "" if pd.isna(row["images_per_class"]) else f"{row['images_per_class']:.0f}",
            str(row["seeds"]),
            *(f"{row[metric]:.1f}" for metric in METRICS),
        ]
        for row in means.to_dict("records")
    ]
    headings = ["configuration", "images per class", "seeds", *HEADINGS.values()]
    return [TextTable("Accuracy, per cent; means over seeds.", headings, rows), *_compared(pairs)]


def markdown(
    recipe: Recipe,
    table: pd.DataFrame,
    curves: Mapping[str, Mapping[str, Curve]],
    pairs: Sequence[Comparison],
    datasets: Mapping[str, pd.DataFrame] | None = None,
) -> str:
    """The tables as Markdown: means, comparisons, curves; of a suite the average first, its datasets at the end."""
    tables = [_means(recipe, table)]
    if rows := by_data(table):
        shown = " / ".join(HEADINGS[metric] for metric in SHOWN)
        tables.append(TextTable(f"By what they learn from, {shown}.", ["method", "images per class", *DATA], rows))
    tables += _compared(pairs)
    rows = [
        [configuration, HEADINGS[metric], *described(found[metric])]
        for configuration, found in curves.items()
        for metric in SHOWN
        if metric in found and len(recipe.study.amounts) > 1
    ]
    if rows:
        confidence_level = f"{percent(recipe.study.confidence_level)} intervals over seeds and classes"
        title = f"Error = a + b (1 + n)^(-c) over n synthetic images per class; {confidence_level}."
        said = ["trend", "a", "b", "c", "forecast accuracy", "images per class for +1 point"]
        tables.append(TextTable(title, ["configuration", "error of", *said], rows))
    tables += [_means(recipe, found, f"{name}. ") for name, found in (datasets or {}).items()]
    parts = [part for one in tables for part in (one.title, text.markdown_grid(one.headings, one.rows))]
    return "\n\n".join([f"# {recipe.name}", *parts]) + "\n"


def by_data(table: pd.DataFrame) -> list[list[str]]:
    """A row for each method and amount: what it reaches on real, on synthetic images, and on both.

    Empty unless several methods learned from all three, each by one configuration.
    """
    configurations = table[table["data"].isin(DATA)]
    whole = configurations.groupby("method").filter(
        lambda cells: [*cells.groupby("data")["configuration"].nunique()] == [1] * len(DATA)
    )
    if whole["method"].nunique() < 2:
        return []
    rows = []
    for method in dict.fromkeys(whole["method"]):
        cells = whole[whole["method"] == method]
        for amount in sorted(cells["images_per_class"].dropna().unique()):
            there = cells[cells["images_per_class"].fillna(amount) == amount]
            scores = (" / ".join(_scores(there[there["data"] == data], SHOWN)) for data in DATA)
            rows.append([method, str(amount), *scores])
    return rows


def described(curve: Curve) -> list[str]:
    """A curve in words: verdict, parameters, forecast, amount for one more point; empty where nothing can be said."""
    reason = f"; {curve.reason}" if curve.reason else ""
    if curve.law is None:
        slope = curve.slope
        said = "" if np.isnan(slope.estimate) else f" ({_interval(slope, '+.2f')} points of error per doubling)"
        return [f"{curve.verdict}{said}{reason}", *[""] * 5]
    ahead = [
        f"{100 - point.error.estimate:.1f} [{100 - point.error.high:.1f}, {100 - point.error.low:.1f}] at {point.n:.0f}"
        for point in curve.forecast
    ]
    one = curve.plus_one
    reached = [_amount(value) for value in (one.estimate, one.low, one.high)] if one is not None else []
    return [
        f"{curve.verdict}{reason}",
        *(_interval(curve.law[name], form) for name, form in (("a", ".1f"), ("b", ".1f"), ("c", ".2f"))),
        "; ".join(ahead),
        "{} [{}, {}]".format(*reached) if reached else "",
    ]


def _means(recipe: Recipe, table: pd.DataFrame, of: str = "") -> TextTable:
    """Configuration, amount, number of seeds and scores; configurations in the table's order, amounts ascending."""
    rows = [
        [str(configuration), "" if pd.isna(amount) else str(amount), str(len(group)), *_scores(group, METRICS)]
        for configuration, cells in table.groupby("configuration", sort=False)
        for amount, group in cells.groupby("images_per_class", dropna=False)
    ]
    title = f"{of}Accuracy on {recipe.evaluation.split} images, per cent; mean ± standard error over seeds."
    return TextTable(title, ["configuration", "images per class", "seeds", *HEADINGS.values()], rows)


def _compared(pairs: Sequence[Comparison]) -> list[TextTable]:
    """The comparisons: amount, other configuration, an interval for each shown metric; no table where there are none.

    One table for each unit that was drawn again, classes first: theirs are the intervals to be quoted.
    """
    found: dict[str, dict[tuple[Any, ...], dict[str, str]]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.unit != "classes"):
        key = (pair.images_per_class, pair.baseline, pair.baseline_images_per_class)
        found.setdefault(pair.unit, {}).setdefault(key, {})[pair.metric] = _interval(pair, "+.1f")
    headings = ["images per class", "baseline", *(HEADINGS[metric] for metric in SHOWN)]
    caution = f" Caution: {pairs[0].caution}." if pairs and pairs[0].caution else ""
    return [
        TextTable(
            f"{pairs[0].configuration} minus the others, points; {percent(pairs[0].confidence_level)} intervals "
            f"over seeds and {unit}." + caution,
            headings,
            [
                [
                    "" if amount is None else str(amount),
                    configuration if other in (amount, None) else f"{configuration} at {other}",
                    *(shown.get(metric, "") for metric in SHOWN),
                ]
                for (amount, configuration, other), shown in of_unit.items()
            ],
        )
        for unit, of_unit in found.items()
    ]


def _scores(cells: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Mean ± standard error over seeds of each metric, the mean alone for a single seed; empty without cells."""
    scores = cells[list(metrics)]
    found = zip(scores.mean(), scores.sem(), strict=True) if len(scores) else ()
    return [f"{mean:.1f}" if len(scores) == 1 else f"{mean:.1f} ± {error:.1f}" for mean, error in found]


def _interval(interval: Interval | Comparison, form: str) -> str:
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.0e}" if np.isfinite(value) else "never"
