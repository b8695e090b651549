"""Report that compares a reproduction with published results, as tables (terminal, Markdown) and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from syncclip import storage
from syncclip.core import text
from syncclip.core.text import MISSING
from syncclip.protocols.protocols import AVERAGE, WITHIN_SPLIT, Protocol, published
from syncclip.protocols.scores import ResultLine, Scores, summarise
from syncclip.reports.page import render as render_page
from syncclip.studies.summary import TextTable

SCRIPTS = ("core.js", "save.js", "protocol.js", "page.js")
GROWING = {"shots": "real images per class", "images_per_class": "synthetic images per class"}
"""Attributes of `ResultLine` for the curves' horizontal axis, with the axis labels."""


def write(protocol: Protocol, table: pd.DataFrame, url: str) -> str:
    """Write `<protocol>.parquet`, `.md` and `.html` to a folder, print the tables, and return the page's URL."""
    scores = summarise(protocol, table)
    owner = storage.identity(f"{protocol.name} {table.to_csv(index=False)}")
    storage.write_table(storage.join(url, f"{protocol.name}.parquet"), table, owner)
    storage.write_with_checksum(storage.join(url, f"{protocol.name}.md"), markdown(scores).encode(), owner=owner)
    page = storage.join(url, f"{protocol.name}.html")
    storage.write_with_checksum(page, render(scores).encode(), owner=owner)
    for grid in grids(scores):
        text.show(text.table(f"{protocol.title}: {grid.title}", grid.headings, grid.rows))
    for sentence in sentences(scores):
        text.show(sentence)
    return page


def grids(scores: Scores) -> list[TextTable]:
    """Return a single table if there is only one metric, else a table of averages and a table for each dataset."""
    if len(scores.protocol.metrics) == 1:
        return [_side_by_side(scores)]
    over = [AVERAGE, *scores.tests] if len(scores.tests) > 1 else scores.tests
    return [*(_metrics(scores, test) for test in over), *_peers(scores)]


def sentences(scores: Scores) -> list[str]:
    """Return notes on the experimental setting, missing runs, published gains, and sources."""
    tests = [scores.of[line, test] for line in scores.lines for test in scores.tests]
    done, wanted = sum(score.done for score in tests), sum(score.wanted for score in tests)
    missing = f"; {wanted - done} are missing ({MISSING})" if done < wanted else ""
    result = [f"Setting: {scores.setting}.", f"{done} of {wanted} tests are finished{missing}."]
    if not scores.complete:
        datasets = f"{len(scores.tests)} of {len(scores.protocol.datasets)} datasets"
        result.append(f"The published average is not shown, because only {datasets} were evaluated.")
    result += _gains(scores)
    sources = published().sources(scores.protocol.name)
    if not sources:
        result.append("There are no published results for this protocol.")
    elif scores.complete or any(scores.published(line, test) for line in scores.lines for test in scores.tests):
        result += [f"Published: {source}." for source in sources]
    return result


def markdown(scores: Scores) -> str:
    """Format the tables and notes as Markdown."""
    parts = [f"# {scores.protocol.title}", "Accuracy on test images in per cent, averaged over seeds."]
    for grid in grids(scores):
        parts += [f"## {grid.title}", text.markdown_grid(grid.headings, grid.rows)]
    return "\n\n".join([*parts, *sentences(scores)]) + "\n"


def render(scores: Scores) -> str:
    """Render the report as a self-contained HTML page."""
    curves = growth(scores)
    lines = [
        {
            "label": scores.label(line),
            "tests": [{"name": test, "scores": scores.of[line, test].means} for test in scores.tests],
            "average": scores.of[line, AVERAGE].means,
            "published": scores.published(line, AVERAGE),
        }
        for line in scores.lines
    ]
    metrics = [{"key": key, "label": label} for key, label in scores.protocol.metrics.items()]
    return render_page(
        "protocol.html.j2",
        SCRIPTS,
        {"metrics": metrics, "lines": lines, "growth": curves},
        title=scores.protocol.title,
        sentences=sentences(scores),
        sections=[("averages", "Averages"), *([("growth", "Growth")] if curves else []), ("tables", "Numbers")],
        published=any(line["published"] for line in lines),
        grows=curves is not None,
        grids=grids(scores),
    )


