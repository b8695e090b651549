"""The totals of a set, from its markers alone."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.shards.markers import markers
from syncclip.synthesis.plan import Plan

SUMMARY_NAME = "summary.json"


class Work(Settings):
    """What one call added."""

    images: int = 0
    seconds: float = 0.0
    """Wall time, start of Ray and loading of weights included."""
    rate: float = 0.0
    """Images per second since the first actor began, as in the set's status."""
    busy: float = 0.0
    """Share of the actors' time that went into generators."""
    computed: float = 0.0
    """Share of the actors' time in which their devices computed images."""


class SetSummary(Settings):
    """What a set holds. All but `work` follows from plan and markers, so that every run sums up the same set alike."""

    url: str = Field(exclude=True)
    owner: str = Field(exclude=True)
    """Identity of the set's files, see `storage.seals`."""
    complete: bool
    """Whether every shard of the plan is committed."""
    images: int
    dropped: int
    """Images of committed shards that were left out since no attempt passed the filters."""
    planned: int
    classes: int
    fewest: int
    """Images of the class that has fewest."""
    most: int
    empty: tuple[str, ...]
    """Names of classes without a single image."""
    shards: int
    bytes: int
    """Of all tars."""
    seconds: float
    """What the committed shards took to make, summed over actors."""
    rejects: dict[str, int]
    """Reason -> images that were generated and not taken at first sight."""
    work: Work = Field(Work(), exclude=True)


def summarise(plan: Plan, url: str, work: Work | None = None) -> SetSummary:
    """Sum up the markers of the set at `url` and keep the totals there as summary.json."""
    per_class: Counter[int] = Counter()
    rejects: Counter[str] = Counter()
    shards = images = planned = size = 0
    seconds = 0.0
    of_plan = plan.shards()
    for stats in markers(url, owner=plan.owner):  # one after the other: all markers of a large set are a gigabyte
        if stats.shard in of_plan:
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
        complete=shards == len(of_plan),
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
    place = storage.join(url, SUMMARY_NAME)
    if not storage.exists(place) or storage.read_sealed(place, plan.owner) != text:
        storage.write_sealed(place, text, owner=plan.owner)
    return summary
