"""A dot plot a metric, drawn by hand as SVG: one row a method, ours against published."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import escape

from syncclip.protocols.protocols import AVERAGE
from syncclip.protocols.scores import Line, Scores

LETTER, PANEL, ALONE, ROW, TOP, FOOT, SIDE = 6.3, 170, 300, 26, 34, 26, 16
"""Pixels: a letter of a name; width of a panel, and of one that stands alone; height of a row, of what is above and
below the rows; room at the right for half a number."""


def dot_plots(scores: Scores) -> list[str]:
    """An SVG element a metric: a small dot is a dataset, a large one the average, a ring the published figure."""
    return [_plot(scores, metric) for metric in scores.protocol.metrics]


def limits(values: list[float]) -> tuple[int, int]:
    """Round ends of an axis that holds all values, within 0 and 100, at least ten points apart."""
    low, high = (10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)) if values else (0, 100)
    return (low, high) if high > low else (max(0, low - 10), min(100, high + 10))


def ticks(low: int, high: int) -> range:
    """Round numbers between the ends of an axis, six at most."""
    return range(low, high + 1, next(step for step in (2, 5, 10, 20) if high - low <= 5 * step))


def svg(width: float, height: float, label: str, parts: Iterator[str]) -> str:
    """An SVG element that shrinks with the page and never grows beyond its own size."""
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="width: {width:.0f}px" role="img"'
    return "\n".join([f'{head} aria-label="{escape(label)}">', *parts, "</svg>"])


def _plot(scores: Scores, metric: str) -> str:
    names = 14 + LETTER * max((len(scores.label(line)) for line in scores.lines), default=0)
    panel = ALONE if len(scores.protocol.metrics) == 1 else PANEL
    height = TOP + ROW * len(scores.lines) + FOOT
    label = f"{scores.protocol.title}: {scores.protocol.metrics[metric]}"
    return svg(names + panel + SIDE, height, label, _parts(scores, metric, names, panel))


def _parts(scores: Scores, metric: str, left: float, panel: float) -> Iterator[str]:
    values = [value for line in scores.lines for value in _values(scores, line, metric)]
    low, high = limits(values)

    def x(value: float) -> str:
        return f"{left + panel * (value - low) / (high - low):.1f}"

    bottom = TOP + ROW * len(scores.lines)
    yield f'<text class="head" x="{left:.1f}" y="16">{escape(scores.protocol.metrics[metric])}</text>'
    for tick in ticks(low, high):
        yield f'<line class="tick" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP - 8}" y2="{bottom}"/>'
        yield f'<text class="axis" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick}</text>'
    for row, line in enumerate(scores.lines):
        name = scores.label(line)
        yield f'<text x="{left - 12:.1f}" y="{_y(row) + 4}" text-anchor="end">{escape(name)}</text>'
        for test in scores.tests:
            if (value := scores.of[line, test].means.get(metric)) is not None:
                told = f"{name} on {test}: {value:.2f}"
                yield f'<circle class="one" cx="{x(value)}" cy="{_y(row)}" r="3">{title(told)}</circle>'
        theirs = scores.published(line, AVERAGE).get(metric)
        if theirs is not None:
            told = f"{name}, published: {theirs:.2f}"
            yield f'<circle class="theirs" cx="{x(theirs)}" cy="{_y(row)}" r="8">{title(told)}</circle>'
        if (ours := scores.of[line, AVERAGE].means.get(metric)) is not None:
            told = f"{name}, average: {ours:.2f}"
            yield f'<circle class="ours" cx="{x(ours)}" cy="{_y(row)}" r="5.5">{title(told)}</circle>'


def _values(scores: Scores, line: Line, metric: str) -> Iterator[float]:
    for over in [*scores.tests, AVERAGE]:
        if metric in scores.of[line, over].means:
            yield scores.of[line, over].means[metric]
    if metric in scores.published(line, AVERAGE):
        yield scores.published(line, AVERAGE)[metric]


def title(text: str) -> str:
    """What a mark says when it is pointed at."""
    return f"<title>{escape(text)}</title>"


def _y(row: int) -> int:
    return TOP + ROW * row + ROW // 2
