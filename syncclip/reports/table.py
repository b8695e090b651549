"""The study in one table for a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich import box
from rich.table import Table

from syncclip.core.text import counted
from syncclip.reports.inputs import Sources, read_sources
from syncclip.reports.numbers import Numbers, gather_numbers
from syncclip.reports.verdict import signed

_COLUMNS = {
    "base": "base",
    "novel": "novel",
    "hm": "HM",
    "open_base": "open base",
    "open_novel": "open novel",
    "open_hm": "open HM",
}
_NARROW = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""Room matters: the whole table fits into 80 columns."""


def summary_table(folder: str) -> Table:
    """Means and standard errors of every arm at its largest amount, for `rich.print`.

    Args:
        folder: of a study, a single run or a synthetic set.

    Raises:
        UserError: the folder holds neither a study, nor a run, nor a synthetic set.
    """
    found = read_sources(folder)
    return _set_table(found) if found.kind == "set" else table_of(gather_numbers(found))


def _set_table(found: Sources) -> Table:
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


def table_of(numbers: Numbers) -> Table:
    """The table of numbers that are already read."""
    shown = [metric for metric in _COLUMNS if any(metric in scores for scores in numbers.points.values())]
    best = {
        metric: max(scores[metric][-1]["mean"] for scores in numbers.points.values() if metric in scores)
        for metric in shown
    }
    table = Table(caption=_caption(numbers), caption_justify="left", box=_NARROW, show_edge=False, padding=(0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("per\nclass", justify="right", no_wrap=True)
    for metric in shown:
        table.add_column(_COLUMNS[metric].replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    for arm in numbers.arms:
        scores = numbers.points.get(arm.id, {})
        amount = max((series[-1]["n"] for series in scores.values()), default=0)
        cells = [_cell(scores[metric][-1], best[metric]) if metric in scores else "" for metric in shown]
        table.add_row(arm.short, str(amount) if amount else "–", *cells, style="bold" if arm == numbers.focus else "")
    return table


def _cell(point: dict[str, Any], best: float) -> str:
    text = f"{point['mean']:.1f}" + (f"±{point['se']:.1f}" if point["se"] is not None else "")
    return f"[green]{text}[/green]" if point["mean"] == best else text


def _caption(numbers: Numbers) -> str:
    told = [
        f"{_COLUMNS[metric]}: {one.arm.short} over {one.against.short} {signed(one.difference)} "
        f"({signed(one.low)} to {signed(one.high)})"
        for metric in ("hm", "open_hm")
        for one in numbers.differences
        if one.metric == metric and one.arm == numbers.focus and one.against != one.arm
    ]
    return "\n".join(["per cent, mean ± standard error over seeds", *told])
