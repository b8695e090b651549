"""Images from files, folders, glob patterns, URLs, tables, WebDataset shards, or a list on standard input."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import first_line, size
from syncclip.datasets.folders import extension, has_image_extension, is_loop
from syncclip.datasets.tables import COLUMNS, KINDS, read_columns
from syncclip.shards.images import SkippedFiles
from syncclip.shards.untrusted_tars import MAX_IMAGE_BYTES, files_in, open_tar
from syncclip.storage.urls import is_web, scheme

STDIN = "-"
"""Argument that reads names from standard input, one per line."""
IMAGE_COLUMNS = (*COLUMNS["path"], "url")
"""Accepted names for a table's image column, in order of precedence."""
SIDECARS = frozenset({".cls", ".json", ".txt"})
"""Extensions of metadata files in tars, which are not counted as skipped."""
READ_BEFORE, LOOP = "link to a folder that has already been read", "link to a folder that contains it"
"""Reasons for skipping links to folders."""


@dataclass(frozen=True)
class Source:
    """An image with a `read` function, which returns the file content or raises a `UserError`."""

    name: str
    read: Callable[[], bytes]


def find_images(names: Iterable[str], skipped: SkippedFiles | None = None) -> Iterator[Source]:
    """Yield the images for a list of names, in order; images in a folder and its subfolders are sorted by name.

    A missing or damaged file, table or shard yields one unreadable source.

    Args:
        skipped: record of files and tar members that are not images, updated in place.
    """
    finder = _Finder(SkippedFiles() if skipped is None else skipped)
    for name in names:
        for entry in _lines() if name == STDIN else (name,):
            yield from finder.guarded(finder.named, entry)


def _lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names may not be UTF-8
    return (line.strip("\r\n") for line in sys.stdin if line.strip() not in ("", STDIN))


class _Finder:
    """Finds images, and counts all other files in `skipped`."""

    def __init__(self, skipped: SkippedFiles) -> None:
        self._skipped = skipped

    def guarded(self, find: Callable[[str], Iterator[Source]], name: str) -> Iterator[Source]:
        """Yield the sources from `find`; an error yields an unreadable source."""
        try:
            yield from find(name)
        except Exception as error:  # fsspec raises many types for invalid URLs
            yield _broken(name, _as_user_error(error))

    def named(self, name: str) -> Iterator[Source]:
        """Yield the images that a name refers to."""
        suffix = _extension(name)
        if not is_web(name) and any(sign in name for sign in "*?[") and not storage.exists(name):
            matches = self._matching(*_split_pattern(name), set())
            if (first := next(matches, None)) is None:
                raise UserError(f"{name}: no image, table or tar matches; quote the pattern, or correct it")
            yield first
            yield from matches
        elif suffix == ".tar":
            yield from self._in_tar(name)
        elif suffix in KINDS:
            yield from _in_table(name)
        elif is_web(name) or has_image_extension(name) or not name or not _is_folder(name):
            yield _single(name)
        else:
            yield from self._in_folder(name, set())

    def _matching(
        self, folder: str, parts: Sequence[str], visited: set[tuple[int, ...]], positions: Collection[int] = (0,)
    ) -> Iterator[Source]:
        """Yield the images, tables and tars that match a pattern; each folder is listed once.

        Hidden files and folders match only pattern parts that start with a dot. `**` does not follow links.

        Args:
            folder: folder to search; "" is the working directory.
            parts: parts of the pattern below the folder.
            visited: device, inode and positions of visited local folders.
            positions: indices of the parts against which names in the folder are matched.
        """
        positions = {*positions}
        for position, part in enumerate(parts):
            if position in positions and part == "**":
                positions.add(position + 1)  # `**` may match no folder
        if storage.is_local(folder) and storage.local_path(folder or ".").is_dir():
            status = storage.local_path(folder or ".").stat()
            if (key := (status.st_dev, status.st_ino, *sorted(positions))) in visited:
                self._skipped.add(READ_BEFORE, folder)
                return
            visited.add(key)
        for name, is_folder in _entries(folder or "."):
            path = storage.join(folder, name) if folder else name
            linked = is_folder and storage.is_local(path) and storage.local_path(path).is_symlink()
            matched = {
                position + (parts[position] != "**")
                for position in positions
                if position < len(parts)
                and (not name.startswith(".") or parts[position].startswith("."))
                and (not linked if parts[position] == "**" else fnmatchcase(name, parts[position]))
            }
            if is_folder:
                if matched:
                    search = partial(self._matching, parts=parts, visited=visited, positions=matched)
                    yield from self.guarded(search, path)
            elif len(parts) in matched or ({len(parts) - 1} & matched and parts[-1] == "**"):
                if has_image_extension(name) or _extension(name) in (*KINDS, ".tar"):
                    yield from self.guarded(self.named, path)
                else:
                    self._skipped.add(extension(name), path)

    def _in_folder(self, url: str, visited: set[tuple[int, int]]) -> Iterator[Source]:
        """Yield the images and shards in a folder and its subfolders; tables are skipped.

        Args:
            visited: device and inode of visited local folders, which are skipped if a link leads back to them.
        """
        if storage.is_local(url):
            status = storage.local_path(url).stat()
            if (folder := (status.st_dev, status.st_ino)) in visited:
                self._skipped.add(READ_BEFORE, url)
                return
            visited.add(folder)
        for name, is_folder in _entries(url):
            path = storage.join(url, name)
            if name.startswith("."):
                continue
            if is_folder and storage.is_local(path) and is_loop(storage.local_path(path)):
                self._skipped.add(LOOP, path)
            elif is_folder:
                yield from self.guarded(partial(self._in_folder, visited=visited), path)
            elif _extension(name) == ".tar":
                yield from self.guarded(self._in_tar, path)
            elif has_image_extension(name):
                yield _single(path)
            else:
                self._skipped.add(extension(name), path)

    def _in_tar(self, url: str) -> Iterator[Source]:
        """Yield the images in a tar, with names such as `shard.tar/000000017.jpg`."""
        with storage.open_read(url) as file:
            yield from self.in_open_tar(file, url)

    def in_open_tar(self, file: IO[bytes], url: str) -> Iterator[Source]:
        """Yield the images in an open tar."""
        try:
            with open_tar(file) as tar:
                for path, member in files_in(tar):
                    name = storage.join(url, path)
                    if not has_image_extension(path):
                        if (suffix := extension(path)) not in SIDECARS:
                            self._skipped.add(suffix, name)
                    elif member is None:
                        yield _broken(name, UserError("a link to a file that is not in the tar"))
                    elif member.size > MAX_IMAGE_BYTES:
                        yield _broken(name, _too_large(name, member.size))
                    else:
                        content = tar.extractfile(member)
                        assert content is not None, "a regular file"
                        yield Source(name, partial(bytes, content.read()))
        except tarfile.TarError as error:
            raise UserError(
                f"{url}: corrupt tar file ({error}); only images before the corrupt position are classified"
            ) from error


