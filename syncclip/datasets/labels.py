"""Class ids, class names and splits of custom data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.datasets.dataset import Split

SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Mapping from the split names accepted in folders and tables to the standard split names."""
VAL_SHARE, TEST_SHARE = 0.2, 0.3
"""Fractions of each class's images for validation and testing, as in the literature."""

ImageKey = TypeVar("ImageKey", str, int)
"""Path of an image file, or index of a sample."""
Labelled = list[tuple[ImageKey, int]]
"""Pairs (image, class id); the order of the pairs determines the few-shot samples."""


@dataclass(frozen=True)
class ImageRecord:
    """Label and split of an image, as specified in the data.

    Attributes:
        label: class name or class id.
        location: file and row, for error messages.
        classname: class name, if the label is an id.
    """

    label: str | int
    location: str
    classname: str | None = None
    split: Split | None = None


def names_and_splits(
    images: Sequence[ImageKey],
    records: Sequence[ImageRecord],
    source: str,
    classnames: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[list[str], dict[Split, Labelled[ImageKey]]]:
    """Return the class names by id and each split's images; images without splits are split at random.

    If all labels are integers, they are class ids, and the class names are read from the records or from `classnames`.
    Otherwise, the labels are the class names, and class ids follow the sorted order of the names.

    Args:
        images, records: images and their records, one record per image.
        source: name of the data source, for error messages.
        classnames: class names by id, which take precedence over the class names in the records.
        seed: seed for a random split, or for sampling a missing validation split.
    """
    names, ids = assign_ids(records, source, classnames)
    labelled = list(zip(images, ids, strict=True))
    if not any(record.split for record in records):
        return names, draw_splits(labelled, names, source, seed)
    splits: dict[Split, Labelled[ImageKey]] = {}
    for image, record in zip(labelled, records, strict=True):
        if record.split is None:
            raise UserError(
                f"{record.location}: no split, but other images have one; specify a split for all images or for none."
            )
        splits.setdefault(record.split, []).append(image)
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{source}: no images in split {needed!r}; add images, or omit the splits.")
    return names, with_validation(splits, seed)


def assign_ids(
    records: Sequence[ImageRecord], source: str, classnames: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Return the class names by id and the class id of each image (see `names_and_splits`)."""
    if not all(isinstance(record.label, int) for record in records):
        names = sorted({str(record.label) for record in records})
        id_of = {name: label for label, name in enumerate(names)}
        return names, [id_of[str(record.label)] for record in records]
    ids = [int(record.label) for record in records]
    name_of: dict[int, str] = {}
    limit = len(classnames) if classnames is not None else None
    for record, label in zip(records, ids, strict=True):
        if label < 0 or (limit is not None and label >= limit):
            valid = f"class ids range from 0 to {limit - 1}" if limit else "class ids start at 0"
            raise UserError(f"{record.location}: label {label} is out of range; {valid}.")
        name = record.classname
        if name is not None and name_of.setdefault(label, name) != name:
            both = f"{name_of[label]!r} and {name!r}"
            raise UserError(f"{record.location}: class {label} has two names, {both}; keep one.")
    present = set(ids)
    if classnames is None and present - name_of.keys():
        raise UserError(f"{source}: labels are numbers without class names; set dataset.classnames.")
    labels = range(max(ids) + 1 if limit is None else limit)
    # Only the first four are collected, since a wrong id may be very large.
    if empty := list(islice((label for label in labels if label not in present), 4)):
        raise UserError(f"{source}: class(es) {few(empty)} have no images; ids must be contiguous and start at 0.")
    return list(classnames) if classnames is not None else [name_of[label] for label in labels], ids


def draw_splits(
    labelled: Labelled[ImageKey], names: Sequence[str], source: str, seed: int
) -> dict[Split, Labelled[ImageKey]]:
    """Split each class's images at random."""
    by_class = _by_class(sorted(labelled))
    splits: dict[Split, Labelled[ImageKey]] = {"train": [], "val": [], "test": []}
    generator = random.Random(seed)
    for label, name in enumerate(names):
        images = by_class.get(label, [])
        if len(images) < 3:
            raise UserError(
                f"{source}: class {name!r} has {counted(len(images), 'image')}; a random split requires at least "
                "3 images per class (for training, validation and testing)."
            )
        generator.shuffle(images)
        val, test = max(1, round(VAL_SHARE * len(images))), max(1, round(TEST_SHARE * len(images)))
        parts: dict[Split, list[ImageKey]] = {
            "test": images[:test],
            "val": images[test : test + val],
            "train": images[test + val :],
        }
        for split, part in parts.items():
            splits[split] += [(image, label) for image in sorted(part)]
    return splits


def with_validation(splits: dict[Split, Labelled[ImageKey]], seed: int) -> dict[Split, Labelled[ImageKey]]:
    """Return the splits; if there is no validation split, sample it from each class's training images."""
    if "val" in splits:
        return splits
    generator = random.Random(seed)
    held_out: set[ImageKey] = set()
    for _, images in sorted(_by_class(splits["train"]).items()):
        held_out.update(generator.sample(images, round(VAL_SHARE * len(images)) if len(images) > 1 else 0))
    train = [item for item in splits["train"] if item[0] not in held_out]
    return {**splits, "train": train, "val": [item for item in splits["train"] if item[0] in held_out]}


def _by_class(labelled: Labelled[ImageKey]) -> dict[int, list[ImageKey]]:
    by_class: dict[int, list[ImageKey]] = {}
    for image, label in labelled:
        by_class.setdefault(label, []).append(image)
    return by_class
