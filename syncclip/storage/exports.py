"""Exports, which are written under a folder lock and verified against a manifest of checksums.

A folder contains the export of one run or synthetic dataset in one format. Before the first file changes, the manifest
marks the export as unfinished, and an unfinished export is never used. Rerunning the same command completes the export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from syncclip.core.manifest import MANIFEST, ExportedFile, Manifest
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.core.versions import package_version
from syncclip.storage import documents, files, locks
from syncclip.storage.retries import MissingError, UnreachableError
from syncclip.storage.urls import join

REMEDY = "export again into a new folder"


class Export:
    """An export in progress (see `exporting`); thread-safe."""

    def __init__(self, url: str, manifest: Manifest, session: Session) -> None:
        self.url, self._manifest = url, manifest
        self.session = session
        """Session of other processes that write to the export."""
        self._files: dict[str, ExportedFile] = {}

    def begin(self) -> None:
        """Mark the export as unfinished before its first file is written."""
        documents.write_document(join(self.url, MANIFEST), self._manifest)

    def write(self, path: str, data: bytes) -> None:
        """Write a file to the export."""
        files.write_bytes(join(self.url, path), data)
        self.record(path, len(data), hashlib.sha256(data).hexdigest())

    def publish(self, source: Path, path: str) -> None:
        """Copy a local file into the export."""
        files.publish(source, join(self.url, path))
        with source.open("rb") as content:
            self.record(path, source.stat().st_size, files.file_sha256(content))

    def record(self, path: str, size: int, sha256: str) -> None:
        """Add an existing file to the manifest."""
        self._files[path] = ExportedFile(size, sha256)

    def record_small(self, path: str) -> None:
        """Read a small existing file, and add it to the manifest."""
        data = files.read_bytes(join(self.url, path))
        self.record(path, len(data), hashlib.sha256(data).hexdigest())

    def finish(self) -> None:
        """Complete the manifest; raise a MissingError if an exported file was removed."""
        update = {"files": dict(sorted(self._files.items()))}
        documents.write_document(join(self.url, MANIFEST), self._manifest.model_copy(update=update))
        folders: dict[str, list[str]] = {self.url: [MANIFEST]}
        for path in self._files:
            folder, _, name = path.rpartition("/")
            folders.setdefault(join(self.url, folder) if folder else self.url, []).append(name)
        for folder, names in folders.items():
            files.require(folder, names)


@contextmanager
def exporting(url: str, to: str, source: Mapping[str, str], command: str) -> Iterator[Export]:
    """Lock an export folder, and complete the export's manifest at the end of the `with` block.

    The block must call `Export.begin` before writing files, and add each file to the export.

    Args:
        to: format or layout of the export.
        source: checksums that identify the exported run or dataset.
        command: command that writes the export, used in messages.

    Raises:
        UserError: the folder contains other files, such as a different run's export, or is locked by another command.
    """
    with locks.lock(url, command) as hold:
        existing = documents.read_document(join(url, MANIFEST), Manifest, REMEDY)
        other = ""
        if existing is None:
            other = few(files.listdir(url))
        elif existing.to != to:
            other = f"an export to {existing.to!r}"
        elif differ := [name for name in source if existing.source.get(name) != source[name]]:
            other = f"an export of {'different' if differ[0].endswith('s') else 'a different'} {differ[0]}"
        if other:
            raise UserError(f"{url} already contains {other}; choose a different --out folder, or remove this one")
        manifest = Manifest(to=to, source=dict(source), version=package_version("syncclip"))
        export = Export(url, manifest, current().under_lock(url, hold.token))
        yield export
        export.finish()


def read_manifest(url: str) -> Manifest | None:
    """Return the manifest of a finished export, or None if the folder has no manifest.

    Raises:
        UserError: the manifest is corrupt, or the export is unfinished.
    """
    manifest = documents.read_document(join(url, MANIFEST), Manifest, REMEDY)
    if manifest is not None and manifest.files is None:
        raise UserError(f"{url}: this export to {manifest.to!r} is unfinished; rerun the command that wrote it")
    return manifest


def problems_of_export(url: str) -> Iterator[str]:
    """Verify all files of the export in a folder, and yield a message for each corrupt or missing file."""
    try:
        manifest = read_manifest(url)
    except UnreachableError:
        raise
    except UserError as error:
        yield str(error)
        return
    for path, file in ((manifest.files if manifest is not None else None) or {}).items():
        file_url = join(url, path)
        try:
            with files.open_read(file_url, file.sha256) as content:
                if files.file_sha256(content) != file.sha256:
                    yield f"{file_url} does not match its checksum: the file is corrupt or was replaced"
        except MissingError:
            yield f"{file_url} is missing, but listed in {join(url, MANIFEST)}"


def exported_files(url: str) -> set[str]:
    """Return the URLs of an export's manifest and files, or only the manifest's URL if the manifest is unreadable."""
    try:
        manifest = read_manifest(url)
    except UserError:
        return {join(url, MANIFEST)}
    listed = (manifest.files if manifest is not None else None) or {}
    return {join(url, path) for path in (MANIFEST, *listed)}


def require_export(*folders: str) -> None:
    """Verify exports against their manifests; folders without a manifest are accepted.

    Raises:
        UserError: an export is unfinished, or a file is corrupt or missing.
    """
    for problem in chain(*map(problems_of_export, folders)):
        raise UserError(f"{problem}; {REMEDY}")
