"""Tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def show(table: Table | str) -> None:
    """Print to stdout, as wide as the terminal, or 200 columns wide where there is none."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table, highlight=False, markup=not isinstance(table, str))


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose numbers are aligned to the right; None is an empty cell, floats get one decimal."""
    rows = [list(row) for row in rows]
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column, heading in enumerate(headings):
        numbers = all(isinstance(row[column], int | float | None) for row in rows)
        shown.add_column(heading, justify="right" if numbers and rows else "left")
    for row in rows:
        shown.add_row(*map(_cell, row))
    return shown


def markdown_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    marks = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, marks, *rows])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
