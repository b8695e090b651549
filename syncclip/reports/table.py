"""Tables and tiles in the HTML report, and the table for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich.table import Table

from syncclip import storage
from syncclip.core import text
from syncclip.core.text import MISSING, counted, thousands
from syncclip.evaluation.baselines import BASELINE_NAMES, BASELINES
from syncclip.evaluation.metrics import METRIC_HEADINGS, legend
from syncclip.reports.configurations import Numbers, ReportConfiguration, ScorePoint
from syncclip.reports.inputs import Inputs

_COLUMNS = METRIC_HEADINGS | {"seconds": "seconds"}
_TERMINAL = ("base", "novel", "hm", "all_classes_base", "all_classes_novel", "all_classes_hm")
_DIFFERENCES = ("novel", "all_classes_novel", "hm", "all_classes_hm")
_QUALITY = "stats.json"
_SUITE = ("novel", "hm", "all_classes_hm")
"""Metrics shown for each dataset of a suite."""


@dataclass(frozen=True)
class Tile:
    """Number with a label and a unit."""

    label: str
    number: str
    unit: str = ""


@dataclass(frozen=True)
class Part:
    """Part of a stacked bar; `text` is the formatted value, and `colour` names a variable in the stylesheet."""

    name: str
    value: float
    text: str
    colour: str


@dataclass(frozen=True)
class TableCell:
    """Cell of a sortable table: its text, its sort key, and whether the text is left-aligned."""

    text: str
    value: str | float
    words: bool = False


@dataclass(frozen=True)
class PageTable:
    """Table in the HTML report, with the tiles above it."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[TableCell]] = ()
    tiles: Sequence[Tile] = field(default_factory=list)

    @property
    def csv(self) -> str:
        """Column headings and sort keys of all cells as CSV."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.columns, *([cell.value for cell in row] for row in self.rows)])
        return buffer.getvalue()


def costs(inputs: Inputs, numbers: Numbers) -> tuple[list[Tile], dict[str, list[Part]]]:
    """Collect the cost of a study, run or synthetic dataset from cost.json or from the shard markers.

    Returns:
        Tiles, and the parts of two stacked bars: `time` (by process) and `rejects` (kept images, then rejected images
        by reason). A bar with fewer than two parts is empty.
    """
    synthesis, training, table = inputs.cost.synthesis, inputs.cost.training, numbers.table
    speed, speed_label = synthesis and synthesis.images_per_second, "images generated per second"
    if not speed and inputs.seconds:
        speed, speed_label = inputs.images / inputs.seconds, "images per second per actor"
    busy = synthesis.busy_share if synthesis else None
    hours = (synthesis and synthesis.hours) or inputs.seconds / 3600
    trained = training.cells or (0 if inputs.table is None else len(inputs.table))
    images = inputs.images or (synthesis.images if synthesis else 0)
    rejected = inputs.rejects or Counter(synthesis.rejects if synthesis else {})
    spent = training.wall_hours or training.hours or float(inputs.record.get("seconds") or 0) / 3600
    tiles = []
    if images:
        tiles.append(Tile("images generated", thousands(images)))
    if speed:
        digits = 0 if speed >= 20 else 1 if speed >= 1 else 2
        tiles.append(Tile(speed_label, f"{speed:.{digits}f}"))
    if hours:
        tiles.append(Tile("generation", *_time((synthesis and synthesis.wall_hours) or hours)))
    if busy is not None:
        tiles.append(Tile("utilisation during generation", f"{100 * busy:.0f}", "%"))
    if trained:
        tiles.append(Tile("runs trained and tested", thousands(trained)))
    if spent:
        tiles.append(Tile("training" if inputs.kind == "run" else "training and testing", *_time(spent)))
    if training.busy_share is not None:
        tiles.append(Tile("utilisation during training", f"{100 * training.busy_share:.0f}", "%"))

    times = [("generation", 3600 * hours, "unsure")]
    if table is not None and "seconds" in table:
        sums = table.groupby("configuration")["seconds"].sum()
        times += [
            (configuration.short, float(sums[configuration.id]), f"tone-{configuration.tone}")
            for configuration in numbers.configurations
        ]
    time = [Part(name, value, " ".join(_time(value / 3600)), colour) for name, value, colour in times if value]
    colours = ("gain", "loss", "tone-3", "tone-2")
    counts = [("kept", images), *rejected.most_common()]
    rejects = [
        Part(name.replace("_", " "), count, thousands(count), colours[number] if number < len(colours) else "tone-0")
        for number, (name, count) in enumerate(counts)
    ]
    return tiles, {"time": time if len(time) > 1 else [], "rejects": rejects if images and rejected else []}


def _time(hours: float) -> tuple[str, str]:
    """Return a formatted duration and its unit."""
    if hours < 1.5 / 60:
        return f"{3600 * hours:.0f}", "s"
    return (f"{60 * hours:.0f}", "min") if hours < 1.5 else (f"{hours:.1f}", "h")


def runs_table(table: pd.DataFrame, configurations: Sequence[ReportConfiguration]) -> PageTable:
    """Build the table of a study's runs, ordered by configuration."""
    if "seed" not in table:
        return PageTable()
    shown = [key for key in _COLUMNS if key in table]
    order = {configuration.id: number for number, configuration in enumerate(configurations)}
    ordered = table.assign(order=table["configuration"].map(order)).sort_values(
        ["order", "amount", "seed"], kind="stable"
    )
    synthetic, rows = ordered["amount"].any(), []
    for row in ordered.to_dict("records"):
        label, amount, seed = configurations[row["order"]].label, row["amount"], row["seed"]
        cells = [
            TableCell(label, label, words=True),
            *([TableCell(str(amount) if amount else MISSING, amount)] if synthetic else ()),
            TableCell(MISSING, -1) if pd.isna(seed) else TableCell(f"{seed:.0f}", int(seed)),
        ]
        rows.append([*cells, *(_percent_cell(row[key]) for key in shown)])
    return PageTable(["method", *(["per class"] if synthetic else ()), "seed", *(_COLUMNS[key] for key in shown)], rows)


