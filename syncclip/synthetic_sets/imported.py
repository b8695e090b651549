"""Synthetic sets that others made: imported into shards, they take the place of our own synthesis.

Two kinds are read: a folder of images with a split file, as the authors' DALL-E and Stable Diffusion sets have it,
and any WebDataset whose samples carry class ids. Files are kept as they are; only their order becomes index-major.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from syncclip import storage
from syncclip.core.order import ranks
from syncclip.core.secrets import without_secrets
from syncclip.core.settings import DATASET, MANY, Settings, ShortText, UserError, added
from syncclip.datasets.dataset import Dataset
from syncclip.runtime.progress import Progress
from syncclip.shards.images import Corruption, UnreadableImageError, decode_image
from syncclip.shards.index import committed_shards, forget_index, index_set
from syncclip.shards.reader import ImageSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import PLAN_NAME, SHARD_IMAGES, Plan, read_plan
from syncclip.synthesis.seeds import MAX_IMAGES
from syncclip.synthetic_sets.sources import open_source

IMPORTED = "imported.json"
SET_RECIPE = "synthesis.yaml"
"""The resolved recipe beside a set; a run in the same folder has its own `recipe.yaml`."""

Rows = npt.NDArray[np.int64]


class ImportedSet(Settings):
    """What takes the place of a plan; stored in the set's folder as imported.json.

    Image k of class c is sample `k * classes + c`, where there is such an image.
    """

    format: int = 1
    source: str
    dataset: Annotated[str, DATASET]
    classnames: Annotated[tuple[ShortText, ...], MANY]
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], MANY] = Field(min_length=1)
    """Images of each class in the source."""
    shard_size: int = Field(ge=1)
    parts: tuple[str, ...] = added(())
    """Digests of the sets that it was merged of; none where it was imported."""
    content: str = ""
    """Digest of all shards; empty until the last one is written."""

    @model_validator(mode="after")
    def _check_consistency(self) -> ImportedSet:
        if len(self.counts) != len(self.classnames):
            raise ValueError(f"{len(self.counts)} counts of {len(self.classnames)} classes")
        if self.images_per_class * self.classes > MAX_IMAGES:
            raise ValueError(f"{self.images_per_class} images of a class are more than a set can hold")
        return self

    @property
    def owner(self) -> str:
        """Identity of the set's files, see `storage.seals`."""
        return storage.identity(self.model_dump_json(exclude={"content"}))

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.classnames)

    @property
    def images_per_class(self) -> int:
        """Of the class that has most; the others give all they have."""
        return max(self.counts)

    @property
    def amounts(self) -> tuple[int, ...]:
        """As a plan's."""
        return (self.images_per_class,)

    def shards(self, images_per_class: int | None = None) -> range:
        """Numbers of the shards that hold the first `images_per_class` images of each class; all by default."""
        wanted = self.images_per_class if images_per_class is None else images_per_class
        return range(-(-wanted * self.classes // self.shard_size))


def read_set(url: str) -> Plan | ImportedSet | None:
    """What the synthetic set at `url` holds, generated or imported; None where there is none.

    Raises:
        UserError: it cannot be read, or its import was not finished.
    """
    found = _read(url)
    if found is None:
        return read_plan(url)
    if not found.content:
        made = "merge" if found.parts else "import"
        raise UserError(f"{url}: this {made} was interrupted; run the same `syncclip shards {made}` again.")
    return found


def read_whole_set(url: str) -> Plan | ImportedSet:
    """As `read_set`, of a set whose shards are all there.

    Raises:
        UserError: there is no set, or it isn't complete.
    """
    known = read_set(url)
    if known is None:
        raise UserError(f"{url}: no synthetic set there; name one that `synth` or `shards import` made.")
    there = committed_shards(url, known.owner)
    if missing := [shard for shard in known.shards() if shard not in there]:
        raise UserError(f"{url}: {len(missing)} of its {len(known.shards())} shards are not there; complete it first.")
    require_content(known, url)
    return known


def holds_set(url: str) -> bool:
    """Whether a plan, or what takes the place of one, is there."""
    return any(storage.exists(storage.join(url, name)) for name in (PLAN_NAME, IMPORTED))


def import_set(
    source: str,
    dataset: Dataset,
    url: str,
    images: str | None = None,
    unreadable: Corruption | None = None,
    skipped: Counter[str] | None = None,
) -> ImportedSet:
    """Take over a synthetic set. Images that cannot be read leave a gap and are counted in their shard's marker.

    Killed at any time, the same call writes the same shards.

    Args:
        source: a split file or the folder that holds it, of which the split `train` is read; or a folder or URL of
            tars, of which those of `train/` are read where there is one.
        dataset: whose class ids the set uses, in its first order.
        url: folder or URL to write to.
        images: where the images of a split file are; looked for beside it where not given.
        unreadable: counts the images that cannot be read, by name.
        skipped: counts the members of tars that are not used, by extension.

    Raises:
        UserError: nothing of the kind is there, class ids are out of range or of other classes, or the folder holds
            another set.
    """
    source_images, texts = open_source(source, dataset, images, skipped)
    unreadable = unreadable or Corruption(limit=None)
    classes = len(dataset.classnames)
    counts = np.bincount(source_images.labels, minlength=classes)
    rounds = -(-SHARD_IMAGES // classes)
    found = ImportedSet(
        source=without_secrets(source.rstrip("/").rpartition("/")[2]),
        dataset=dataset.name,
        classnames=tuple(dataset.classnames),
        counts=tuple(counts.tolist()),
        shard_size=rounds * classes,
    )
    with storage.lease(url, "shards import"):
        claim(found, url)
        index = index_major(np.asarray(source_images.labels, np.int64), classes)
        order = np.argsort(index)
        with Progress(len(order), "images", "import") as progress:
            for shard in found.shards():
                rows = order[index[order] // found.shard_size == shard]
                samples = [
                    _sample(source_images, texts, dataset, int(index[row]), int(row), unreadable) for row in rows
                ]
                sound = [sample for sample in samples if sample is not None]
                lost = len(samples) - len(sound)
                write_shard(url, shard, sound, {"unreadable": lost} if lost else None, owner=found.owner)
                progress.update(len(rows))
        return finish(found, url)


def claim(found: ImportedSet, url: str) -> None:
    """Record in a folder what will be written there; a folder with the same record goes on.

    Raises:
        UserError: it holds something else.
    """
    before = _read(url)
    if storage.listdir(url) if before is None else before.model_copy(update={"content": ""}) != found:
        raise UserError(f"{url}: holds something else already; choose another folder.")
    _write(found, url)
    forget_index(url)


def finish(found: ImportedSet, url: str) -> ImportedSet:
    """Record in a folder that all is written, and what: from then on it is a set."""
    finished = found.model_copy(update={"content": content_of(url, found.owner)})
    _write(finished, url)
    index_set(url, found.owner)
    storage.write_contents(url, found.owner)
    if read_whole_set(url) != finished:
        raise UserError(f"{url}: shards were removed while the set was written; run the same command again")
    return finished


def content_of(url: str, owner: str | None = None) -> str:
    """Digest of the committed tars of a set; `owner` is the identity that they must have, see `storage.seals`."""
    shards = committed_shards(url, owner).values()
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def require_content(found: Plan | ImportedSet, url: str) -> None:
    """Refuse an imported or merged set whose shards are not those that were written with it.

    Raises:
        UserError: some were exchanged or removed.
    """
    if isinstance(found, ImportedSet) and content_of(url, found.owner) != found.content:
        raise UserError(
            f"{url}: its shards are not those of its {IMPORTED}, some were exchanged or removed; copy the set again, "
            "or make it anew"
        )


def index_major(labels: Rows, classes: int) -> Rows:
    """(n,) the index of each image: `k * classes + label`, where it is image k of its class in the given order."""
    return ranks(labels) * classes + labels


def _sample(
    images: ImageSet, texts: Sequence[str], dataset: Dataset, index: int, row: int, unreadable: Corruption
) -> Sample | None:
    """The sample of a row; None where the image cannot be read."""
    label, name = int(images.labels[row]), images.name(row)
    data = images.read(row)
    try:
        decode_image(data, name)
    except UnreadableImageError as error:
        unreadable.skip(name, error.reason)
        return None
    source = without_secrets("/".join(name.split("/")[-2:]))
    return Sample(index, label, data, texts[row] or dataset.prompt(label), {"source": source})


def _read(url: str) -> ImportedSet | None:
    return storage.read_document(storage.join(url, IMPORTED), ImportedSet, "import the set again")


def _write(found: ImportedSet, url: str) -> None:
    storage.write_document(storage.join(url, IMPORTED), found, found.owner)
