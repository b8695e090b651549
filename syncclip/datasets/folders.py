"""A user's own images: a folder of class folders is a dataset, without any code.

Two layouts are read. Either every subfolder is a class (`cat/1.jpg`), and the images are split by a seed, class by
class; or the subfolders are `train`, `test` and perhaps `val`, each with its class folders; a missing `val` is then
taken from `train`.
"""

from __future__ import annotations

from pathlib import Path

from syncclip.core.settings import UserError
from syncclip.core.text import spoken
from syncclip.datasets.dataset import TEMPLATE, Dataset, Split
from syncclip.datasets.files import SPLIT_FOLDERS, FolderSet, Labelled, draw_splits, folders_in, hold_out, images_in


def load_folder(path: Path, template: str | None = None, split_seed: int = 0) -> Dataset:
    """Read a folder of class folders, or of `train`, `test` and perhaps `val` with class folders in each.

    Class names are the folders' names with underscores as spaces; ids follow the sorted folder names. Hidden files and
    files that are no images by their extension are passed over. Images are decoded only when they are used.

    Args:
        path: the folder.
        template: prompt template; "a photo of a {}." where it is not given.
        split_seed: decides the split where the folder has none.

    Raises:
        UserError: no class folder, one class only, two folders of one name, a class without the images that it
            needs, or a link that leads back.
    """
    folders = folders_in(path)
    named = split_folders(folders)
    if named is not None:
        classes, splits = _read_splits(path, named, split_seed)
    else:
        classes = _checked_classes(path, [folder.name for folder in folders])
        by_class = {label: images_in(path / name) for label, name in enumerate(classes)}
        splits = draw_splits(str(path), classes, by_class, split_seed)
    return Dataset(
        name=path.resolve().name,
        classnames=[spoken(name) for name in classes],
        template=template or TEMPLATE,
        splits={split: FolderSet(files) for split, files in splits.items()},
    )


def split_folders(folders: list[Path]) -> dict[Split, Path] | None:
    """The folder of each split, where there are at least those of training and test."""
    named = {SPLIT_FOLDERS[folder.name]: folder for folder in folders if folder.name in SPLIT_FOLDERS}
    return named if "train" in named and "test" in named else None


def _read_splits(path: Path, named: dict[Split, Path], seed: int) -> tuple[list[str], dict[Split, Labelled]]:
    found = {split: {folder.name: images_in(folder) for folder in folders_in(root)} for split, root in named.items()}
    classes = _checked_classes(path, sorted({name for folders in found.values() for name in folders}))
    for name in classes:
        # Images to train are asked for where it is known which classes are base: a novel class needs none.
        if not found["test"].get(name):
            raise UserError(f"{named['test'] / name}: no image to test class {name!r}; add some or remove the class.")
    splits: dict[Split, Labelled] = {
        split: [(image, label) for label, name in enumerate(classes) for image in folders.get(name, [])]
        for split, folders in found.items()
    }
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(splits["train"], seed)
    return classes, splits


def _checked_classes(path: Path, names: list[str]) -> list[str]:
    if not names:
        raise UserError(
            f"{path}: holds no class folders; a dataset has one subfolder of images for each class, or is a "
            "table of paths and labels."
        )
    if len(names) == 1:
        raise UserError(f"{path}: holds one class only ({names[0]!r}); telling classes apart needs at least 2.")
    return names
