"""`contents.json`: names of the files that a finished command left in a folder, used to detect deleted files."""

from __future__ import annotations

import re

from syncclip.core.settings import Settings
from syncclip.storage.checksums import NOBODY, DamagedError
from syncclip.storage.documents import read_document, write_document
from syncclip.storage.files import require, sizes
from syncclip.storage.urls import join

CONTENTS = "contents.json"
_SHARD = re.compile(r"\d{5,}(\.tar|\.parquet|\.safetensors|_stats\.json)")
"""Names of shard files, which the plan and the markers list instead."""


class Contents(Settings):
    """Content of `contents.json`."""

    files: tuple[str, ...]
    """Sorted names of the folder's files, excluding hidden files and shard files."""


def write_contents(url: str, owner: str = NOBODY) -> None:
    """Record the files of a folder at the end of a command; raise a MissingError if a file is removed meanwhile.

    Args:
        url: URL of the folder.
        owner: identity of the owner; see `checksums`.
    """
    files = tuple(
        name for name in sizes(url) if not (name.startswith(".") or name == CONTENTS or _SHARD.fullmatch(name))
    )
    try:
        recorded = read_contents(url, owner)
    except DamagedError:  # or it belongs to a synthetic dataset in the same folder
        recorded = None
    if recorded != files:
        write_document(join(url, CONTENTS), Contents(files=files), owner)
        require(url, (CONTENTS, *files))


def read_contents(url: str, owner: str | None = None) -> tuple[str, ...] | None:
    """Return the recorded names, or None if no command has finished; raise a DamagedError if the record is corrupt."""
    document = read_document(join(url, CONTENTS), Contents, "remove it and rerun the command that wrote it", owner)
    return None if document is None else document.files
