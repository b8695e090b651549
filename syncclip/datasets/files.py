"""Images as single files, and the lists of them that the readers of all layouts make.

MERGED From labels as users write them, numbers or names, to class ids and names.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.datasets.dataset import Split
from syncclip.shards.images import decode_image

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How folders, and cells of a table, may call a split."""
VAL_SHARE, TEST_SHARE = 0.2, 0.3
"""Shares of each class's images, the literature's proportions."""

Labelled = list[tuple[str, int]]
"""Image files with their class ids, in the order that the few-shot choice depends on."""

One = TypeVar("One", str, int)
"""What stands for an image where splits are drawn: its file, or its number."""


class FolderSet:
    """Labelled image files, read one by one. A million of them take some 100 MB: paths are kept as text."""

    def __init__(self, files: Iterable[tuple[str | Path, int]]) -> None:
        files = list(files)
        self._files = [str(path) for path, _ in files]
        self.labels: npt.NDArray[np.int64] = np.array([label for _, label in files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [Path(file) for file in self._files]

    def rows_of(self, label: int) -> npt.NDArray[np.int64]:
        """The rows that show a class, ascending."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes.

        Raises:
            UserError: the file is gone or may not be read.
        """
        try:
            return Path(self._files[row]).read_bytes()
        except OSError as error:
            raise UserError(f"{self._files[row]}: cannot be read ({error.strerror or error}).") from error

    def name(self, row: int) -> str:
        """What an image is called in a message: its path."""
        return self._files[row]

    def image(self, row: int) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            UserError: the file is gone, is not an image, is broken, or has too many pixels.
        """
        return decode_image(self.read(row), self.name(row))

    def subset(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> FolderSet:
        """Some rows as a set of their own, in ascending order."""
        return FolderSet([(self._files[row], int(self.labels[row])) for row in np.unique(np.asarray(rows, np.int64))])


def images_in(folder: Path) -> list[str]:
    """The image files of a folder by name; hidden ones and those that are no images by extension are passed over.

    Sorted, for the file system's own order, which some published choices depend on, is not the same on two machines.

    Raises:
        UserError: one is a link that leads in a ring.
    """
    with os.scandir(folder) as entries:
        return sorted(
            entry.path
            for entry in entries
            if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in EXTENSIONS and _is_file(entry)
        )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{entry.path}: this link leads to no file ({reason}), a loop; remove it.") from error


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones.

    Raises:
        UserError: one is a link that leads back to where it lies.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and _leads_back(Path(entry.path)):
                raise UserError(f"{entry.path}: this link leads back to where it lies, a loop; remove it.")
            if entry.is_dir():
                found.append(Path(entry.path))
    return found


def _leads_back(link: Path) -> bool:
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return False  # a link to nothing is no folder, and passed over
    except (OSError, RuntimeError):
        return True
    return target == link.parent.resolve() or target in link.parent.resolve().parents


def require_files(paths: Sequence[str], source: str) -> None:
    """Look whether all files are there, one listing a folder instead of one question a file.

    Raises:
        UserError: some are not; the sentence has their count and the first few.
    """
    there: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in there:
            try:
                with os.scandir(folder or ".") as entries:
                    there[folder] = {entry.name for entry in entries}
            except (OSError, ValueError):  # a name that holds a zero byte is none
                there[folder] = set()
        if name not in there[folder]:
            missing.append(path)
    if missing:
        raise UserError(
            f"{source}: {len(missing):,} of the {len(paths):,} images that it names are not on disk "
            f"({few(missing)}); unpack the data anew, or check where it lies."
        )


def draw_splits(
    source: str, names: Sequence[str], by_class: Mapping[int, Sequence[One]], seed: int
) -> dict[Split, list[tuple[One, int]]]:
    """Split the images of each class by a seed, in the literature's proportions.

    Args:
        source: what to call the data in a message.
        names: of the classes by id.
        by_class: class id -> its images, in an order that is always the same.

    Raises:
        UserError: a class has fewer than three images.
    """
    splits: dict[Split, list[tuple[One, int]]] = {"train": [], "val": [], "test": []}
    generator = random.Random(seed)
    for label, name in enumerate(names):
        images = list(by_class.get(label, ()))
        if len(images) < 3:
            raise UserError(
                f"{source}: class {name!r} has {counted(len(images), 'image')}; splitting needs at least 3 "
                "(one each to train, validate and test)."
            )
        generator.shuffle(images)
        val, test = max(1, round(VAL_SHARE * len(images))), max(1, round(TEST_SHARE * len(images)))
        parts: dict[Split, list[One]] = {
            "test": images[:test],
            "val": images[test : test + val],
            "train": images[test + val :],
        }
        for split, part in parts.items():
            splits[split] += [(image, label) for image in sorted(part)]
    return splits


def hold_out(train: list[tuple[One, int]], seed: int) -> tuple[list[tuple[One, int]], list[tuple[One, int]]]:
    """Take validation images from the training images, class by class, by a seed: (training, validation)."""
    by_class: dict[int, list[One]] = {}
    for image, label in train:
        by_class.setdefault(label, []).append(image)
    generator = random.Random(seed)
    held: set[One] = set()
    for _, images in sorted(by_class.items()):
        held.update(generator.sample(images, round(VAL_SHARE * len(images)) if len(images) > 1 else 0))
    return [one for one in train if one[0] not in held], [one for one in train if one[0] in held]


def text_lines(data: bytes, source: str) -> list[tuple[int, str]]:
    """The lines of a list, each with its number, in UTF-8 with or without a mark of it; without those that are empty.

    Raises:
        UserError: it is no UTF-8.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: byte {error.start} is no UTF-8 text; save the list as UTF-8.") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def first_gaps(ids: Collection[int], count: int) -> list[int]:
    """The first few class ids below `count` that nothing has, however large a mistaken id makes the count."""
    return list(islice((label for label in range(count) if label not in ids), 4))


def few(values: Iterable[object]) -> str:
    """The first three of some values, and that there are more."""
    values = list(values)
    return ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")


@dataclass(frozen=True)
class Given:
    """The label of one image as it stands in the data, where it stands, and the class's name if it is told there."""

    label: str | int
    place: str
    name: str | None = None


def settle_classes(
    given: Sequence[Given], source: str, classnames: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Names by id, and the id of each image.

    Labels that are all numbers are ids, and need names: told beside them, or given. Any others are names themselves,
    and ids follow their order.

    Args:
        given: of each image.
        source: what to call the data in a message.
        classnames: names by id, where they are given; they win over those told.

    Raises:
        UserError: an id out of range, without an image, without a name or with two.
    """
    if not all(isinstance(one.label, int) for one in given):
        labels = sorted({str(one.label) for one in given})
        ids = {label: number for number, label in enumerate(labels)}
        return labels, [ids[str(one.label)] for one in given]
    numbers = [int(one.label) for one in given]
    told: dict[int, str] = {}
    limit = len(classnames) if classnames is not None else None
    for one, number in zip(given, numbers, strict=True):
        if number < 0 or (limit is not None and number >= limit):
            counted = f"the {limit} class names run from 0 to {limit - 1}" if limit else "ids count from 0"
            raise UserError(f"{one.place}: label {number} is out of range; {counted}.")
        if one.name is not None and told.setdefault(number, one.name) != one.name:
            raise UserError(f"{one.place}: class {number} is called both {told[number]!r} and {one.name!r}.")
    if classnames is None and set(numbers) - set(told):
        raise UserError(f"{source}: labels are numbers and nothing tells their names; give dataset.classnames.")
    count = max(numbers) + 1 if limit is None else limit
    if without := first_gaps(set(numbers), count):
        raise UserError(f"{source}: class(es) {few(without)} have no image; ids must count from 0 without gaps.")
    return list(classnames) if classnames is not None else [told[label] for label in range(count)], numbers
