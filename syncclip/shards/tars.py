"""Tars that others made: their headers are believed only as far as they can be true."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

MOST_TEXT, MOST_IMAGE = 1 << 20, 1 << 27
"""Bytes of a member that is no image (its long name or its text), and of an image."""

BEFORE_A_MEMBER = (b"x", b"g", b"X", b"L", b"K")
"""Types of headers that tell of the next one, whose content tarfile reads into memory: pax's and GNU's long names."""


@contextmanager
def open_tar(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """A tar whose members can be gone through. A damaged header is no end to it, as it is to tarfile.

    Raises:
        tarfile.ReadError: whatever is wrong with it.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
            yield tar
    except (EOFError, IndexError, OverflowError, RecursionError, UnicodeError) as error:  # tarfile's, of false headers
        raise tarfile.ReadError(f"false header ({error})") from error


def files_in(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo | None]]:
    """The name of each file of an open tar, and the member with its content: for a hard or symbolic link, the file that
    it points to; None where that is not in the tar. Memory does not grow with the tar, unless it contains links.
    """
    files: dict[str, tarfile.TarInfo] | None = None
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
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
    """The files and links of a tar by name; reading continues where it was."""
    place = file.tell()
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
        found = {posixpath.normpath(member.name): member for member in tar if not member.isdir()}
    file.seek(place)
    return found


class _Header(tarfile.TarInfo):
    """A header whose size is no lie that costs memory or leads back to where the reader was."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.size > MOST_TEXT and self.type in BEFORE_A_MEMBER):
            raise tarfile.ReadError(f"false header of {self.size:,} bytes")
        found = super()._proc_member(archive)  # type: ignore[misc]
        if found.size < 0 or found.issparse():
            raise tarfile.ReadError(f"member {found.name!r} has holes, or less than nothing")
        return found
