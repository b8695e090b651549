"""Datasets packed as shards for streaming: `dataset.json` and the shard folders `train/`, `val/` and `test/`."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import MANY, ShortText, UserError, added
from syncclip.datasets.dataset import SPLITS, TEMPLATE, Dataset, Ids, Split, Splits, choose_rows
from syncclip.runtime.progress import Progress
from syncclip.shards.images import decode_image
from syncclip.shards.index import forget_index, index_set
from syncclip.shards.markers import committed
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.shards.writer import Sample, write_shard

PACKED_FILE = "dataset.json"
WHOLE_TRAIN = "train.parquet"
"""File with the class ids of the full training split, if `train/` contains only few-shot samples."""
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
"""Default shots and seeds of the few-shot samples, as in the literature."""
SHARD_IMAGES = 512
QUALITY = 95
"""JPEG quality of downscaled images."""
PACKING = "packing.json"
"""File that identifies the dataset; it is written first, so that two datasets can't be mixed in one folder."""
READERS = 8
COPY_OR_PACK_AGAIN = "copy the file again, or pack the dataset again"
VERIFY_OR_PACK_AGAIN = "find missing or corrupt shards with `syncclip shards verify`, or pack the dataset again"


class PackedDataset(BaseModel):
    """Content of `dataset.json`."""

    name: str | None = None
    classnames: Annotated[list[ShortText], MANY] = Field(min_length=1)
    template: ShortText = TEMPLATE
    splits: dict[Split, int] | None = None
    """Number of images in each split; None: all three splits exist, with unknown sizes."""
    only: Annotated[list[int], MANY] | None = None
    """Ids of the candidate classes; None: all classes."""
    whole: int | None = added(None)
    """Number of images in the full training split, listed in `train.parquet`; None if the file does not exist."""


def load_packed(file: str) -> Dataset:
    """Load a packed dataset from its `dataset.json` after verifying its shard markers; splits are opened on access.

    Raises:
        UserError: `dataset.json` is corrupt, images of a split are missing, or a class id is out of range.
    """
    url = file.rpartition("/")[0]
    foreign = not storage.exists(storage.join(url, PACKING))  # written by another tool
    owner = None if foreign else storage.read_owner(storage.join(url, PACKING))
    packed = storage.read_document(file, PackedDataset, "pack the dataset again.", owner, checksum_required=not foreign)
    assert packed is not None, "the file exists"
    name = packed.name or url.rpartition("/")[2]
    counts = packed.splits or dict.fromkeys(SPLITS)
    classes = {split: _classes(name, packed, url, split, owner) for split in counts}

    @cache
    def opened(split: Split) -> ShardSet:
        images = ShardSet(storage.join(url, split))
        _require_count(storage.join(url, split), len(images), counts[split])
        part = split == "train" and whole is None and images.samples.index[-1] >= len(images)
        if part and not foreign:  # other tools may number samples differently
            raise UserError(f"{table_url} is missing, but a partial training split requires it; {COPY_OR_PACK_AGAIN}")
        return images

    whole = None
    if storage.exists(table_url := storage.join(url, WHOLE_TRAIN)):
        table = storage.read_table(table_url, ["label"], "pack the dataset again", owner=owner)
        whole = table["label"].to_numpy().astype(np.int64)
    if packed.whole is not None and (whole is None or len(whole) != packed.whole):
        raise UserError(f"{table_url} does not list all {packed.whole} training images; {COPY_OR_PACK_AGAIN}")
    return Dataset(
        name=name,
        classnames=packed.classnames,
        template=packed.template,
        splits=Splits(counts, opened),
        only=packed.only,
        whole_train=whole,
        open_part=None if whole is None else lambda: opened("train").samples.index.astype(np.int64),
        trained=classes.get("train"),
    )


def owner_of_split(owner: str, split: str) -> str:
    """Return the owner ID of a split's files (see `storage.checksums`)."""
    return storage.identity(f"{owner}/{split}")


def _classes(name: str, packed: PackedDataset, url: str, split: Split, owner: str | None) -> frozenset[int]:
    """Read a split's class ids from its shard markers."""
    folder = storage.join(url, split)
    shards = committed(folder, owner=None if owner is None else owner_of_split(owner, split)).values()
    _require_count(folder, sum(stats.count for stats in shards), (packed.splits or {}).get(split))
    classes = frozenset(label for stats in shards for label in stats.per_class)
    count = len(packed.classnames)
    if classes and not 0 <= min(classes) <= max(classes) < count:
        raise UserError(
            f"dataset {name!r}, split {split}: labels range from {min(classes)} to {max(classes)}, but the {count} "
            f"classes have ids 0 to {count - 1}; pack the dataset again."
        )
    if packed.only is not None and not classes <= set(packed.only):
        raise UserError(
            f"dataset {name!r}, split {split}: some images belong to no candidate class; pack the dataset again."
        )
    return classes


def _require_count(url: str, count: int, expected: int | None) -> None:
    if not count:
        raise UserError(f"{url}: no images; {VERIFY_OR_PACK_AGAIN}")
    if expected is not None and count != expected:
        raise UserError(f"{url}: only {count} of {expected} images; {VERIFY_OR_PACK_AGAIN}")


