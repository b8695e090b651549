"""The page itself: one HTML file with style, script, numbers and images inside, and the sentences around figures."""

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
from syncclip.core.text import counted, printable
from syncclip.reports.configurations import Numbers, gather_numbers
from syncclip.reports.figures import nearer, payload
from syncclip.reports.images import image_strips, reject_strips
from syncclip.reports.inputs import Inputs, read_inputs
from syncclip.reports.table import costs, datasets_table, quality_table, runs_table, terminal_table
from syncclip.reports.verdict import verdict_on

SCRIPTS = ("core.js", "save.js", "curve.js", "bars.js", "classes.js", "spread.js", "page.js")
"""In the order in which they run; each uses what those before it define."""
SECTIONS = {
    "curve": "Curve",
    "methods": "Methods",
    "datasets": "Datasets",
    "classes": "Classes",
    "images": "Images",
    "set": "Set",
    "map": "Domains",
    "training": "Training",
    "cost": "Cost",
    "appendix": "Numbers",
}
FONT = "inter.woff2"
"""Its licence, the SIL Open Font License 1.1, is beside it."""
FACE = (
    "@font-face { font-family: Inter; font-weight: 100 900; src: url(data:font/woff2;base64,FONT) format('woff2'); }\n"
)
MEASURES = {
    "all_classes_novel": "novel classes among all",
    "novel": "novel classes",
    "all_classes_hm": "harmonic mean among all classes",
    "hm": "harmonic mean",
}
FAILED_NAMED = 10
"""Failed runs that are named, before the rest is only counted."""


@dataclass(frozen=True)
class StudyReport:
    """A report that was written: the path or URL of its page, and its summary for `rich.print`."""

    url: str
    table: Table


def write_report(folder: str) -> StudyReport:
    """Write `report.html` into a folder, from whatever is there; what is missing is left out of the page.

    The page works from a file, without a network. After a crash either the old page is there or the new one.

    Args:
        folder: path or URL of a study, a single run, or a synthetic set.

    Raises:
        UserError: the folder holds none of these, or may not be written to.
    """
    found = read_inputs(folder)
    numbers = Numbers() if found.kind == "set" else gather_numbers(found)
    url = storage.join(found.url, "report.html")
    storage.write_sealed(url, render_page(found, numbers).encode(), owner=found.folder_owner)
    if storage.read_contents(found.url) is not None:
        storage.write_contents(found.url, found.folder_owner)
    return StudyReport(url, terminal_table(found, numbers))


def report(folder: str) -> str:
    """`write_report`, of which only the path or URL of the page is returned.

    Examples:
        >>> from syncclip import report
        >>> report("runs/study").endswith("runs/study/report.html")
        True
    """
    return write_report(folder).url


def render_page(found: Inputs, numbers: Numbers) -> str:
    """The report as HTML. Everything in it is escaped; nothing in it is fetched."""
    images = image_strips(found)
    tiles, bars = costs(found, numbers)
    values = payload(found, numbers, images, bars)
    quality, rejects, runs = (
        quality_table(found),
        reject_strips(found),
        runs_table(numbers.table, numbers.configurations),
    )
    datasets = datasets_table(found, numbers)
    name = found.dataset.name if found.dataset is not None else found.state.dataset if found.state else ""
    shipped = name.partition("/")[0] == "icons"
    notice = resources.files("syncclip.embedded").joinpath("NOTICE").read_text(encoding="utf-8") if shipped else ""
    growing = any(point.n for metrics in numbers.points.values() for series in metrics.values() for point in series)
    has = {
        "curve": found.kind == "study" and growing,
        "methods": bool(numbers.points or numbers.differences),
        "datasets": datasets is not None,
        "bars": bool(numbers.points),
        "differences": bool(numbers.differences),
        "classes": values["classes"] is not None,
        "images": images is not None,
        "set": bool(quality or rejects),
        "map": values["map"] is not None,
        "training": values["history"] is not None,
        "cost": bool(tiles or any(bars.values())),
        "time": bool(bars["time"]),
        "rejects": bool(bars["rejects"]),
        "appendix": bool(runs.rows or found.recipe_text or found.plan or notice),
    }
    verdict = verdict_on(found, numbers)
    return render(
        "report.html.j2",
        SCRIPTS,
        values,
        title=verdict.headline.rstrip("."),
        verdict=verdict,
        eyebrow=_eyebrow(found, numbers),
        study=found.kind == "study",
        images=images,
        level=numbers.level,
        measures=MEASURES,
        nearer=nearer(found.shift),
        resampled=" and ".join(["seeds", *sorted({one.unit for one in numbers.differences} - {""})]),
        sections=[(key, label) for key, label in SECTIONS.items() if has[key]],
        has=has,
        tiles=tiles,
        quality=quality,
        rejects=rejects,
        runs=runs,
        datasets=datasets,
        recipe=found.recipe_text,
        plan=json.dumps(found.plan, indent=2, ensure_ascii=False) if found.plan else "",
        attribution=notice,
        notes=[*_unfinished(found), *found.notes],
    )


