"""One set of several that show the same classes: the images of the first come first, then those of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from syncclip.core.progress import Progress
from syncclip.core.settings import UserError
from syncclip.sets.imported import ImportedSet, claim, content_of, finish, read_whole_set
from syncclip.shards.cache import ShardCache
from syncclip.shards.layout import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import SHARD_IMAGES, Plan

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """One of the sets that are merged."""

    name: str
    """What the merged images' provenance calls it."""
    known: Plan | ImportedSet
    images: ShardSet


def merge_sets(urls: Sequence[str], url: str) -> ImportedSet:
    """Write the images of several sets as one, index-major: image k of class c is sample k * classes + c.

    In each class the images of the first set come first, so that its smaller amounts are those of the merged set.
    Where a class has fewer images than others it leaves gaps at the end. Files, texts and provenance are kept; to the
    provenance come the set and the index there. What the merged set says of itself is what an imported one says.

    A shard is in memory at a time; remote ones are copied to a bounded place on the disk. Killed at any time, the same
    call goes on with the shards that are missing.

    Args:
        urls: folders or URLs of the sets, two or more.
        url: folder or URL to write to.

    Raises:
        UserError: one holds no whole set, is named twice or draws the same as another; they show other classes; the
            folder holds something else.
    """
    sources = _open(urls)
    known = sources[0].known
    sets = np.concatenate([np.full(len(one.images), number) for number, one in enumerate(sources)])
    rows = np.concatenate([np.arange(len(one.images)) for one in sources])
    index = index_major(np.concatenate([one.images.labels for one in sources]), known.classes)
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index % known.classes, minlength=known.classes)
    found = ImportedSet(
        source=" + ".join(one.name for one in sources),
        dataset=known.dataset,
        classnames=known.classnames,
        counts=tuple(counts.tolist()),
        shard_size=-(-SHARD_IMAGES // known.classes) * known.classes,
        parts=tuple(content_of(one) for one in urls),
    )
    claim(found, url)
    bounds = np.searchsorted(index[order], np.arange(len(found.shards()) + 1) * found.shard_size)
    there = committed(url)
    with Progress(len(order), "images", "merge") as progress:
        for shard in found.shards():
            places = order[bounds[shard] : bounds[shard + 1]]
            if shard not in there:
                samples = [_sample(sources[sets[place]], int(rows[place]), int(index[place])) for place in places]
                write_shard(url, shard, samples)
            progress.update(len(places))
    return finish(found, url)


def index_major(labels: Rows, classes: int) -> Rows:
    """(n,) the index of each image: `k * classes + label`, where it is image k of its class in the given order."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], labels[by_label])
    ranks = np.empty(len(labels), np.int64)
    ranks[by_label] = np.arange(len(labels)) - starts
    return ranks * classes + labels


def _open(urls: Sequence[str]) -> list[Source]:
    if len({one.rstrip("/") for one in urls}) < max(2, len(urls)):
        raise UserError(f"merging takes two sets or more, each once; {' '.join(urls) or 'nothing'} was given")
    cache = ShardCache()
    names = _names(urls)
    sources = [
        Source(name, read_whole_set(one), ShardSet(one, corrupt_limit=0, cache=cache)) for name, one in names.items()
    ]
    first = sources[0]
    for other in sources[1:]:
        if other.known.classnames != first.known.classnames:
            raise UserError(
                f"{other.images.url} shows other classes than {first.images.url}: {_difference(other, first)}; only "
                "sets of the same classes in the same order can be merged"
            )
    drawn: dict[str, str] = {}
    for one in sources:
        if isinstance(one.known, Plan):
            plan = one.known.model_dump_json(exclude={"amounts", "shard_size"})
            if (same := drawn.setdefault(plan, one.images.url)) != one.images.url:
                raise UserError(
                    f"{one.images.url} and {same} were drawn by the same plan, so their images are the same; draw "
                    "one with another synthesis.seed"
                )
    return sources


def _names(urls: Sequence[str]) -> dict[str, str]:
    """Name -> URL: the last part of each URL, or all of it where two would be called alike."""
    last = [one.rstrip("/").rpartition("/")[2] for one in urls]
    return dict(zip(last if len(set(last)) == len(last) else urls, urls, strict=True))


def _difference(one: Source, other: Source) -> str:
    pairs = zip(one.known.classnames, other.known.classnames, strict=False)
    return next(
        (f"class {label} is {a!r} and {b!r}" for label, (a, b) in enumerate(pairs) if a != b),
        f"{one.known.classes} and {other.known.classes} of them",
    )


def _sample(source: Source, row: int, index: int) -> Sample:
    images = source.images
    provenance = {**images.provenance(row), "set": source.name, "index": int(images.samples.index[row])}
    return Sample(index, int(images.labels[row]), images.read(row), images.text(row), provenance)