def _percent_cell(value: float) -> TableCell:
    return TableCell(MISSING, "") if pd.isna(value) else TableCell(f"{value:.1f}", f"{value:.6g}")


def datasets_table(table: pd.DataFrame, inputs: Inputs, numbers: Numbers) -> PageTable | None:
    """Build a suite's table of scores (average and per dataset) at each configuration's largest number of images.

    The table contains only runs that have finished on every dataset. Return None for a single dataset.
    """
    if inputs.table is None or not inputs.state:
        return None
    if not {"dataset", "cell", "configuration", "images_per_class", *_SUITE} <= set(table):
        return None
    table = table[table["cell"].isin(inputs.table["cell"])]
    names, rows = inputs.state.datasets, []
    for metric in _SUITE:
        for configuration in numbers.configurations:
            average = numbers.points.get(configuration.id, {}).get(metric)
            if average is None:
                continue
            cells = table[table["configuration"] == configuration.id]
            if n := average[-1].n:
                cells = cells[cells["images_per_class"] == n]
            values = [average[-1].mean, *(cells[cells["dataset"] == name][metric].mean() for name in names)]
            label = f"{configuration.label}, {n}" if n else configuration.label
            words = [TableCell(text, text, words=True) for text in (METRIC_HEADINGS[metric], label)]
            rows.append([*words, *map(_percent_cell, values)])
    return PageTable(["metric", "method", "average", *names], rows) if rows else None


def quality_table(inputs: Inputs) -> PageTable | None:
    """Build the quality table of a synthetic dataset, sorted by class accuracy; return None without stats.json."""
    if inputs.synthetic is None or _QUALITY not in inputs.set_files:
        return None
    from syncclip.synthetic_sets.quality import SetQuality  # imports torch

    try:
        quality = SetQuality.model_validate_json(
            storage.read_verified(storage.join(inputs.synthetic.url, _QUALITY), inputs.owner)
        )
    except (OSError, ValueError):
        inputs.notes.append(f"The synthetic dataset's {_QUALITY} could not be read and was omitted.")
        return None
    tiles = [Tile("images that the frozen CLIP model assigns to their class", f"{quality.accuracy:.0f}", "%")]
    if quality.similarity is not None:
        real = "" if quality.real_similarity is None else f" (real images: {quality.real_similarity:.2f})"
        tiles.append(Tile(f"similarity between images of a class{real}", f"{quality.similarity:.2f}"))
    if quality.shift is not None and quality.shift.relative_distance is not None:
        tiles.append(Tile("domain shift", f"{quality.shift.relative_distance:.2f}"))
    tiles.append(
        Tile(f"near-duplicates among {thousands(quality.measured)} images", thousands(quality.near_duplicates))
    )
    if quality.prompts is not None:
        tiles.append(Tile("distinct prompts", thousands(quality.prompts.distinct)))
    rows = []
    for row in sorted(quality.classes, key=lambda row: (101 if row.accuracy is None else row.accuracy, row.name)):
        cells = [
            TableCell(MISSING, "") if value is None else TableCell(f"{value:.{digits}f}", value)
            for value, digits in ((row.accuracy, 0), (row.similarity, 2), (row.shift, 2))
        ]
        rows.append([TableCell(row.name, row.name, words=True), TableCell(str(row.images), row.images), *cells])
    return PageTable(["class", "images", "accuracy, %", "similarity", "shift"], rows, tiles)