def render(template: str, scripts: Sequence[str], values: Any, **words: Any) -> str:
    """A page in the report's style, whose figures draw `values`.

    Args:
        template: its name in `assets`.
        scripts: those of its figures, in `assets`; each uses what those before it define.
        values: data for JSON, every number finite.
        words: what the template writes itself.
    """
    assets = resources.files(__package__).joinpath("assets")
    text_of = {one.name: one.read_text(encoding="utf-8") for one in assets.iterdir() if one.name != FONT}
    font = base64.b64encode(assets.joinpath(FONT).read_bytes()).decode()
    # JSON that cannot end its script element, whatever names are in it.
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=vars)
    text = re.sub(r"[^ -~]", _in_string, text.replace("<", "\\u003c"))
    try:
        version = importlib.metadata.version("syncclip")
    except importlib.metadata.PackageNotFoundError:  # run from a working folder without being installed
        version = "(not installed)"
    environment = Environment(
        loader=DictLoader(text_of), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_printed
    )
    return environment.get_template(template).render(
        **words,
        version=version,
        style=Markup(FACE.replace("FONT", font) + text_of["style.css"]),
        script=Markup("\n".join(text_of[name] for name in scripts)),
        payload=Markup(text),
    )


def _printed(value: Any) -> Any:
    """What a template writes of a value; what is markup already stays so."""
    return printable(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _in_string(found: re.Match[str]) -> str:
    """A character in a string of JSON, whose escape the page shows where it isn't printable."""
    return found[0] if (shown := printable(found[0])) == found[0] else f"\\{shown}"


def _eyebrow(found: Inputs, numbers: Numbers) -> str:
    """The line above the headline: what this is a report on."""
    state = found.state.name if found.state else None
    name = found.recipe.get("name") or state or found.record.get("name") or found.plan.get("dataset")
    parts = [{"study": "Study", "run": "Run", "set": "Synthetic set"}[found.kind], str(name or "")]
    if found.classnames:
        parts.append(f"{counted(len(found.classnames), 'class', 'classes')}, {found.base} of them base")
    shots = found.section("dataset").get("shots")
    if shots and found.kind != "set":
        parts.append(f"{counted(shots, 'real image')} per base class")
    if found.table is not None and "seed" in found.table:
        parts.append(counted(found.table["seed"].dropna().nunique(), "seed"))
    if numbers.differences and numbers.differences[0].n:
        parts.append(f"up to {max(one.n or 0 for one in numbers.differences)} synthetic images per class")
    return " · ".join(part for part in parts if part)


def _unfinished(found: Inputs) -> list[str]:
    """A sentence about cells that are not done, the failed ones by name and reason; none where all are."""
    cells = found.state.cells if found.state else []
    failed = [cell for cell in cells if cell.status == "failed"]
    waiting = sum(cell.status == "waiting" for cell in cells)
    if not failed and not waiting:
        return []
    missing = [f"{waiting} {'is' if waiting == 1 else 'are'} still to be run"] if waiting else []
    missing += [f"{len(failed)} failed"] if failed else []
    sentence = f"Of {len(cells)} runs, {' and '.join(missing)}; the figures show the others."
    named = ", ".join(f"{cell.cell} ({cell.error or 'no reason given'})" for cell in failed[:FAILED_NAMED])
    more = f", and {len(failed) - FAILED_NAMED} more" if len(failed) > FAILED_NAMED else ""
    return [f"{sentence} Failed: {named}{more}." if failed else sentence]
