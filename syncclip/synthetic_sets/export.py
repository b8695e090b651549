"""Synthetic sets in the layouts of others: a folder of folders, a dataset of the Hugging Face hub, a split file."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.runtime.progress import Progress
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.runtime.threads import thread_pool
from syncclip.shards.markers import ShardStats, committed, shard_name
from syncclip.shards.tables import read_table
from syncclip.storage.exports import Export, exporting
from syncclip.storage.urls import absolute
from syncclip.synthesis.plan import PLAN_NAME, Plan
from syncclip.synthetic_sets.card import CARD, dataset_card, provenance_type
from syncclip.synthetic_sets.imported import SET_RECIPE, ImportedSet, content_of, read_whole_set

WRITERS = 8


@dataclass(frozen=True)
class ExportedSet:
    """A set that is exported."""

    url: str
    known: Plan | ImportedSet
    shards: dict[int, ShardStats]
    """Of their tables."""
    folders: list[str]
    """A folder's name for each class."""

    @property
    def images(self) -> int:
        """Images of the set."""
        return sum(stats.count for stats in self.shards.values())

    def table(self, shard: int) -> pa.Table:
        """The table of a shard."""
        return read_table(self.url, shard, self.shards[shard].table_sha256)


class Image(NamedTuple):
    """A file to be written, named by class and sample."""

    path: str
    label: int
    data: bytes


def export_set(url: str, out: str, to: str, licence: str = "unknown") -> int:
    """Write a whole set in a layout that others read; how many images.

    A shard is in memory (or in a temporary file) at a time. Killed at any time, the same call goes on: files appear
    whole or not at all, and those that are there are not written again. `export.json`, completed last, holds the
    checksums of all files; see `storage.exports`.

    Args:
        url: folder or URL of the set.
        out: folder or URL to write to.
        to: one of `LAYOUTS`.
        licence: of the images, as the hub abbreviates it; the card states it.

    Raises:
        UserError: no such layout; no whole set is there, or it is damaged; the folder holds something else.
    """
    if to not in LAYOUTS:
        raise UserError(f"--to {to}: there is no such layout; there are {', '.join(LAYOUTS)}")
    out = absolute(out)
    known = read_whole_set(url)
    there = committed(url, owner=known.owner)
    shards = {shard: there[shard] for shard in known.shards()}
    source = ExportedSet(url, known, shards, folder_names(known.classnames))
    with exporting(out, to, {"set": content_of(url, known.owner)}, "shards export") as written:
        written.begin()
        with Progress(source.images, "images", "export") as progress:
            LAYOUTS[to](source, written, progress, licence)
    return source.images


def folder_names(classnames: tuple[str, ...]) -> list[str]:
    """A folder's name for each class: the class's own where a file system takes it and no other class has it."""
    names = [re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "_", name).strip(" .") or "class" for name in classnames]
    twice = {name for name in names if [other.lower() for other in names].count(name.lower()) > 1}
    return [f"{name} {label}" if name in twice else name for label, name in enumerate(names)]


def _folder(source: ExportedSet, out: Export, progress: Progress, _: str) -> None:
    """A folder of folders, one a class."""
    deque(_written(source, out, "", progress), maxlen=0)


def _split_file(source: ExportedSet, out: Export, progress: Progress, _: str) -> None:
    """A split file as CoOp's readers take it, with all images in `train`, and the images beside it in `images`."""
    names = source.known.classnames
    train = [(image.path, image.label, names[image.label]) for image in _written(source, out, "images", progress)]
    name = re.sub(r"\W+", "_", source.known.dataset).strip("_") or "synthetic"
    content = json.dumps({"train": train, "val": [], "test": []}, ensure_ascii=False)
    out.write(f"split_zhou_{name}.json", content.encode())