def growth(scores: Scores) -> dict[str, Any] | None:
    """Return curves of average accuracy against the number of shots or synthetic images.

    Returns:
        Mapping with `heading` (axis label), `numbers` (axis values), `curves` (a name and one point {metric: mean} per
        axis value, or {} if the value is missing) and `levels` (configurations with a fixed number of shots or images).
        None if no method has results for at least three axis values.
    """
    groups: dict[tuple[str, str], list[ResultLine]] = {}
    for line in scores.lines:
        groups.setdefault((line.method, line.data), []).append(line)
    for attribute, heading in GROWING.items():
        curves: dict[str, dict[int, ResultLine]] = {}
        levels: list[ResultLine] = []
        for (method, data), lines in groups.items():
            by_number = {getattr(line, attribute): line for line in lines if getattr(line, attribute) is not None}
            if len(by_number) == len(lines) > 2:
                name = lines[0].name if len({line.configuration for line in lines}) == 1 else f"{method}, {data}"
                curves[name] = by_number
            else:
                levels += lines
        if curves:
            numbers = sorted({number for lines in curves.values() for number in lines})
            means = {line: scores.of[line, AVERAGE].means for line in scores.lines}
            return {
                "heading": heading,
                "numbers": numbers,
                "curves": [
                    {"name": name, "points": [means[lines[number]] if number in lines else {} for number in numbers]}
                    for name, lines in curves.items()
                ],
                "levels": [{"name": line.name, "scores": means[line]} for line in levels],
            }
    return None


def _side_by_side(scores: Scores) -> TextTable:
    (metric,) = scores.protocol.metrics
    over = [*scores.tests, AVERAGE] if len(scores.tests) > 1 else scores.tests
    means = {key: score.means.get(metric) for key, score in scores.of.items()}
    rows = [[scores.label(line), *(_number(means[line, test]) for test in over)] for line in scores.lines]
    return TextTable(f"{scores.protocol.metrics[metric].capitalize()} on each dataset", ["method", *over], rows)


def _metrics(scores: Scores, over: str) -> TextTable:
    metrics = scores.protocol.metrics
    reported = {metric for line in scores.lines for metric in scores.published(line, over)}
    beside = ["published", "difference"]
    headings = [part for key in metrics for part in [metrics[key], *(beside if key in reported else [])]]
    rows = []
    for line in scores.lines:
        score, literature, cells = scores.of[line, over], scores.published(line, over), []
        for key in metrics:
            ours, theirs = score.means.get(key), literature.get(key)
            cells.append(_number(ours))
            if theirs is not None:
                cells += [f"{theirs:.2f}", MISSING if ours is None else f"{ours - theirs:+.2f}"]
            elif key in reported:
                cells += ["", ""]
        rows.append([scores.label(line), f"{score.done} of {score.wanted}", *cells])
    title = "Average over the datasets" if over == AVERAGE else over
    return TextTable(title, ["method", "runs", *headings], rows)


def _peers(scores: Scores) -> Iterator[TextTable]:
    """Yield tables of other methods' published results if all of the protocol's datasets were evaluated."""
    for peers in published().peers if scores.complete else ():
        if (peers.protocol, peers.over) == (scores.protocol.name, AVERAGE):
            rows = [
                [name, *(f"{means[key]:.2f}" for key in WITHIN_SPLIT), peers.used.get(name, "")]
                for name, means in peers.methods.items()
            ]
            yield TextTable(
                "Published results of other methods", ["method", *WITHIN_SPLIT.values(), "additional data"], rows
            )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _gains(scores: Scores) -> Iterator[str]:
    for gain in published().gains:
        if gain.protocol != scores.protocol.name or (gain.over == AVERAGE and not scores.complete):
            continue
        means = {line.method: scores.of[line, gain.over].means.get(gain.metric) for line in scores.lines}
        ours, baseline = means.get(gain.method), means.get(gain.baseline)
        points = MISSING if ours is None or baseline is None else f"{ours - baseline:+.2f}"
        heading = scores.protocol.metrics[gain.metric]
        yield f"{gain.method} over {gain.baseline}, {heading}: {points} points here, {gain.points:+.2f} published."
