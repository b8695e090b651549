"""Numbers as tables and tiles: all runs, a set's classes and the costs on the page, and the configurations in the
terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from syncclip import storage
from syncclip.core.text import counted, printable, thousands
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.reports.configurations import ArmLook, Numbers, ScorePoint
from syncclip.reports.inputs import Inputs

_COLUMNS = METRIC_HEADINGS | {"seconds": "seconds"}
_TERMINAL = ("base", "novel", "hm", "all_classes_base", "all_classes_novel", "all_classes_hm")
_NARROW = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""Room matters: the whole table fits into 80 columns."""
_QUALITY = "stats.json"
_SUITE = ("novel", "hm", "all_classes_hm")
"""What is shown of each dataset of a suite."""


@dataclass(frozen=True)
class Tile:
    """A number with its label."""

    label: str
    number: str
    unit: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a bar; `text` is its value in words, `colour` a variable of the page's style."""

    name: str
    value: float
    text: str
    colour: str


@dataclass(frozen=True)
class TableCell:
    """A cell of a table that can be sorted: what it shows, what it is sorted by, and whether it is no number."""

    text: str
    value: str | float
    words: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table of the page; `tiles` are numbers that stand above it."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[TableCell]] = ()
    tiles: Sequence[Tile] = field(default_factory=list)

    @property
    def csv(self) -> str:
        """The values as CSV, with headings."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.columns, *([cell.value for cell in row] for row in self.rows)])
        return buffer.getvalue()


def costs(found: Inputs, numbers: Numbers) -> tuple[list[Tile], dict[str, list[Part]]]:
    """What the study, the run or the set took: by its own account, else by the markers of the shards.

    Returns:
        Its tiles, and two bars: where the `time` went, and what was kept or rejected (`rejects`). A bar of fewer than
        two parts says nothing and is empty.
    """
    synthesis, training, table = found.cost.synthesis, found.cost.training, numbers.table
    speed = (synthesis and synthesis.images_per_second) or 0.0
    busy = synthesis.busy_share if synthesis else None
    hours = (synthesis and synthesis.hours) or found.seconds / 3600
    trained = training.cells or (0 if found.table is None else len(found.table))
    images = found.images or (synthesis.images if synthesis else 0)
    rejected = found.rejects or Counter(synthesis.rejects if synthesis else {})
    spent = training.wall_hours or training.hours or float(found.record.get("seconds") or 0) / 3600
    tiles = []
    if images:
        tiles.append(Tile("images generated", thousands(images)))
    if speed:
        tiles.append(Tile("images generated per second", _short(speed)))
    elif found.images and found.seconds:
        tiles.append(Tile("images per second and actor", _short(found.images / found.seconds)))
    if hours:
        tiles.append(Tile("of generation", *_time((synthesis and synthesis.wall_hours) or hours)))
    if busy is not None:
        tiles.append(Tile("of the generation time busy", f"{100 * busy:.0f}", "%"))
    if trained:
        tiles.append(Tile("runs trained and tested", thousands(trained)))
    if spent:
        tiles.append(Tile("of training" if found.kind == "run" else "of training and testing", *_time(spent)))
    if training.busy_share is not None:
        tiles.append(Tile("of the training time busy", f"{100 * training.busy_share:.0f}", "%"))

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
        Part(name.replace("_", " "), count, thousands(count), colours[place] if place < len(colours) else "tone-0")
        for place, (name, count) in enumerate(counts)
    ]
    return tiles, {"time": time if len(time) > 1 else [], "rejects": rejects if images and rejected else []}


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _time(hours: float) -> tuple[str, str]:
    """A duration and its unit."""
    if hours < 1.5 / 60:
        return f"{3600 * hours:.0f}", "s"
    return (f"{60 * hours:.0f}", "min") if hours < 1.5 else (f"{hours:.1f}", "h")


def runs_table(table: pd.DataFrame | None, configurations: Sequence[ArmLook]) -> PageTable:
    """All runs of a study, configuration by configuration in their order."""
    if table is None or "seed" not in table:
        return PageTable()
    shown = [key for key in _COLUMNS if key in table]
    order = {configuration.id: place for place, configuration in enumerate(configurations)}
    ordered = table.assign(order=table["configuration"].map(order)).sort_values(
        ["order", "amount", "seed"], kind="stable"
    )
    rows = []
    for row in ordered.to_dict("records"):
        label, amount, seed = configurations[row["order"]].label, row["amount"], row["seed"]
        cells = [
            TableCell(label, label, words=True),
            TableCell(str(amount) if amount else "–", amount),
            TableCell("–", -1) if pd.isna(seed) else TableCell(f"{seed:.0f}", int(seed)),
        ]
        rows.append([*cells, *(_percent_cell(row[key]) for key in shown)])
    return PageTable(["method and data", "per class", "seed", *(_COLUMNS[key] for key in shown)], rows)


def _percent_cell(value: float) -> TableCell:
    return TableCell("", "") if pd.isna(value) else TableCell(f"{value:.1f}", f"{value:.6g}")


def datasets_table(found: Inputs, numbers: Numbers) -> PageTable | None:
    """Of a suite: what each configuration reached at its largest amount, on average and on each dataset, by the
    cells that have
    ended on all of them; else None."""
    table = found.datasets
    if table is None or found.table is None or not found.state:
        return None
    if not {"dataset", "cell", "configuration", "images_per_class", *_SUITE} <= set(table) or "cell" not in found.table:
        return None
    table = table[table["cell"].isin(found.table["cell"])]
    names, rows = found.state.datasets, []
    for metric in _SUITE:
        for configuration in numbers.configurations:
            mine, average = (
                table[table["configuration"] == configuration.id],
                numbers.points.get(configuration.id, {}).get(metric),
            )
            if average is None:
                continue
            if amount := average[-1].n:
                mine = mine[mine["images_per_class"] == amount]
            values = [average[-1].mean, *(mine[mine["dataset"] == name][metric].mean() for name in names)]
            label = f"{configuration.label}, {amount}" if amount else configuration.label
            words = [TableCell(text, text, words=True) for text in (METRIC_HEADINGS[metric], label)]
            rows.append([*words, *map(_percent_cell, values)])
    return PageTable(["metric", "method and data", "average", *names], rows) if rows else None


def quality_table(found: Inputs) -> PageTable | None:
    """What stats.json says of a set and of each class, the worst read class first; None where a set has none."""
    if found.synthetic is None or _QUALITY not in found.set_files:
        return None
    from syncclip.synthetic_sets.quality import SetQuality  # needs torch, which the other reports don't

    try:
        quality = SetQuality.model_validate_json(
            storage.read_sealed(storage.join(found.synthetic.url, _QUALITY), found.owner)
        )
    except (OSError, ValueError):
        found.notes.append(f"{_QUALITY} of the synthetic set could not be read and is left out.")
        return None
    tiles = [Tile("classified as their own class by the frozen CLIP", f"{quality.accuracy:.0f}", "%")]
    if quality.similarity is not None:
        real = "" if quality.real_similarity is None else f" (real ones: {quality.real_similarity:.2f})"
        tiles.append(Tile(f"similarity of two images of a class{real}", f"{quality.similarity:.2f}"))
    if quality.shift is not None and quality.shift.relative_distance is not None:
        tiles.append(Tile("shift from the real images", f"{quality.shift.relative_distance:.2f}"))
    tiles.append(
        Tile(f"near-duplicates among {thousands(quality.measured)} images", thousands(quality.near_duplicates))
    )
    if quality.prompts is not None:
        tiles.append(Tile("different prompts", thousands(quality.prompts.distinct)))
    rows = []
    for one in sorted(quality.classes, key=lambda one: (101 if one.accuracy is None else one.accuracy, one.name)):
        numbers = ((one.accuracy, 0), (one.similarity, 2), (one.shift, 2))
        cells = [
            TableCell("", "") if value is None else TableCell(f"{value:.{digits}f}", value) for value, digits in numbers
        ]
        rows.append([TableCell(one.name, one.name, words=True), TableCell(str(one.images), one.images), *cells])
    return PageTable(["class", "images", "accuracy, %", "similarity", "shift"], rows, tiles)


def terminal_table(found: Inputs, numbers: Numbers) -> Table:
    """Means and standard errors of every configuration at its largest amount; what a bare set holds."""
    if found.kind == "set":
        return _set_table(found)
    points = numbers.points
    shown = [metric for metric in _TERMINAL if any(metric in scores for scores in points.values())]
    best = {metric: max(scores[metric][-1].mean for scores in points.values() if metric in scores) for metric in shown}
    table = Table(caption=_caption(numbers), caption_justify="left", box=_NARROW, show_edge=False, padding=(0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("per\nclass", justify="right", no_wrap=True)
    for metric in shown:
        heading = METRIC_HEADINGS[metric].replace(" ", "\n")
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for configuration in numbers.configurations:
        scores = points.get(configuration.id, {})
        amount = max((series[-1].n for series in scores.values()), default=0)
        cells = [_score(scores[metric][-1], best[metric]) if metric in scores else "" for metric in shown]
        table.add_row(
            printable(configuration.short),
            str(amount) if amount else "–",
            *cells,
            style="bold" if configuration == numbers.reference else "",
        )
    return table


def _set_table(found: Inputs) -> Table:
    """What a bare set holds, one fact a row."""
    table = Table(box=_NARROW, show_edge=False, show_header=False)
    classes, shards = counted(len(found.classnames), "class", "classes"), counted(found.shards, "shard")
    table.add_row("images", f"{found.images} of {classes} in {shards}")
    for reason, number in found.rejects.most_common():
        table.add_row(printable(f"rejected: {reason}"), str(number))
    return table


def _score(point: ScorePoint, best: float) -> Text:
    text = f"{point.mean:.1f}" + ("" if point.se is None else f"±{point.se:.1f}")
    return Text(text, style="green" if point.mean == best else "")


def _caption(numbers: Numbers) -> str:
    compared = [
        f"{METRIC_HEADINGS[metric]}: {one.configuration.short} over {one.baseline.short} {one.size} ({one.interval}"
        + (f"; {one.caution})" if one.caution else ")")
        for metric in ("hm", "all_classes_hm")
        for one in numbers.differences
        if one.metric == metric and one.configuration == numbers.reference and one.baseline != one.configuration
    ]
    return "\n".join(["per cent, mean ± standard error over seeds", *compared])
