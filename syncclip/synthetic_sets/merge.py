"""Merging of synthetic datasets with the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import first_difference
from syncclip.runtime.progress import Progress
from syncclip.shards.cache import ShardCache
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import SHARD_IMAGES, Plan
from syncclip.synthetic_sets.imported import ImportedSet, claim, content_of, finish, index_major, read_whole_set


@dataclass(frozen=True)
class MergeInput:
    """A dataset to merge."""

    name: str
    """Name of the dataset in the provenance of merged images."""
    plan: Plan | ImportedSet
    images: ShardSet


def merge_sets(urls: Sequence[str], url: str) -> ImportedSet:
    """Merge synthetic datasets into one index-major dataset, in which image k of class c is sample k * classes + c.

    The images of each class follow the order of the datasets; classes with fewer images than others leave gaps at the
    end. Image files and texts are unchanged; the provenance also contains the original dataset's name and the image's
    index in that dataset. Only one shard is held in memory at a time. After a crash, repeat the call to write the
    missing shards.

    Raises:
        UserError: a dataset is incomplete or listed twice, the classes of two datasets differ, two datasets have
            identical plans, or the folder has other content.
    """
    sources = _open(urls)
    plan = sources[0].plan
    sets = np.concatenate([np.full(len(source.images), number) for number, source in enumerate(sources)])
    rows = np.concatenate([np.arange(len(source.images)) for source in sources])
    index = index_major(np.concatenate([source.images.labels for source in sources]), plan.classes)
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index % plan.classes, minlength=plan.classes)
    merged = ImportedSet(
        source=" + ".join(source.name for source in sources),
        dataset=plan.dataset,
        classnames=plan.classnames,
        counts=tuple(counts.tolist()),
        shard_size=-(-SHARD_IMAGES // plan.classes) * plan.classes,
        parts=tuple(content_of(part) for part in urls),
    )
    with storage.lock(url, "shards merge"):
        claim(merged, url)
        bounds = np.searchsorted(index[order], np.arange(len(merged.shards()) + 1) * merged.shard_size)
        existing = committed(url, owner=merged.owner)
        with Progress(len(order), "images", "merge") as progress:
            for shard in merged.shards():
                positions = order[bounds[shard] : bounds[shard + 1]]
                if shard not in existing:
                    samples = [_sample(sources[sets[i]], int(rows[i]), int(index[i])) for i in positions]
                    write_shard(url, shard, samples, owner=merged.owner)
                progress.update(len(positions))
        return finish(merged, url)


def _open(urls: Sequence[str]) -> list[MergeInput]:
    if len({url.rstrip("/") for url in urls}) < max(2, len(urls)):
        raise UserError(f"specify two or more different datasets to merge; got {' '.join(urls) or 'none'}")
    cache = ShardCache()
    names = [url.rstrip("/").rpartition("/")[2] for url in urls]
    sources = [
        MergeInput(name, read_whole_set(url), ShardSet(url, max_corrupt_images=0, cache=cache))
        for name, url in zip(names if len(set(names)) == len(names) else urls, urls, strict=True)
    ]
    first = sources[0]
    generated: dict[str, str] = {}
    for source in sources:
        url, classnames = source.images.url, source.plan.classnames
        if classnames != first.plan.classnames:
            raise UserError(
                f"the {len(classnames)} classes of {url} differ from the {first.plan.classes} classes of "
                f"{first.images.url}{first_difference(classnames, first.plan.classnames)}; merge only datasets with "
                "the same class list"
            )
        if isinstance(source.plan, Plan):
            plan = source.plan.model_dump_json(exclude={"amounts", "shard_size"})
            if (other_url := generated.setdefault(plan, url)) != url:
                raise UserError(
                    f"{url} and {other_url} were generated from the same plan and contain the same images; "
                    "regenerate one of them with a different synthesis.seed"
                )
    return sources


def _sample(source: MergeInput, row: int, index: int) -> Sample:
    images = source.images
    provenance = {**images.provenance(row), "set": source.name, "index": int(images.samples.index[row])}
    return Sample(index, int(images.labels[row]), images.read(row), images.text(row), provenance)
