"""Images that a user names: files, folders, patterns, URLs, tables, WebDataset shards, a list on standard input."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import size
from syncclip.datasets.files import EXTENSIONS
from syncclip.datasets.tables import COLUMNS, KINDS, read_records
from syncclip.shards.tars import MOST_IMAGE, open_tar
from syncclip.storage.places import scheme

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

    A file that is not there is a source that can't be read, and so is a damaged table or shard: the others go on.
    """
    for name in names:
        if name == LIST:
            yield from find_images(line.strip() for line in sys.stdin if line.strip() not in ("", LIST))
            continue
        try:
            yield from _named(name)
        except UserError as error:
            yield Source(name, partial(_refuse, error))


def _named(name: str) -> Iterator[Source]:
    ending = PurePosixPath(name).suffix.lower()
    if scheme(name) in ("http", "https"):  # a server lists nothing, and may name its files as it likes
        kind = _in_tar if ending == ".tar" else _in_table if ending in KINDS else _alone
        yield from kind(name)
    elif any(sign in name for sign in "*?[") and not storage.exists(name):
        found = storage.glob(name)
        if not found:
            raise UserError(f"{name}: no file has such a name; quote the pattern, or correct it")
        for one in found:
            yield from _named(one)
    elif ending in EXTENSIONS:
        yield from _alone(name)
    elif ending == ".tar":
        yield from _in_tar(name)
    elif ending in KINDS:
        yield from _in_table(name)
    elif there := storage.listdir(name):
        yield from _in_folder(name, there)
    else:
        yield from _alone(name)


def _alone(name: str) -> Iterator[Source]:
    yield Source(name, partial(storage.read_bytes, name))


def _in_folder(url: str, there: list[str]) -> Iterator[Source]:
    """The images and shards of a folder and those below it; tables and other files in it are not looked at."""
    files = storage.sizes(url)
    for name in there:
        ending = PurePosixPath(name).suffix.lower()
        if name.startswith("."):
            continue
        place = storage.join(url, name)
        if name not in files:
            yield from _in_folder(place, storage.listdir(place))
        elif ending == ".tar":
            yield from _in_tar(place)
        elif ending in EXTENSIONS:
            yield from _alone(place)


def _in_tar(url: str) -> Iterator[Source]:
    """The images of a WebDataset shard, or of any tar; each is `shard.tar/000000017.jpg`."""
    try:
        with storage.open_read(url) as file, open_tar(file) as tar:
            for member in tar:
                if not member.isfile() or PurePosixPath(member.name).suffix.lower() not in EXTENSIONS:
                    continue
                name = storage.join(url, member.name)
                if member.size > MOST_IMAGE:
                    refusal = UserError(f"{name}: {size(member.size)} are more than is read of an image")
                    yield Source(name, partial(_refuse, refusal))
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
    records = read_records(url)
    column = next((one for one in LISTED if records and one in records[0]), None)
    if column is None:
        raise UserError(f"{url}: no column of images, which is called {' or '.join(map(repr, LISTED))}")
    for number, record in enumerate(records, start=1):
        value = record.get(column)
        if not isinstance(value, str) or not value:
            yield Source(f"{url}, row {number}", partial(_refuse, UserError(f"{column} is no path: {value!r}")))
        else:
            folder = url.rpartition("/")[0] or "."
            place = value if scheme(value) or value.startswith("/") else storage.join(folder, value)
            yield Source(place, partial(storage.read_bytes, place))


def _refuse(error: UserError) -> Any:
    raise error