def pack(
    dataset: Dataset,
    url: str,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = SEEDS,
    resize: int | None = None,
) -> dict[Split, int]:
    """Write shards of the few-shot training images, validation images and test images, and then `dataset.json`.

    Training images keep their index in the full split, which preserves the few-shot samples. Every image is decoded
    once to detect corrupt files. After a crash, repeat the call to resume.

    Args:
        dataset: dataset with its classes in their original order (see `loading.read_dataset`).
        url: output folder or URL.
        shots, seeds: shots and seeds of the few-shot samples; each combination of shots and seed defines a sample.
        resize: maximum length of the shorter side in pixels; larger images are downscaled (bicubic) and saved as
            JPEG. None: files are unchanged.

    Returns:
        Number of images in each split.

    Raises:
        UserError: the folder contains other files, an image is unreadable, or the dataset is already packed.
    """
    if dataset.whole_train is not None:
        raise UserError(f"dataset {dataset.name!r} is already packed; copy its folder instead.")
    assert dataset.base_count is None
    shots, seeds = sorted(set(shots)), sorted(set(seeds))
    if not shots or shots[0] < 1 or not seeds:
        raise UserError(f"--shots {shots} --seeds {seeds} select no images; use at least 1 shot and 1 seed.")
    rows = {split: np.arange(len(images)) for split, images in dataset.splits.items()}
    if "train" in rows:
        labels, classes = dataset.splits["train"].labels, range(len(dataset.classnames))
        samples = [choose_rows(labels, k, seed, classes) for k, seed in itertools.product(shots, seeds)]
        rows["train"] = np.unique(np.concatenate(samples))
    with storage.lock(url, "shards pack"):
        owner = _claim(dataset, url, shots, seeds, resize)
        with Progress(sum(map(len, rows.values())), "images", "pack") as progress:
            for split, images in dataset.splits.items():
                folder, split_owner = storage.join(url, split), owner_of_split(owner, split)
                _write_split(images, rows[split], folder, dataset.classnames, resize, progress, split_owner)
        counts: dict[Split, int] = {split: len(rows_of_split) for split, rows_of_split in rows.items()}
        partial = "train" in rows and len(rows["train"]) < len(dataset.splits["train"])
        if partial:
            _write_labels(dataset.splits["train"], url, owner)
        description = PackedDataset(
            name=dataset.name,
            classnames=dataset.classnames,
            template=dataset.template,
            splits=counts,
            only=None if dataset.only is None else dataset.candidates,
            whole=len(dataset.splits["train"]) if partial else None,
        )
        storage.write_document(storage.join(url, PACKED_FILE), description, owner)
        storage.require(url, [PACKED_FILE])
        storage.write_contents(url, owner)
        load_packed(storage.join(url, PACKED_FILE))  # raises if anything is missing
        return counts


def _write_labels(train: ImageSet, url: str, owner: str) -> None:
    """Write the labels of the full training split."""
    import pyarrow as pa  # slow to import

    table = pa.table({"label": pa.array(train.labels, pa.int32())})
    storage.write_table(storage.join(url, WHOLE_TRAIN), table, owner)


def _claim(dataset: Dataset, url: str, shots: Sequence[int], seeds: Sequence[int], resize: int | None) -> str:
    """Write the file that identifies the dataset, and return the owner ID.

    Raises:
        UserError: the folder belongs to a different dataset or contains other files.
    """
    digest = hashlib.sha256()
    for split, images in dataset.splits.items():
        digest.update(split.encode() + np.asarray(images.labels, np.int64).tobytes())
    identity = {
        "dataset": dataset.name,
        "classnames": dataset.classnames,
        "shots": list(shots),
        "seeds": list(seeds),
        "resize": resize,
        "labels": digest.hexdigest(),
    }
    file = storage.join(url, PACKING)
    if storage.exists(file):
        existing = parse_json(storage.read_verified(file), file, dict, "pack into a different folder")
        if key := next((key for key in identity if existing.get(key) != identity[key]), None):
            raise UserError(
                f"{url} contains a different packed dataset ({key} is {existing.get(key)!r}, not {identity[key]!r}); "
                "use a different folder."
            )
    elif storage.listdir(url):
        raise UserError(f"{url}: the folder is not empty and was not created by `shards pack`; use a different folder.")
    text = json.dumps(identity, indent=1) + "\n"
    owner = storage.identity(text)
    storage.write_with_checksum(file, text.encode(), owner=owner)
    return owner


def _write_split(
    images: ImageSet,
    rows: Ids,
    url: str,
    classnames: Sequence[str],
    resize: int | None,
    progress: Progress,
    owner: str,
) -> None:
    storage.sweep(url)
    names = [images.name(int(row)) for row in rows]
    start = len(os.path.commonpath(names)) + 1 if len(names) > 1 else 0
    existing = committed(url, owner=owner)
    forget_index(url)

    def sample(position: int) -> Sample:
        row = int(rows[position])
        label = int(images.labels[row])
        return Sample(
            index=row,
            label=label,
            image_bytes=_file(images.read(row), images.name(row), resize),
            text=classnames[label],
            provenance={"source": names[position][start:]},
        )

    with ThreadPoolExecutor(READERS, thread_name_prefix="pack") as readers:
        for shard, first in enumerate(range(0, len(rows), SHARD_IMAGES)):
            positions = range(first, min(first + SHARD_IMAGES, len(rows)))
            if shard not in existing:
                write_shard(url, shard, readers.map(sample, positions), owner=owner)
            progress.update(len(positions))
    index_set(url, owner)


def _file(data: bytes, name: str, resize: int | None) -> bytes:
    """Return the image file, downscaled if necessary; raise a `UserError` if the image cannot be decoded."""
    image = decode_image(data, name)
    shorter = min(image.size)
    if resize is None or shorter <= resize:
        return data
    width, height = (max(1, round(side * resize / shorter)) for side in image.size)
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
