"""`contents.json`: names of the files that a finished command left in a folder, so that a removed one is noticed."""

from __future__ import annotations

import re

from syncclip.core.settings import Settings
from syncclip.storage.checksums import NOBODY, DamagedError
from syncclip.storage.documents import read_document, write_document
from syncclip.storage.files import require, sizes
from syncclip.storage.urls import join

CONTENTS = "contents.json"
_SHARD = re.compile(r"\d{5,}(\.tar|\.parquet|\.safetensors|_stats\.json)")
"""Files of shards, which their plan and their markers account for."""


class Contents(Settings):
    """Content of `contents.json`."""

    files: tuple[str, ...]
    """Names of the folder's own files, sorted; without hidden ones and those of shards."""


def write_contents(url: str, owner: str = NOBODY) -> None:
    """Record which files a folder has, at the end of a command that wrote there.

    Args:
        url: of the folder.
        owner: identity of what it holds, see `seals`.

    Raises:
        MissingError: a file was removed meanwhile.
    """
    names = (name for name in sizes(url) if not name.startswith(".") and not _SHARD.fullmatch(name))
    files = tuple(sorted(name for name in names if name != CONTENTS))
    try:
        recorded = read_contents(url, owner)
    except DamagedError:  # or that of a set in the same folder as this run
        recorded = None
    if recorded != files:
        write_document(join(url, CONTENTS), Contents(files=files), owner)
        require(url, (CONTENTS, *files))


def read_contents(url: str, owner: str | None = None) -> tuple[str, ...] | None:
    """The names that were recorded; None where no command has finished.

    Raises:
        DamagedError: the record was changed, cut short or exchanged.
    """
    document = read_document(join(url, CONTENTS), Contents, "remove it and run the command that wrote it again", owner)
    return None if document is None else document.files
