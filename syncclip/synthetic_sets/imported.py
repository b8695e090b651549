"""Import of synthetic images from other sources into shards.

Two formats are supported: an image folder with a split file, like the SYNC-CLIP authors' DALL-E and Stable Diffusion
datasets, and any WebDataset with class ids. Image files are copied unchanged, in index-major order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from syncclip import storage
from syncclip.core.balance import ranks
from syncclip.core.secrets import without_secrets
from syncclip.core.settings import MANY, Settings, ShortText, UserError, added
from syncclip.core.text import few, readable_name
from syncclip.datasets.dataset import Dataset
from syncclip.datasets.folders import FolderSet, require_files
from syncclip.datasets.layouts import split_entries
from syncclip.runtime.progress import Progress
from syncclip.shards.images import Corruption, SkippedFiles, UnreadableImageError, decode_image
from syncclip.shards.index import committed_shards, forget_index, index_set
from syncclip.shards.reader import ImageSet
from syncclip.shards.webdataset import TarSet, index_tars, tars_in
from syncclip.shards.writer import Sample, write_shard
from syncclip.storage.exports import require_export
from syncclip.synthesis.plan import PLAN_NAME, SHARD_IMAGES, Plan, check_size, read_plan

IMPORTED = "imported.json"
SET_RECIPE = "synthesis.yaml"
"""File name of a synthetic dataset's resolved recipe; a run in the same folder has its own `recipe.yaml`."""

Rows = npt.NDArray[np.int64]


