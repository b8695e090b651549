"""Datasets with one folder per class (`cat/1.jpg`), optionally within `train`, `val` and `test` folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from syncclip.core.manifest import MANIFEST
from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.datasets.dataset import Split
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, Labelled, names_and_splits
from syncclip.shards.images import EXTENSIONS, SkippedFiles
from syncclip.shards.reader import ImageSet

NESTED, OUTSIDE = "folder inside a class folder", "image outside class folders"
"""Reasons for skipping subfolders of class folders, and images beside them."""


def load_folder(path: Path, split_seed: int, skipped: SkippedFiles) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Return the sorted names of the class folders and each split's images.

    Args:
        split_seed: seed for a random split, or for sampling a missing validation split.
        skipped: record of skipped files, updated in place.
    """
    roots = split_folders(folders_in(path)) or {None: path}
    contents = [
        (split, folder, images_in(folder, skipped)) for split, root in roots.items() for folder in folders_in(root)
    ]
    for root in {path, *roots.values()}:
        for file in sorted(entry.path for entry in os.scandir(root) if entry.is_file()):
            if not Path(file).name.startswith((".", MANIFEST)):
                skipped.add(OUTSIDE if has_image_extension(file) else extension(file), file)
    classes = sorted({folder.name for _, folder, _ in contents})
    if not classes:
        raise UserError(f"{path}: no class folders; use one subfolder per class, or a table of paths and labels.")
    if len(classes) == 1:
        raise UserError(f"{path}: only one class ({classes[0]!r}); at least 2 classes are required.")
    # Only base classes need training images; `load_dataset` checks that they have some.
    tested = {folder.name for split, folder, images in contents if split in ("test", None) and images}
    for name in classes:
        if name not in tested:
            folder = roots.get("test", path) / name
            raise UserError(f"{folder}: no test images for class {name!r}; add images or remove the class.")
    files = [image for _, _, images in contents for image in images]
    records = [ImageRecord(folder.name, str(folder), split=split) for split, folder, images in contents for _ in images]
    return names_and_splits(files, records, str(path), seed=split_seed)


def split_folders(folders: list[Path]) -> dict[Split | None, Path]:
    """Return the folder of each split, or {} if `train` or `test` does not exist."""
    by_split: dict[Split | None, Path] = {
        SPLIT_FOLDERS[folder.name]: folder for folder in folders if folder.name in SPLIT_FOLDERS
    }
    return by_split if "train" in by_split and "test" in by_split else {}


class FolderSet(ImageSet):
    """Labelled image files that are read on access; one million paths take about 100 MB of memory."""

    def __init__(self, files: Iterable[tuple[str | Path, int]], checksums: Mapping[str, str] | None = None) -> None:
        """
        Args:
            files: paths and labels.
            checksums: expected SHA-256 keyed by path, for the files that have a checksum.
        """
        files, self._checksums = list(files), checksums or {}
        self._files = [str(path) for path, _ in files]
        self.labels = np.array([label for _, label in files], dtype=np.int64)

    def read(self, row: int) -> bytes:
        """Read an image file, or raise a `UserError` if the file is unreadable or its checksum differs."""
        path = self._files[row]
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
        if path in self._checksums and hashlib.sha256(data).hexdigest() != self._checksums[path]:
            raise UserError(f"{path} does not match its checksum in the export's manifest; export the dataset again.")
        return data

    def name(self, row: int) -> str:
        """Return the path of an image."""
        return self._files[row]

    def size(self, row: int) -> int | None:
        with suppress(OSError):  # `read` reports the error
            return Path(self._files[row]).stat().st_size
        return None


def images_in(folder: Path, skipped: SkippedFiles) -> list[str]:
    """Return a folder's image files, sorted by name.

    Args:
        skipped: record of skipped subfolders and files, updated in place; hidden files are not counted.

    Raises:
        UserError: a link points to itself.
    """
    files = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            try:
                is_image = has_image_extension(entry.name) and entry.is_file()
            except OSError as error:
                raise UserError(f"{entry.path}: broken link ({error.strerror or error}); remove the link.") from error
            if is_image:
                files.append(entry.path)
            else:
                skipped.add(NESTED if entry.is_dir() else extension(entry.name), entry.path)
    return files


def extension(name: str) -> str:
    """Return the lower-case extension of a file name, such as `.jpg`, or "no extension"."""
    return Path(name).suffix.lower() or "no extension"


def has_image_extension(name: str) -> bool:
    """Return whether a file name has an image extension."""
    return extension(name) in EXTENSIONS


def folders_in(folder: Path) -> list[Path]:
    """Return the visible subfolders, sorted by name; raise a `UserError` for a link to a parent folder."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and is_loop(Path(entry.path)):
                raise UserError(f"{entry.path}: this link points to a parent folder; remove the link.")
            if entry.is_dir():
                folders.append(Path(entry.path))
    return folders


def is_loop(link: Path) -> bool:
    """Return whether a link points to itself or to one of its parent folders; False for a broken link."""
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError):
        return True
    return link.parent.resolve().is_relative_to(target)


def require_files(paths: Sequence[str], source: str) -> None:
    """Raise a `UserError` if files are missing; each folder is scanned only once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in listed:
            try:
                with os.scandir(folder or ".") as entries:
                    listed[folder] = {entry.name for entry in entries}
            except (OSError, ValueError):  # ValueError: the name contains a zero byte
                listed[folder] = set()
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        count = f"{len(missing):,} of {len(paths):,} listed images are missing"
        raise UserError(f"{source}: {count} ({few(missing)}); unpack the data again, or correct the paths.")


def text_lines(data: bytes, source: str) -> list[tuple[int, str]]:
    """Return (line number, line) for each non-empty line of UTF-8 text, ignoring a byte order mark."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: byte {error.start} is not valid UTF-8; save the file as UTF-8.") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
