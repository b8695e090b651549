"""What commands print of a synthetic set: its summary and its quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from syncclip.core.tables import table
from syncclip.core.text import counted, percent, size
from syncclip.evaluation.metrics import METRIC_HEADINGS

if TYPE_CHECKING:
    from syncclip.sets.quality import SetQuality
    from syncclip.synthesis.summary import SetSummary


def results(found: Mapping[str, Any], title: str) -> Table:
    """Every metric of one run, in per cent."""
    return table(title, list(METRIC_HEADINGS.values()), [[found.get(key) for key in METRIC_HEADINGS]])


def summary(done: SetSummary) -> str:
    """What a set holds and what this call added to it, as two or three lines."""
    rejects = ", ".join(f"{reason} {count:,}" for reason, count in done.rejects.items())
    lines = [
        f"{counted(done.images, 'image')} of {counted(done.classes, 'class', 'classes')} in "
        f"{counted(done.shards, 'shard')}, {size(done.bytes)}"
        + (f"; sent back: {rejects}" if rejects else "")
        + (f"; left out: {done.dropped:,}" if done.dropped else "")
    ]
    if done.work.images:
        lines.append(
            f"{done.work.images:,} drawn now, {done.work.rate:.3g} images/s, actors busy {percent(done.work.busy)}"
        )
    return "\n".join([*lines, done.url])


def quality(found: SetQuality) -> str:
    """How good a set is, as a few lines; each class has its own in stats.json."""
    worst = sorted((one.accuracy, one.name) for one in found.classes if one.accuracy is not None)[:3]
    lines = [
        f"{found.measured:,} of {found.images:,} images measured by the CLIP {found.backbone!r}",
        f"read as their own class: {found.accuracy:.1f} %; least so "
        + ", ".join(f"{name!r} {accuracy:.0f} %" for accuracy, name in worst),
        f"near-duplicates of an earlier image: {found.near_duplicates:,}"
        + "".join(f"; sample {later} of {earlier}" for later, earlier in found.pairs[:1]),
    ]
    if found.similarity is not None:
        real = "" if found.real_similarity is None else f"; of real ones: {found.real_similarity:.3f}"
        lines.append(f"similarity of two images of a class: {found.similarity:.3f}{real}")
    if found.shift is not None and found.shift.relative_distance is not None:
        lines.append(f"shift to the real images, relative to that between classes: {found.shift.relative_distance:.3f}")
    if found.prompts is not None:
        lines.append(f"different prompts: {found.prompts.distinct:,}, at least {found.prompts.fewest:,} a class")
    return "\n".join(lines)
