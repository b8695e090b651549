"""Images that a user names: files, folders, patterns, URLs, tables, WebDataset shards, a list on standard input."""

from __future__ import annotations

import io
import sys
import tarfile
from collections import Counter
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
from syncclip.shards.tars import MOST_IMAGE, files_in, open_tar
from syncclip.storage.urls import is_web, scheme

LIST = "-"
"""The name that stands for standard input, on which each line names something."""
LISTED = (*COLUMNS["path"], "url")
"""Names of a table's column of images, of which the first found counts."""
SIDECARS = frozenset({".cls", ".json", ".txt"})
"""Members of a tar that describe its images; they do not count as skipped."""
READ_BEFORE, LOOP = "link to a folder that was read before", "link to a folder that contains it"
"""What `find_images` counts links as that it does not follow."""


@dataclass(frozen=True)
class Source:
    """An image by its name; `read` gives its file, or raises UserError where that can't be read."""

    name: str
    read: Callable[[], bytes]


def find_images(names: Iterable[str], skipped: Counter[str] | None = None) -> Iterator[Source]:
    """The images that names stand for, in their order; those of a folder by name, with its subfolders.

    What is not there, or is damaged, is a source that can't be read: a file, a table, a shard, the rest of a shard
    behind its damage. The others go on.

    Args:
        skipped: counts, by extension, the files of folders and members of tars that are not images.
    """
    find = _Finder(Counter() if skipped is None else skipped)
    for name in names:
        for one in _lines() if name == LIST else (name,):
            yield from find.guarded(find.named, one)


def _lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
    return (line.strip("\r\n") for line in sys.stdin if line.strip() not in ("", LIST))


class _Finder:
    """Finds the images that names stand for, and counts in `skipped` what is none."""

    def __init__(self, skipped: Counter[str]) -> None:
        self._skipped = skipped

    def guarded(self, find: Callable[[str], Iterator[Source]], name: str) -> Iterator[Source]:
        """What `find` yields; its error becomes a source that can't be read."""
        try:
            yield from find(name)
        except Exception as error:  # drivers of fsspec raise nearly anything for odd URLs
            yield _broken(name, _as_user_error(error))

    def named(self, name: str) -> Iterator[Source]:
        """The images that one name stands for."""
        ending = _ending(name)
        if not is_web(name) and any(sign in name for sign in "*?[") and not storage.exists(name):
            matches = self._matching(*_split_pattern(name), set())
            if (first := next(matches, None)) is None:
                raise UserError(f"{name}: no image, table or tar has such a name; quote the pattern, or correct it")
            yield first
            yield from matches
        elif ending == ".tar":
            yield from self._in_tar(name)
        elif ending in KINDS:
            yield from _in_table(name)
        elif is_web(name) or has_image_extension(name) or not name or not _is_folder(name):
            yield _alone(name)
        else:
            yield from self._in_folder(name, set())

    def _matching(
        self, folder: str, parts: Sequence[str], read: set[tuple[int, ...]], places: Collection[int] = (0,)
    ) -> Iterator[Source]:
        """The images, tables and tars that match a pattern. Each folder is listed once, however many `**` there are.

        Names that begin with a dot match only a dot, and `**` does not follow links.

        Args:
            folder: "" is the working folder.
            parts: of the pattern below it.
            read: local folders, with the places that were matched in them; links lead to none a second time.
            places: parts that a name in the folder may match.
        """
        places = {*places}
        for place, part in enumerate(parts):
            if place in places and part == "**":
                places.add(place + 1)  # it may stand for no folder
        if storage.is_local(folder) and storage.local_path(folder or ".").is_dir():
            status = storage.local_path(folder or ".").stat()
            if (key := (status.st_dev, status.st_ino, *sorted(places))) in read:
                self._skipped[READ_BEFORE] += 1
                return
            read.add(key)
        for name, is_folder in _entries(folder or "."):
            path = storage.join(folder, name) if folder else name
            linked = is_folder and storage.is_local(path) and storage.local_path(path).is_symlink()
            matched = {
                place + (parts[place] != "**")
                for place in places
                if place < len(parts)
                and (not name.startswith(".") or parts[place].startswith("."))
                and (not linked if parts[place] == "**" else fnmatchcase(name, parts[place]))
            }
            if is_folder:
                if matched:
                    yield from self.guarded(partial(self._matching, parts=parts, read=read, places=matched), path)
            elif len(parts) in matched or ({len(parts) - 1} & matched and parts[-1] == "**"):
                if has_image_extension(name) or _ending(name) in (*KINDS, ".tar"):
                    yield from self.guarded(self.named, path)
                else:
                    self._skipped[extension(name)] += 1

    def _in_folder(self, url: str, read: set[tuple[int, int]]) -> Iterator[Source]:
        """The images and shards of a folder and those below it, each folder once, however links lead to it; tables and
        other files in it are not looked at.

        Args:
            read: device and inode of the local folders that were read before, to which this one is added.
        """
        if storage.is_local(url):
            status = storage.local_path(url).stat()
            if (folder := (status.st_dev, status.st_ino)) in read:
                self._skipped[READ_BEFORE] += 1
                return
            read.add(folder)
        for name, is_folder in _entries(url):
            place = storage.join(url, name)
            if name.startswith("."):
                continue
            if is_folder and storage.is_local(place) and is_loop(storage.local_path(place)):
                self._skipped[LOOP] += 1
            elif is_folder:
                yield from self.guarded(partial(self._in_folder, read=read), place)
            elif _ending(name) == ".tar":
                yield from self.guarded(self._in_tar, place)
            elif has_image_extension(name):
                yield _alone(place)
            else:
                self._skipped[extension(name)] += 1

    def _in_tar(self, url: str) -> Iterator[Source]:
        """The images of a WebDataset shard, or of any tar; each is `shard.tar/000000017.jpg`."""
        with storage.open_read(url) as file:
            yield from self.in_open_tar(file, url)

    def in_open_tar(self, file: IO[bytes], url: str) -> Iterator[Source]:
        """The images of a tar that is open already."""
        try:
            with open_tar(file) as tar:
                for path, member in files_in(tar):
                    name = storage.join(url, path)
                    if not has_image_extension(path):
                        if (kind := extension(path)) not in SIDECARS:
                            self._skipped[kind] += 1
                    elif member is None:
                        yield _broken(name, UserError("a link to a file that is not in the tar"))
                    elif member.size > MOST_IMAGE:
                        yield _broken(name, _too_large(name, member.size))
                    else:
                        content = tar.extractfile(member)
                        assert content is not None, "it is a file"
                        yield Source(name, partial(bytes, content.read()))
        except tarfile.TarError as error:
            raise UserError(
                f"{url}: not a sound tar file ({error}); the images before the damage are classified"
            ) from error


