"""List of a folder's files at the end of a command (`contents.json`), used to detect deleted files."""

from __future__ import annotations

import re

from syncclip.core.settings import Settings
from syncclip.storage.checksums import NOBODY, DamagedError
from syncclip.storage.documents import read_document, write_document
from syncclip.storage.files import require, sizes
from syncclip.storage.urls import join

CONTENTS = "contents.json"
_SHARD = re.compile(r"\d{5,}(\.tar|\.parquet|\.safetensors|_stats\.json)")
"""Names of shard files, which are listed in the plan and the markers instead of `contents.json`."""


class Contents(Settings):
    """Content of `contents.json`."""

    files: tuple[str, ...]
    """Sorted names of the folder's files, excluding hidden files and shard files."""


def write_contents(url: str, owner: str = NOBODY) -> None:
    """Record a folder's file names at the end of a command; raise a MissingError if a file was removed in the meantime.

    Args:
        url: URL of the folder.
        owner: ID of the folder's owner; see `checksums`.
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
    """Return the recorded file names, or None if there is no record; raise a DamagedError if the record is corrupt."""
    remedy = "remove the file and rerun the command that wrote it"
    document = read_document(join(url, CONTENTS), Contents, remedy, owner)
    return None if document is None else document.files
