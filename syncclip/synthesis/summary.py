"""Totals of a synthetic dataset, computed from its markers alone."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.shards.markers import markers
from syncclip.synthesis.plan import Plan

SUMMARY_NAME = "summary.json"


class Work(Settings):
    """Images, time and utilisation of one synthesis run."""

    images: int = 0
    seconds: float = 0.0
    """Wall time in seconds, including the time to start Ray and load the weights."""
    rate: float = 0.0
    """Throughput in images per second, as in the status."""
    busy: float = 0.0
    """Share of the actors' time spent in generators."""
    computed: float = 0.0
    """Share of the actors' time during which their devices were busy."""
    cold_start: float = 0.0
    """Maximum time in seconds from an actor's start until its models were loaded, as in the status."""
    downloaded: int = 0
    """Size in bytes of the model weights that the actors downloaded from storage."""


class SetSummary(Settings):
    """Totals of a synthetic dataset; all fields except `work` depend on the plan and the markers alone."""

    url: str = Field(exclude=True)
    owner: str = Field(exclude=True)
    """Owner ID of the dataset's files (see `storage.checksums`)."""
    complete: bool
    """Whether every shard of the plan is committed."""
    images: int
    dropped: int
    """Number of images missing from committed shards because no attempt passed the filters."""
    planned: int
    classes: int
    fewest: int
    """Number of images in the smallest class."""
    most: int
    empty: tuple[str, ...]
    """Names of classes without images."""
    shards: int
    bytes: int
    """Total size of the tar files in bytes."""
    seconds: float
    """Generation time of the committed shards in seconds, summed over actors."""
    rejects: dict[str, int]
    """Number of rejected attempts by reason."""
    work: Work = Field(Work(), exclude=True)


def summarise(plan: Plan, url: str, work: Work | None = None) -> SetSummary:
    """Compute the totals of the synthetic dataset at `url` from its markers, and write them to summary.json."""
    per_class: Counter[int] = Counter()
    rejects: Counter[str] = Counter()
    shards = images = planned = size = 0
    seconds = 0.0
    planned_shards = plan.shards()
    for stats in markers(url, owner=plan.owner):  # one by one, since the markers of a large dataset take up a gigabyte
        if stats.shard in planned_shards:
            per_class.update(stats.per_class)
            rejects.update(stats.rejects)
            shards += 1
            images += stats.count
            planned += len(plan.shard_range(stats.shard))
            size += stats.bytes
            seconds += stats.seconds
    counts = [per_class[label] for label in range(plan.classes)]
    summary = SetSummary(
        url=url,
        owner=plan.owner,
        complete=shards == len(planned_shards),
        images=images,
        dropped=planned - images,
        planned=plan.total,
        classes=plan.classes,
        fewest=min(counts),
        most=max(counts),
        empty=tuple(name for name, count in zip(plan.classnames, counts, strict=True) if count == 0),
        shards=shards,
        bytes=size,
        seconds=round(seconds, 3),
        rejects=dict(sorted(rejects.items())),
        work=work or Work(),
    )
    text = (summary.model_dump_json(indent=1) + "\n").encode()
    path = storage.join(url, SUMMARY_NAME)
    if not storage.exists(path) or storage.read_verified(path, plan.owner) != text:
        storage.write_with_checksum(path, text, owner=plan.owner)
    return summary
