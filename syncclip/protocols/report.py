"""The tables of a reproduction, ours beside published ones: for the terminal, as Markdown, and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from syncclip import storage
from syncclip.core import text
from syncclip.protocols.protocols import AVERAGE, HALVES, Protocol, published
from syncclip.protocols.scores import ResultLine, Scores, summarise
from syncclip.reports.page import render as render_page
from syncclip.studies.summary import TextTable

MISSING = "–"
SCRIPTS = ("core.js", "save.js", "protocol.js", "page.js")
GROWING = {"shots": "real images per class", "images_per_class": "synthetic images per class"}
"""What a curve of a protocol may run over: an attribute of its lines, and its name."""


def write(protocol: Protocol, table: pd.DataFrame, url: str) -> str:
    """Write `<protocol>.parquet`, `.md` and `.html` below `url`, print the tables, and return where the page is."""
    scores = summarise(protocol, table)
    shown = grids(scores)
    owner = storage.identity(f"{protocol.name} {table.to_csv(index=False)}")
    storage.write_table(storage.join(url, f"{protocol.name}.parquet"), table, owner)
    storage.write_sealed(storage.join(url, f"{protocol.name}.md"), markdown(scores).encode(), owner=owner)
    page = storage.join(url, f"{protocol.name}.html")
    storage.write_sealed(page, render(scores).encode(), owner=owner)
    for grid in shown:
        text.show(text.table(f"{protocol.title}: {grid.title}", grid.headings, grid.rows))
    for sentence in sentences(scores):
        text.show(sentence)
    return page


def grids(scores: Scores) -> list[TextTable]:
    """The tables: of one metric, all datasets side by side; of several, the average and then each dataset."""
    if len(scores.protocol.metrics) == 1:
        return [_side_by_side(scores)]
    over = [AVERAGE, *scores.tests] if len(scores.tests) > 1 else scores.tests
    return [*(_metrics(scores, one) for one in over), *_peers(scores)]


def sentences(scores: Scores) -> list[str]:
    """In sentences: what was run, which gains are published, and where the figures come from."""
    tests = [scores.of[line, test] for line in scores.lines for test in scores.tests]
    done, wanted = sum(one.done for one in tests), sum(one.wanted for one in tests)
    missing = f"; {wanted - done} are missing ({MISSING})" if done < wanted else ""
    found = [f"Run here with {scores.setting}.", f"{done} of {wanted} tests are done{missing}."]
    if not scores.whole:
        found.append(
            f"Run on {len(scores.tests)} of {len(scores.protocol.datasets)} datasets, so no published average is shown "
            "beside these."
        )
    found += _gains(scores)
    sources = published().sources(scores.protocol.name)
    if not sources:
        found.append("There are no published figures of this protocol.")
    elif scores.whole or any(scores.published(line, test) for line in scores.lines for test in scores.tests):
        found += [f"Published: {source}." for source in sources]
    return found


def markdown(scores: Scores) -> str:
    """The tables and sentences as Markdown."""
    parts = [f"# {scores.protocol.title}", "Accuracy on test images, per cent; means over seeds."]
    for grid in grids(scores):
        parts += [f"## {grid.title}", text.markdown_grid(grid.headings, grid.rows)]
    return "\n\n".join([*parts, *sentences(scores)]) + "\n"


def render(scores: Scores) -> str:
    """The page: one HTML file that asks no server for anything."""
    found = growth(scores)
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
        {"metrics": metrics, "lines": lines, "growth": found},
        title=scores.protocol.title,
        sentences=sentences(scores),
        sections=[("averages", "Averages"), *([("growth", "Growth")] if found else []), ("tables", "Numbers")],
        published=any(line["published"] for line in lines),
        grows=found is not None,
        grids=grids(scores),
    )


def growth(scores: Scores) -> dict[str, Any] | None:
    """Averages over a growing number of shots or of synthetic images; None where no method has three numbers.

    Returns:
        `heading` of the numbers, `numbers` ascending; `curves`, each a name and for every number a mapping of metric
        to mean, empty at a number that its method lacks; `levels`, the lines without such a number or with one.
    """
    groups: dict[tuple[str, str], list[ResultLine]] = {}
    for line in scores.lines:
        groups.setdefault((line.method, line.data), []).append(line)
    for along, heading in GROWING.items():
        curves: dict[str, dict[int, ResultLine]] = {}
        levels: list[ResultLine] = []
        for (method, data), lines in groups.items():
            by_number = {getattr(line, along): line for line in lines if getattr(line, along) is not None}
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
    rows = [[scores.label(line), *(_number(means[line, one]) for one in over)] for line in scores.lines]
    return TextTable(f"{scores.protocol.metrics[metric].capitalize()} on each dataset", ["method", *over], rows)


def _metrics(scores: Scores, over: str) -> TextTable:
    known = {metric for line in scores.lines for metric in scores.published(line, over)}
    metrics = scores.protocol.metrics
    headings = [
        part for key in metrics for part in [metrics[key], *(["published", "difference"] if key in known else [])]
    ]
    rows = []
    for line in scores.lines:
        score, beside, cells = scores.of[line, over], scores.published(line, over), []
        for key in metrics:
            ours, theirs = score.means.get(key), beside.get(key)
            cells.append(_number(ours))
            if theirs is not None:
                cells += [f"{theirs:.2f}", MISSING if ours is None else f"{ours - theirs:+.2f}"]
            elif key in known:
                cells += ["", ""]
        rows.append([scores.label(line), f"{score.done} of {score.wanted}", *cells])
    what = "Average over the datasets" if over == AVERAGE else over
    return TextTable(what, ["method", "runs", *headings], rows)


def _peers(scores: Scores) -> Iterator[TextTable]:
    """What methods reach that are not among those here, where an average can be held baseline theirs."""
    for peers in published().peers if scores.whole else ():
        if (peers.protocol, peers.over) == (scores.protocol.name, AVERAGE):
            rows = [
                [name, *(f"{one[key]:.2f}" for key in HALVES), peers.used.get(name, "")]
                for name, one in peers.methods.items()
            ]
            yield TextTable("Published by others", ["method", *HALVES.values(), "used besides"], rows)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _gains(scores: Scores) -> Iterator[str]:
    for gain in published().gains:
        if gain.protocol != scores.protocol.name or (gain.over == AVERAGE and not scores.whole):
            continue
        found = {line.method: scores.of[line, gain.over].means.get(gain.metric) for line in scores.lines}
        ours, other = found.get(gain.method), found.get(gain.baseline)
        here = MISSING if ours is None or other is None else f"{ours - other:+.2f}"
        heading = scores.protocol.metrics[gain.metric]
        yield f"{gain.method} over {gain.baseline}, {heading}: {here} points here, {gain.points:+.2f} published."
