"""Averages over a growing number of images, a plot a metric, drawn by hand as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import escape

from syncclip.protocols.dots import LETTER, limits, svg, ticks, title
from syncclip.protocols.protocols import AVERAGE
from syncclip.protocols.scores import Line, Scores

LEFT, PANEL, ALONE, TOP, HEIGHT, FOOT, APART = 30, 200, 300, 34, 200, 44, 15
"""Pixels: room for numbers, width of a panel, and of one that stands alone; height of what is above a panel, of the
panel, of what is below it; least distance of two names."""
SERIES = 8
"""Colours of the page."""


@dataclass(frozen=True)
class Growth:
    """Lines of one method that differ in one number of images only.

    Attributes:
        along: that number, by the name of a line's attribute.
        curves: name -> lines, by that number, ascending.
        levels: lines that have no such number, or one alone.
    """

    along: str
    curves: Mapping[str, Sequence[Line]]
    levels: Sequence[Line]

    @property
    def numbers(self) -> list[int]:
        """Of images, all that occur in a curve."""
        return sorted({getattr(line, self.along) for lines in self.curves.values() for line in lines})


HEADINGS = {"shots": "real images of each class", "images_per_class": "synthetic images of each class"}


def growth(lines: Sequence[Line]) -> Growth | None:
    """What grows in a protocol: shots or synthetic images; None where nothing has three different numbers."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.method, line.data), []).append(line)
    for along in HEADINGS:
        curves, levels = {}, []
        for (method, data), group in groups.items():
            numbers = {getattr(line, along) for line in group} - {None}
            if len(numbers) == len(group) > 2:
                name = group[0].name if len({line.arm for line in group}) == 1 else f"{method}, {data}"
                curves[name] = sorted(group, key=lambda line: int(getattr(line, along)))
            else:
                levels += group
        if curves:
            return Growth(along, curves, levels)
    return None


def curve_plots(scores: Scores) -> list[str]:
    """An SVG element a metric, none where nothing grows; a dashed line is a method that the number doesn't touch."""
    found = growth(scores.lines)
    return [] if found is None else [_plot(scores, found, metric) for metric in scores.protocol.metrics]


def _plot(scores: Scores, found: Growth, metric: str) -> str:
    panel = ALONE if len(scores.protocol.metrics) == 1 else PANEL
    names = [*found.curves, *(line.name for line in found.levels)]
    width = LEFT + panel + 12 + LETTER * max(map(len, names))
    label = f"{scores.protocol.title}: {scores.protocol.metrics[metric]} over {HEADINGS[found.along]}"
    return svg(width, TOP + HEIGHT + FOOT, label, _parts(scores, found, metric, panel))


def _parts(scores: Scores, found: Growth, metric: str, panel: float) -> Iterator[str]:
    def mean(line: Line) -> float | None:
        return scores.of[line, AVERAGE].means.get(metric)

    series: list[tuple[str, list[tuple[int, float]]]] = [
        (name, [(getattr(line, found.along), value) for line in lines if (value := mean(line)) is not None])
        for name, lines in found.curves.items()
    ]
    levels = [(line.name, value) for line in found.levels if (value := mean(line)) is not None]
    low, high = limits([value for _, points in series for _, value in points] + [value for _, value in levels])
    numbers = found.numbers

    def x(number: int) -> float:
        return LEFT + panel * numbers.index(number) / (len(numbers) - 1)

    def y(value: float) -> float:
        return TOP + HEIGHT * (high - value) / (high - low)

    yield f'<text class="head" x="{LEFT}" y="16">{escape(scores.protocol.metrics[metric])}</text>'
    for tick in ticks(low, high):
        yield f'<line class="tick" x1="{LEFT}" x2="{LEFT + panel}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        yield f'<text class="axis" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>'
    for number in numbers:
        yield f'<text class="axis" x="{x(number):.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{number}</text>'
    middle = LEFT + panel / 2
    yield f'<text class="axis" x="{middle}" y="{TOP + HEIGHT + 38}" text-anchor="middle">{HEADINGS[found.along]}</text>'
    ends: list[tuple[str, float, str]] = []
    for name, value in levels:
        yield f'<line class="level" x1="{LEFT}" x2="{LEFT + panel}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        ends.append((name, y(value), "axis"))
    for place, (name, points) in enumerate(series):
        colour = f"series series{place % SERIES}"
        path = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in points)
        yield f'<polyline class="{colour}" points="{path}"/>'
        for number, value in points:
            told = title(f"{name}, {number}: {value:.2f}")
            yield f'<circle class="{colour}" cx="{x(number):.1f}" cy="{y(value):.1f}" r="3.5">{told}</circle>'
        if points:
            ends.append((name, y(points[-1][1]), colour))
    for (name, _, kind), height in zip(ends, apart([place for _, place, _ in ends]), strict=True):
        yield f'<text class="{kind}" x="{LEFT + panel + 10}" y="{height + 4:.1f}">{escape(name)}</text>'


def apart(places: Sequence[float]) -> list[float]:
    """Heights of names near those that are wanted, in the same order, `APART` each, none below the panel's foot."""
    order = sorted(range(len(places)), key=lambda one: places[one])
    moved, least, most = list(places), float("-inf"), float(TOP + HEIGHT)
    for one in order:
        moved[one] = max(moved[one], least)
        least = moved[one] + APART
    for one in reversed(order):
        moved[one] = min(moved[one], most)
        most = moved[one] - APART
    return moved