def terminal_tables(inputs: Inputs, numbers: Numbers) -> list[Table]:
    """Build the tables for the terminal, which repeat their first column if they are split.

    Returns:
        The scores at each configuration's largest number of images, and the differences between the reference
        configuration and its baselines; or the counts of a synthetic dataset.
    """
    if inputs.kind == "set":
        return [_set_table(inputs)]
    points, level = numbers.points, numbers.level
    shown = [metric for metric in _TERMINAL if any(metric in scores for scores in points.values())]
    amounts = {name: max((series[-1].n for series in scores.values()), default=0) for name, scores in points.items()}
    synthetic = any(amounts.values())
    rows: list[list[object]] = []
    for configuration in numbers.configurations:
        scores = points.get(configuration.id, {})
        name = f"{configuration.id} at {n}" if (n := amounts.get(configuration.id)) else configuration.id
        rows.append([name, *(_mean(scores[metric][-1]) if metric in scores else None for metric in shown)])
    for name, baseline in run_baselines(inputs).items():
        cells = [None if (value := baseline.get(metric)) is None else f"{value:.1f}" for metric in shown]
        rows.append([name, *cells])
    errors = "; mean ± standard error over seeds" if numbers.several_seeds else ""
    at = "; at: synthetic images per class" if synthetic else ""
    headings = [METRIC_HEADINGS[metric] for metric in shown]
    tables = [text.table(f"Scores in per cent{errors}{at}", ["", *headings], rows)]
    if pairs := [pair for pair in numbers.differences if pair.configuration == numbers.reference != pair.baseline]:
        shown = [metric for metric in _DIFFERENCES if any(pair.metric == metric for pair in pairs)]
        differences: dict[str, dict[str, str]] = {}
        for pair in pairs:
            differences.setdefault(pair.baseline.id, {})[pair.metric] = f"{pair.size} ({pair.interval})"
        average = f"; mean over {pairs[0].images} images per class" if pairs[0].averaged_over else ""
        over = f" over seeds and {pairs[0].unit}" if pairs[0].unit else ""
        title = f"{pairs[0].configuration.id} minus baseline, points ({level} CI{over}){average}"
        rows = [[name, *map(of.get, shown)] for name, of in differences.items()]
        tables.append(text.table(title, ["baseline", *(METRIC_HEADINGS[metric] for metric in shown)], rows))
    return tables


def run_baselines(inputs: Inputs) -> dict[str, dict[str, float | None]]:
    """Return the scores of a single run's baselines in per cent by baseline and metric; {} for other reports."""
    scores = inputs.results.get("", {}).get(BASELINES) or {}
    return {name: scores[key] for key, name in BASELINE_NAMES.items() if key in scores}


def terminal_legend(numbers: Numbers) -> str:
    """Explain the configuration names and headings in `terminal_tables`; empty without scores."""
    shown = {metric for scores in numbers.points.values() for metric in scores if metric in _TERMINAL}
    labels = "; ".join(f"{each.id}: {each.label}" for each in numbers.configurations)
    return "\n".join(filter(None, [labels, legend(METRIC_HEADINGS[metric] for metric in shown)]))


def _mean(point: ScorePoint) -> str:
    return f"{point.mean:.1f}" if point.se is None else f"{point.mean:.1f} ± {point.se:.1f}"


def _set_table(inputs: Inputs) -> Table:
    classes, shards = counted(len(inputs.classnames), "class", "classes"), counted(inputs.shards, "shard")
    rows = [("images", f"{inputs.images} of {classes} in {shards}")]
    rows += [(f"rejected: {reason}", str(number)) for reason, number in inputs.rejects.most_common()]
    return text.table("Synthetic dataset", ["", ""], rows)
