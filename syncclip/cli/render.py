"""Text and tables for metrics and for synthetic datasets (summary, quality, shards and single samples)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from syncclip.core.text import MISSING, counted, duration, from_here, percent, printable, show, size, table
from syncclip.evaluation.baselines import BASELINE_NAMES, BASELINES
from syncclip.evaluation.metrics import METRIC_HEADINGS, legend

if TYPE_CHECKING:
    from syncclip.reports import StudyReport
    from syncclip.shards.markers import ShardStats
    from syncclip.shards.reader import ShardSet
    from syncclip.synthesis.plan import Plan
    from syncclip.synthesis.summary import SetSummary
    from syncclip.synthetic_sets.quality import SetQuality


def show_report(report: StudyReport) -> None:
    """Print a report's tables and text."""
    for each in report.tables:
        show(each)
    if report.text:
        show(report.text)


def results(metrics: Mapping[str, Any], method: str, title: str) -> Table:
    """Return a table of a run's metrics and those of its baselines, in percent."""
    baselines = metrics.get(BASELINES, {})
    rows = {method: metrics, **{name: baselines[key] for key, name in BASELINE_NAMES.items() if key in baselines}}
    cells = [[name, *(numbers.get(key) for key in METRIC_HEADINGS)] for name, numbers in rows.items()]
    return table(title, ["", *METRIC_HEADINGS.values()], cells, legend([*METRIC_HEADINGS.values(), MISSING]))


def summary(done: SetSummary) -> str:
    """Return a synthetic dataset's summary as lines of text: content, this call's throughput, and URL."""
    rejects = ", ".join(f"{reason} {count:,}" for reason, count in done.rejects.items())
    lines = [
        f"{counted(done.images, 'image')} of {counted(done.classes, 'class', 'classes')} in "
        f"{counted(done.shards, 'shard')}, {size(done.bytes)}"
        + (f"; rejected: {rejects}" if rejects else "")
        + (f"; dropped: {done.dropped:,}" if done.dropped else "")
    ]
    if done.work.images:
        shares = f"actors {percent(done.work.busy)} busy"
        shares += f", device utilisation {percent(done.work.computed)}" if done.work.computed else ""
        took = f"{done.work.rate:.3g} images/s, {duration(done.work.seconds)} with startup"
        start = f"cold start {duration(done.work.cold_start)}, {size(done.work.downloaded)} downloaded"
        lines.append(f"{done.work.images:,} generated now, {took}, {shares}; {start}")
    return "\n".join([*lines, from_here(done.url)])


def quality(measured: SetQuality) -> str:
    """Return a synthetic dataset's quality metrics as lines of text, without the per-class details in stats.json."""
    worst = sorted((of.accuracy, of.name) for of in measured.classes if of.accuracy is not None)[:3]
    lines = [
        f"{measured.measured:,} of {measured.images:,} images measured with CLIP {measured.backbone!r}",
        f"classified correctly: {measured.accuracy:.1f} %; lowest per class: "
        + ", ".join(f"{name!r} {accuracy:.0f} %" for accuracy, name in worst),
        f"near-duplicates of an earlier image: {measured.near_duplicates:,}"
        + "".join(f", e.g. sample {later} of sample {earlier}" for later, earlier in measured.pairs[:1]),
    ]
    if measured.similarity is not None:
        real = "" if measured.real_similarity is None else f"; of real images: {measured.real_similarity:.3f}"
        lines.append(f"mean similarity of image pairs within a class: {measured.similarity:.3f}{real}")
    if measured.shift is not None and measured.shift.relative_distance is not None:
        distance = measured.shift.relative_distance
        lines.append(f"domain shift to real images, as a fraction of the distance between classes: {distance:.3f}")
    if measured.prompts is not None:
        lines.append(f"distinct prompts: {measured.prompts.distinct:,}, at least {measured.prompts.fewest:,} per class")
    return "\n".join(lines)


def origin(plan: Plan) -> str:
    """Return the provenance mark of a plan's images and the licence of the generator's weights."""
    return printable(f"provenance mark: {plan.mark}; licence of the weights: {plan.licence}")


def listing(url: str, shards: Collection[ShardStats], plan: Plan | None = None) -> Table:
    """Return a table of a synthetic dataset's committed shards, with totals, mark and licence."""

    def row(name: str, stats: Collection[ShardStats], sha256: str) -> tuple[object, ...]:
        classes = {label for shard in stats for label in shard.per_class}
        rejects = sum(sum(shard.rejects.values()) for shard in stats)
        count, total = sum(shard.count for shard in stats), size(sum(shard.bytes for shard in stats))
        return name, count, len(classes), total, rejects, sum(shard.seconds for shard in stats), sha256

    rows = [*(row(f"{shard.shard:05d}", [shard], shard.sha256[:12]) for shard in shards), row("all", shards, "")]
    headings = ("shard", "images", "classes", "size", "rejects", "seconds", "sha256")
    return table(url, headings, rows, origin(plan) if plan else "")


def sample(images: ShardSet, row: int) -> str:
    """Return the class, prompt and provenance of a synthetic image as lines of text."""
    image, provenance = images.image(row), images.provenance(row)
    name = f" ({provenance['class']})" if "class" in provenance else ""
    lines = [
        images.name(row),
        f"class: {int(images.labels[row])}{name}",
        f"prompt: {images.text(row)}",
        f"image: {image.width} x {image.height} px, {size(int(images.samples.size[row]))}",
        f"provenance: {json.dumps(provenance, ensure_ascii=False)}",
    ]
    return "\n".join(map(printable, lines))
