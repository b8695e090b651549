"""Reads byte ranges of shards: local files directly, and remote files through a size-limited cache."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from syncclip import storage
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.shards.images import UnreadableImageError
from syncclip.storage.shared_folder import SharedFolder
from syncclip.storage.urls import open_local

FETCHERS = 4
"""Number of shards to prefetch concurrently."""

MAX_OPEN = 128
"""Maximum number of files that a cache keeps open."""


class ShardFile(NamedTuple):
    """A tar, with the size, checksum and number of images recorded in its commit marker."""

    url: str
    bytes: int | None = None  # None if unknown; a remote file is then not cached
    sha256: str | None = None  # None if unknown; the file is then not verified
    images: int = 1


class ShardCache:
    """LRU cache of open shards; thread-safe and fork-safe.

    Remote shards are copied in full, either to `folder`, which all processes on the machine share, or to unlinked files
    of this process. If a shard does not fit in the cache, its byte ranges are read over the network.
    """

    def __init__(self, limit_bytes: int = 4 << 30, folder: str | None = None, check: bool = True) -> None:
        """
        Args:
            limit_bytes: maximum disk space for copies, in bytes.
            folder: folder for shared copies; if None, each process keeps its own copies.
            check: whether to verify a local shard's checksum on first use; copies are always verified.
        """
        self.limit_bytes, self.check = limit_bytes, check
        self.fetched = 0  # number of copied shards
        self._shared = SharedFolder(storage.local_path(folder), limit_bytes) if folder is not None else None
        self._verified: set[str] = set()
        self._corrupt: set[str] = set()
        self._reset()
        _CACHES.add(self)

    def _reset(self) -> None:
        """Clear the cache; also called after a fork, since the parent's locks and threads are invalid in the child."""
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}  # never cleared, since a second lock would allow a second copy
        self._incoming = 0  # bytes of copies in progress
        self._prefetcher: ThreadPoolExecutor | None = None
        self._wanted: set[str] = set()

    def read(self, shard: ShardFile, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset` in a shard, or fewer if the shard is truncated and has not been verified.

        Raises:
            UnreadableImageError: the shard does not match its checksum.
            MissingError: the shard does not exist.
        """
        file = self._file(shard)
        if file is None:
            return storage.read_bytes(shard.url, offset, offset + size)
        return os.pread(file.descriptor, size, offset)

    def mapped(self, file: ShardFile) -> bytes | mmap.mmap:
        """Memory-map a file, or read it into memory if it can be neither mapped nor copied; verify its checksum.

        Raises the same errors as `read`. The file is not kept open, since a file with the same name may replace it.
        """
        data: bytes | mmap.mmap | None = None
        with contextlib.suppress(OSError):  # some file systems do not support mmap
            if storage.is_local(file.url):
                with open(storage.local_path(file.url), "rb", opener=open_local) as opened:
                    data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            elif self._copyable(file) and (copy := self._copy(file)) is not None:
                data = mmap.mmap(copy.descriptor, 0, access=mmap.ACCESS_READ)
        if data is None:
            data = storage.read_bytes(file.url, sha256=file.sha256)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _corruption(file)
        return data

    def hold(self, shards: Iterable[ShardFile], prefix: str) -> None:
        """Prefetch remote shards in the background and release all other shards under `prefix`; see `read` for errors.

        Args:
            shards: shards in reading order; the last shards are not prefetched if the cache is too small.
        """
        remote: dict[str, ShardFile] = {}
        room = self.limit_bytes
        for shard in shards:
            if self._copyable(shard) and (room := room - (shard.bytes or 0)) >= 0:
                remote[shard.url] = shard
        with self._lock:
            for url in [url for url in self._open if url.startswith(prefix) and url not in remote]:
                if not storage.is_local(url):
                    del self._open[url]
            self._wanted = {url for url in self._wanted if not url.startswith(prefix)} | set(remote)
            missing = [shard for url, shard in remote.items() if url not in self._open]
            if missing and self._prefetcher is None:
                self._prefetcher = ThreadPoolExecutor(FETCHERS, thread_name_prefix="shards-ahead")
        for shard in missing:
            assert self._prefetcher is not None
            self._prefetcher.submit(self._prefetch, shard)

    def _prefetch(self, shard: ShardFile) -> None:
        if shard.url in self._wanted:  # false if the window has moved since
            self._file(shard)

    def _copyable(self, shard: ShardFile) -> bool:
        return not storage.is_local(shard.url) and shard.bytes is not None and shard.bytes <= self.limit_bytes

    def _file(self, shard: ShardFile) -> _OpenFile | None:
        """Open a shard or its local copy; return None if the shard must be read over the network."""
        url = shard.url
        if not storage.is_local(url) and not self._copyable(shard):
            return None
        with self._lock:
            if (file := self._cached(shard)) is not None:
                return file
            fetching = self._fetching.setdefault(url, threading.Lock())
        with fetching:  # serialises only copies of the same shard
            copied_bytes = 0 if storage.is_local(url) or self._shared is not None else shard.bytes or 0
            with self._lock:
                if (file := self._cached(shard)) is not None:
                    return file
                self._incoming += copied_bytes
                while self._open and (len(self._open) >= MAX_OPEN or self._used() > self.limit_bytes):
                    self._open.popitem(last=False)  # the file is closed by its last reader
            try:
                file = self._local(shard) if storage.is_local(url) else self._copy(shard)
            finally:
                with self._lock:
                    self._incoming -= copied_bytes
                    if file is not None:
                        self._open[url] = file
            return file

    def _cached(self, shard: ShardFile) -> _OpenFile | None:
        """Return a shard's open file and mark it as most recently used; raise an error if the shard is corrupt."""
        if shard.url in self._corrupt:
            raise _corruption(shard)
        if shard.url in self._open:
            self._open.move_to_end(shard.url)
        return self._open.get(shard.url)

    def _used(self) -> int:
        return self._incoming + sum(file.disk_bytes for file in self._open.values())

    def _local(self, shard: ShardFile) -> _OpenFile:
        try:
            file = _OpenFile(open_local(storage.local_path(shard.url)), 0)
        except FileNotFoundError as error:
            raise storage.MissingError(f"cannot read {shard.url}: the file was removed; restore the dataset") from error
        self._verify(shard, storage.local_path(shard.url))
        return file

    def _copy(self, shard: ShardFile) -> _OpenFile | None:
        assert shard.bytes is not None
        if self._shared is not None:
            name = hashlib.sha256(f"{shard.url} {shard.sha256}".encode()).hexdigest()[:32]
            while (copy := self._shared.open(name, shard.bytes, lambda path: self._fetch(shard, path))) is None:
                if not self._release_oldest():
                    return None
            return _OpenFile(copy, 0)
        with private_tempdir() as folder:  # an open file remains readable after its removal
            self._fetch(shard, private := folder / "shard.tar")
            return _OpenFile(os.open(private, os.O_RDONLY), shard.bytes)

    def _release_oldest(self) -> bool:
        """Close the least recently used copy, which can then be removed; return False if no copy is open."""
        with self._lock:
            oldest = next((url for url in self._open if not storage.is_local(url)), None)
            if oldest is not None:
                del self._open[oldest]
        return oldest is not None

    def _fetch(self, shard: ShardFile, path: Path) -> None:
        storage.fetch(shard.url, path, shard.sha256)
        self._verify(shard, path)
        self.fetched += 1

    def _verify(self, shard: ShardFile, path: Path) -> None:
        """Raise an UnreadableImageError if the file does not match the checksum in the shard's marker."""
        local = storage.is_local(shard.url)
        if shard.sha256 is None or (local and (not self.check or shard.url in self._verified)):
            return
        with path.open("rb") as file:
            matches = storage.file_sha256(file) == shard.sha256
        if not matches:
            self._corrupt.add(shard.url)
            raise _corruption(shard)
        self._verified.add(shard.url)


def _corruption(shard: ShardFile) -> UnreadableImageError:
    reason = "its checksum does not match (the shard is corrupt or was replaced); run `syncclip shards verify`"
    return UnreadableImageError(shard.url, reason, shard.images)


class _OpenFile:
    """A file descriptor that is closed when the last reference to this object is deleted."""

    def __init__(self, descriptor: int, disk_bytes: int) -> None:
        self.descriptor, self.disk_bytes = descriptor, disk_bytes

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


_CACHES: weakref.WeakSet[ShardCache] = weakref.WeakSet()


def _after_fork() -> None:
    for cache in list(_CACHES):
        cache._reset()


os.register_at_fork(after_in_child=_after_fork)
