"""The sentences of the page that depend on what was found; what is always said stands in the template."""

from __future__ import annotations

from syncclip.core.text import counted
from syncclip.reports.inputs import Sources
from syncclip.reports.numbers import Numbers
from syncclip.reports.verdict import Verdict, judge


def verdict_of(found: Sources, numbers: Numbers) -> Verdict:
    """The headline of whatever the folder is."""
    if found.kind == "study":
        if not numbers.arms:
            return Verdict(
                "No run of this study is finished yet.",
                sentences=["Start the study again: it goes on where it stopped."],
            )
        return judge(numbers.differences, numbers.points, numbers.focus)
    if found.kind == "run":
        return _run(numbers)
    count = sum(shard.count for shard in found.stats.values())
    classes = counted(len(found.classnames), "class", "classes")
    drawn = f"{counted(count, 'synthetic image')} of {classes}."
    said = drawn.replace(",", " ") if count else "No image is drawn yet."
    generator = (found.plan.get("generator") or {}).get("pipeline")
    return Verdict(
        said,
        sentences=[f"Drawn by {generator}, in {counted(len(found.stats), 'shard')}."] if count and generator else [],
    )


def _run(numbers: Numbers) -> Verdict:
    arm = numbers.arms[0] if numbers.arms else None
    scores = {metric: series[-1]["mean"] for metric, series in numbers.points.get(arm.id, {}).items()} if arm else {}
    if arm is None or "hm" not in scores:
        return Verdict(f"{arm.label if arm else 'This run'}: no results for both halves.")
    seen = {
        "both": "base classes, seen in real and synthetic images, and novel classes, seen in synthetic ones alone",
        "real": "base classes, seen in real images, and novel classes, not seen at all",
        "synthetic": "base and novel classes, all seen in synthetic images alone",
    }.get(arm.data, "base and novel classes, none of them seen before")
    opened = f" With all classes as candidates it is {scores['open_hm']:.1f}\u00a0%." if "open_hm" in scores else ""
    return Verdict(
        f"{arm.label}: {scores['base']:.1f}\u00a0% on base, {scores['novel']:.1f}\u00a0% on novel classes.",
        sentences=[
            f"The harmonic mean of {seen}, is {scores['hm']:.1f}\u00a0%, each half among its own candidates.{opened}"
        ],
    )


def eyebrow_of(found: Sources, numbers: Numbers) -> str:
    """The line above the headline: what this is a report on."""
    kind = {"study": "Study", "run": "Run", "set": "Synthetic set"}[found.kind]
    parts = [
        kind,
        str(
            found.recipe.get("name")
            or found.state.get("name")
            or found.record.get("name")
            or found.plan.get("dataset")
            or ""
        ),
    ]
    if found.classnames:
        parts.append(f"{counted(len(found.classnames), 'class', 'classes')}, {found.base} of them base")
    shots = found.section("dataset").get("shots")
    if shots and found.kind != "set":
        parts.append(f"{counted(shots, 'real image')} a base class")
    if found.table is not None and "seed" in found.table:
        parts.append(counted(found.table["seed"].dropna().nunique(), "seed"))
    if numbers.differences and numbers.differences[0].n:
        parts.append(f"up to {max(one.n or 0 for one in numbers.differences)} synthetic images a class")
    return " · ".join(part for part in parts if part)


FAILED_NAMED = 10
"""Failed runs that are named, before the rest is only counted."""


def ribbon_note(images: dict[str, object] | None) -> str:
    """What the strip under the headline shows."""
    if not images:
        return ""
    if images["real"] and images["made"]:
        return "Above: real images of the dataset. Below: what the generator draws for the same class."
    return "Real images of the dataset." if images["real"] else "Drawn by the generator."


def unfinished(found: Sources) -> str | None:
    """A sentence about cells that are not done, the failed ones by name and reason; None where all are."""
    cells = [cell for cell in found.state.get("cells") or [] if isinstance(cell, dict)]
    failed = [cell for cell in cells if cell.get("status") == "failed"]
    waiting = sum(cell.get("status") == "waiting" for cell in cells)
    if not failed and not waiting:
        return None
    said = [f"{waiting} are still to be run" if waiting else "", f"{len(failed)} failed" if failed else ""]
    sentence = f"Of {len(cells)} runs {' and '.join(part for part in said if part)}; the figures show the others."
    named = [f"{cell.get('cell')} ({cell.get('error') or 'no reason given'})" for cell in failed[:FAILED_NAMED]]
    more = f", and {len(failed) - FAILED_NAMED} more" if len(failed) > FAILED_NAMED else ""
    return f"{sentence} Failed: {', '.join(named)}{more}." if failed else sentence