def tar_images(name: str, file: IO[bytes]) -> Iterator[Source]:
    """Yield the images in the open tar `name`; a damaged tar yields an unreadable source."""
    finder = _Finder(SkippedFiles())
    return finder.guarded(partial(finder.in_open_tar, file), name)


def _split_pattern(pattern: str) -> tuple[str, list[str]]:
    """Split a pattern into the folder before the first wildcard ("": the working directory) and the remaining parts."""
    if storage.is_local(pattern):
        pattern = str(storage.local_path(pattern))
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if set(part) & set("*?["))
    return "/".join(parts[:fixed]) or "/" * (fixed == 1), parts[fixed:]


def _entries(url: str) -> list[tuple[str, bool]]:
    """Return a folder's entries as sorted pairs (name, is folder); broken links count as files."""
    if storage.is_local(url):
        folder = storage.local_path(url)
        return sorted((path.name, path.is_dir()) for path in folder.iterdir()) if folder.is_dir() else []
    files = storage.sizes(url)
    return [(name, name not in files) for name in storage.listdir(url)]


def _extension(name: str) -> str:
    """Return the lower-case extension of a path or URL; the query of a URL is ignored."""
    return PurePosixPath(urlsplit(name).path if is_web(name) else name).suffix.lower()


def _is_folder(name: str) -> bool:
    return storage.local_path(name).is_dir() if storage.is_local(name) else bool(storage.listdir(name))


def _single(name: str) -> Source:
    def read() -> bytes:
        if not name:
            raise UserError("the name is empty")
        try:
            if not storage.is_local(name):
                return storage.read_bytes(name)
            with storage.open_read(name) as file:
                if (count := os.fstat(file.fileno()).st_size) > MAX_IMAGE_BYTES:
                    raise _too_large(name, count)
                return file.read()
        except Exception as error:
            raise _as_user_error(error) from error

    return Source(name, read)


def _in_table(url: str) -> Iterator[Source]:
    """Yield the images listed in a table; paths are relative to the table's folder."""
    _, (column,), rows = read_columns(url, _extension(url), IMAGE_COLUMNS)
    if column is None:
        raise UserError(f"{url}: no image column; name the column {' or '.join(map(repr, IMAGE_COLUMNS))}")
    folder = url.partition("?")[0] if is_web(url) else url
    folder = folder.rpartition("/")[0] if "/" in folder else "."
    for number, (value, *_) in enumerate(rows, start=1):
        if not isinstance(value, str) or not value:
            yield _broken(f"{url}, row {number}", UserError(f"column {column!r} contains no path: {value!r}"))
        else:
            yield _single(value if scheme(value) or value.startswith("/") else storage.join(folder, value))


def _too_large(name: str, count: int) -> UserError:
    return UserError(f"{name}: {size(count)} is too large for an image; reduce the image's resolution")


def _as_user_error(error: Exception) -> UserError:
    """Convert an error to a `UserError`."""
    return error if isinstance(error, UserError) else UserError(f"{type(error).__name__}: {first_line(error)}")


def _broken(name: str, error: UserError) -> Source:
    def read() -> Any:
        raise error

    return Source(name, read)
