"""Manifest of an export: its source and the checksums of its files."""

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
    """Checksums that identify the exported run or dataset, keyed by component."""
    version: str
    """Version of syncclip that wrote the export."""
    files: dict[str, ExportedFile] | None = None
    """Size and checksum of each file, keyed by path relative to the manifest; None while the export is unfinished."""


def verify_folder(folder: Path) -> None:
    """Verify the files of a local export against the manifest; accept a folder without a manifest.

    Raises:
        UserError: the export is unfinished, or a file is corrupt, replaced or missing.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    try:
        files = {path: ExportedFile(*file) for path, file in json.loads(manifest.read_bytes())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{manifest} is corrupt, or its export is unfinished; export again into a new folder"
        raise UserError(message) from error
    for name, file in files.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != file.sha256:
            raise UserError(f"{path} is missing or does not match its checksum; export again into a new folder")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
