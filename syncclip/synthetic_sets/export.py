"""Export of synthetic datasets as class folders, as class folders with a split file, or as a Hugging Face dataset."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.runtime.progress import Progress
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.runtime.threads import thread_pool
from syncclip.shards.markers import ShardStats, committed, shard_name
from syncclip.shards.tables import read_table
from syncclip.storage.exports import Export, exporting
from syncclip.storage.urls import absolute
from syncclip.synthesis.plan import PLAN_NAME, Plan
from syncclip.synthetic_sets.card import CARD, dataset_card, provenance_type
from syncclip.synthetic_sets.imported import SET_RECIPE, ImportedSet, content_of, read_whole_set
from syncclip.workers.parallel import ordered_map

WRITERS = 8


@dataclass(frozen=True)
class ExportedSet:
    """A dataset to export."""

    url: str
    plan: Plan | ImportedSet
    shards: dict[int, ShardStats]
    folders: list[str]
    """Folder name of each class."""

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(stats.count for stats in self.shards.values())

    def table(self, shard: int) -> pa.Table:
        """Read a shard's table."""
        return read_table(self.url, shard, self.shards[shard].table_sha256)


class Image(NamedTuple):
    """An image file in an export."""

    path: str
    label: int
    data: bytes


class Written(NamedTuple):
    """A file that was written to an export, or existed already."""

    path: str
    label: int
    size: int
    sha256: str


class Target(NamedTuple):
    """An export in progress.

    Attributes:
        in_order: map over the source's shards, possibly on several actors.
    """

    export: Export
    progress: Progress
    in_order: Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
    licence: str


def export_set(url: str, out: str, to: str, licence: str = "unknown", actors: int = 1) -> int:
    """Export a complete synthetic dataset in a different layout; return the number of images.

    Each process holds one shard at a time in memory or in a temporary file. After a crash, repeat the call to resume
    the export; existing files are skipped. `export.json`, completed last, contains the checksums of all files; see
    `storage.exports`.

    Args:
        to: layout; one of `LAYOUTS`.
        licence: Hub identifier of the images' licence, for the dataset card.
        actors: number of Ray actors that copy shards; 1: this process.

    Raises:
        UserError: the layout is unknown, the dataset is incomplete or corrupt, or the folder has other content.
    """
    if to not in LAYOUTS:
        raise UserError(f"--to {to}: unknown layout; use {', '.join(LAYOUTS)}")
    out, plan = absolute(out), read_whole_set(url)
    existing = committed(url, owner=plan.owner)
    shards = {shard: existing[shard] for shard in plan.shards()}
    source = ExportedSet(url, plan, shards, folder_names(plan.classnames))
    with exporting(out, to, {"set": content_of(url, plan.owner)}, "shards export") as export:
        export.begin()
        with Progress(source.images, "images", "export") as progress:
            in_order = partial(ordered_map, actors=actors, session=export.session)
            LAYOUTS[to](source, Target(export, progress, in_order, licence))
    return source.images


