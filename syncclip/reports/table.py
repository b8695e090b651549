"""The tables of the report: all runs and the classes of a set on the page, and the arms in the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich import box
from rich.table import Table

from syncclip import storage
from syncclip.core.text import counted, signed, thousands
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.reports.arms import ArmLook, ScorePoint
from syncclip.reports.figures import Tile
from syncclip.reports.inputs import Inputs
from syncclip.reports.numbers import Numbers

_COLUMNS = METRIC_HEADINGS | {"seconds": "seconds"}
_TERMINAL = ("base", "novel", "hm", "open_base", "open_novel", "open_hm")
_NARROW = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""Room matters: the whole table fits into 80 columns."""
_QUALITY = "stats.json"


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


def runs_table(table: pd.DataFrame | None, arms: Sequence[ArmLook]) -> PageTable:
    """All runs of a study, arm by arm in their order."""
    if table is None or "seed" not in table:
        return PageTable()
    shown = [key for key in _COLUMNS if key in table]
    order = {arm.id: place for place, arm in enumerate(arms)}
    ordered = table.assign(order=table["arm"].map(order)).sort_values(["order", "amount", "seed"], kind="stable")
    rows = []
    for row in ordered.to_dict("records"):
        label, amount, seed = arms[row["order"]].label, row["amount"], row["seed"]
        cells = [
            TableCell(label, label, words=True),
            TableCell(str(amount) if amount else "–", amount),
            TableCell("–", -1) if pd.isna(seed) else TableCell(f"{seed:.0f}", int(seed)),
        ]
        values = (row[key] for key in shown)
        cells += [
            TableCell("", "") if pd.isna(value) else TableCell(f"{value:.1f}", f"{value:.6g}") for value in values
        ]
        rows.append(cells)
    return PageTable(["method and data", "per class", "seed", *(_COLUMNS[key] for key in shown)], rows)


def quality_table(found: Inputs) -> PageTable | None:
    """What stats.json says of a set and of each class, the worst read class first; None where a set has none."""
    if found.synthetic is None or _QUALITY not in found.set_files:
        return None
    from syncclip.sets.quality import SetQuality  # needs torch, which the other reports don't

    try:
        quality = SetQuality.model_validate_json(storage.read_bytes(storage.join(found.synthetic.url, _QUALITY)))
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
    """Means and standard errors of every arm at its largest amount; what a bare set holds."""
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
    for arm in numbers.arms:
        scores = points.get(arm.id, {})
        amount = max((series[-1].n for series in scores.values()), default=0)
        cells = [_score(scores[metric][-1], best[metric]) if metric in scores else "" for metric in shown]
        table.add_row(arm.short, str(amount) if amount else "–", *cells, style="bold" if arm == numbers.focus else "")
    return table


def _set_table(found: Inputs) -> Table:
    """What a bare set holds, one fact a row."""
    table = Table(box=_NARROW, show_edge=False, show_header=False)
    count = sum(shard.count for shard in found.stats.values())
    classes, shards = counted(len(found.classnames), "class", "classes"), counted(len(found.stats), "shard")
    table.add_row("images", f"{count} of {classes} in {shards}")
    rejects: Counter[str] = Counter()
    for shard in found.stats.values():
        rejects.update(shard.rejects)
    for reason, number in rejects.most_common():
        table.add_row(f"rejected: {reason}", str(number))
    return table


def _score(point: ScorePoint, best: float) -> str:
    text = f"{point.mean:.1f}" + ("" if point.se is None else f"±{point.se:.1f}")
    return f"[green]{text}[/green]" if point.mean == best else text


def _caption(numbers: Numbers) -> str:
    compared = [
        f"{METRIC_HEADINGS[metric]}: {one.arm.short} over {one.against.short} {signed(one.difference)} "
        f"({signed(one.low)} to {signed(one.high)})"
        for metric in ("hm", "open_hm")
        for one in numbers.differences
        if one.metric == metric and one.arm == numbers.focus and one.against != one.arm
    ]
    return "\n".join(["per cent, mean ± standard error over seeds", *compared])
