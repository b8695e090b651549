"""Images that a user names: files, folders, patterns, URLs, tables, WebDataset shards, a list on standard input."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import first_line, size
from syncclip.datasets.files import EXTENSIONS, is_loop
from syncclip.datasets.tables import COLUMNS, KINDS, read_records
from syncclip.shards.tars import MOST_IMAGE, open_tar
from syncclip.storage.places import is_web, scheme

LIST = "-"
"""The name that stands for standard input, on which each line names something."""
LISTED = (*COLUMNS["path"], "url")
"""Names of a table's column of images, of which the first found counts."""


@dataclass(frozen=True)
class Source:
    """An image by its name; `read` gives its file, or raises UserError where that can't be read."""

    name: str
    read: Callable[[], bytes]


def find_images(names: Iterable[str]) -> Iterator[Source]:
    """The images that names stand for, in their order; those of a folder by name, with its subfolders.

    What is not there, or is damaged, is a source that can't be read: a file, a table, a shard, the rest of a shard
    behind its damage. The others go on.
    """
    for name in names:
        yield from find_images(_lines()) if name == LIST else _guarded(_named, name)


def _lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
    return (line.strip("\r\n") for line in sys.stdin if line.strip() not in ("", LIST))


def _guarded(find: Callable[[str], Iterator[Source]], name: str) -> Iterator[Source]:
    try:
        yield from find(name)
    except (UserError, OSError) as error:
        yield _broken(name, error if isinstance(error, UserError) else UserError(first_line(error)))


def _named(name: str) -> Iterator[Source]:
    ending = _ending(name)
    if not is_web(name) and any(sign in name for sign in "*?[") and not storage.exists(name):
        found = [one for one in storage.glob(name) if _ending(one) in (*EXTENSIONS, *KINDS, ".tar")]
        if not found:
            raise UserError(f"{name}: no image, table or tar has such a name; quote the pattern, or correct it")
        for one in found:
            yield from _guarded(_named, one)
    elif ending == ".tar":
        yield from _in_tar(name)
    elif ending in KINDS:
        yield from _in_table(name)
    elif is_web(name) or ending in EXTENSIONS or not name or not _is_folder(name):
        yield _alone(name)
    else:
        yield from _in_folder(name)


def _ending(name: str) -> str:
    """`.jpg` of a path or URL, of the latter without its query."""
    return PurePosixPath(urlsplit(name).path if is_web(name) else name).suffix.lower()


def _is_folder(name: str) -> bool:
    return storage.local_path(name).is_dir() if storage.is_local(name) else bool(storage.listdir(name))


def _alone(name: str) -> Source:
    def read() -> bytes:
        if not name:
            raise UserError("an empty name stands for no image")
        if storage.is_local(name) and (path := storage.local_path(name)).is_file():
            _check_size(name, path.stat().st_size)
        return storage.read_bytes(name)

    return Source(name, read)


def _in_folder(url: str) -> Iterator[Source]:
    """The images and shards of a folder and those below it; tables and other files in it are not looked at."""
    files = storage.sizes(url)
    for name in storage.listdir(url):
        place, ending = storage.join(url, name), _ending(name)
        if name.startswith("."):
            continue
        if name not in files:
            if storage.is_local(place) and (path := storage.local_path(place)).is_symlink() and is_loop(path):
                yield _broken(place, UserError("this link leads to a folder that it is in"))
            else:
                yield from _guarded(_in_folder, place)
        elif ending == ".tar":
            yield from _guarded(_in_tar, place)
        elif ending in EXTENSIONS:
            yield _alone(place)


def tar_images(name: str, file: IO[bytes]) -> Iterator[Source]:
    """The images of an open tar, which is called `name`; its damage is a source that can't be read."""
    return _guarded(partial(_members, file), name)


def _in_tar(url: str) -> Iterator[Source]:
    """The images of a WebDataset shard, or of any tar; each is `shard.tar/000000017.jpg`."""
    with storage.open_read(url) as file:
        yield from _members(file, url)


def _members(file: IO[bytes], url: str) -> Iterator[Source]:
    try:
        with open_tar(file) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
                if not member.isfile() or _ending(member.name) not in EXTENSIONS:
                    continue
                name = storage.join(url, member.name)
                try:
                    _check_size(name, member.size)
                except UserError as error:
                    yield _broken(name, error)
                    continue
                content = tar.extractfile(member)
                assert content is not None, "it is a file"
                yield Source(name, partial(bytes, content.read()))
    except tarfile.TarError as error:
        raise UserError(
            f"{url}: not a sound tar file ({error}); the images before the damage are classified"
        ) from error


def _in_table(url: str) -> Iterator[Source]:
    """The images that a table lists; their paths are relative to the table's folder."""
    records = read_records(url, _ending(url))
    column = next((one for one in LISTED if records and one in records[0]), None)
    if column is None:
        raise UserError(f"{url}: no column of images, which is called {' or '.join(map(repr, LISTED))}")
    folder = url.partition("?")[0] if is_web(url) else url
    folder = folder.rpartition("/")[0] if "/" in folder else "."
    for number, record in enumerate(records, start=1):
        value = record.get(column)
        if not isinstance(value, str) or not value:
            yield _broken(f"{url}, row {number}", UserError(f"{column} is no path: {value!r}"))
        else:
            yield _alone(value if scheme(value) or value.startswith("/") else storage.join(folder, value))


def _check_size(name: str, count: int) -> None:
    if count > MOST_IMAGE:
        raise UserError(f"{name}: {size(count)} are more than is read of an image; scale it down")


def _broken(name: str, error: UserError) -> Source:
    def read() -> Any:
        raise error

    return Source(name, read)
