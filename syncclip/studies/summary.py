"""The study in words and tables: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from syncclip.core import tables
from syncclip.core.text import percent
from syncclip.evaluation.metrics import METRIC_HEADINGS, METRICS, mean_and_error
from syncclip.recipe.recipe import Recipe
from syncclip.studies.bootstrap import Interval
from syncclip.studies.fit import Curve
from syncclip.studies.outputs import Comparison

HEADINGS = {key: METRIC_HEADINGS[key] for key in METRICS}
DATA = ("real", "synthetic", "both")
SHOWN = ("hm", "open_hm")
"""Metrics of the comparisons and curves that are printed; the files hold all."""


@dataclass(frozen=True)
class Line:
    """One arm at one amount: mean and standard error over its seeds, None for a single seed."""

    arm: str
    images_per_class: int | None
    seeds: int
    scores: dict[str, tuple[float, float | None]]


def lines(table: pd.DataFrame) -> list[Line]:
    """Means and standard errors of every arm and amount, arms in the table's order, amounts ascending."""
    found = []
    for arm in dict.fromkeys(table["arm"]):
        cells = table[table["arm"] == arm]
        for amount, group in cells.groupby("images_per_class", dropna=False, sort=True):
            scores = {metric: mean_and_error(group[metric].tolist()) for metric in METRICS}
            found.append(Line(str(arm), None if pd.isna(amount) else int(amount), len(group), scores))
    return found


def show(recipe: Recipe, url: str, table: pd.DataFrame, pairs: Sequence[Comparison]) -> None:
    """Print the means, and what the focus arm gains over the others."""
    title = f"{recipe.name}: accuracy on {recipe.evaluation.split} images, % (mean ± standard error over seeds)"
    headings = ["arm", "images/class", "seeds", *HEADINGS.values()]
    tables.show(tables.table(title, headings, [_cells(line) for line in lines(table)]))
    rows = _compared(pairs)
    if rows:
        level = percent(pairs[0].level)
        title = f"{pairs[0].arm} minus the others, points ({level} intervals over seeds and images)"
        tables.show(tables.table(title, ["images/class", "against", *(HEADINGS[metric] for metric in SHOWN)], rows))
    tables.show(url)


def markdown(
    recipe: Recipe,
    table: pd.DataFrame,
    curves: Mapping[str, Mapping[str, Curve]],
    pairs: Sequence[Comparison],
) -> str:
    """The tables as Markdown: means, comparisons, curves."""
    level = percent(recipe.study.level)
    parts = [
        f"# {recipe.name}",
        f"Accuracy on {recipe.evaluation.split} images, per cent; mean ± standard error over seeds.",
        tables.markdown_grid(
            ["arm", "images per class", "seeds", *HEADINGS.values()], [_cells(line) for line in lines(table)]
        ),
    ]
    if rows := by_data(table):
        shown = " / ".join(HEADINGS[metric] for metric in SHOWN)
        parts += [
            f"By what they learn from, {shown}.",
            tables.markdown_grid(["method", "images per class", *DATA], rows),
        ]
    rows = _compared(pairs)
    if rows:
        parts += [
            f"{pairs[0].arm} minus the others, points; {level} intervals over resampled seeds and images.",
            tables.markdown_grid(["images per class", "against", *(HEADINGS[metric] for metric in SHOWN)], rows),
        ]
    rows = [
        [arm, HEADINGS[metric], *described(found[metric])]
        for arm, found in curves.items()
        for metric in SHOWN
        if metric in found and len(recipe.study.amounts) > 1
    ]
    if rows:
        parts += [
            f"Error = a + b n^(-c) over n synthetic images per class; {level} intervals.",
            tables.markdown_grid(
                ["arm", "error of", "trend", "a", "b", "c", "forecast accuracy", "images per class for +1 point"],
                rows,
            ),
        ]
    return "\n\n".join(parts) + "\n"


def by_data(table: pd.DataFrame) -> list[list[str]]:
    """A row for each method and amount: what it reaches on real, on synthetic images, and on both.

    Empty unless several methods learned from all three, each by one arm.
    """
    arms = table[table["data"].isin(DATA)]
    whole = arms.groupby("method").filter(lambda cells: [*cells.groupby("data")["arm"].nunique()] == [1] * len(DATA))
    if whole["method"].nunique() < 2:
        return []
    rows = []
    for method in dict.fromkeys(whole["method"]):
        cells = whole[whole["method"] == method]
        found = {(line.arm, line.images_per_class): line for line in lines(cells)}
        arm = {data: str(cells[cells["data"] == data]["arm"].iloc[0]) for data in DATA}
        for amount in sorted(cells["images_per_class"].dropna().unique()):
            reached = [found[arm[data], None if data == "real" else int(amount)] for data in DATA]
            scores = (" / ".join(_score(*line.scores[metric]) for metric in SHOWN) for line in reached)
            rows.append([method, str(amount), *scores])
    return rows


def described(curve: Curve) -> list[str]:
    """A curve in words: verdict, parameters, forecast, amount for one more point; empty where nothing can be said."""
    if curve.law is None:
        slope = curve.slope
        said = "" if np.isnan(slope.estimate) else f" ({_interval(slope, '+.2f')} points of error per doubling)"
        return [f"{curve.verdict}{said}", "", "", "", "", ""]
    assert curve.plus_one is not None
    ahead = [
        f"{100 - point.error.estimate:.1f} [{100 - point.error.high:.1f}, {100 - point.error.low:.1f}] at {point.n:.0f}"
        for point in curve.forecast
    ]
    reached = [_amount(value) for value in (curve.plus_one.estimate, curve.plus_one.low, curve.plus_one.high)]
    return [
        curve.verdict,
        *(_interval(curve.law[name], form) for name, form in (("a", ".1f"), ("b", ".1f"), ("c", ".2f"))),
        "; ".join(ahead),
        f"{reached[0]} [{reached[1]}, {reached[2]}]",
    ]


def _compared(pairs: Sequence[Comparison]) -> list[list[str]]:
    """Rows of the comparison table: amount, other arm, an interval for each shown metric."""
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    for pair in pairs:
        key = (pair.images_per_class, pair.against, pair.against_images_per_class)
        found.setdefault(key, {})[pair.metric] = _interval(pair, "+.1f")
    return [
        [
            "" if amount is None else str(amount),
            arm if other in (amount, None) else f"{arm} at {other}",
            *(shown.get(metric, "") for metric in SHOWN),
        ]
        for (amount, arm, other), shown in found.items()
    ]


def _cells(line: Line) -> list[str]:
    amount = "" if line.images_per_class is None else str(line.images_per_class)
    scores = (line.scores[metric] for metric in HEADINGS)
    return [line.arm, amount, str(line.seeds), *(_score(mean, error) for mean, error in scores)]


def _score(mean: float, error: float | None) -> str:
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def _interval(interval: Interval | Comparison, form: str) -> str:
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.0e}" if np.isfinite(value) else "never"
