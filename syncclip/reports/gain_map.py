"""Report of a study with several pretrained tags: gains as a function of name knowledge, headline and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pydantic import TypeAdapter
from rich.table import Table

from syncclip import storage
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted, coverage, signed
from syncclip.evaluation.metrics import METRIC_HEADINGS, legend
from syncclip.reports.configurations import ReportConfiguration, describe_configurations
from syncclip.reports.verdict import NovelClasses, Verdict, conclusion
from syncclip.studies import gain_map, outputs
from syncclip.studies.gain_map import MapCell, MapSummary, Trend, columns, number_label
from syncclip.studies.levels_state import LevelsState, read_state
from syncclip.studies.statistics.power import EQUIVALENT
from syncclip.training.settings import SCHEDULES

METRICS = ("all_classes_hm", "hm")
"""Metrics for the headline, in order of preference: gains on novel classes at the expense of base classes do
not count."""
MEASURES = {"all_classes_hm": "harmonic mean with all classes as candidates", "hm": "harmonic mean within split"}
MEAN = "mean"
VERDICTS: Mapping[str, str] = {"equivalent": f"equivalent within ±{EQUIVALENT:g}"}
"""Verdicts whose text differs from their value."""


@dataclass(frozen=True)
class GainMap:
    """Gain map of a study, read from the study's folder.

    Attributes:
        tags: tags in ascending order of name knowledge, then tags without measured name knowledge.
    """

    url: str
    state: LevelsState
    summary: MapSummary
    cells: Sequence[MapCell]
    tags: Sequence[str]
    configurations: Sequence[ReportConfiguration]

    @property
    def label(self) -> Mapping[str, str]:
        """Mapping from configuration name to label."""
        return {configuration.id: configuration.label for configuration in self.configurations}


def read_map(url: str) -> GainMap:
    """Read a gain map from a study's folder.

    Raises:
        UserError: the gain map is missing or corrupt.
    """
    state = read_state(url)
    assert state is not None, "the folder must contain levels.json"
    path = storage.join(url, outputs.MAP)
    if not storage.exists(path):
        raise UserError(f"{url}: no level has results yet; run the study again to resume it")
    summary = TypeAdapter(MapSummary).validate_json(storage.read_verified(path, state.owner))
    table = storage.read_table(storage.join(url, outputs.MAP_CELLS), columns(), "run the study again", state.owner)
    configurations = describe_configurations((name, *names) for name, names in summary.names.items())
    tags = sorted(summary.levels, key=lambda tag: (math.isnan(summary.levels[tag]), summary.levels[tag]))
    cells = [MapCell(**{**row, "averaged_over": tuple(row["averaged_over"])}) for row in table.to_pylist()]
    return GainMap(url, state, summary, cells, tags, configurations)


def judge(study: GainMap) -> tuple[Verdict, str]:
    """Write the headline from the trend of the reference configuration's gain, averaged over numbers of images.

    Without an average, the headline uses the number of images at which the most levels have a gain.

    Returns:
        The headline and its metric.
    """
    reference = study.summary.reference
    cells = [
        cell
        for cell in study.cells
        if cell.configuration == reference and not cell.dataset and (cell.averaged or cell.images_per_class is not None)
    ]
    for over in ("real", "zero-shot"):
        for metric in METRICS:
            if selected := _judged([cell for cell in cells if (cell.over, cell.metric) == (over, metric)]):
                keys = reference, over, metric, number_label(selected[0])
                trend = next(
                    (
                        trend
                        for trend in study.summary.trends
                        if (trend.configuration, trend.over, trend.metric, number_label(trend)) == keys
                    ),
                    None,
                )
                verdict = _verdict(study, selected, trend)
                return replace(verdict, sentences=[*verdict.sentences, *_gains_by_level(study, metric)]), metric
    label = study.label.get(reference, reference)
    return Verdict("The effect of synthetic images was not measured.", sentences=[f"{label} has no baseline."]), "hm"


def _judged(cells: Sequence[MapCell]) -> list[MapCell]:
    """Select the averaged cells or, if there are none, those at the number of images that covers the most levels."""
    groups: dict[str, list[MapCell]] = {}
    for cell in cells:
        groups.setdefault(number_label(cell), []).append(cell)
    return max(
        groups.values(),
        key=lambda group: (group[0].averaged, len(group), group[0].images_per_class or 0),
        default=[],
    )


def _verdict(study: GainMap, cells: Sequence[MapCell], trend: Trend | None) -> Verdict:
    level, first = coverage(study.summary.confidence_level), cells[0]
    method = study.label[first.configuration]
    numbers = f" with {counted(first.images_per_class or 0, 'synthetic image')} per class"
    if first.averaged:
        numbers = f", averaged over {_listed(map(str, first.averaged_over))} synthetic images per class"
    gain = f"Gain of {method} over {study.label[first.baseline]}{numbers}: "
    sentences = [f"{gain}{MEASURES[first.metric]}, {level} CI over seeds and classes."]
    kinds: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda cell: study.tags.index(cell.pretrained)):
        words = f"{cell.pretrained} ({signed(cell.gain)} points, {signed(cell.low, cell.high)})"
        kinds.setdefault(VERDICTS.get(cell.verdict, cell.verdict), []).append(words)
    measured = "; ".join(f"{kind}: {_listed(words)}" for kind, words in kinds.items())
    sentences.append(f"{measured[0].upper()}{measured[1:]}.")
    sentences += _detectable(study, cells)
    if trend is None:
        levels = counted(len(cells), "level")
        outcomes = "; ".join(f"{kind} at {len(words)} of {levels}" for kind, words in kinds.items())
        sentences.append("A trend requires at least two levels with different name knowledge.")
        return Verdict(f"Effect of synthetic images on {method}: {outcomes}.", sentences=sentences)
    slope = [value / 10 for value in (trend.slope.estimate, trend.slope.low, trend.slope.high)]
    sentences.append(
        f"Trend: {signed(slope[0])} points per 0.1 of name knowledge ({signed(*slope[1:])}). Name knowledge is the "
        "ratio of zero-shot accuracy to leave-one-out accuracy of class means on training images of base classes."
    )
    verdicts = {cell.pretrained: cell.verdict for cell in cells}
    measured_levels = [(tag, study.summary.levels[tag], verdicts[tag]) for tag in trend.pretrained]
    headline, interval = headline_of(method, trend, measured_levels, level)
    return Verdict(headline, interval, sentences)


def _detectable(study: GainMap, cells: Sequence[MapCell]) -> list[str]:
    """State which gains the inconclusive levels would have shown."""
    summary, datasets = study.summary, max(1, len(study.state.datasets))
    tested = NovelClasses(summary.novel_classes, datasets)
    return [
        f"The gain at {cell.pretrained} is {conclusion(cell.low, cell.high, summary.confidence_level, tested)}."
        for cell in cells
        if cell.verdict == "inconclusive"
    ]


def _gains_by_level(study: GainMap, metric: str) -> list[str]:
    """List the methods with a significant average gain over zero-shot CLIP at each level."""
    levels: dict[str, list[MapCell]] = {tag: [] for tag in study.tags}
    for cell in study.cells:
        if cell.averaged and (cell.dataset, cell.over, cell.metric) == ("", "zero-shot", metric):
            levels[cell.pretrained].append(cell)
    parts = []
    for tag, cells in levels.items():
        gains = [cell for cell in cells if cell.verdict == "significant gain"]
        gains.sort(key=lambda cell: -cell.gain)
        words = [f"{study.label[cell.configuration]} ({signed(cell.gain)})" for cell in gains]
        parts += [f"{tag}: {_listed(words) if words else 'none'}"] if cells else []
    average = "Significant gains over zero-shot CLIP, averaged over numbers of images: "
    return [f"{average}{'; '.join(parts)}."] if parts else []


def headline_of(
    method: str, trend: Trend, levels: Sequence[tuple[str, float, gain_map.Verdict]], confidence: str
) -> tuple[str, str]:
    """Return the headline of a trend and the interval of its sign change, which may be empty.

    If the verdicts of some levels differ from that of the fitted line, the headline limits its claim to the line and
    lists the differing verdicts.

    Args:
        method: label of the configuration whose gain is judged.
        levels: tag, name knowledge and verdict of each level, in ascending order of name knowledge.
        confidence: confidence level as text.
    """
    ends = levels[0][1], levels[-1][1]
    bounds = f"{ends[0]:.2f} to {ends[1]:.2f}"
    gain, loss, crossing = trend.gain_range, trend.loss_range, trend.crossing
    differing, line = _differing(trend, levels), f"The fitted line of {method}'s gain"
    if gain and loss and crossing is not None:
        falling = gain[0] < loss[0]
        inner = (gain[1], loss[0]) if falling else (loss[1], gain[0])
        effects = (f"help {method}", "they reduce its accuracy")
        effects = effects if falling else (f"reduce the accuracy of {method}", "they help")
        headline = f"Synthetic images {effects[0]} while name knowledge is below {inner[0]:.2f}"
        headline = f"{headline}; above {inner[1]:.2f}, {effects[1]}."
        if differing:
            sides = ("above", "below") if falling else ("below", "above")
            below = f"{sides[0]} zero while name knowledge is below {inner[0]:.2f}"
            above = f"{sides[1]} zero while it is above {inner[1]:.2f}"
            headline = f"{line} is {below}, and {above}; {differing}."
        return headline, f"sign change at {crossing:.2f}, {confidence} CI {inner[0]:.2f} to {inner[1]:.2f}"
    if not gain and not loss:
        if differing:
            where = f"at any name knowledge between {_and(ends)}"
            return f"{line} does not differ significantly from zero {where}; {differing}.", ""
        return f"No significant effect of synthetic images on {method} at any name knowledge between {_and(ends)}.", ""
    effect = f"help {method}" if gain else f"reduce the accuracy of {method}"
    line = f"{line} is {'above' if gain else 'below'} zero"
    low, high = gain or loss
    if (low, high) == ends:
        if differing:
            return f"{line} over the measured range of name knowledge, {bounds}; {differing}.", ""
        return f"Synthetic images {effect} at every measured level of name knowledge, {bounds}.", ""
    bound = f"above {low:.2f}" if high == ends[1] else f"between {_and((low, high))}"
    where = f"while name knowledge is {f'below {high:.2f}' if low == ends[0] else bound}"
    headline = f"Synthetic images {effect} {where}; elsewhere, the effect is inconclusive."
    if differing:
        headline = f"{line} {where}; elsewhere, its interval contains zero; {differing}."
    return headline, f"measured range {bounds}"


def _differing(trend: Trend, levels: Sequence[tuple[str, float, gain_map.Verdict]]) -> str:
    """List the levels whose verdict differs from that of the line; return an empty string if there are none.

    Near the line's sign change, i.e. between the ranges of gain and loss, no verdict counts as different.
    """
    kinds: dict[gain_map.Verdict, list[str]] = {}
    for tag, knowledge, verdict in levels:
        expected = next(
            (
                kind
                for kind, bounds in (("significant gain", trend.gain_range), ("significant loss", trend.loss_range))
                if bounds and bounds[0] <= knowledge <= bounds[1]
            ),
            "inconclusive",
        )
        between = expected == "inconclusive" and trend.gain_range and trend.loss_range
        agrees = verdict == expected or (verdict == "equivalent" and expected == "inconclusive")
        if not agrees and not between:
            kinds.setdefault(verdict, []).append(tag)
    measured = (
        f"{f'a {kind}' if kind.startswith('significant') else VERDICTS.get(kind, kind)} at {_listed(tags)}"
        for kind, tags in kinds.items()
    )
    return f"the measured effect is {_listed(measured)}" if kinds else ""


def figure_values(study: GainMap, metric: str) -> dict[str, Any]:
    """Return the data of the figure: gains by baseline, dataset, number of images, configuration and metric."""
    gains: dict[str, Any] = {}
    averaged = {(cell.configuration, cell.over) for cell in study.cells if cell.averaged}
    for cell in study.cells:
        if cell.over not in ("real", "zero-shot"):
            continue  # the tables contain the comparisons named in the recipe
        if cell.dataset and not cell.averaged and (cell.configuration, cell.over) in averaged:
            continue  # for a single dataset of a suite, the figure shows only the mean over numbers of images, if any
        number = MEAN if cell.averaged else str(cell.images_per_class or 0)
        keys = cell.over, cell.dataset, number, cell.configuration
        target = gains
        for key in keys:
            target = target.setdefault(key, {})
        ratios = study.summary.datasets.get(cell.pretrained, {})
        x = ratios.get(cell.dataset, math.nan) if cell.dataset else study.summary.levels[cell.pretrained]
        point = {"tag": cell.pretrained, "x": x, "gain": cell.gain, "low": cell.low, "high": cell.high}
        if cell.averaged:
            point["number"] = number_label(cell)
        target.setdefault(cell.metric, []).append(point)
    values = {
        "configurations": study.configurations,
        "metric": metric,
        "gains": gains,
        "datasets": list(study.state.datasets),
        "numbers": sorted({cell.images_per_class for cell in study.cells if cell.images_per_class}),
    }
    plain: dict[str, Any] = json.loads(
        json.dumps(values, default=vars),
        parse_float=lambda number: round(float(number), 4),
        parse_constant=lambda _: None,
    )
    return plain


def page_words(study: GainMap, verdict: Verdict, metric: str) -> dict[str, Any]:
    """Return the variables of the page's template."""
    level, datasets = coverage(study.summary.confidence_level), study.state.datasets
    parts = [
        f"Study · {study.state.name}",
        counted(len(study.tags), "level") + " of name knowledge",
        *([counted(len(datasets), "dataset")] if datasets else []),
        f"{study.state.split} images",
        SCHEDULES[study.summary.epochs_over],
    ]
    return {
        "title": verdict.headline.rstrip("."),
        "verdict": verdict,
        "eyebrow": " · ".join(parts),
        "level": level,
        "terms": legend([METRIC_HEADINGS[metric], text.MISSING], "; "),
        "sections": [("gains", "Map"), ("knowledge", "Name knowledge"), ("cells", "Gains"), ("trends", "Trends")],
        "tables": [
            ("knowledge", "Name knowledge", knowledge_table(study)),
            ("cells", f"Gains, {METRIC_HEADINGS[metric]}", gains_table(study, metric)),
            ("trends", f"Trends over name knowledge, {METRIC_HEADINGS[metric]}", trends_table(study, metric)),
        ],
        "notes": [],
    }


