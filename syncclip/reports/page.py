"""Render a report as a self-contained HTML page."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup
from rich.table import Table

from syncclip import storage
from syncclip.core.text import MISSING, counted, printable
from syncclip.datasets.loading import SHIPPED
from syncclip.evaluation.metrics import legend
from syncclip.reports.configurations import Numbers, gather_numbers
from syncclip.reports.figures import nearer, payload
from syncclip.reports.images import image_strips, reject_strips
from syncclip.reports.inputs import Inputs, read_inputs
from syncclip.reports.table import (
    PageTable,
    costs,
    datasets_table,
    quality_table,
    runs_table,
    terminal_legend,
    terminal_tables,
)
from syncclip.reports.verdict import Verdict, verdict_on
from syncclip.studies.outputs import LEVELS, TABLE, TUNED, CellState, read_json
from syncclip.training.settings import SCHEDULES

SCRIPTS = ("core.js", "save.js", "curve.js", "bars.js", "classes.js", "spread.js", "page.js")
"""Scripts in execution order; later scripts depend on earlier ones."""
MAP_SCRIPTS = ("core.js", "save.js", "map.js", "page.js")
SEARCH_SCRIPTS = ("core.js", "save.js", "protocol.js", "search.js", "page.js")
SECTIONS = {
    "curve": "Curve",
    "methods": "Methods",
    "datasets": "Datasets",
    "classes": "Classes",
    "images": "Images",
    "set": "Quality",
    "map": "Domain shift",
    "training": "Training",
    "cost": "Cost",
    "appendix": "Results",
}
FONT = "inter.woff2"
"""Font file, licensed under the SIL Open Font License 1.1; see inter.LICENSE."""
FACE = (
    "@font-face { font-family: Inter; font-weight: 100 900; src: url(data:font/woff2;base64,FONT) format('woff2'); }\n"
)
MEASURES = {
    "all_classes_novel": "novel classes, all classes as candidates",
    "novel": "novel classes",
    "all_classes_hm": "harmonic mean, all classes as candidates",
    "hm": "harmonic mean",
    "all_classes_base": "base classes, all classes as candidates",
    "base": "base classes",
    "all_classes_accuracy": "accuracy, all classes as candidates",
    "openworld_auc": "OpenworldAUC",
}
MAX_FAILED = 10
"""Maximum number of failed runs to list by name."""


@dataclass(frozen=True)
class StudyReport:
    """Path or URL of a written report, with tables for the terminal and the text below them."""

    url: str
    tables: Sequence[Table]
    text: str = ""


def write_report(folder: str) -> StudyReport:
    """Atomically write a self-contained `report.html` to a folder. Sections without data are omitted.

    Args:
        folder: path or URL of a study, a run, a synthetic dataset, or a hyperparameter search.

    Raises:
        UserError: the folder contains no study, run, synthetic dataset or search, or is not writable.
    """
    if storage.exists(storage.join(folder, TUNED)) and not storage.exists(storage.join(folder, TABLE)):
        return _write_search(folder)
    for url in (folder, storage.join(folder, "study")):
        if storage.exists(storage.join(url, LEVELS)):
            return _write_map(url)
    inputs = read_inputs(folder)
    numbers = Numbers() if inputs.kind == "set" else gather_numbers(inputs)
    url = storage.join(inputs.url, "report.html")
    verdict = verdict_on(inputs, numbers)
    storage.write_with_checksum(url, render_page(inputs, numbers, verdict).encode(), owner=inputs.folder_owner)
    if storage.read_contents(inputs.url) is not None:
        storage.write_contents(inputs.url, inputs.folder_owner)
    headline = f"{verdict.headline} ({verdict.interval})" if verdict.interval else verdict.headline
    lines = [terminal_legend(numbers), *verdict.sentences, headline]
    return StudyReport(url, terminal_tables(inputs, numbers), "\n".join(filter(None, lines)))


def _write_map(url: str) -> StudyReport:
    """Write the report of a study with several pretrained tags."""
    from syncclip.reports import gain_map

    study = gain_map.read_map(url)
    verdict, metric = gain_map.judge(study)
    words = gain_map.page_words(study, verdict, metric)
    page = render("map.html.j2", MAP_SCRIPTS, gain_map.figure_values(study, metric), **words)
    path = storage.join(url, "report.html")
    storage.write_with_checksum(path, page.encode(), owner=study.state.owner)
    storage.write_contents(url, study.state.owner)
    return StudyReport(path, [gain_map.terminal_table(study, verdict, metric)])


def _write_search(url: str) -> StudyReport:
    """Write the report of a hyperparameter search."""
    from syncclip.reports import search

    owner = storage.read_owner(storage.join(url, TUNED))
    record = read_json(storage.join(url, TUNED), owner)
    path = storage.join(url, "report.html")
    page = render("search.html.j2", SEARCH_SCRIPTS, search.figure_values(record), **search.page_words(record))
    storage.write_with_checksum(path, page.encode(), owner=owner)
    storage.write_contents(url, owner)
    return StudyReport(path, [search.terminal_table(record)])


def report(folder: str) -> str:
    """Write a self-contained report of a study, run, synthetic dataset or search, and return its path or URL.

    Args:
        folder: path or URL of the study, run, synthetic dataset or hyperparameter search, to which `report.html` is
            written.

    Examples:
        >>> from syncclip import report
        >>> report("runs/study").endswith("runs/study/report.html")
        True
    """
    return write_report(folder).url


def render_page(inputs: Inputs, numbers: Numbers, verdict: Verdict) -> str:
    """Render the report as HTML; all content is escaped."""
    images = image_strips(inputs)
    tiles, bars = costs(inputs, numbers)
    values = payload(inputs, numbers, images, bars, verdict.metric)
    quality, rejects = quality_table(inputs), reject_strips(inputs)
    runs = PageTable() if numbers.table is None else runs_table(numbers.table, numbers.configurations)
    datasets = None if inputs.datasets is None else datasets_table(inputs.datasets, inputs, numbers)
    name = inputs.dataset.name if inputs.dataset is not None else inputs.state.dataset if inputs.state else ""
    shipped = name.partition("/")[0] in SHIPPED
    notice = resources.files("syncclip.embedded").joinpath("NOTICE").read_text(encoding="utf-8") if shipped else ""
    growing = any(point.n for metrics in numbers.points.values() for series in metrics.values() for point in series)
    has = {
        "curve": inputs.kind == "study" and growing,
        "methods": bool(numbers.points or numbers.differences),
        "datasets": datasets is not None,
        "bars": bool(numbers.points),
        "several": numbers.several_seeds,
        "differences": bool(numbers.differences),
        "classes": values["classes"] is not None,
        "images": images is not None,
        "set": bool(quality or rejects),
        "map": values["map"] is not None,
        "training": values["history"] is not None,
        "cost": bool(tiles or any(bars.values())),
        "time": bool(bars["time"]),
        "rejects": bool(bars["rejects"]),
        "appendix": bool(runs.rows or inputs.recipe_text or inputs.plan or notice),
    }
    return render(
        "report.html.j2",
        SCRIPTS,
        values,
        title=verdict.headline.rstrip("."),
        verdict=verdict,
        eyebrow=_eyebrow(inputs, numbers),
        study=inputs.kind == "study",
        images=images,
        level=numbers.level,
        measures=MEASURES,
        nearer=nearer(inputs.shift) if inputs.shift else "",
        resampled=" and ".join(["seeds", *sorted({pair.unit for pair in numbers.differences} - {""})]),
        sections=[(key, label) for key, label in SECTIONS.items() if has[key]],
        has=has,
        tiles=tiles,
        quality=quality,
        rejects=rejects,
        runs=runs,
        terms=legend([*runs.columns, MISSING], "; "),
        datasets=datasets,
        recipe=inputs.recipe_text,
        plan=json.dumps(inputs.plan, indent=2, ensure_ascii=False) if inputs.plan else "",
        attribution=notice,
        notes=[*(_unfinished(inputs.state.cells) if inputs.state else ()), *inputs.notes],
    )


def render(template: str, scripts: Sequence[str], values: Any, **words: Any) -> str:
    """Render a page from a template, scripts and data.

    Args:
        template, scripts: file names in `assets`.
        values: figure data, serialised as JSON; numbers must be finite.
        words: template variables.
    """
    assets = resources.files(__package__).joinpath("assets")
    text_of = {file.name: file.read_text(encoding="utf-8") for file in assets.iterdir() if file.name != FONT}
    font = base64.b64encode(assets.joinpath(FONT).read_bytes()).decode()
    # Escaping "<" keeps the JSON from closing its script element.
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=vars)
    text = re.sub(
        r"[^ -~]",
        lambda match: f"\\{shown}" if (shown := printable(match[0])) != match[0] else shown,
        text.replace("<", "\\u003c"),
    )
    try:
        version = importlib.metadata.version("syncclip")
    except importlib.metadata.PackageNotFoundError:  # not installed, but run from a clone
        version = "(not installed)"
    environment = Environment(
        loader=DictLoader(text_of), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_printed
    )
    return environment.get_template(template).render(
        **words,
        version=version,
        style=Markup(FACE.replace("FONT", font) + text_of["palette.css"] + text_of["style.css"]),
        script=Markup("\n".join(text_of[name] for name in scripts)),
        payload=Markup(text),
    )


def _printed(value: Any) -> Any:
    """Escape unprintable characters in a template variable, except in markup."""
    return printable(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _eyebrow(inputs: Inputs, numbers: Numbers) -> str:
    """Return the line above the headline, which describes the report's subject."""
    state = inputs.state.name if inputs.state else None
    name = inputs.recipe.get("name") or state or inputs.record.get("name") or inputs.plan.get("dataset")
    parts = [{"study": "Study", "run": "Run", "set": "Synthetic dataset"}[inputs.kind], str(name or "")]
    if inputs.classnames:
        parts.append(f"{counted(len(inputs.classnames), 'class', 'classes')} ({inputs.base} base)")
    shots = inputs.section("dataset").get("shots")
    if shots and inputs.kind != "set":
        parts.append(f"{counted(shots, 'real image')} per base class")
    if inputs.table is not None and "seed" in inputs.table:
        parts.append(counted(inputs.table["seed"].dropna().nunique(), "seed"))
    if most := max((n for pair in numbers.differences for n in (pair.n or 0, *pair.averaged_over)), default=0):
        parts.append(f"up to {most} synthetic images per class")
    if inputs.kind == "study" and (schedule := SCHEDULES.get(inputs.section("training").get("epochs_over", ""))):
        parts.append(schedule)
    return " · ".join(part for part in parts if part)


def _unfinished(cells: Sequence[CellState]) -> list[str]:
    """Return a note about unfinished runs, with the names and errors of failed runs; empty if all runs are finished."""
    failed = [cell for cell in cells if cell.status == "failed"]
    waiting = sum(cell.status == "waiting" for cell in cells)
    if not failed and not waiting:
        return []
    missing = [f"{waiting} {'is' if waiting == 1 else 'are'} waiting"] if waiting else []
    missing += [f"{len(failed)} failed"] if failed else []
    sentence = f"Of {len(cells)} runs, {' and '.join(missing)}; the figures show only finished runs."
    named = ", ".join(f"{cell.cell} ({cell.error or 'no reason given'})" for cell in failed[:MAX_FAILED])
    more = f", and {len(failed) - MAX_FAILED} more" if len(failed) > MAX_FAILED else ""
    return [f"{sentence} Failed: {named}{more}." if failed else sentence]
