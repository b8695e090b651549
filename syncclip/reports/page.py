"""The page itself: one HTML file with style, script, numbers and images inside, and the sentences around figures."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup
from rich.table import Table

from syncclip import embedded, storage
from syncclip.core.text import counted, thousands
from syncclip.reports.figures import costs
from syncclip.reports.images import ImageStrips, image_strips, reject_strips
from syncclip.reports.inputs import Inputs, read_inputs
from syncclip.reports.numbers import Numbers, gather_numbers, payload
from syncclip.reports.table import quality_table, runs_table, terminal_table
from syncclip.reports.verdict import Verdict, judge

SCRIPTS = ("core.js", "curve.js", "bars.js", "classes.js", "spread.js", "page.js")
"""In the order in which they run; each uses what those before it define."""
SECTIONS = {
    "curve": "Curve",
    "methods": "Methods",
    "classes": "Classes",
    "images": "Images",
    "set": "Set",
    "map": "Domains",
    "training": "Training",
    "cost": "Cost",
    "appendix": "Numbers",
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
    numbers = gather_numbers(found)
    url = storage.join(found.url, "report.html")
    storage.write_bytes(url, render_page(found, numbers).encode())
    return StudyReport(url, terminal_table(found, numbers))


def report(folder: str) -> str:
    """`write_report`, of which only the path or URL of the page is returned."""
    return write_report(folder).url


def render_page(found: Inputs, numbers: Numbers) -> str:
    """The report as HTML. Everything in it is escaped; nothing in it is fetched."""
    images = _images(found)
    tiles, bars = costs(found, numbers.arms, numbers.table)
    values = payload(found, numbers, images, bars)
    quality, rejects, runs = quality_table(found), reject_strips(found), runs_table(numbers.table, numbers.arms)
    growing = any(point.n for metrics in numbers.points.values() for series in metrics.values() for point in series)
    has = {
        "curve": found.kind == "study" and growing,
        "bars": bool(numbers.points),
        "differences": bool(numbers.differences),
        "classes": values["classes"] is not None,
        "images": images is not None,
        "map": values["map"] is not None,
        "history": values["history"] is not None,
        "time": bool(bars.time),
        "rejects": bool(bars.rejects),
    }
    present = has | {
        "methods": has["bars"] or has["differences"],
        "set": bool(quality or rejects),
        "training": has["history"],
        "cost": bool(tiles or bars.time or bars.rejects),
        "appendix": bool(runs.rows or found.recipe_text or found.plan),
    }
    verdict = _verdict(found, numbers)
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
        sections=[(key, label) for key, label in SECTIONS.items() if present[key]],
        has=has,
        tiles=tiles,
        quality=quality,
        rejects=rejects,
        runs=runs,
        recipe=found.recipe_text,
        plan=json.dumps(found.plan, indent=2, ensure_ascii=False) if found.plan else "",
        attribution=_attribution(found),
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
    text_of = {one.name: one.read_text(encoding="utf-8") for one in assets.iterdir()}
    # JSON that cannot end its script element, whatever names are in it.
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=vars)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    try:
        version = importlib.metadata.version("syncclip")
    except importlib.metadata.PackageNotFoundError:  # run from a working folder without being installed
        version = "(not installed)"
    environment = Environment(loader=DictLoader(text_of), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(
        **words,
        version=version,
        style=Markup(text_of["style.css"]),
        script=Markup("\n".join(text_of[name] for name in scripts)),
        payload=Markup(text),
    )


def _images(found: Inputs) -> ImageStrips | None:
    try:
        images, lost = image_strips(found.classnames, found.dataset, found.synthetic)
    except Exception as error:  # a set that is being rewritten or was cut off must not cost the rest of the report
        found.notes.append(f"The images could not be read and are left out ({error}).")
        return None
    if lost:
        found.notes.append(f"{counted(lost, 'unreadable image')} left out of the page.")
    return images


def _verdict(found: Inputs, numbers: Numbers) -> Verdict:
    """The headline of a study, a run or a set."""
    if found.kind == "study":
        if numbers.arms:
            return judge(numbers.differences, numbers.points, numbers.focus)
        return Verdict(
            "No run of this study is finished yet.", sentences=["Start the study again: it resumes where it stopped."]
        )
    if found.kind == "run":
        return _run_verdict(numbers)
    count = sum(shard.count for shard in found.stats.values())
    if not count:
        return Verdict("No image has been generated yet.")
    images = f"{thousands(count)} synthetic image{'' if count == 1 else 's'}"
    generator = (found.plan.get("generator") or {}).get("pipeline")
    made = [f"Generated by {generator}, in {counted(len(found.stats), 'shard')}."] if generator else []
    return Verdict(f"{images} of {counted(len(found.classnames), 'class', 'classes')}.", sentences=made)


def _run_verdict(numbers: Numbers) -> Verdict:
    arm = numbers.arms[0] if numbers.arms else None
    scores = {metric: series[-1].mean for metric, series in numbers.points[arm.id].items()} if arm else {}
    if arm is None or "hm" not in scores:
        return Verdict(f"{arm.label if arm else 'This run'}: no results for both halves.")
    seen = {
        "both": "base classes, seen in real and synthetic images, and novel classes, seen only in synthetic ones",
        "real": "base classes, seen in real images, and novel classes, not seen at all",
        "synthetic": "base and novel classes, all seen only in synthetic images",
    }.get(arm.data, "base and novel classes, none of them seen before")
    opened = f" With all classes as candidates it is {scores['open_hm']:.1f}\u00a0%." if "open_hm" in scores else ""
    return Verdict(
        f"{arm.label}: {scores['base']:.1f}\u00a0% on base, {scores['novel']:.1f}\u00a0% on novel classes.",
        sentences=[
            f"The harmonic mean of {seen}, is {scores['hm']:.1f}\u00a0%, each half among its own candidates.{opened}"
        ],
    )


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


def _attribution(found: Inputs) -> str:
    """Authors and licences of the images that are shipped; empty for a user's own."""
    notices = [embedded.folder("icons/dataset") / "NOTICE", embedded.folder("NOTICE")]
    shipped = found.dataset is not None and found.dataset.name == "icons"
    return next((path.read_text(encoding="utf-8") for path in notices if shipped and path.is_file()), "")