class ImportedSet(Settings):
    """Description of an imported or merged dataset, which has no plan; content of `imported.json`.

    Image k of class c, if it exists, is sample `k * classes + c`.
    """

    format: int = 1
    source: str
    dataset: str
    classnames: Annotated[tuple[ShortText, ...], MANY]
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], MANY] = Field(min_length=1)
    """Number of images in the source for each class."""
    shard_size: int = Field(ge=1)
    parts: tuple[str, ...] = added(())
    """Checksums of the merged datasets; empty for an imported dataset."""
    content: str = ""
    """Checksum of all shards; empty until the dataset is complete."""

    @model_validator(mode="after")
    def _check_consistency(self) -> ImportedSet:
        if len(self.counts) != len(self.classnames):
            raise ValueError(f"counts has {len(self.counts)} entries, but there are {len(self.classnames)} classes")
        check_size(self.images_per_class, self.classes, len(self.shards()))
        return self

    @property
    def owner(self) -> str:
        """Owner ID of the dataset's files; see `storage.checksums`."""
        return storage.identity(self.model_dump_json(exclude={"content"}))

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.classnames)

    @property
    def images_per_class(self) -> int:
        """Number of images in the largest class."""
        return max(self.counts)

    @property
    def amounts(self) -> tuple[int, ...]:
        """Numbers of images per class, in the same format as in a plan."""
        return (self.images_per_class,)

    def shards(self, images_per_class: int | None = None) -> range:
        """Return the shard numbers for the first `images_per_class` images of each class (default: all)."""
        count = self.images_per_class if images_per_class is None else images_per_class
        return range(-(-count * self.classes // self.shard_size))


def read_set(url: str) -> Plan | ImportedSet | None:
    """Read the plan or import description of a synthetic dataset; return None if neither exists.

    Raises:
        UserError: the plan or description is unreadable, or the import was interrupted.
    """
    imported = _read(url)
    if imported is None:
        return read_plan(url)
    if not imported.content:
        command = "merge" if imported.parts else "import"
        raise UserError(f"{url}: the {command} was interrupted; run the same `syncclip shards {command}` command again")
    return imported


def read_whole_set(url: str) -> Plan | ImportedSet:
    """Read a dataset's plan or description; raise a `UserError` if the dataset is missing or incomplete."""
    plan = read_set(url)
    if plan is None:
        fix = "no synthetic dataset found; create one with `syncclip synth` or `syncclip shards import`"
        raise storage.wrong_folder(url, "a synthetic dataset", fix)
    existing = committed_shards(url, plan.owner)
    if missing := [shard for shard in plan.shards() if shard not in existing]:
        raise UserError(f"{url}: {len(missing)} of {len(plan.shards())} shards are missing; complete the dataset first")
    require_content(plan, url)
    return plan


def holds_set(url: str) -> bool:
    """Return whether a folder contains a generated or imported dataset."""
    return any(storage.exists(storage.join(url, name)) for name in (PLAN_NAME, IMPORTED))


def import_set(
    source: str,
    dataset: Dataset,
    url: str,
    images: str | None = None,
    unreadable: Corruption | None = None,
    skipped: SkippedFiles | None = None,
) -> ImportedSet:
    """Import a synthetic dataset; unreadable images leave gaps and are counted in their shard's marker.

    After a crash, repeating the call produces identical shards.

    Args:
        source: a split file or its folder, whose `train` split is imported; or a folder or URL with tars, either
            directly or in `train/`.
        dataset: dataset that defines the class ids.
        images: folder with a split file's images; by default, the split file's folder or one of its subfolders.
        unreadable: record of unreadable images, updated in place.
        skipped: record of unused tar members, updated in place.

    Raises:
        UserError: the source is missing or malformed, its class ids do not match, or the folder has other content.
    """
    source_images, texts = _open_source(source, dataset, images, skipped)
    unreadable = unreadable or Corruption(limit=None)
    classes = len(dataset.classnames)
    counts = np.bincount(source_images.labels, minlength=classes)
    rounds = -(-SHARD_IMAGES // classes)
    imported = ImportedSet(
        source=without_secrets(source.rstrip("/").rpartition("/")[2]),
        dataset=dataset.name,
        classnames=tuple(dataset.classnames),
        counts=tuple(counts.tolist()),
        shard_size=rounds * classes,
    )
    with storage.lock(url, "shards import"):
        claim(imported, url)
        index = index_major(np.asarray(source_images.labels, np.int64), classes)
        order = np.argsort(index)
        with Progress(len(order), "images", "import") as progress:
            for shard in imported.shards():
                rows = order[index[order] // imported.shard_size == shard]
                samples = [
                    _sample(source_images, texts, dataset, int(index[row]), int(row), unreadable) for row in rows
                ]
                readable = [sample for sample in samples if sample is not None]
                lost = len(samples) - len(readable)
                write_shard(url, shard, readable, {"unreadable": lost} if lost else None, owner=imported.owner)
                progress.update(len(rows))
        return finish(imported, url)


def claim(imported: ImportedSet, url: str) -> None:
    """Write a dataset's description, marked as incomplete; raise a `UserError` if the folder has other content."""
    existing = _read(url)
    if storage.listdir(url) if existing is None else existing.model_copy(update={"content": ""}) != imported:
        raise UserError(f"{url}: the folder is not empty; use a different folder")
    _write(imported, url)
    forget_index(url)


def finish(imported: ImportedSet, url: str) -> ImportedSet:
    """Mark a dataset as complete, and return its description with the checksum of its content."""
    finished = imported.model_copy(update={"content": content_of(url, imported.owner)})
    _write(finished, url)
    index_set(url, imported.owner)
    storage.write_contents(url, imported.owner)
    if read_whole_set(url) != finished:
        raise UserError(f"{url}: shards were deleted while the dataset was being written; run the same command again")
    return finished


def content_of(url: str, owner: str | None = None) -> str:
    """Return a checksum of a dataset's committed tars; `owner` is the expected owner (see `storage.checksums`)."""
    shards = committed_shards(url, owner).values()
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def require_content(plan: Plan | ImportedSet, url: str) -> None:
    """Raise a `UserError` if shards of an imported or merged dataset have been replaced or removed."""
    if isinstance(plan, ImportedSet) and content_of(url, plan.owner) != plan.content:
        raise UserError(f"{url}: shards were replaced or removed after the import; copy or import the dataset again")


def index_major(labels: Rows, classes: int) -> Rows:
    """Return the sample index of each image, with shape (n,): `k * classes + label` for the k-th image of a class."""
    return ranks(labels) * classes + labels


def _sample(
    images: ImageSet, texts: Sequence[str], dataset: Dataset, index: int, row: int, unreadable: Corruption
) -> Sample | None:
    """Build the sample for a row; return None if the image is unreadable."""
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
    return storage.read_document(storage.join(url, IMPORTED), ImportedSet, "import the dataset again")


def _write(imported: ImportedSet, url: str) -> None:
    storage.write_document(storage.join(url, IMPORTED), imported, imported.owner)


def _open_source(
    source: str, dataset: Dataset, images: str | None, skipped: SkippedFiles | None
) -> tuple[ImageSet, Sequence[str]]:
    """Return the images of a source, labelled with the dataset's class ids, and their captions ("" if missing)."""
    require_export(source, source.rstrip("/").rpartition("/")[0] or ".")  # exported tars are in a subfolder
    if tars := _tars(source):
        members = index_tars(tars, skipped)
        labels = [_class_id(member.label, dataset, f"{tars[member.tar]}:{member.key}") for member in members]
        return TarSet(tars, members, labels), [member.text for member in members]
    file = _split_file(source)
    entries = split_entries(file)["train"]
    folder = Path(images) if images is not None else _image_folder(file, entries[0][0])
    labels = [_class_id(label, dataset, f"{file}: {path}") for path, label, _ in entries]
    files = [f"{folder}/{path}" for path, _, _ in entries]
    require_files(files, str(file))
    names = {label: name for _, label, name in entries}
    differences = [
        f"{dataset.classnames[label]!r} is {name!r}"
        for label, name in names.items()
        if readable_name(name).lower() != dataset.classnames[label].lower()
    ]
    if 2 * len(differences) > len(names):
        raise UserError(
            f"{file}: {len(differences)} of {len(names)} class names differ from {dataset.name!r} "
            f"({few(differences)}); set dataset.name to the matching dataset"
        )
    return FolderSet(zip(files, labels, strict=True)), [""] * len(files)


def _tars(source: str) -> list[str]:
    if storage.is_local(source) and not storage.local_path(source).is_dir():
        return []
    return tars_in(source) or tars_in(storage.join(source, "train"))


def _split_file(source: str) -> Path:
    path = storage.local_path(source) if storage.is_local(source) else None
    if path is None or not path.exists():
        raise UserError(
            f"{source}: the folder does not exist or contains no tars; specify a split file, its folder, or a folder "
            "with tars"
        )
    if path.is_file():
        return path
    files = sorted(path.glob("split_*.json")) or sorted(path.glob("*.json"))
    if len(files) != 1:
        content = f"{len(files)} split files ({few(file.name for file in files)})" if files else "no split file or tars"
        raise UserError(f"{source}: {content}; specify a split file")
    return files[0]


def _image_folder(file: Path, first: str) -> Path:
    """Return the folder that contains the first image: the split file's folder or one of its subfolders."""
    for folder in [file.parent, *sorted(child for child in file.parent.iterdir() if child.is_dir())]:
        if (folder / first).is_file():
            return folder
    raise UserError(
        f"{file}: image {first} was not found in the split file's folder or its subfolders; set the image folder with "
        "--images"
    )


def _class_id(label: str | int, dataset: Dataset, location: str) -> int:
    count = len(dataset.classnames)
    if not isinstance(label, int) or not 0 <= label < count:
        raise UserError(f"{location}: class {label!r} is not a class id of {dataset.name!r}; use 0 to {count - 1}")
    return label
