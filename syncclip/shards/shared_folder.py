"""A bounded folder of copied files that all processes of a machine share: each file is copied once for all of them."""

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
"""Lock files; two files of one stripe are copied one after the other."""
PART = ".part"
_FILE = re.compile(r".+-\d+(\.part)?")


class SharedFolder:
    """Files by name, the least recently opened removed first. Safe between threads and processes of one machine.

    Who reads a file holds a lock on it, which ends with the process, however it ends; a held file is never removed.
    A file appears by a rename when it is whole. What a killed process was copying is removed when room is needed.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """
        Args:
            folder: Made with its first file, for this user alone; it must be on this machine's disk, and hold nothing
                else.
            limit_bytes: What all files in it may take; all processes that share it should give the same.
        """
        self.folder, self.limit_bytes = folder, limit_bytes

    def open(self, name: str, size: int, fetch: Callable[[Path], None]) -> int | None:
        """A descriptor of a file, copied here first where it is not; None where held files take all the room.

        Args:
            name: Must identify the content, for a file of that name is taken as it is.
            size: Of the file, bytes.
            fetch: Writes it to a path; its errors pass through.

        Raises:
            UserError: The folder or the file is another user's, or a link.
        """
        make_private(self.folder)
        path = self.folder / f"{name}-{size}"
        if (descriptor := _held(path)) is not None:
            return descriptor
        with self._locked(f"lock{zlib.crc32(name.encode()) % STRIPES:02d}"):
            if (descriptor := _held(path)) is not None:
                return descriptor  # another process was quicker
            part = path.with_name(path.name + PART)
            with self._locked("lock"):
                if not self._make_room(size):
                    return None
                copying = open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                fcntl.flock(copying, fcntl.LOCK_SH)
            try:
                fetch(part)
                with self._locked("lock"):  # whoever makes room meanwhile would see neither of the two names
                    part.replace(path)
                return _held(path)
            finally:
                _release(copying)
                part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove files that are not held until `size` bytes more fit, the least recently opened first."""
        files = [path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)]
        taken = sum(map(_size, files))
        for path in sorted(files, key=_last_opened):
            if taken + size <= self.limit_bytes:
                break
            if _removed(path):
                taken -= _size(path)
        return taken + size <= self.limit_bytes

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = open_private(self.folder / name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            _release(descriptor)


def _release(descriptor: int) -> None:
    """Unlock, then close: a process that was forked meanwhile has a copy, which would keep the lock for ever."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _held(path: Path) -> int | None:
    """A descriptor that keeps the file from being removed; None where there is none, or no longer."""
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
    """Remove a file unless it is held."""
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
    """The bytes that a file has, or will have when it is whole, from its name."""
    return int(path.name.removesuffix(PART).rpartition("-")[2])


def _last_opened(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
