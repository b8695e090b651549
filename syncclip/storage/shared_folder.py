"""Size-limited folder of copied files, shared by all processes on a machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from syncclip.core.permissions import make_private, open_private
from syncclip.core.settings import UserError

STRIPES = 64
"""Number of lock files; files that share a lock are copied sequentially."""
ATTEMPTS = 3
"""Maximum number of copies that are corrupt when they are read back."""
PART = ".part"
_FILE = re.compile(r".+-\d+(\.part)?")


class SharedFolder:
    """LRU cache of files by name, safe for concurrent threads and processes on one machine.

    Each file is copied once. Readers hold a shared `flock`, which is released when their process ends; locked files are
    never removed. A complete copy is moved into place atomically. Partial copies left by killed processes are evicted
    like other files.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """
        Args:
            folder: local folder, which is created when the first file is written.
            limit_bytes: maximum size of all files in bytes, equal in all processes; default: the space on the disk.
        """
        self.folder, self.limit_bytes = folder, limit_bytes

    def open(
        self, name: str, size: int, fetch: Callable[[Path], None], intact: Callable[[int], bool] = lambda _: True
    ) -> int | None:
        """Copy a file unless it already exists; return its descriptor, or None if locked files leave no room.

        Args:
            name: identifier of the content; an existing file with this name is reused.
            size: size of the file in bytes.
            fetch: function that writes the file to a path; its errors propagate.
            intact: function that reads a descriptor and returns whether the content is correct; a corrupt file is
                copied again.

        Raises:
            UserError: the folder or the file is a link or belongs to another user, or each copy is corrupt.
        """
        make_private(self.folder)
        path = self.path(name, size)
        for _ in range(1 + ATTEMPTS):
            if (descriptor := _locked(path)) is None:
                with self._exclusive(f"lock{zlib.crc32(name.encode()) % STRIPES:02d}"):
                    descriptor = _locked(path)  # another thread or process may have copied it
                    descriptor = self._copy(path, size, fetch) if descriptor is None else descriptor
            if descriptor is None or intact(descriptor):
                return descriptor
            self._discard(path, descriptor)
        raise UserError(f"{path} is corrupt in each of {ATTEMPTS} copies; check the disk, or use a different folder")

    def path(self, name: str, size: int) -> Path:
        """Return the path of a file, which exists as long as a descriptor returned by `open` is open."""
        return self.folder / f"{name}-{size}"

    def _copy(self, path: Path, size: int, fetch: Callable[[Path], None]) -> int | None:
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

    def _discard(self, path: Path, descriptor: int) -> None:
        """Remove an open file, unless another process has replaced it, and close its descriptor."""
        with self._exclusive("lock"), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                path.unlink()
        _release(descriptor)

    def _make_room(self, size: int) -> bool:
        """Remove unlocked files, least recently opened first, until `size` more bytes fit; return whether they fit."""
        files = [path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)]
        used, limit = sum(map(_size, files)), self.limit_bytes
        if limit is None:
            limit = shutil.disk_usage(self.folder).free + sum(map(_written, files))
        for path in sorted(files, key=_last_opened):
            if used + size <= limit:
                break
            if _removed(path):
                used -= _size(path)
        return used + size <= limit

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


def _written(path: Path) -> int:
    """Return the current size of a file in bytes, which is smaller than `_size` while the file is being copied."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _last_opened(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
