"""Completeness check of a dataset: missing files, corrupt images, and counts that differ from the literature's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS, CatalogEntry
from syncclip.datasets.dataset import SPLITS, Dataset, DatasetSettings, Split
from syncclip.datasets.loading import load_dataset
from syncclip.datasets.packed import find_packed
from syncclip.shards.reader import ImageSet

COUNTED = ("classes", *SPLITS)
SAMPLE = 32
"""Evenly spaced images of each split that are decoded by default."""


@dataclass(frozen=True)
class Check:
    """Result of checking a dataset.

    Attributes:
        found, expected: number of candidate classes and of images per split; None if missing or unknown.
        problems: one sentence each.
        skipped: extension -> files among the images that are not read.
        decoded: number of decoded images.
    """

    name: str
    found: dict[str, int | None]
    expected: dict[str, int | None]
    problems: list[str]
    skipped: Mapping[str, int] = field(default_factory=dict)
    decoded: int = 0

    @property
    def state(self) -> str:
        """Number of problems, or OK with the number of decoded images."""
        if self.problems:
            return counted(len(self.problems), "problem")
        images = sum(self.found[split] or 0 for split in SPLITS)
        return "OK" if self.decoded >= images else f"OK; decoded {self.decoded:,} of {counted(images, 'image')}"

    def count(self, what: str) -> str:
        """A count as text: `2,820`, or `12 of 2,820` if it differs from the expected one."""
        found, expected = self.found[what], self.expected[what]
        if expected is None or found == expected:
            return "" if found is None else f"{found:,}"
        return f"{found or 0:,} of {expected:,}"


def check(name: str, root: str | None, images: bool = False) -> Check:
    """Check a benchmark dataset below `root`, or custom data by its path.

    Args:
        images: decode every image (minutes to hours) instead of a sample.

    Raises:
        UserError: the custom data is no dataset, or the root is missing.
    """
    entry = DATASETS.get(name)
    if entry is not None:
        require_root(root)
    expected = {what: getattr(entry, what, None) for what in COUNTED}
    try:
        dataset = load_dataset(DatasetSettings(name=name, root=root))
        counts = {split: len(images) for split, images in dataset.splits.items()}
    except UserError as error:
        if entry is None:
            raise
        return Check(name, dict.fromkeys(COUNTED), expected, [str(error)])
    found: dict[str, int | None] = {"classes": len(dataset.candidates)}
    found |= {split: counts.get(split) for split in SPLITS}
    if dataset.whole_train is not None:  # only the images of some few-shot samples are packed
        found["train"] = len(dataset.whole_train)
    problems = [
        f"{what}: {found[what] or 0:,} found, {expected[what] or 0:,} expected"
        for what in COUNTED
        if entry is not None and found[what] != expected[what]
    ]
    rows = {split: _rows(len(of_split), images) for split, of_split in dataset.splits.items()}
    problems += [*_empty(dataset), *_broken(dataset, rows)]
    return Check(name, found, expected, problems, dataset.skipped, sum(map(len, rows.values())))


def require_root(root: str | None) -> None:
    """Raise a `UserError` unless the folder of all benchmark datasets is given and exists."""
    if not root:
        raise UserError("benchmark datasets are read from a local folder; set it with --root DIR.")
    if storage.is_local(root) and not storage.local_path(root).is_dir():
        raise UserError(f"{root}: dataset folder not found; see CoOp's instructions for its layout: {INSTRUCTIONS}.")


def listing(root: str | None) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Headings, and a row for each benchmark dataset; with `root`, including whether it is available there."""
    if root is not None:
        require_root(root)
    headings = ["name", "folder", *COUNTED, "template", "licence of the data", "cite"]
    rows: list[Sequence[object]] = [
        (
            entry.name,
            entry.folder,
            *(getattr(entry, what) for what in COUNTED),
            entry.template,
            entry.licence or "see its page",
            entry.cite,
            *([] if root is None else ["yes" if _available(root, entry) else "no"]),
        )
        for entry in DATASETS.values()
    ]
    return headings if root is None else [*headings, "available"], rows


def _available(root: str, entry: CatalogEntry) -> bool:
    unpacked = storage.is_local(root) and Path(storage.local_path(root), entry.folder).is_dir()
    return unpacked or find_packed(storage.join(root, entry.name)) is not None


def _empty(dataset: Dataset) -> Iterable[str]:
    """Report classes without images in a split that needs some."""
    for split, images in dataset.splits.items():
        empty = sorted(set(dataset.candidates) - set(images.labels.tolist()))
        if empty and not (split != "test" and set(empty) <= set(dataset.novel)):
            names = few(f"{label} {dataset.classnames[label]!r}" for label in empty)
            yield f"{split}: no image of {len(empty)} class(es): {names}"


def _rows(count: int, every: bool) -> Sequence[int]:
    """Rows of a split to decode."""
    return range(count) if every or count <= SAMPLE else [count * i // SAMPLE for i in range(SAMPLE)]


def _broken(dataset: Dataset, rows: Mapping[Split, Sequence[int]]) -> Iterable[str]:
    for split, images in dataset.splits.items():
        broken = [reason for row in rows[split] if (reason := _unreadable(images, row)) is not None]
        if broken:
            count = f"{len(broken):,} of {counted(len(rows[split]), 'decoded image')}"
            yield f"{split}: {count} cannot be read: {few(broken)}"


def _unreadable(images: ImageSet, row: int) -> str | None:
    try:
        images.image(row)
    except UserError as error:
        return str(error)
    return None
