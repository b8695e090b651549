"""What commands print of results, and of a synthetic set: its summary, its quality, its shards, one sample."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from syncclip.core.text import counted, percent, printable, size, table
from syncclip.evaluation.metrics import METRIC_HEADINGS

if TYPE_CHECKING:
    from syncclip.shards.markers import ShardStats
    from syncclip.shards.reader import ShardSet
    from syncclip.synthesis.summary import SetSummary
    from syncclip.synthetic_sets.quality import SetQuality


def results(found: Mapping[str, Any], title: str) -> Table:
    """Every metric of one run, in per cent."""
    return table(title, list(METRIC_HEADINGS.values()), [[found.get(key) for key in METRIC_HEADINGS]])


def summary(done: SetSummary) -> str:
    """What a set holds and what this call added to it, as two or three lines."""
    rejects = ", ".join(f"{reason} {count:,}" for reason, count in done.rejects.items())
    lines = [
        f"{counted(done.images, 'image')} of {counted(done.classes, 'class', 'classes')} in "
        f"{counted(done.shards, 'shard')}, {size(done.bytes)}"
        + (f"; rejected: {rejects}" if rejects else "")
        + (f"; dropped: {done.dropped:,}" if done.dropped else "")
    ]
    if done.work.images:
        shares = f"actors busy {percent(done.work.busy)}"
        shares += f", their devices {percent(done.work.computed)}" if done.work.computed else ""
        lines.append(f"{done.work.images:,} generated now, {done.work.rate:.3g} images/s, {shares}")
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


def listing(url: str, shards: Collection[ShardStats]) -> Table:
    """The committed shards of a set, one a row, and a last row for all."""

    def row(name: str, stats: Collection[ShardStats], sha256: str) -> tuple[object, ...]:
        classes = {label for one in stats for label in one.per_class}
        rejects = sum(sum(one.rejects.values()) for one in stats)
        count, total = sum(one.count for one in stats), size(sum(one.bytes for one in stats))
        return name, count, len(classes), total, rejects, sum(one.seconds for one in stats), sha256

    rows = [*(row(f"{one.shard:05d}", [one], one.sha256[:12]) for one in shards), row("all", shards, "")]
    return table(url, ("shard", "images", "classes", "size", "rejects", "seconds", "sha256"), rows)


def sample(images: ShardSet, row: int) -> str:
    """Class, prompt and provenance of one image of a set."""
    image = images.image(row)
    lines = [
        images.name(row),
        f"class: {int(images.labels[row])}",
        f"prompt: {images.text(row)}",
        f"image: {image.width} x {image.height} px, {size(int(images.samples.size[row]))}",
        f"provenance: {json.dumps(images.provenance(row), ensure_ascii=False)}",
    ]
    return "\n".join(map(printable, lines))
