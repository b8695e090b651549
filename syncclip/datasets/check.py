"""Check a dataset for missing files, corrupt images, and counts that differ from the literature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS, CatalogEntry
from syncclip.datasets.dataset import SPLITS, Dataset, DatasetSettings, Split
from syncclip.datasets.loading import load_dataset
from syncclip.datasets.packed import PACKED_FILE
from syncclip.shards.reader import ImageSet

COUNTED = ("classes", *SPLITS)
SAMPLE = 32
"""Default number of images to decode per split, evenly spaced."""


@dataclass(frozen=True)
class Check:
    """Result of a dataset check.

    Attributes:
        counts, expected: actual and expected numbers of candidate classes and of images per split; None: unknown.
        problems: one message per problem.
        skipped: number of skipped files by extension.
        decoded: number of decoded images.
    """

    name: str
    counts: dict[str, int | None]
    expected: dict[str, int | None]
    problems: list[str]
    skipped: Mapping[str, int] = field(default_factory=dict)
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
    rows = {split: _rows(size, images) for split, size in sizes.items()}
    problems += [*_classes_without_images(dataset), *_unreadable_images(dataset, rows)]
    return Check(name, counts, expected, problems, dataset.skipped, sum(map(len, rows.values())))


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
    """Return the indices of the images to decode in a split of the given size."""
    return range(size) if every or size <= SAMPLE else [size * i // SAMPLE for i in range(SAMPLE)]


def _unreadable_images(dataset: Dataset, rows: Mapping[Split, Sequence[int]]) -> Iterator[str]:
    for split, images in dataset.splits.items():
        errors = [error for row in rows[split] if (error := _decoding_error(images, row)) is not None]
        if errors:
            count = f"{len(errors):,} of {counted(len(rows[split]), 'checked image')}"
            yield f"{split}: {count} cannot be read: {few(errors)}"


def _decoding_error(images: ImageSet, row: int) -> str | None:
    try:
        images.image(row)
    except UserError as error:
        return str(error)
    return None
