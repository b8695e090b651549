"""A dataset as shards: packing it once, so that a cluster streams its images, and opening it, local or remote.

`dataset.json` stands beside the shard folders `train/`, `val/` and `test/`.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import MANY, ShortText, UserError, added, with_present_names
from syncclip.datasets.dataset import SPLITS, TEMPLATE, Dataset, Ids, Split, Splits, choose_rows
from syncclip.runtime.progress import Progress
from syncclip.shards.images import decode_image
from syncclip.shards.index import forget_index, index_set
from syncclip.shards.markers import committed
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.shards.writer import Sample, write_shard

PACKED_FILE = "dataset.json"
FIRST_PACKED_FILE = "benchmark.json"
"""Its name in earlier versions."""
WHOLE_TRAIN = "train.parquet"
"""Class ids of the whole training split, of which `train/` has only the images of some few-shot choices."""
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
"""The literature's."""
SHARD_IMAGES = 512
QUALITY = 95
"""Of the JPEG files of scaled images."""
PACKING = "packing.json"
"""What is being packed; written first, so that no two datasets are ever mixed in a folder."""
READERS = 8
LOST = "copy it again, or pack the dataset again"
DAMAGED = "as a shard is missing or damaged; find it with `syncclip shards verify`, or pack the dataset again"


class PackedDataset(BaseModel):
    """Content of `dataset.json`."""

    name: str | None = None
    classnames: Annotated[list[ShortText], MANY] = Field(min_length=1)
    template: ShortText = TEMPLATE
    splits: dict[Split, int] | None = None
    """Number of images of each split; None: there are all three splits, of unknown size."""
    only: Annotated[list[int], MANY] | None = None
    """Ids of the candidate classes; None: all."""
    whole: int | None = added(None)
    """Images of the whole training split, where `train.parquet` lists it; None: there is no such file, or an earlier
    version packed it."""


def find_packed(url: str) -> str | None:
    """The `dataset.json` of a folder or URL; None where no dataset is packed there."""
    places = [storage.join(url, name) for name in (PACKED_FILE, FIRST_PACKED_FILE)]
    return next((place for place in places if storage.exists(place)), None)


def load_packed(file: str) -> Dataset:
    """Open a packed dataset by its `dataset.json`. What its shards hold is checked by their markers; the tables of a
    split are read when it is first used.

    Raises:
        UserError: `dataset.json` is broken, a split lacks images that were packed, or shows other classes.
    """
    url = file.rpartition("/")[0]
    by_hand = not storage.exists(storage.join(url, PACKING))  # as others write it, around shards of their own
    owner = None if by_hand else storage.read_owner(storage.join(url, PACKING))
    packed = storage.read_document(file, PackedDataset, "pack the dataset again.", owner, sealed=not by_hand)
    assert packed is not None, "`find_packed` only names files that are there"
    name = packed.name or url.rpartition("/")[2]
    counts = packed.splits or dict.fromkeys(SPLITS)
    shown = {split: _shown(name, packed, url, split, owner) for split in counts}

    @cache
    def opened(split: Split) -> ShardSet:
        images = _opened(storage.join(url, split), counts[split])
        part = split == "train" and whole is None and images.samples.index[-1] >= len(images)
        if part and not by_hand:  # else others' shards, that may count otherwise
            raise UserError(f"{there}: not there, though only a part of the training split was packed; {LOST}")
        return images

    whole = None
    if storage.exists(there := storage.join(url, WHOLE_TRAIN)):
        table = storage.read_table(there, ["label"], "pack the dataset again", owner=owner)
        whole = table["label"].to_numpy().astype(np.int64)
    if packed.whole is not None and (whole is None or len(whole) != packed.whole):
        raise UserError(f"{there}: doesn't list the {packed.whole} training images that shots are chosen from; {LOST}")
    return Dataset(
        name=name,
        classnames=packed.classnames,
        template=packed.template,
        splits=Splits(counts, opened),
        only=packed.only,
        whole_train=whole,
        open_part=None if whole is None else lambda: opened("train").samples.index.astype(np.int64),
        trained=shown.get("train"),
    )


def owner_of_split(owner: str, split: str) -> str:
    """Identity of the files of one split, see `storage.seals`."""
    return storage.identity(f"{owner}/{split}")


def _shown(name: str, packed: PackedDataset, url: str, split: Split, owner: str | None) -> frozenset[int]:
    """The classes of a split, by the markers of its shards."""
    place = storage.join(url, split)
    shards = committed(place, owner=None if owner is None else owner_of_split(owner, split)).values()
    found, count = sum(stats.count for stats in shards), (packed.splits or {}).get(split)
    if not found:
        raise UserError(f"{place}: no image is there, {DAMAGED}")
    if count is not None and found != count:
        raise _incomplete(place, found, count)
    shown = frozenset(label for stats in shards for label in stats.per_class)
    classes = len(packed.classnames)
    if shown and not 0 <= min(shown) <= max(shown) < classes:
        raise UserError(
            f"dataset {name!r}, split {split}: labels run from {min(shown)} to {max(shown)}, but there are {classes} "
            f"classes (0 to {classes - 1})."
        )
    if packed.only is not None and not shown <= set(packed.only):
        raise UserError(f"dataset {name!r}, split {split}: has images of classes that are no candidates.")
    return shown


def _opened(url: str, count: int | None) -> ShardSet:
    images = ShardSet(url)
    if count is not None and len(images) != count:
        raise _incomplete(url, len(images), count)
    return images


def _incomplete(url: str, found: int, count: int) -> UserError:
    return UserError(f"{url}: only {found} of {count} images are there, {DAMAGED}")


