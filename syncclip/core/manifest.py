"""Manifest of an export: its source, and the checksum of each of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

from syncclip.core.settings import Settings, UserError

MANIFEST = "export.json"


class ExportedFile(NamedTuple):
    """Size and checksum of an exported file."""

    bytes: int
    sha256: str


class Manifest(Settings):
    """Content of `export.json`."""

    format: Literal[1] = 1
    to: str
    """Format or layout of the export."""
    source: dict[str, str]
    """Identifies the exported run or dataset by checksums of its parts."""
    version: str
    """Version of syncclip."""
    files: dict[str, ExportedFile] | None = None
    """Path relative to the manifest's folder -> file; None: the export is unfinished."""


def verify_folder(folder: Path) -> None:
    """Verify the files of a local export by its manifest; a folder without a manifest passes.

    Raises:
        UserError: the export is unfinished, or one of its files was damaged, swapped or removed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    try:
        files = {path: ExportedFile(*file) for path, file in json.loads(manifest.read_bytes())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest} is damaged, or its export is unfinished; export again into a new folder"
        ) from error
    for path, file in files.items():
        try:
            matches = _sha256(folder / path) == file.sha256
        except FileNotFoundError:
            matches = False
        if not matches:
            raise UserError(
                f"{folder / path} is missing or does not match its checksum; export again into a new folder"
            )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
