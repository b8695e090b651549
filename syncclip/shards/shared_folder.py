"""Size-limited folder of copied files, shared by all processes on a machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from syncclip.core.permissions import make_private, open_private

STRIPES = 64
"""Number of lock files; files that share a lock are copied sequentially."""
PART = ".part"
_FILE = re.compile(r".+-\d+(\.part)?")


class SharedFolder:
    """LRU cache of files by name, safe for concurrent threads and processes on one machine.

    Each file is copied once. Readers hold a shared `flock`, which is released when their process ends; locked files are
    never removed. A complete copy is moved into place atomically. Partial copies left by killed processes are evicted
    like other files.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """The local folder is created when the first file is written. All processes should pass the same limit."""
        self.folder, self.limit_bytes = folder, limit_bytes

    def open(self, name: str, size: int, fetch: Callable[[Path], None]) -> int | None:
        """Copy a file unless it already exists; return its descriptor, or None if locked files leave no room.

        Args:
            name: identifier of the content; an existing file with this name is reused.
            size: size of the file in bytes.
            fetch: function that writes the file to a path; its errors propagate.

        Raises:
            UserError: the folder or the file is a link or belongs to another user.
        """
        make_private(self.folder)
        path = self.folder / f"{name}-{size}"
        if (descriptor := _locked(path)) is not None:
            return descriptor
        with self._exclusive(f"lock{zlib.crc32(name.encode()) % STRIPES:02d}"):
            if (descriptor := _locked(path)) is not None:
                return descriptor  # another thread or process has copied it
            part = path.with_name(path.name + PART)
            with self._exclusive("lock"):
                if not self._make_room(size):
                    return None
                copying = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                fcntl.flock(copying, fcntl.LOCK_SH)
            try:
                fetch(part)
                with self._exclusive("lock"):  # `_make_room` must see one of the two names
                    part.replace(path)
                return _locked(path)
            finally:
                _release(copying)
                part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove unlocked files, least recently opened first, until `size` more bytes fit; return whether they fit."""
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
    """Unlock and close a descriptor; closing alone does not unlock a file that a forked process has inherited."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Open a file with a shared lock, which protects it from removal; return None if it does not exist."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if os.fstat(descriptor).st_nlink == 0:  # removed before it was locked
        os.close(descriptor)
        return None
    os.utime(descriptor)
    return descriptor


def _removed(path: Path) -> bool:
    """Remove a file unless it is locked; return whether the file has been removed."""
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
    """Return the size of a complete file in bytes, parsed from the file name."""
    return int(path.name.removesuffix(PART).rpartition("-")[2])


def _last_opened(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