def folder_names(classnames: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class: the class name without reserved characters, plus the id if ambiguous."""
    names = [re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "_", name).strip(" .") or "class" for name in classnames]
    ambiguous = {name for name in names if [other.lower() for other in names].count(name.lower()) > 1}
    return [f"{name} {label}" if name in ambiguous else name for label, name in enumerate(names)]


def _folder(source: ExportedSet, target: Target) -> None:
    """Write class folders."""
    deque(_write_images(source, target, ""), maxlen=0)


def _split_file(source: ExportedSet, target: Target) -> None:
    """Write a split file in CoOp's format, with all images in `train`, and class folders in `images`."""
    names = source.plan.classnames
    train = [(image.path, image.label, names[image.label]) for image in _write_images(source, target, "images")]
    name = re.sub(r"\W+", "_", source.plan.dataset).strip("_") or "synthetic"
    content = json.dumps({"train": train, "val": [], "test": []}, ensure_ascii=False)
    target.export.write(f"split_zhou_{name}.json", content.encode())


def _hugging_face(source: ExportedSet, target: Target) -> None:
    """Copy the tars, renamed according to the Hub's convention for datasets, then write the dataset card."""
    out, folder = target.export, storage.join(target.export.url, "data")
    storage.sweep(folder)
    provenance: pa.DataType = pa.null()
    copied = target.in_order(partial(_copy, source, folder, storage.sizes(folder)), source.shards)
    for stats, (name, content) in zip(source.shards.values(), copied, strict=True):
        out.record(f"data/{name}", stats.bytes, stats.sha256)
        provenance = provenance_type(content, provenance)
        target.progress.update(stats.count)
    for name in (PLAN_NAME, "imported.json"):
        if storage.exists(storage.join(source.url, name)):
            storage.copy(storage.join(source.url, name), storage.join(out.url, name))
            out.record_small(name)
    recipe = storage.join(source.url, SET_RECIPE)
    text = storage.read_bytes(recipe).decode() if storage.exists(recipe) else ""
    card = dataset_card(source.plan, list(source.shards.values()), provenance, target.licence, text)
    storage.write_with_checksum(storage.join(out.url, CARD), card.encode())
    out.record_small(CARD)


LAYOUTS: dict[str, Callable[[ExportedSet, Target], None]] = {
    "folder": _folder,
    "huggingface": _hugging_face,
    "split-zhou": _split_file,
}


def _images(source: ExportedSet, shard: int) -> Iterator[Image]:
    """Read and yield a shard's images."""
    archive = storage.read_bytes(storage.join(source.url, shard_name(shard)), sha256=source.shards[shard].sha256)
    _require_checksum(source, shard, hashlib.sha256(archive).hexdigest())
    for row in source.table(shard).select(["key", "label", "jpg_offset", "jpg_size"]).to_pylist():
        start = row["jpg_offset"]
        path = f"{source.folders[row['label']]}/{row['key']}.jpg"
        yield Image(path, row["label"], archive[start : start + row["jpg_size"]])


class _ImageWriter:
    """Function that writes the missing images of a shard to class folders, and returns all its images."""

    def __init__(self, source: ExportedSet, folder: str) -> None:
        self.source, self.folder = source, folder
        self._existing: dict[str, int] | None = None  # listed once per process

    def __call__(self, shard: int) -> list[Written]:
        if self._existing is None:
            self._existing = _existing(self.source, self.folder)
        existing = self._existing

        def write(image: Image) -> Written:
            url, checksum = storage.join(self.folder, image.path), hashlib.sha256(image.data).hexdigest()
            if existing.get(image.path) != len(image.data) or not _is_same(url, checksum):
                storage.write_bytes(url, image.data)
            return Written(image.path, image.label, len(image.data), checksum)

        with thread_pool(WRITERS, "export") as writers:
            return list(writers.map(write, _images(self.source, shard)))


def _write_images(source: ExportedSet, target: Target, subfolder: str) -> Iterator[Written]:
    """Write all missing images to `subfolder`, and yield every image in the dataset."""
    out = target.export
    folder = storage.join(out.url, subfolder) if subfolder else out.url
    for name in source.folders:
        storage.sweep(storage.join(folder, name))
    for images in target.in_order(_ImageWriter(source, folder), source.shards):
        for image in images:
            out.record(f"{subfolder}/{image.path}".lstrip("/"), image.size, image.sha256)
            yield image
        target.progress.update(len(images))
    if missing := source.images - len(_existing(source, folder)):
        raise UserError(f"{out.url}: {missing:,} images were deleted during the export; run the same command again")


def _existing(source: ExportedSet, folder: str) -> dict[str, int]:
    """Return the sizes of all files in the class folders, by path."""
    return {
        f"{name}/{file}": size
        for name in source.folders
        for file, size in storage.sizes(storage.join(folder, name)).items()
    }


def _is_same(url: str, sha256: str) -> bool:
    """Return whether a local file has this checksum; remote files are trusted, since object stores verify them."""
    if not storage.is_local(url):
        return True
    with storage.open_read(url) as file:
        return storage.file_sha256(file) == sha256


def _copy(source: ExportedSet, folder: str, existing: dict[str, int], shard: int) -> tuple[str, pa.ChunkedArray]:
    """Copy a tar unless it exists, via a temporary file if it is remote; return its new name and its provenance."""
    stats = source.shards[shard]
    name = f"train-{shard:05d}-of-{len(source.shards):05d}.tar"
    url, target = storage.join(source.url, shard_name(shard)), storage.join(folder, name)
    if existing.get(name) != stats.bytes or not _is_same(target, stats.sha256):
        with private_tempdir() as temporary:
            path = storage.local_path(url) if storage.is_local(url) else temporary / "shard.tar"
            if not storage.is_local(url):
                storage.fetch(url, path, stats.sha256)
            with path.open("rb") as file:
                _require_checksum(source, shard, storage.file_sha256(file))
            storage.publish(path, target)
    return name, source.table(shard)["provenance"]


def _require_checksum(source: ExportedSet, shard: int, sha256: str) -> None:
    if sha256 != source.shards[shard].sha256:
        remedy = "repair the dataset with `syncclip shards verify --repair` before exporting it"
        raise UserError(f"{source.url}: {shard_name(shard)} is corrupt; {remedy}")
