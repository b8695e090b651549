"""`contents.json`: names of the files that a finished command wrote into a folder, so that deletions are noticed."""

from __future__ import annotations

import re

from syncclip.core.settings import Settings
from syncclip.storage.checksums import NOBODY, DamagedError
from syncclip.storage.documents import read_document, write_document
from syncclip.storage.files import require, sizes
from syncclip.storage.urls import join

CONTENTS = "contents.json"
_SHARD = re.compile(r"\d{5,}(\.tar|\.parquet|\.safetensors|_stats\.json)")
"""Files of shards, which plan and markers list."""


class Contents(Settings):
    """Content of `contents.json`."""

    files: tuple[str, ...]
    """Names of the folder's files, sorted; without hidden ones and those of shards."""


def write_contents(url: str, owner: str = NOBODY) -> None:
    """Record the files of a folder at the end of a command that wrote there.

    Args:
        url: the folder.
        owner: identity of its content, see `checksums`.

    Raises:
        MissingError: a file was removed meanwhile.
    """
    names = (name for name in sizes(url) if not name.startswith(".") and not _SHARD.fullmatch(name))
    files = tuple(sorted(name for name in names if name != CONTENTS))
    try:
        recorded = read_contents(url, owner)
    except DamagedError:  # or that of a synthetic dataset in the same folder
        recorded = None
    if recorded != files:
        write_document(join(url, CONTENTS), Contents(files=files), owner)
        require(url, (CONTENTS, *files))


def read_contents(url: str, owner: str | None = None) -> tuple[str, ...] | None:
    """Return the recorded names; None if no command has finished.

    Raises:
        DamagedError: the record was modified, truncated or swapped.
    """
    document = read_document(join(url, CONTENTS), Contents, "remove it and run the command that wrote it again", owner)
    return None if document is None else document.files
