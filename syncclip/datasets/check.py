"""Is a benchmark there as it should be: what is missing, and do the counts agree with the literature's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS, Dataset
from syncclip.datasets.dataset import SPLITS, Benchmark, Pictures
from syncclip.datasets.files import few
from syncclip.datasets.loading import load_benchmark
from syncclip.datasets.packed import PACKED_FILE
from syncclip.datasets.settings import BenchmarkSettings

COUNTED = ("classes", *SPLITS)


@dataclass(frozen=True)
class Check:
    """What was found of one benchmark.

    Attributes:
        found, expected: classes that may be answered and pictures of each split; None where there is no such split,
            nothing was found, or nothing is known of the benchmark.
        problems: one sentence each; none where all is as it should be.
    """

    name: str
    found: dict[str, int | None]
    expected: dict[str, int | None]
    problems: list[str]

    def count(self, what: str) -> str:
        """A count for people: `2,820`, or `12 of 2,820` where another one is expected."""
        found, expected = self.found[what], self.expected[what]
        if expected is None or found == expected:
            return "" if found is None else f"{found:,}"
        return f"{found or 0:,} of {expected:,}"


def check(name: str, root: str | None, pictures: bool = False) -> Check:
    """Look at one benchmark of the literature, or at a user's own data by its path.

    Args:
        root: the folder of all data sets.
        pictures: open every picture, which takes minutes to hours.

    Raises:
        UserError: a user's own data is no benchmark; one of the literature was asked for without a root, or the root
            is not there.
    """
    dataset = DATASETS.get(name)
    if dataset is not None:
        require_root(root)
    expected = {what: getattr(dataset, what, None) for what in COUNTED}
    try:
        benchmark = load_benchmark(BenchmarkSettings(name=name, root=root))
    except UserError as error:
        if dataset is None:
            raise
        return Check(name, dict.fromkeys(COUNTED), expected, [str(error)])
    found: dict[str, int | None] = {"classes": len(benchmark.candidates)}
    found |= {split: len(benchmark.splits[split]) if split in benchmark.splits else None for split in SPLITS}
    if benchmark.whole_train is not None:  # packed with the pictures that some shots need
        found["train"] = len(benchmark.whole_train)
    problems = []
    if dataset is not None:
        problems += [
            f"{what}: {found[what] or 0:,} found, {expected[what] or 0:,} expected"
            for what in COUNTED
            if found[what] != expected[what]
        ]
    return Check(name, found, expected, [*problems, *_empty(benchmark), *(_broken(benchmark) if pictures else ())])


def require_root(root: str | None) -> None:
    """Ask for the folder of all data sets.

    Raises:
        UserError: none is named, or it is not there.
    """
    if not root:
        raise UserError("the literature's data sets are read from your disk; say where they lie with --root DIR.")
    if storage.is_local(root) and not storage.local_path(root).is_dir():
        raise UserError(
            f"{root}: this folder of the data sets does not exist; CoOp's instructions tell how to lay them out: "
            f"{INSTRUCTIONS}."
        )


def listing(root: str | None) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Headings and one row for each benchmark of the literature, with whether it lies below `root`, packed or not.

    Raises:
        UserError: the root is not there.
    """
    if root is not None:
        require_root(root)
    headings = ["name", "folder", *COUNTED, "template", "licence of the data", "cite"]
    rows: list[Sequence[object]] = [
        (
            dataset.name,
            dataset.folder,
            *(getattr(dataset, what) for what in COUNTED),
            dataset.template,
            dataset.terms,
            dataset.cite,
            *([] if root is None else ["yes" if _there(root, dataset) else "no"]),
        )
        for dataset in DATASETS.values()
    ]
    return headings if root is None else [*headings, "there"], rows


def _there(root: str, dataset: Dataset) -> bool:
    unpacked = storage.is_local(root) and Path(storage.local_path(root), dataset.folder).is_dir()
    return unpacked or storage.exists(storage.join(root, dataset.name, PACKED_FILE))


def _empty(benchmark: Benchmark) -> Iterable[str]:
    """Classes that a split shows no picture of, though it could."""
    for split, images in benchmark.splits.items():
        without = sorted(set(benchmark.candidates) - set(images.labels.tolist()))
        if without and not (split != "test" and set(without) <= set(benchmark.novel)):
            names = few(f"{label} {benchmark.classnames[label]!r}" for label in without)
            yield f"{split}: no picture of {len(without)} class(es): {names}"


def _broken(benchmark: Benchmark) -> Iterable[str]:
    for split, images in benchmark.splits.items():
        broken = [reason for row in range(len(images)) if (reason := _unreadable(images, row)) is not None]
        if broken:
            yield f"{split}: {len(broken):,} pictures cannot be read: {few(broken)}"


def _unreadable(images: Pictures, row: int) -> str | None:
    try:
        images.image(row)
    except UserError as error:
        return str(error)
    return None
