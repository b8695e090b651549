"""Users' own images: from labels and splits as they write them to class ids, names and complete splits."""

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
"""How folders, and cells of a table, may name a split."""
VAL_SHARE, TEST_SHARE = 0.2, 0.3
"""Of each class's images; the literature's proportions."""

ImageKey = TypeVar("ImageKey", str, int)
"""What identifies an image: its file, or its number."""
Labelled = list[tuple[ImageKey, int]]
"""Images with their class ids, in the order that the few-shot choice depends on."""


@dataclass(frozen=True)
class ImageRecord:
    """What the data states about one image.

    Attributes:
        label: as written: a class name, or a number.
        place: where it is written, for messages.
        classname: the name written beside a number.
        split: None where none is stated.
    """

    label: str | int
    place: str
    classname: str | None = None
    split: Split | None = None


def names_and_splits(
    images: Sequence[ImageKey],
    records: Sequence[ImageRecord],
    source: str,
    classnames: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[list[str], dict[Split, Labelled[ImageKey]]]:
    """Class names by id, and the images of each split as the records state it; where none does, drawn by the seed.

    Labels that are all numbers are ids and need names, written beside them or given. Any other labels are the names,
    and ids follow their sorted order.

    Args:
        images, records: one record for each image.
        source: what messages call the data.
        classnames: names by id, if given; they take precedence over those written in the data.
        seed: of drawn splits, and of a missing validation split.

    Raises:
        UserError: an id out of range, without an image, without a name or with two; some records state no split, there
            is none to train or to test, or a class has too few images.
    """
    names, ids = assign_ids(records, source, classnames)
    labelled = list(zip(images, ids, strict=True))
    if not any(record.split for record in records):
        return names, draw_splits(labelled, names, source, seed)
    splits: dict[Split, Labelled[ImageKey]] = {}
    for image, record in zip(labelled, records, strict=True):
        if record.split is None:
            raise UserError(f"{record.place}: no split, though other images have one; give it for all or for none.")
        splits.setdefault(record.split, []).append(image)
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{source}: no image of split {needed!r}; add some, or give no splits to have them drawn.")
    return names, with_validation(splits, seed)


def assign_ids(
    records: Sequence[ImageRecord], source: str, classnames: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Class names by id, and the id of each image; see `names_and_splits`."""
    if not all(isinstance(record.label, int) for record in records):
        names = sorted({str(record.label) for record in records})
        ids = {name: number for number, name in enumerate(names)}
        return names, [ids[str(record.label)] for record in records]
    numbers = [int(record.label) for record in records]
    written: dict[int, str] = {}
    limit = len(classnames) if classnames is not None else None
    for record, number in zip(records, numbers, strict=True):
        if number < 0 or (limit is not None and number >= limit):
            valid = f"the {limit} class names run from 0 to {limit - 1}" if limit else "ids count from 0"
            raise UserError(f"{record.place}: label {number} is out of range; {valid}.")
        name = record.classname
        if name is not None and written.setdefault(number, name) != name:
            raise UserError(f"{record.place}: class {number} is called both {written[number]!r} and {name!r}.")
    if classnames is None and set(numbers) - set(written):
        raise UserError(f"{source}: labels are numbers without names; give dataset.classnames.")
    count, shown = max(numbers) + 1 if limit is None else limit, set(numbers)
    # The first few: a mistaken id may make the count very large.
    if without := list(islice((label for label in range(count) if label not in shown), 4)):
        raise UserError(f"{source}: class(es) {few(without)} have no image; ids must count from 0 without gaps.")
    return list(classnames) if classnames is not None else [written[label] for label in range(count)], numbers


def draw_splits(
    labelled: Labelled[ImageKey], names: Sequence[str], source: str, seed: int
) -> dict[Split, Labelled[ImageKey]]:
    """Split the images of each class at random, in the literature's proportions.

    Raises:
        UserError: a class has fewer than three images.
    """
    by_class = _by_class(sorted(labelled))
    splits: dict[Split, Labelled[ImageKey]] = {"train": [], "val": [], "test": []}
    generator = random.Random(seed)
    for label, name in enumerate(names):
        images = by_class.get(label, [])
        if len(images) < 3:
            raise UserError(
                f"{source}: class {name!r} has {counted(len(images), 'image')}; splitting needs at least 3 "
                "(one each to train, validate and test)."
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
    """The splits, where a missing validation split is drawn from the training images of each class."""
    if "val" in splits:
        return splits
    generator = random.Random(seed)
    held: set[ImageKey] = set()
    for _, images in sorted(_by_class(splits["train"]).items()):
        held.update(generator.sample(images, round(VAL_SHARE * len(images)) if len(images) > 1 else 0))
    train = [one for one in splits["train"] if one[0] not in held]
    return {**splits, "train": train, "val": [one for one in splits["train"] if one[0] in held]}


def _by_class(labelled: Labelled[ImageKey]) -> dict[int, list[ImageKey]]:
    by_class: dict[int, list[ImageKey]] = {}
    for image, label in labelled:
        by_class.setdefault(label, []).append(image)
    return by_class
