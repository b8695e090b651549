"""Whether a dataset is complete: what is missing, and whether its counts agree with the literature's."""

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
"""Images of each split that are decoded without `images`, evenly spaced."""


@dataclass(frozen=True)
class Check:
    """What was found of one dataset.

    Attributes:
        found, expected: number of candidate classes and of images per split; None where there is no such split,
            nothing was found, or nothing is known of the dataset.
        problems: one sentence each.
        skipped: number of files by extension that lie among the images and are not read.
        decoded: images that were decoded.
    """

    name: str
    found: dict[str, int | None]
    expected: dict[str, int | None]
    problems: list[str]
    skipped: Mapping[str, int] = field(default_factory=dict)
    decoded: int = 0

    @property
    def state(self) -> str:
        """The number of problems, or OK with how many of the images were decoded."""
        if self.problems:
            return counted(len(self.problems), "problem")
        images = sum(self.found[split] or 0 for split in SPLITS)
        return "OK" if self.decoded >= images else f"OK; decoded {self.decoded:,} of {counted(images, 'image')}"

    def count(self, what: str) -> str:
        """A count as text: `2,820`, or `12 of 2,820` where another one is expected."""
        found, expected = self.found[what], self.expected[what]
        if expected is None or found == expected:
            return "" if found is None else f"{found:,}"
        return f"{found or 0:,} of {expected:,}"


def check(name: str, root: str | None, images: bool = False) -> Check:
    """Check one dataset of the literature, or a user's own data by its path.

    Args:
        root: the folder of all datasets.
        images: decode every image, which takes minutes to hours, instead of a sample.

    Raises:
        UserError: a user's own data is no dataset; a dataset of the literature is asked for without a root, or the
            root does not exist.
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
    if dataset.whole_train is not None:  # only the images of some few-shot choices were packed
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
    """Require the folder of all datasets.

    Raises:
        UserError: none is given, or it does not exist.
    """
    if not root:
        raise UserError("the literature's datasets are read from your disk; give their folder with --root DIR.")
    if storage.is_local(root) and not storage.local_path(root).is_dir():
        raise UserError(
            f"{root}: this folder of the datasets does not exist; CoOp's instructions describe its layout: "
            f"{INSTRUCTIONS}."
        )


def listing(root: str | None) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Headings and a row for each dataset of the literature; with `root`, also whether it is there, packed or not.

    Raises:
        UserError: the root does not exist.
    """
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
            *([] if root is None else ["yes" if _there(root, entry) else "no"]),
        )
        for entry in DATASETS.values()
    ]
    return headings if root is None else [*headings, "there"], rows


def _there(root: str, entry: CatalogEntry) -> bool:
    unpacked = storage.is_local(root) and Path(storage.local_path(root), entry.folder).is_dir()
    return unpacked or find_packed(storage.join(root, entry.name)) is not None


def _empty(dataset: Dataset) -> Iterable[str]:
    """Classes without an image in a split that should have some."""
    for split, images in dataset.splits.items():
        without = sorted(set(dataset.candidates) - set(images.labels.tolist()))
        if without and not (split != "test" and set(without) <= set(dataset.novel)):
            names = few(f"{label} {dataset.classnames[label]!r}" for label in without)
            yield f"{split}: no image of {len(without)} class(es): {names}"


def _rows(count: int, every: bool) -> Sequence[int]:
    """The rows of a split that are decoded."""
    return range(count) if every or count <= SAMPLE else [count * place // SAMPLE for place in range(SAMPLE)]


def _broken(dataset: Dataset, rows: Mapping[Split, Sequence[int]]) -> Iterable[str]:
    for split, images in dataset.splits.items():
        broken = [reason for row in rows[split] if (reason := _unreadable(images, row)) is not None]
        if broken:
            of = f"{len(broken):,} of {counted(len(rows[split]), 'decoded image')}"
            yield f"{split}: {of} cannot be read: {few(broken)}"


def _unreadable(images: ImageSet, row: int) -> str | None:
    try:
        images.image(row)
    except UserError as error:
        return str(error)
    return None
