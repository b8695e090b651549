"""Export of synthetic datasets as class folders, as class folders with a split file, or as a Hugging Face dataset."""

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
from syncclip.runtime.tempdirs import private_tempdir
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


def export_set(url: str, out: str, to: str, licence: str = "unknown") -> int:
    """Export a complete synthetic dataset in a different layout; return the number of images.

    Only one shard at a time is held in memory or in a temporary file. After a crash, repeat the call to resume the
    export; existing files are skipped. `export.json`, completed last, contains the checksums of all files; see
    `storage.exports`.

    Args:
        to: layout; one of `LAYOUTS`.
        licence: Hub identifier of the images' licence, for the dataset card.

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
            LAYOUTS[to](source, export, progress, licence)
    return source.images


def folder_names(classnames: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class: the class name without reserved characters, plus the id if ambiguous."""
    names = [re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "_", name).strip(" .") or "class" for name in classnames]
    ambiguous = {name for name in names if [other.lower() for other in names].count(name.lower()) > 1}
    return [f"{name} {label}" if name in ambiguous else name for label, name in enumerate(names)]


def _folder(source: ExportedSet, out: Export, progress: Progress, _: str) -> None:
    """Write class folders."""
    deque(_write_images(source, out, "", progress), maxlen=0)


def _split_file(source: ExportedSet, out: Export, progress: Progress, _: str) -> None:
    """Write a split file in CoOp's format, with all images in `train`, and class folders in `images`."""
    names = source.plan.classnames
    train = [(image.path, image.label, names[image.label]) for image in _write_images(source, out, "images", progress)]
    name = re.sub(r"\W+", "_", source.plan.dataset).strip("_") or "synthetic"
    content = json.dumps({"train": train, "val": [], "test": []}, ensure_ascii=False)
    out.write(f"split_zhou_{name}.json", content.encode())


def _hugging_face(source: ExportedSet, out: Export, progress: Progress, licence: str) -> None:
    """Copy the tars, renamed according to the Hub's convention for datasets, then write the dataset card."""
    folder = storage.join(out.url, "data")
    storage.sweep(folder)
    existing = storage.sizes(folder)
    provenance: pa.DataType = pa.null()
    for position, (shard, stats) in enumerate(source.shards.items()):
        name = f"train-{position:05d}-of-{len(source.shards):05d}.tar"
        if existing.get(name) != stats.bytes or not _is_same(storage.join(folder, name), stats.sha256):
            _copy(source, shard, storage.join(folder, name))
        out.record(f"data/{name}", stats.bytes, stats.sha256)
        provenance = provenance_type(source.table(shard)["provenance"], provenance)
        progress.update(stats.count)
    for name in (PLAN_NAME, "imported.json"):
        if storage.exists(storage.join(source.url, name)):
            storage.copy(storage.join(source.url, name), storage.join(out.url, name))
            out.record_small(name)
    recipe = storage.join(source.url, SET_RECIPE)
    text = storage.read_bytes(recipe).decode() if storage.exists(recipe) else ""
    card = dataset_card(source.plan, list(source.shards.values()), provenance, licence, text)
    storage.write_with_checksum(storage.join(out.url, CARD), card.encode())
    out.record_small(CARD)


LAYOUTS: dict[str, Callable[[ExportedSet, Export, Progress, str], None]] = {
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


def _write_images(source: ExportedSet, out: Export, subfolder: str, progress: Progress) -> Iterator[Image]:
    """Write all missing images to `subfolder`, and yield every image in the dataset."""
    folder = storage.join(out.url, subfolder) if subfolder else out.url
    for name in source.folders:
        storage.sweep(storage.join(folder, name))
    existing = _existing(source, folder)

    def write(image: Image) -> Image:
        url, checksum = storage.join(folder, image.path), hashlib.sha256(image.data).hexdigest()
        if existing.get(image.path) != len(image.data) or not _is_same(url, checksum):
            storage.write_bytes(url, image.data)
        out.record(f"{subfolder}/{image.path}".lstrip("/"), len(image.data), checksum)
        return image

    with thread_pool(WRITERS, "export") as writers:
        for shard in source.shards:
            for image in writers.map(write, _images(source, shard)):
                progress.update(1)
                yield image
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


def _copy(source: ExportedSet, shard: int, target: str) -> None:
    """Copy a tar, via a temporary file if the tar is remote."""
    url = storage.join(source.url, shard_name(shard))
    with private_tempdir() as folder:
        path = storage.local_path(url) if storage.is_local(url) else folder / "shard.tar"
        if not storage.is_local(url):
            storage.fetch(url, path, source.shards[shard].sha256)
        with path.open("rb") as file:
            _require_checksum(source, shard, storage.file_sha256(file))
        storage.publish(path, target)


def _require_checksum(source: ExportedSet, shard: int, sha256: str) -> None:
    if sha256 != source.shards[shard].sha256:
        remedy = "repair the dataset with `syncclip shards verify --repair` before exporting it"
        raise UserError(f"{source.url}: {shard_name(shard)} is corrupt; {remedy}")