def pack(
    dataset: Dataset,
    url: str,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = SEEDS,
    resize: int | None = None,
) -> dict[Split, int]:
    """Write few-shot training, validation and test images as shards, and `dataset.json` last.

    Of the training split, the images that any of the few-shot choices needs are packed, of all classes; each keeps its
    index in the whole split, so that the same shots are chosen from the packed dataset. Files are kept as they are
    unless `resize` is given. Every image is decoded once, so that broken ones are found here.

    After a crash at any time, the same call completes the folder; committed shards are kept.

    Args:
        dataset: with its classes in their original order (see `loading.read_dataset`), as base classes are chosen
            whenever it is loaded.
        url: folder or URL to write to.
        shots, seeds: of the few-shot choices.
        resize: shorter side in pixels to which larger images are scaled down (bicubic) and saved as JPEG.

    Returns:
        Number of images of each split.

    Raises:
        UserError: the folder has other content, an image cannot be read, or the dataset is packed already.
    """
    if dataset.whole_train is not None:
        raise UserError(f"dataset {dataset.name!r} is packed already; copy its folder instead.")
    assert dataset.base_count is None
    shots, seeds = sorted(set(shots)), sorted(set(seeds))
    if not shots or shots[0] < 1 or not seeds:
        raise UserError(f"--shots {shots} --seeds {seeds} select no image; give at least one of each, shots from 1.")
    rows = {split: np.arange(len(images)) for split, images in dataset.splits.items()}
    if "train" in rows:
        labels, classes = dataset.splits["train"].labels, range(len(dataset.classnames))
        chosen = [choose_rows(labels, k, seed, classes) for k, seed in itertools.product(shots, seeds)]
        rows["train"] = np.unique(np.concatenate(chosen))
    with storage.lease(url, "shards pack"):
        owner = _claim(dataset, url, shots, seeds, resize)
        total = sum(map(len, rows.values()))
        with Progress(total, "images", "pack") as progress:
            for split, images in dataset.splits.items():
                place = storage.join(url, split)
                of_split = owner_of_split(owner, split)
                _write_split(images, rows[split], place, dataset.classnames, resize, progress, of_split)
        counts: dict[Split, int] = {split: len(of_split) for split, of_split in rows.items()}
        described = PackedDataset(
            name=dataset.name,
            classnames=dataset.classnames,
            template=dataset.template,
            splits=counts,
            only=None if dataset.only is None else dataset.candidates,
            whole=_write_whole(dataset.splits["train"], url, owner) if _in_part(dataset, rows) else None,
        )
        storage.write_document(storage.join(url, PACKED_FILE), described, owner)
        storage.require(url, [PACKED_FILE])
        storage.write_contents(url, owner)
        load_packed(storage.join(url, PACKED_FILE))  # refuses what is not all there
        return counts


def _in_part(dataset: Dataset, rows: Mapping[Split, Ids]) -> bool:
    return "train" in rows and len(rows["train"]) < len(dataset.splits["train"])


def _write_whole(train: ImageSet, url: str, owner: str) -> int:
    """List the labels of the whole training split; returns their number."""
    import pyarrow as pa  # late: to read a recipe takes no table

    table = pa.table({"label": pa.array(train.labels, pa.int32())})
    storage.write_table(storage.join(url, WHOLE_TRAIN), table, owner)
    return len(train)


def _claim(dataset: Dataset, url: str, shots: Sequence[int], seeds: Sequence[int], resize: int | None) -> str:
    """Record in the folder what is packed there; refuse a folder with other content.

    Returns:
        Identity of the files in it, see `storage.seals`.
    """
    digest = hashlib.sha256()
    for split, images in dataset.splits.items():
        digest.update(split.encode() + np.asarray(images.labels, np.int64).tobytes())
    mine = {
        "dataset": dataset.name,
        "classnames": dataset.classnames,
        "shots": list(shots),
        "seeds": list(seeds),
        "resize": resize,
        "labels": digest.hexdigest(),
    }
    place = storage.join(url, PACKING)
    if storage.exists(place):
        there = with_present_names(parse_json(storage.read_sealed(place), place, dict, "pack into another folder"))
        differs = [key for key in mine if there.get(key) != mine[key]]
        if differs:
            key = differs[0]
            raise UserError(
                f"{url}: another dataset is packed there, whose {key} is {there.get(key)!r} instead of {mine[key]!r}; "
                "choose another folder."
            )
    elif storage.listdir(url):
        raise UserError(f"{url}: not empty, and not begun by `shards pack`; choose another folder.")
    text = json.dumps(mine, indent=1) + "\n"
    owner = storage.identity(text)
    storage.write_sealed(place, text.encode(), owner=owner)
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
    there = committed(url, owner=owner)
    forget_index(url)

    def sample(place: int) -> Sample:
        row = int(rows[place])
        label = int(images.labels[row])
        return Sample(
            index=row,
            label=label,
            image_bytes=_file(images.read(row), images.name(row), resize),
            text=classnames[label],
            provenance={"source": names[place][start:]},
        )

    with ThreadPoolExecutor(READERS, thread_name_prefix="pack") as readers:
        for shard, first in enumerate(range(0, len(rows), SHARD_IMAGES)):
            places = range(first, min(first + SHARD_IMAGES, len(rows)))
            if shard not in there:
                write_shard(url, shard, readers.map(sample, places), owner=owner)
            progress.update(len(places))
    index_set(url, owner)


def _file(data: bytes, name: str, resize: int | None) -> bytes:
    """The file as it is, or scaled down."""
    image = decode_image(data, name)
    shorter = min(image.size)
    if resize is None or shorter <= resize:
        return data
    width, height = (max(1, round(side * resize / shorter)) for side in image.size)
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
