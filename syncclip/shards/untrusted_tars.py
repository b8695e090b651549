"""Reader for untrusted tars, which validates headers before allocating memory."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

MAX_TEXT_BYTES, MAX_IMAGE_BYTES = 1 << 20, 1 << 27
"""Maximum sizes of a text member or extension header, and of an image, in bytes."""

EXTENSION_HEADERS = (b"x", b"g", b"X", b"L", b"K")
"""Member types of pax headers and GNU long names, which tarfile reads into memory."""


@contextmanager
def open_tar(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Open a tar for iteration; any invalid header raises a `tarfile.ReadError`."""
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            yield tar
    except (EOFError, IndexError, OverflowError, RecursionError, UnicodeError) as error:  # invalid headers
        raise tarfile.ReadError(f"invalid header ({error})") from error


def files_in(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo | None]]:
    """Yield the name of each file in an open tar, and the member that contains its data.

    Hard and symbolic links are resolved; the member is None if a link's target is not in the tar. Memory usage is
    constant unless the tar contains links.
    """
    files: dict[str, tarfile.TarInfo] | None = None
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        name = member.name
        if member.islnk() or member.issym():
            files = _files(tar.fileobj) if files is None else files
            followed = {name}
            while member is not None and (member.islnk() or member.issym()):
                folder = posixpath.dirname(member.name) if member.issym() else ""
                target = posixpath.normpath(posixpath.join(folder, member.linkname))
                member = None if target in followed else files.get(target)
                followed.add(target)
        if member is None or member.isfile():
            yield name, member


def _files(file: Any) -> dict[str, tarfile.TarInfo]:
    """Return the files and links of a tar by name, and restore the file position."""
    position = file.tell()
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
        members = {posixpath.normpath(member.name): member for member in tar if not member.isdir()}
    file.seek(position)
    return members


class _Header(tarfile.TarInfo):
    """A tar header that rejects negative sizes and sizes large enough to exhaust memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.size > MAX_TEXT_BYTES and self.type in EXTENSION_HEADERS):
            raise tarfile.ReadError(f"invalid header with a size of {self.size:,} bytes")
        member = super()._proc_member(archive)  # type: ignore[misc]
        if member.size < 0 or member.issparse():
            raise tarfile.ReadError(f"member {member.name!r} is sparse or has a negative size")
        return member
