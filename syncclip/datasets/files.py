"""Images as single files: a set of them, and listing folders with care for hidden files and links in a loop."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.shards.images import EXTENSIONS
from syncclip.shards.reader import ImageSet


class FolderSet(ImageSet):
    """Labelled image files, read when asked for. A million take some 100 MB of memory, as paths are kept as text."""

    def __init__(self, files: Iterable[tuple[str | Path, int]], checksums: Mapping[str, str] | None = None) -> None:
        """
        Args:
            files: paths and labels.
            checksums: path -> sha256 that its file must have, where it is known.
        """
        files, self._checksums = list(files), checksums or {}
        self._files = [str(path) for path, _ in files]
        self.labels = np.array([label for _, label in files], dtype=np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes.

        Raises:
            UserError: the file is gone or not readable, or it has another checksum.
        """
        path = self._files[row]
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
        if path in self._checksums and hashlib.sha256(data).hexdigest() != self._checksums[path]:
            raise UserError(f"{path} is not as it was exported: it was damaged or exchanged; export the set again.")
        return data

    def name(self, row: int) -> str:
        """An image's name in messages: its path."""
        return self._files[row]


def images_in(folder: Path, skipped: Counter[str]) -> list[str]:
    """The image files of a folder, sorted by name; hidden files and files of other extensions are skipped.

    Sorted because the file system's own order, which some published choices depend on, differs between machines.

    Args:
        skipped: counts what is skipped (see `skipped_files`), but for hidden files.

    Raises:
        UserError: one is a link in a loop.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if has_image_extension(entry.name) and _is_file(entry):
                found.append(entry.path)
            else:
                skipped["folder" if entry.is_dir() else extension(entry.name)] += 1
    return sorted(found)


def extension(name: str) -> str:
    """`.jpg` of a file's name, in lower case; "no extension" where it has none."""
    return Path(name).suffix.lower() or "no extension"


def has_image_extension(name: str) -> bool:
    """Whether a file of this name is taken for an image where a folder or a tar is searched."""
    return extension(name) in EXTENSIONS


def skipped_files(skipped: Mapping[str, int]) -> str:
    """What was skipped, by extension, the most frequent first: `skipped 12 files: 10 .heic, 2 .txt`."""
    kinds = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return f"skipped {counted(sum(skipped.values()), 'file')}: " + ", ".join(
        f"{count:,} {kind}" for kind, count in kinds
    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{entry.path}: this link leads to no file ({reason}); remove it.") from error


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones.

    Raises:
        UserError: one is a link to a folder that contains it.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and is_loop(Path(entry.path)):
                raise UserError(f"{entry.path}: this link points to a folder that contains it; remove it.")
            if entry.is_dir():
                found.append(Path(entry.path))
    return found


def is_loop(link: Path) -> bool:
    """Whether a link leads to a folder that it is in, or nowhere but to itself."""
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return False  # a broken link is no folder, and is skipped
    except (OSError, RuntimeError):
        return True
    return target == link.parent.resolve() or target in link.parent.resolve().parents


def require_files(paths: Sequence[str], source: str) -> None:
    """Check that all files exist, with one listing per folder instead of one lookup per file.

    Raises:
        UserError: some are missing; the message has their count and the first few.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in listed:
            try:
                with os.scandir(folder or ".") as entries:
                    listed[folder] = {entry.name for entry in entries}
            except (OSError, ValueError):  # such as a name with a zero byte
                listed[folder] = set()
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        raise UserError(
            f"{source}: {len(missing):,} of the {len(paths):,} images that it lists are not on disk "
            f"({few(missing)}); unpack the data again, or check the path."
        )


def text_lines(data: bytes, source: str) -> list[tuple[int, str]]:
    """The non-empty lines of a UTF-8 text, with or without a byte order mark, each with its number.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: byte {error.start} is not UTF-8; save the list as UTF-8.") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