def tar_images(name: str, file: IO[bytes]) -> Iterator[Source]:
    """The images of an open tar, which is called `name`; its damage is a source that can't be read."""
    finder = _Finder(Counter())
    return finder.guarded(partial(finder.in_open_tar, file), name)


def _split_pattern(pattern: str) -> tuple[str, list[str]]:
    """The folder that a pattern begins with, "" for the working folder, and the parts from its first wildcard on."""
    if storage.is_local(pattern):
        pattern = str(storage.local_path(pattern))
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if set(part) & set("*?["))
    return "/".join(parts[:fixed]) or "/" * (fixed == 1), parts[fixed:]


def _entries(url: str) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, each with whether it is a folder; links that lead nowhere are files."""
    if storage.is_local(url):
        folder = storage.local_path(url)
        return sorted((path.name, path.is_dir()) for path in folder.iterdir()) if folder.is_dir() else []
    files = storage.sizes(url)
    return [(name, name not in files) for name in storage.listdir(url)]


def _ending(name: str) -> str:
    """`.jpg` of a path or URL, of the latter without its query."""
    return PurePosixPath(urlsplit(name).path if is_web(name) else name).suffix.lower()


def _is_folder(name: str) -> bool:
    return storage.local_path(name).is_dir() if storage.is_local(name) else bool(storage.listdir(name))


def _alone(name: str) -> Source:
    def read() -> bytes:
        if not name:
            raise UserError("an empty name stands for no image")
        try:
            local = storage.is_local(name) and storage.local_path(name).is_file()
            if local and (count := storage.local_path(name).stat().st_size) > MOST_IMAGE:
                raise _too_large(name, count)
            return storage.read_bytes(name)
        except Exception as error:
            raise _as_user_error(error) from error

    return Source(name, read)


def _in_table(url: str) -> Iterator[Source]:
    """The images that a table lists; their paths are relative to the table's folder."""
    _, (column,), rows = read_columns(url, _ending(url), LISTED)
    if column is None:
        raise UserError(f"{url}: no column of images, which is called {' or '.join(map(repr, LISTED))}")
    folder = url.partition("?")[0] if is_web(url) else url
    folder = folder.rpartition("/")[0] if "/" in folder else "."
    for number, (value, *_) in enumerate(rows, start=1):
        if not isinstance(value, str) or not value:
            yield _broken(f"{url}, row {number}", UserError(f"{column} is no path: {value!r}"))
        else:
            yield _alone(value if scheme(value) or value.startswith("/") else storage.join(folder, value))


def _too_large(name: str, count: int) -> UserError:
    return UserError(f"{name}: {size(count)} are more than is read of an image; scale it down")


def _as_user_error(error: Exception) -> UserError:
    """An error as the reason why an image can't be read, without a traceback."""
    return error if isinstance(error, UserError) else UserError(f"{type(error).__name__}: {first_line(error)}")


def _broken(name: str, error: UserError) -> Source:
    def read() -> Any:
        raise error

    return Source(name, read)
