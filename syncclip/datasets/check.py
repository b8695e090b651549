"""Check a dataset for missing, corrupt and duplicate images, small splits, and counts other than the published ones."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few, short_path
from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS, CatalogEntry
from syncclip.datasets.dataset import SPLITS, Dataset, DatasetSettings, Split
from syncclip.datasets.loading import load_dataset
from syncclip.datasets.packed import PACKED_FILE
from syncclip.shards.images import SkippedFiles
from syncclip.shards.reader import ImageSet

COUNTED = ("classes", *SPLITS)
MOST_DECODED = 5_000
"""Number of images up to which all images are decoded by default, first those of the test split."""
SAMPLE = 32
"""Number of evenly spaced images to decode by default in each other split."""
SMALL_SPLIT = 100
"""Number of images below which a split is reported as small."""
MOST_COMPARED = 10_000
"""Number of images up to which all images are compared between splits; of a larger dataset, only the sample."""
IMBALANCE = 3
"""Ratio between the size of a class and the median size above which the class is reported."""


@dataclass(frozen=True)
class Check:
    """Result of a dataset check.

    Attributes:
        counts, expected: actual and expected numbers of candidate classes and of images per split; None: unknown.
        problems: one message per problem.
        warnings: one message per property of custom data that limits what results on the data can show.
        skipped: files in the dataset's folders that are not read as images.
        decoded: number of decoded images.
    """

    name: str
    counts: dict[str, int | None]
    expected: dict[str, int | None]
    problems: list[str]
    warnings: list[str] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    decoded: int = 0

    @property
    def state(self) -> str:
        """Summary of the check: the number of problems, or "OK" with the number of decoded images."""
        if self.problems:
            return counted(len(self.problems), "problem")
        images = sum(self.counts[split] or 0 for split in SPLITS)
        return "OK" if self.decoded >= images else f"OK; decoded {self.decoded:,} of {counted(images, 'image')}"

    def count(self, key: str) -> str:
        """Format a count as `2,820`, or as `12 of 2,820` if it differs from the expected count."""
        count, expected = self.counts[key], self.expected[key]
        if expected is None or count == expected:
            return "" if count is None else f"{count:,}"
        return f"{count or 0:,} of {expected:,}"


def check(name: str, root: str | None, images: bool = False) -> Check:
    """Check a benchmark dataset in `root`, or custom data at a path.

    Args:
        images: whether to decode every image (minutes to hours) instead of a sample.

    Raises:
        UserError: the custom data cannot be loaded, or the root is missing.
    """
    entry = DATASETS.get(name)
    if entry is not None:
        require_root(root)
    expected = {key: getattr(entry, key, None) for key in COUNTED}
    try:
        dataset = load_dataset(DatasetSettings(name=name, root=root))
        sizes = {split: len(images) for split, images in dataset.splits.items()}
    except UserError as error:
        if entry is None:
            raise
        return Check(name, dict.fromkeys(COUNTED), expected, [str(error)])
    counts: dict[str, int | None] = {"classes": len(dataset.candidates)}
    counts |= {split: sizes.get(split) for split in SPLITS}
    if dataset.whole_train is not None:  # the packed split contains only few-shot samples
        counts["train"] = len(dataset.whole_train)
    problems = [
        f"{key}: {counts[key] or 0:,} found, {expected[key] or 0:,} expected"
        for key in COUNTED
        if entry is not None and counts[key] != expected[key]
    ]
    problems += problems_of(dataset, images)
    warnings = warnings_of(dataset, images) if entry is None else []
    return Check(name, counts, expected, problems, warnings, dataset.skipped, decoded_images(dataset, images))


def problems_of(dataset: Dataset, images: bool = False) -> list[str]:
    """Return one message per split with missing classes, or with unreadable images among those that are decoded.

    Args:
        images: whether to decode all images of a dataset with more than `MOST_DECODED` images.
    """
    return [*_classes_without_images(dataset), *_unreadable_images(dataset, images)]


def decoded_images(dataset: Dataset, images: bool = False) -> int:
    """Return the number of images that `problems_of` decodes."""
    return sum(map(len, _decoded_rows(dataset, images).values()))


def warnings_of(dataset: Dataset, images: bool = False) -> list[str]:
    """Return one message per small split, per split with classes of very different size, and for duplicates.

    Args:
        images: whether to search for duplicates among all images of a dataset with more than `MOST_COMPARED` images.
    """
    return [*_small_splits(dataset), *_class_sizes(dataset), *_duplicates(dataset, images)]


def require_root(root: str | None) -> None:
    """Raise a `UserError` if the root folder of the benchmark datasets is not set or does not exist."""
    if not root:
        raise UserError("benchmark datasets are read from a local folder; specify the folder with --root DIR.")
    if storage.is_local(root) and not storage.local_path(root).is_dir():
        raise UserError(f"{root}: dataset folder not found; see CoOp's instructions for the layout: {INSTRUCTIONS}.")


def listing(root: str | None) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return table headings and one row per benchmark dataset; if `root` is set, add a column for availability."""
    if root is not None:
        require_root(root)
    headings = ["name", "folder", *COUNTED, "template", "licence of the data", "cite"]
    rows: list[Sequence[object]] = [
        (
            entry.name,
            entry.folder,
            *(getattr(entry, key) for key in COUNTED),
            entry.template,
            entry.licence or "see its page",
            entry.cite,
            *([] if root is None else ["yes" if _is_available(root, entry) else "no"]),
        )
        for entry in DATASETS.values()
    ]
    return headings if root is None else [*headings, "available"], rows