def knowledge_table(study: GainMap) -> pd.DataFrame:
    """Return the name knowledge of each level, averaged over datasets and per dataset."""
    rows = [
        {
            "pretrained": tag,
            "average": f"{study.summary.levels[tag]:.2f}",
            **{name: f"{study.summary.datasets[tag].get(name, math.nan):.2f}" for name in study.state.datasets},
        }
        for tag in study.tags
    ]
    return pd.DataFrame(rows, dtype=str)


def gains_table(study: GainMap, metric: str) -> pd.DataFrame:
    """Return the average gains of each configuration, with one column per level."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for configuration in study.configurations:
        for cell in study.cells:
            if (cell.configuration, cell.metric, cell.dataset) == (configuration.id, metric, "") and cell.over:
                key = configuration.label, number_label(cell), study.label[cell.baseline]
                rows.setdefault(key, {})[cell.pretrained] = f"{signed(cell.gain)} ({signed(cell.low, cell.high)})"
    keys = "method", "images per class", "over"
    return pd.DataFrame(
        [
            {**dict(zip(keys, key, strict=True)), **{tag: gains.get(tag, "") for tag in study.tags}}
            for key, gains in rows.items()
        ],
        dtype=str,
    )


def trends_table(study: GainMap, metric: str) -> pd.DataFrame:
    """Return the slope and the sign change of each trend."""
    rows = []
    for trend in study.summary.trends:
        if trend.metric != metric:
            continue
        slope = [value / 10 for value in (trend.slope.estimate, trend.slope.low, trend.slope.high)]
        rows.append(
            {
                "method": study.label[trend.configuration],
                "images per class": number_label(trend),
                "over": study.label[trend.baseline],
                "points per 0.1": f"{signed(slope[0])} ({signed(*slope[1:])})",
                "sign change": "" if trend.crossing is None else f"{trend.crossing:.2f}",
                "significant gain": " to ".join(f"{value:.2f}" for value in trend.gain_range),
                "significant loss": " to ".join(f"{value:.2f}" for value in trend.loss_range),
            }
        )
    return pd.DataFrame(rows, dtype=str)


def terminal_table(study: GainMap, verdict: Verdict, metric: str) -> Table:
    """Build the table for the terminal: the headline, and the gains averaged over datasets.

    If a gain is averaged over numbers of images, its values at single numbers are omitted.
    """
    rows = gains_table(study, metric)
    if len(rows):
        averaged = rows["images per class"].str.startswith(MEAN)
        rows = rows[averaged | ~averaged.groupby([rows["method"], rows["over"]]).transform("any")]
    title = f"{verdict.headline} {METRIC_HEADINGS[metric]}, points ({coverage(study.summary.confidence_level)} CI)"
    caption = legend([METRIC_HEADINGS[metric], text.MISSING])
    return text.table(title, list(rows.columns), rows.to_numpy().tolist(), caption)


def _and(values: Iterable[float]) -> str:
    return " and ".join(f"{value:.2f}" for value in values)


def _listed(words: Iterable[str]) -> str:
    """Join words: `1, 4 and 16`."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last
