"""Tars that others made: their headers are believed only as far as they can be true."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

MOST_TEXT, MOST_IMAGE = 1 << 20, 1 << 29
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


class _Header(tarfile.TarInfo):
    """A header whose size is no lie that costs memory or leads back to where the reader was."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.size > MOST_TEXT and self.type in BEFORE_A_MEMBER):
            raise tarfile.ReadError(f"false header of {self.size:,} bytes")
        found = super()._proc_member(archive)  # type: ignore[misc]
        if found.size < 0 or found.issparse():
            raise tarfile.ReadError(f"member {found.name!r} has holes, or less than nothing")
        return found
