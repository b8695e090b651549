"""The tables of a reproduction, ours beside published ones: for the terminal, as Markdown, and as a page."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup

from syncclip import storage
from syncclip.core import tables
from syncclip.protocols.dots import dot_plots
from syncclip.protocols.plots import curve_plots
from syncclip.protocols.protocols import AVERAGE, Protocol, published
from syncclip.protocols.scores import Line, Scores, summarise
from syncclip.studies.outputs import write_table

MISSING = "–"


@dataclass(frozen=True)
class Grid:
    """One table: what it is about, its headings, its cells as text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(protocol: Protocol, table: pd.DataFrame, url: str) -> str:
    """Write `<protocol>.parquet`, `.md` and `.html` below `url`, print the tables, and return where the page is."""
    scores = summarise(protocol, table)
    shown = grids(scores)
    write_table(storage.join(url, f"{protocol.name}.parquet"), table)
    storage.write_bytes(storage.join(url, f"{protocol.name}.md"), markdown(scores).encode())
    page = storage.join(url, f"{protocol.name}.html")
    storage.write_bytes(page, render(scores).encode())
    for grid in shown:
        tables.show(tables.table(f"{protocol.title}: {grid.title}", grid.headings, grid.rows))
    for sentence in told(scores):
        tables.show(sentence)
    return page


def grids(scores: Scores) -> list[Grid]:
    """The tables: of one metric, all datasets side by side; of several, the average and then each dataset."""
    if len(scores.protocol.metrics) == 1:
        return [_side_by_side(scores)]
    over = [AVERAGE, *scores.tests] if len(scores.tests) > 1 else scores.tests
    return [_metrics(scores, one) for one in over]


def told(scores: Scores) -> list[str]:
    """In sentences: what was run, which gains are published, and where figures are from."""
    missing = scores.wanted - scores.done
    sentences = [
        f"Run here with {scores.setting}.",
        f"{scores.done} of {scores.wanted} tests are done"
        + (f"; {missing} are missing ({MISSING})." if missing else "."),
    ]
    if not scores.whole:
        sentences.append(
            f"Run on {len(scores.tests)} of {len(scores.protocol.datasets)} datasets, so no published average is set "
            "beside these."
        )
    sentences += _gains(scores)
    sources = published().sources(scores.protocol.name)
    if not sources:
        sentences.append("No published figures of this protocol come along.")
    elif scores.whole or any(scores.published(line, test) for line in scores.lines for test in scores.tests):
        sentences += [f"Published: {source}." for source in sources]
    return sentences


def markdown(scores: Scores) -> str:
    """The tables and sentences as Markdown."""
    parts = [f"# {scores.protocol.title}", "Accuracy on test images, per cent; means over seeds."]
    for grid in grids(scores):
        parts += [f"## {grid.title}", tables.markdown_grid(grid.headings, grid.rows)]
    return "\n\n".join([*parts, *told(scores)]) + "\n"


def render(scores: Scores) -> str:
    """The page: one HTML file that asks no server for anything."""
    template = resources.files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        title=scores.protocol.title,
        sentences=told(scores),
        curves=[Markup(plot) for plot in curve_plots(scores)],
        dots=[Markup(plot) for plot in dot_plots(scores)],
        grids=grids(scores),
        version=_version(),
    )


def _side_by_side(scores: Scores) -> Grid:
    (metric,) = scores.protocol.metrics
    over = [*scores.tests, AVERAGE] if len(scores.tests) > 1 else scores.tests
    rows = [[scores.label(line), *(_number(scores, line, one, metric) for one in over)] for line in scores.lines]
    return Grid(f"{scores.protocol.metrics[metric].capitalize()} on each dataset", ["method", *over], rows)


def _metrics(scores: Scores, over: str) -> Grid:
    known = {metric for line in scores.lines for metric in scores.published(line, over)}
    metrics = scores.protocol.metrics
    headings = [
        part for key in metrics for part in [metrics[key], *(["published", "difference"] if key in known else [])]
    ]
    rows = []
    for line in scores.lines:
        score, cells = scores.of[line, over], []
        for key in metrics:
            cells += [_number(scores, line, over, key), *(_beside(scores, line, over, key) if key in known else [])]
        rows.append([scores.label(line), f"{score.done} of {score.wanted}", *cells])
    what = "Average over the datasets" if over == AVERAGE else over
    return Grid(what, ["method", "runs", *headings], rows)


def _number(scores: Scores, line: Line, over: str, metric: str) -> str:
    value = scores.of[line, over].means.get(metric)
    return MISSING if value is None else f"{value:.2f}"


def _beside(scores: Scores, line: Line, over: str, metric: str) -> list[str]:
    """The published figure, and ours minus it."""
    theirs, ours = scores.published(line, over).get(metric), scores.of[line, over].means.get(metric)
    if theirs is None:
        return ["", ""]
    return [f"{theirs:.2f}", MISSING if ours is None else f"{ours - theirs:+.2f}"]


def _gains(scores: Scores) -> Iterator[str]:
    for gain in published().gains:
        if gain.protocol != scores.protocol.name or (gain.over == AVERAGE and not scores.whole):
            continue
        found = {line.method: scores.of[line, gain.over].means.get(gain.metric) for line in scores.lines}
        ours, other = found.get(gain.method), found.get(gain.against)
        here = MISSING if ours is None or other is None else f"{ours - other:+.2f}"
        heading = scores.protocol.metrics[gain.metric]
        yield f"{gain.method} over {gain.against}, {heading}: {here} points here, {gain.points:+.2f} published."


def _version() -> str:
    try:
        return importlib.metadata.version("syncclip")
    except importlib.metadata.PackageNotFoundError:  # run from a working folder without being installed
        return "(not installed)"
