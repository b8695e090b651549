"""Users' own images in class folders.

Two layouts are read. Either each subfolder is a class (`cat/1.jpg`), and the images of each class are split at random;
or the subfolders are `train`, `test` and optionally `val`, each with class folders; a missing `val` is then drawn from
`train`.
"""

from __future__ import annotations

from pathlib import Path

from syncclip.core.settings import UserError
from syncclip.core.text import spoken
from syncclip.datasets.dataset import TEMPLATE, Dataset, Split
from syncclip.datasets.files import FolderSet, folders_in, images_in
from syncclip.datasets.labels import SPLIT_FOLDERS, Labelled, draw_splits, with_validation


def load_folder(path: Path, template: str | None = None, split_seed: int = 0) -> Dataset:
    """Read a folder of class folders, or of split folders with class folders in each.

    Class names are the folder names with underscores as spaces; ids follow the sorted folder names. Hidden files and
    files without an image's extension are skipped. Images are decoded only when they are used.

    Args:
        template: prompt template; by default "a photo of a {}.".
        split_seed: of the random split where the folder has none.

    Raises:
        UserError: no class folder, only one, a class without the images that it needs, or a link in a loop.
    """
    folders = folders_in(path)
    named = split_folders(folders)
    if named is not None:
        classes, splits = _read_splits(path, named, split_seed)
    else:
        classes = _checked_classes(path, [folder.name for folder in folders])
        labelled = [(image, label) for label, name in enumerate(classes) for image in images_in(path / name)]
        splits = draw_splits(labelled, classes, str(path), split_seed)
    return Dataset(
        name=path.resolve().name,
        classnames=[spoken(name) for name in classes],
        template=template or TEMPLATE,
        splits={split: FolderSet(files) for split, files in splits.items()},
    )


def split_folders(folders: list[Path]) -> dict[Split, Path] | None:
    """The folder of each split; None unless there are at least those of training and test."""
    named = {SPLIT_FOLDERS[folder.name]: folder for folder in folders if folder.name in SPLIT_FOLDERS}
    return named if "train" in named and "test" in named else None


def _read_splits(path: Path, named: dict[Split, Path], seed: int) -> tuple[list[str], dict[Split, Labelled[str]]]:
    found = {split: {folder.name: images_in(folder) for folder in folders_in(root)} for split, root in named.items()}
    classes = _checked_classes(path, sorted({name for folders in found.values() for name in folders}))
    for name in classes:
        # Training images are checked once the base classes are known: a novel class needs none.
        if not found["test"].get(name):
            raise UserError(f"{named['test'] / name}: no test image of class {name!r}; add some or remove the class.")
    splits: dict[Split, Labelled[str]] = {
        split: [(image, label) for label, name in enumerate(classes) for image in folders.get(name, [])]
        for split, folders in found.items()
    }
    return classes, with_validation(splits, seed)


def _checked_classes(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise UserError(
            f"{path}: has no class folders; a dataset is a folder with one subfolder of images for each class, or a "
            "table of paths and labels."
        )
    if len(names) == 1:
        raise UserError(f"{path}: has only one class ({names[0]!r}); classification needs at least 2.")
    return names
