"""Users' own images in class folders.

Two layouts are read. Either each subfolder is a class (`cat/1.jpg`), and the images of each class are split at random;
or the subfolders are `train`, `test` and optionally `val`, each with class folders; a missing `val` is then drawn from
`train`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Split
from syncclip.datasets.files import extension, folders_in, has_image_extension, images_in
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, Labelled, names_and_splits


def load_folder(path: Path, split_seed: int, skipped: Counter[str]) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Class names and files of a folder of class folders, or of split folders with class folders in each.

    Class names are the folder names; ids follow their order. Hidden files and files without an image's extension are
    skipped.

    Args:
        split_seed: of the random split where the folder has none, and of a missing validation split.
        skipped: counts the files that are not read, by extension.

    Raises:
        UserError: no class folder, only one, a class without the images that it needs, or a link in a loop.
    """
    named = split_folders(folders_in(path)) or {None: path}
    found = [
        (split, folder, images_in(folder, skipped)) for split, root in named.items() for folder in folders_in(root)
    ]
    for root in {path, *named.values()}:
        names = (entry.name for entry in os.scandir(root) if entry.is_file() and not entry.name.startswith("."))
        skipped.update(extension(name) + " outside class folders" * has_image_extension(name) for name in names)
    classes = sorted({folder.name for _, folder, _ in found})
    if not classes:
        raise UserError(
            f"{path}: has no class folders; a dataset is a folder with one subfolder of images for each class, or a "
            "table of paths and labels."
        )
    if len(classes) == 1:
        raise UserError(f"{path}: has only one class ({classes[0]!r}); classification needs at least 2.")
    # Training images are checked once the base classes are known: a novel class needs none.
    tested = {folder.name for split, folder, images in found if split in ("test", None) and images}
    for name in classes:
        if name not in tested:
            place = named.get("test", path) / name
            raise UserError(f"{place}: no image of class {name!r} to test with; add some or remove the class.")
    files = [image for _, _, images in found for image in images]
    records = [ImageRecord(folder.name, str(folder), split=split) for split, folder, images in found for _ in images]
    return names_and_splits(files, records, str(path), seed=split_seed)


def split_folders(folders: list[Path]) -> dict[Split | None, Path]:
    """The folder of each split; {} unless there are at least those of training and test."""
    named: dict[Split | None, Path] = {
        SPLIT_FOLDERS[folder.name]: folder for folder in folders if folder.name in SPLIT_FOLDERS
    }
    return named if "train" in named and "test" in named else {}
