"""A bounded folder of copied files, shared by all processes of a machine: each file is copied only once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from syncclip.storage.permissions import make_private, open_private

STRIPES = 64
"""Number of lock files; files of one stripe are copied one after the other."""
PART = ".part"
_FILE = re.compile(r".+-\d+(\.part)?")


class SharedFolder:
    """LRU cache of files by name, safe between threads and processes of one machine.

    Readers hold a shared `flock` on a file, which ends with their process; a locked file is never removed. A file is
    renamed into place when it is complete. Partial copies of killed processes are removed when room is needed.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """
        Args:
            folder: on a local disk, for this purpose alone; created for this user with the first file.
            limit_bytes: maximum total size; should be the same in all processes.
        """
        self.folder, self.limit_bytes = folder, limit_bytes

    def open(self, name: str, size: int, fetch: Callable[[Path], None]) -> int | None:
        """Open a file, copying it first if needed, and return its descriptor; None if locked files take all the room.

        Args:
            name: identifies the content: an existing file of this name is used as it is.
            size: bytes of the file.
            fetch: writes the file to a path; may raise.

        Raises:
            UserError: the folder or the file belongs to another user or is a link.
        """
        make_private(self.folder)
        path = self.folder / f"{name}-{size}"
        if (descriptor := _locked(path)) is not None:
            return descriptor
        with self._exclusive(f"lock{zlib.crc32(name.encode()) % STRIPES:02d}"):
            if (descriptor := _locked(path)) is not None:
                return descriptor  # copied by another process meanwhile
            part = path.with_name(path.name + PART)
            with self._exclusive("lock"):
                if not self._make_room(size):
                    return None
                copying = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                fcntl.flock(copying, fcntl.LOCK_SH)
            try:
                fetch(part)
                with self._exclusive("lock"):  # otherwise `_make_room` could miss both names
                    part.replace(path)
                return _locked(path)
            finally:
                _release(copying)
                part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove unlocked files, the least recently opened first, until another `size` bytes fit."""
        files = [path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)]
        used = sum(map(_size, files))
        for path in sorted(files, key=_last_opened):
            if used + size <= self.limit_bytes:
                break
            if _removed(path):
                used -= _size(path)
        return used + size <= self.limit_bytes

    @contextlib.contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        descriptor = open_private(self.folder / name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            _release(descriptor)


def _release(descriptor: int) -> None:
    """Unlock before closing: a forked process may have inherited the descriptor, and with it the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Descriptor with a shared lock, which protects the file from removal; None if it does not exist."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if os.fstat(descriptor).st_nlink == 0:  # removed between the two
        os.close(descriptor)
        return None
    os.utime(descriptor)
    return descriptor


def _removed(path: Path) -> bool:
    """Remove a file unless it is locked; returns whether it is gone."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = open_private(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True


def _size(path: Path) -> int:
    """Bytes of the complete file, from its name."""
    return int(path.name.removesuffix(PART).rpartition("-")[2])


def _last_opened(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