def _hugging_face(source: ExportedSet, out: Export, progress: Progress, licence: str) -> None:
    """The tars as they are, named as the hub's datasets name them, with a card last."""
    folder = storage.join(out.url, "data")
    storage.sweep(folder)
    there = storage.sizes(folder)
    kind: pa.DataType = pa.null()
    for place, (shard, stats) in enumerate(source.shards.items()):
        name = _train_name(source, place)
        if there.get(name) != stats.bytes or not _is_same(storage.join(folder, name), stats.sha256):
            _copy(source, shard, storage.join(folder, name))
        out.record(f"data/{name}", stats.bytes, stats.sha256)
        kind = provenance_type(source.table(shard)["provenance"], kind)
        progress.update(stats.count)
    for name in (PLAN_NAME, "imported.json"):
        if storage.exists(storage.join(source.url, name)):
            storage.copy(storage.join(source.url, name), storage.join(out.url, name))
            out.record_small(name)
    recipe = storage.join(source.url, SET_RECIPE)
    text = storage.read_bytes(recipe).decode() if storage.exists(recipe) else ""
    card = dataset_card(source.known, list(source.shards.values()), kind, licence, text)
    storage.write_sealed(storage.join(out.url, CARD), card.encode())
    out.record_small(CARD)


LAYOUTS: dict[str, Callable[[ExportedSet, Export, Progress, str], None]] = {
    "folder": _folder,
    "huggingface": _hugging_face,
    "split-zhou": _split_file,
}


def _train_name(source: ExportedSet, place: int) -> str:
    return f"train-{place:05d}-of-{len(source.shards):05d}.tar"


def _images(source: ExportedSet, shard: int) -> Iterator[Image]:
    """The images of a shard."""
    archive = storage.read_bytes(storage.join(source.url, shard_name(shard)), sha256=source.shards[shard].sha256)
    _same(source, shard, hashlib.sha256(archive).hexdigest())
    for row in source.table(shard).select(["key", "label", "jpg_offset", "jpg_size"]).to_pylist():
        start = row["jpg_offset"]
        path = f"{source.folders[row['label']]}/{row['key']}.jpg"
        yield Image(path, row["label"], archive[start : start + row["jpg_size"]])


def _written(source: ExportedSet, out: Export, below: str, progress: Progress) -> Iterator[Image]:
    """Write all images into the folder `below`, except those that are there, and yield each once it is there."""
    folder = storage.join(out.url, below) if below else out.url
    for name in source.folders:
        storage.sweep(storage.join(folder, name))
    there = _there(source, folder)

    def write(image: Image) -> Image:
        place, digest = storage.join(folder, image.path), hashlib.sha256(image.data).hexdigest()
        if there.get(image.path) != len(image.data) or not _is_same(place, digest):
            storage.write_bytes(place, image.data)
        out.record(f"{below}/{image.path}".lstrip("/"), len(image.data), digest)
        return image

    with thread_pool(WRITERS, "export") as writers:
        for shard in source.shards:
            for image in writers.map(write, _images(source, shard)):
                progress.update(1)
                yield image
    if missing := source.images - len(_there(source, folder)):
        raise UserError(f"{out.url}: {missing:,} of its images were removed meanwhile; run the same command again")


def _there(source: ExportedSet, folder: str) -> dict[str, int]:
    """Path -> bytes of what is in the folders of the classes."""
    return {
        f"{name}/{file}": size
        for name in source.folders
        for file, size in storage.sizes(storage.join(folder, name)).items()
    }


def _is_same(place: str, sha256: str) -> bool:
    """Whether what an earlier call wrote on a disk still has this digest; a store answers for its own objects."""
    if not storage.is_local(place):
        return True
    with storage.open_read(place) as file:
        return storage.file_sha256(file) == sha256


def _copy(source: ExportedSet, shard: int, target: str) -> None:
    """Copy a tar, by way of a temporary file where it is remote."""
    url = storage.join(source.url, shard_name(shard))
    with scratch_folder() as folder:
        here = storage.local_path(url) if storage.is_local(url) else folder / "shard.tar"
        if not storage.is_local(url):
            storage.fetch(url, here, source.shards[shard].sha256)
        with here.open("rb") as file:
            _same(source, shard, storage.file_sha256(file))
        storage.publish(here, target)


def _same(source: ExportedSet, shard: int, digest: str) -> None:
    if digest != source.shards[shard].sha256:
        raise UserError(
            f"{source.url}: {shard_name(shard)} is damaged; repair the set with `syncclip shards verify --repair` first"
        )
