"""A user's own pictures: a folder of class folders is a benchmark, without any code.

Two layouts are read. Either every subfolder is a class (`cat/1.jpg`), and the pictures are split by a seed, class by
class; or the subfolders are `train`, `test` and perhaps `val`, each with its class folders; a missing `val` is then
taken from `train`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from syncclip.benchmarks.benchmark import Benchmark, Split
from syncclip.settings import UserError
from syncclip.shards.images import decode_image

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.2, 0.3
"""Shares of each class's pictures, the literature's proportions."""


class FolderSet:
    """Labelled picture files, read one by one."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self.paths = [path for path, _ in files]
        self.labels: npt.NDArray[np.int64] = np.array([label for _, label in files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def rows_of(self, label: int) -> npt.NDArray[np.int64]:
        """The rows that show a class, ascending."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes.

        Raises:
            UserError: the file is gone or may not be read.
        """
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise UserError(f"{self.paths[row]}: cannot be read ({error.strerror or error}).") from error

    def name(self, row: int) -> str:
        """What a picture is called in a message: its path."""
        return str(self.paths[row])

    def image(self, row: int) -> Image.Image:
        """The decoded picture, RGB.

        Raises:
            UserError: the file is gone, is not a picture, is broken, or has too many pixels.
        """
        return decode_image(self.read(row), self.name(row))

    def subset(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> FolderSet:
        """Some rows as a set of their own, in ascending order."""
        return FolderSet([(self.paths[row], int(self.labels[row])) for row in np.unique(np.asarray(rows, np.int64))])


def load_folder(path: Path, template: str | None = None, split_seed: int = 0) -> Benchmark:
    """Read a folder of class folders, or of `train`, `test` and perhaps `val` with class folders in each.

    Class names are the folders' names with underscores as spaces; ids follow the sorted folder names. Hidden files and
    files that are no pictures by their extension are passed over. Pictures are decoded only when they are used.

    Args:
        path: the folder.
        template: prompt template; "a photo of a {}." where it is not given.
        split_seed: decides the split where the folder has none.

    Raises:
        UserError: no class folder, one class only, or a class without the pictures that it needs.
    """
    folders = _subfolders(path)
    named = {SPLIT_FOLDERS[folder.name]: folder for folder in folders if folder.name in SPLIT_FOLDERS}
    if "train" in named and "test" in named:
        classes, splits = _read_splits(path, named, split_seed)
    else:
        classes, splits = _draw_splits(path, folders, split_seed)
    return Benchmark(
        name=path.resolve().name,
        classnames=[name.replace("_", " ") for name in classes],
        template=template or "a photo of a {}.",
        splits={split: FolderSet(files) for split, files in splits.items()},
    )


def _draw_splits(path: Path, folders: list[Path], seed: int) -> tuple[list[str], dict[Split, list[tuple[Path, int]]]]:
    classes = _checked_classes(path, [folder.name for folder in folders])
    splits: dict[Split, list[tuple[Path, int]]] = {"train": [], "val": [], "test": []}
    generator = random.Random(seed)
    for label, name in enumerate(classes):
        pictures = _pictures(path / name)
        if len(pictures) < 3:
            raise UserError(
                f"{path / name}: class {name!r} has {len(pictures)} pictures; splitting needs at least 3 "
                "(one each to train, validate and test)."
            )
        generator.shuffle(pictures)
        val, test = max(1, round(VAL_SHARE * len(pictures))), max(1, round(TEST_SHARE * len(pictures)))
        parts: dict[Split, list[Path]] = {
            "test": pictures[:test],
            "val": pictures[test : test + val],
            "train": pictures[test + val :],
        }
        for split, part in parts.items():
            splits[split] += [(picture, label) for picture in sorted(part)]
    return classes, splits


def _read_splits(
    path: Path, named: dict[Split, Path], seed: int
) -> tuple[list[str], dict[Split, list[tuple[Path, int]]]]:
    found = {split: {folder.name: _pictures(folder) for folder in _subfolders(root)} for split, root in named.items()}
    classes = _checked_classes(path, sorted({name for folders in found.values() for name in folders}))
    for label, name in enumerate(classes):
        # A novel class needs no training picture: being without is what makes it novel.
        needed: tuple[Split, ...] = ("train", "test") if label < (len(classes) + 1) // 2 else ("test",)
        for split in needed:
            if not found[split].get(name):
                raise UserError(
                    f"{named[split] / name}: no picture to {split} class {name!r}; add some or remove the class."
                )
    if "val" not in found:
        generator = random.Random(seed)
        found["val"] = {}
        for name, pictures in sorted(found["train"].items()):
            held = sorted(generator.sample(pictures, round(VAL_SHARE * len(pictures)) if len(pictures) > 1 else 0))
            found["val"][name] = held
            found["train"][name] = [picture for picture in pictures if picture not in set(held)]
    splits: dict[Split, list[tuple[Path, int]]] = {
        split: [(picture, label) for label, name in enumerate(classes) for picture in folders.get(name, [])]
        for split, folders in found.items()
    }
    return classes, splits


def _checked_classes(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise UserError(f"{path}: holds no class folders; a benchmark has one subfolder of pictures for each class.")
    if len(names) == 1:
        raise UserError(f"{path}: holds one class only ({names[0]!r}); telling classes apart needs at least 2.")
    return names


def _subfolders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") and entry.is_file()
    )
