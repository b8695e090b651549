"""The manifest of an export: which run or set it is of, and the checksum of each of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

from syncclip.core.settings import Settings, UserError

MANIFEST = "export.json"


class ExportedFile(NamedTuple):
    """Size and checksum of a file."""

    bytes: int
    sha256: str


class Manifest(Settings):
    """Content of `export.json`."""

    format: Literal[1] = 1
    to: str
    """Format or layout of the export."""
    source: dict[str, str]
    """Identifies what was exported, by digests of its parts."""
    version: str
    """Of syncclip."""
    files: dict[str, ExportedFile] | None = None
    """Path relative to the manifest's folder -> file; None: the export is unfinished."""


def require_whole_folder(folder: Path) -> None:
    """Compare the files of a local export with its manifest; a folder without a manifest passes.

    Raises:
        UserError: the export is unfinished, or one of its files was damaged, exchanged or removed.
    """
    place = folder / MANIFEST
    if not place.is_file():
        return
    try:
        files = {path: ExportedFile(*file) for path, file in json.loads(place.read_bytes())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place} is damaged, or its export is unfinished; export again into a new folder") from error
    for path, file in files.items():
        try:
            same = _sha256(folder / path) == file.sha256
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(
                f"{folder / path} is missing or not as it was exported: it was damaged or exchanged; export again into "
                "a new folder"
            )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