def _is_available(root: str, entry: CatalogEntry) -> bool:
    unpacked = storage.is_local(root) and Path(storage.local_path(root), entry.folder).is_dir()
    return unpacked or storage.exists(storage.join(root, entry.name, PACKED_FILE))


def _classes_without_images(dataset: Dataset) -> Iterator[str]:
    for split, images in dataset.splits.items():
        empty = sorted(set(dataset.candidates) - set(images.labels.tolist()))
        if empty and (split == "test" or not set(empty) <= set(dataset.novel)):  # novel classes need only test images
            names = few(f"{label} {dataset.classnames[label]!r}" for label in empty)
            yield f"{split}: {counted(len(empty), 'class', 'classes')} without images: {names}"


def _rows(size: int, every: bool) -> Sequence[int]:
    """Return the indices of the images to read in a split of the given size."""
    return range(size) if every or size <= SAMPLE else [size * i // SAMPLE for i in range(SAMPLE)]


def _decoded_rows(dataset: Dataset, every: bool) -> dict[Split, Sequence[int]]:
    """Return the indices of the images to decode by split; an unreadable test image would fail every evaluation."""
    rows: dict[Split, Sequence[int]] = {}
    for split in sorted(dataset.splits, key=SPLITS.index, reverse=True):
        size = len(dataset.splits[split])
        rows[split] = _rows(size, every or size + sum(map(len, rows.values())) <= MOST_DECODED)
    return rows


def _unreadable_images(dataset: Dataset, every: bool) -> Iterator[str]:
    decoded = _decoded_rows(dataset, every)
    for split, images in dataset.splits.items():
        rows = decoded[split]
        errors = [error for row in rows if (error := _decoding_error(images, row)) is not None]
        if errors:
            count = f"{len(errors):,} of {counted(len(rows), 'checked image')}"
            yield f"{split}: {count} cannot be read: {few(errors)}"


def _decoding_error(images: ImageSet, row: int) -> str | None:
    try:
        images.image(row)
    except UserError as error:
        return str(error)
    return None


def _small_splits(dataset: Dataset) -> Iterator[str]:
    for split in ("val", "test"):
        size = len(dataset.splits[split]) if split in dataset.splits else 0
        if 0 < size < SMALL_SPLIT:
            points = 100 * 1.96 * math.sqrt(0.25 / size)  # normal approximation at an accuracy of 50 %
            interval = f"the 95 % confidence interval of an accuracy of 50 % is ±{points:.0f} points"
            yield f"{split}: only {counted(size, 'image')}; {interval}"


def _class_sizes(dataset: Dataset) -> Iterator[str]:
    for split, images in dataset.splits.items():
        labels = images.labels if split != "train" or dataset.whole_train is None else dataset.whole_train
        counts = np.bincount(labels, minlength=len(dataset.classnames))
        median = np.median(counts[counts > 0]) if counts.any() else 0.0
        ratios = {int(label): max(counts[label] / median, median / counts[label]) for label in np.flatnonzero(counts)}
        outliers = sorted((label for label in ratios if ratios[label] > IMBALANCE), key=lambda label: -ratios[label])
        if outliers:
            names = few(f"{dataset.classnames[label]!r} ({counts[label]:,})" for label in outliers)
            limits = f"less than 1/{IMBALANCE} or more than {IMBALANCE} times the median of {median:g} images"
            yield f"{split}: {counted(len(outliers), 'class has', 'classes have')} {limits}: {names}"


def _duplicates(dataset: Dataset, every: bool) -> Iterator[str]:
    """Report identical image files in different splits; only files of equal size are read."""
    every = every or sum(map(len, dataset.splits.values())) <= MOST_COMPARED
    by_size: dict[int, list[tuple[Split, int]]] = defaultdict(list)
    for split, images in dataset.splits.items():
        for row in _rows(len(images), every):
            if (size := images.size(row)) is not None:
                by_size[size].append((split, row))
    copies: dict[bytes, dict[Split, str]] = defaultdict(dict)
    for group in by_size.values():
        for split, row in group if len({split for split, _ in group}) > 1 else ():
            with suppress(UserError):  # unreadable images are a problem of their own
                checksum = hashlib.sha256(dataset.splits[split].read(row)).digest()
                copies[checksum].setdefault(split, short_path(dataset.splits[split].name(row)))
    names = [
        " and ".join(f"{name_of[split]} ({split})" for split in SPLITS if split in name_of)
        for name_of in copies.values()
        if len(name_of) > 1
    ]
    if names:
        yield f"{counted(len(names), 'image is', 'images are')} in more than one split: {few(names)}; remove the copies"
