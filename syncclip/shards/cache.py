"""Read pieces of shards by offset: local ones in place, remote ones from a bounded local copy."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from syncclip import storage


class ShardCache:
    """Open shards, the least recently used forgotten first. Safe to share between threads.

    A remote shard is fetched whole into a file that has no name any more, so that nothing is left on the disk whatever
    happens to the process. A shard larger than the limit is read piece by piece over the network instead.
    """

    def __init__(self, limit_bytes: int = 4 << 30, max_open: int = 128, folder: str | None = None) -> None:
        """
        Args:
            limit_bytes: Disk that copies of remote shards may take.
            max_open: Files that may be open at once.
            folder: Where copies lie; None for the system's temporary folder.
        """
        self.limit_bytes, self.max_open, self.folder = limit_bytes, max_open, folder
        self.fetched = 0  # remote shards copied so far
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}  # kept for good: two of one shard would let it be copied twice
        self._coming = 0  # bytes of the copies under way
        self._ahead: ThreadPoolExecutor | None = None

    def read(self, url: str, shard_bytes: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the shard at `url`, itself `shard_bytes` long; fewer where it was cut off."""
        if not storage.is_local(url) and shard_bytes > self.limit_bytes:
            return storage.read_bytes(url, offset, offset + size)
        return self._file(url, shard_bytes).read(offset, size)

    def fetch_ahead(self, url: str, shard_bytes: int) -> None:
        """Start to copy a remote shard in the background; a failure shows when the shard is read."""
        if storage.is_local(url) or shard_bytes > self.limit_bytes or url in self._open:
            return
        self._ahead = self._ahead or ThreadPoolExecutor(1, thread_name_prefix="shards-ahead")
        self._ahead.submit(self._file, url, shard_bytes)

    def _file(self, url: str, shard_bytes: int) -> _OpenFile:
        with self._lock:
            if url in self._open:
                self._open.move_to_end(url)
                return self._open[url]
            fetching = self._fetching.setdefault(url, threading.Lock())
        with fetching:  # one copy at a time of one shard; others go on meanwhile
            copied_bytes = 0 if storage.is_local(url) else shard_bytes
            with self._lock:
                if url in self._open:
                    return self._open[url]
                self._coming += copied_bytes
                while self._open and (len(self._open) >= self.max_open or self._taken() > self.limit_bytes):
                    self._open.popitem(last=False)  # closed when its last reader lets go of it
            file = None
            try:
                file = self._local(url) if storage.is_local(url) else self._copy(url, shard_bytes)
            finally:
                with self._lock:
                    self._coming -= copied_bytes
                    if file is not None:
                        self._open[url] = file
            return file

    def _taken(self) -> int:
        return self._coming + sum(file.disk_bytes for file in self._open.values())

    def _local(self, url: str) -> _OpenFile:
        try:
            return _OpenFile(os.open(storage.local_path(url), os.O_RDONLY), 0)
        except FileNotFoundError as error:
            raise storage.MissingError(f"cannot read {url}: it is not there any more; was the set removed?") from error

    def _copy(self, url: str, shard_bytes: int) -> _OpenFile:
        handle, name = tempfile.mkstemp(prefix="syncclip-", suffix=".tar", dir=self.folder)
        os.close(handle)
        try:
            storage.fetch(url, Path(name))
            self.fetched += 1
            return _OpenFile(os.open(name, os.O_RDONLY), shard_bytes)
        finally:
            Path(name).unlink()


class _OpenFile:
    """A descriptor that closes itself when nobody reads from it any more."""

    def __init__(self, descriptor: int, disk_bytes: int) -> None:
        self.descriptor, self.disk_bytes = descriptor, disk_bytes

    def read(self, offset: int, size: int) -> bytes:
        """A method, so that the caller's `self` keeps the file open while it is read."""
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
