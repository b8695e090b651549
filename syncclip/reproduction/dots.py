"""A dot plot, drawn by hand as SVG: one row a method, one panel a metric, ours against published."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import escape

from syncclip.reproduction.published import AVERAGE
from syncclip.reproduction.scores import Line, Scores

NAMES, PANEL, GAP, ROW, TOP, FOOT = 230, 270, 34, 26, 34, 26
"""Pixels: width of the names, of a panel, between panels; height of a row, of what is above and below the rows."""


def dot_plot(scores: Scores) -> str:
    """The plot as one SVG element. A small dot is a data set, a large one the average, a ring the published figure."""
    metrics = scores.protocol.metrics
    width = NAMES + len(metrics) * (PANEL + GAP)
    height = TOP + ROW * len(scores.lines) + FOOT
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(scores.protocol.title)}">',
        *(
            f'<text class="name" x="{NAMES - 14}" y="{_y(row) + 4}" text-anchor="end">{escape(line.name)}</text>'
            for row, line in enumerate(scores.lines)
        ),
    ]
    for place, metric in enumerate(metrics):
        parts += _panel(scores, metric, NAMES + place * (PANEL + GAP))
    return "\n".join([*parts, "</svg>"])


def limits(values: list[float]) -> tuple[int, int]:
    """Round ends of an axis that holds all values, within 0 and 100, at least ten points apart."""
    low, high = (10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)) if values else (0, 100)
    return (low, high) if high > low else (max(0, low - 10), min(100, high + 10))


def _panel(scores: Scores, metric: str, left: int) -> Iterator[str]:
    values = [value for line in scores.lines for value in _values(scores, line, metric)]
    low, high = limits(values)

    def x(value: float) -> str:
        return f"{left + PANEL * (value - low) / (high - low):.1f}"

    bottom = TOP + ROW * len(scores.lines)
    yield f'<text class="head" x="{left}" y="16">{escape(scores.protocol.metrics[metric])}</text>'
    step = 10 if high - low <= 50 else 20
    for tick in range(low, high + 1, step):
        yield f'<line class="tick" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP - 8}" y2="{bottom}"/>'
        yield f'<text class="axis" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick}</text>'
    for row, line in enumerate(scores.lines):
        for test in scores.tests:
            if (value := scores.of[line, test].means.get(metric)) is not None:
                told = f"{line.name} on {test}: {value:.2f}"
                yield f'<circle class="one" cx="{x(value)}" cy="{_y(row)}" r="3">{_title(told)}</circle>'
        theirs = scores.published(line, AVERAGE).get(metric)
        if theirs is not None:
            told = f"{line.name}, published: {theirs:.2f}"
            yield f'<circle class="theirs" cx="{x(theirs)}" cy="{_y(row)}" r="8">{_title(told)}</circle>'
        if (ours := scores.of[line, AVERAGE].means.get(metric)) is not None:
            told = f"{line.name}, average: {ours:.2f}"
            yield f'<circle class="ours" cx="{x(ours)}" cy="{_y(row)}" r="5.5">{_title(told)}</circle>'


def _values(scores: Scores, line: Line, metric: str) -> Iterator[float]:
    for over in [*scores.tests, AVERAGE]:
        if metric in scores.of[line, over].means:
            yield scores.of[line, over].means[metric]
    if metric in scores.published(line, AVERAGE):
        yield scores.published(line, AVERAGE)[metric]


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _y(row: int) -> int:
    return TOP + ROW * row + ROW // 2
