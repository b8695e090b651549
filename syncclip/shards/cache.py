"""Read pieces of shards by offset: local ones in place, remote ones from a bounded local copy."""

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
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.shards.images import UnreadableImageError
from syncclip.shards.shared_folder import SharedFolder
from syncclip.storage.urls import open_local

FETCHERS = 4
"""Shards that are copied ahead at once."""

MAX_OPEN = 128
"""Files that a cache keeps open."""


class ShardFile(NamedTuple):
    """A tar, and what its commit marker records."""

    url: str
    bytes: int | None = None  # None: not known, so a remote one is never copied
    sha256: str | None = None  # None: not known, so it is never checked
    images: int = 1


class ShardCache:
    """Open shards, the least recently used forgotten first. Safe to share between threads, and after a fork.

    A remote shard is copied whole: with a `folder` into files there that all processes of the machine share, else into
    a file that has no name any more, so that nothing is left on the disk whatever happens to the process. Where there
    is no room for a copy, the shard is read piece by piece over the network instead.
    """

    def __init__(self, limit_bytes: int = 4 << 30, folder: str | None = None, check: bool = True) -> None:
        """
        Args:
            limit_bytes: Disk that copies of remote shards may take.
            folder: Where shared copies are kept; None for copies of this process alone.
            check: Whether a local shard's bytes are held against its marker's sha256 when it is first opened; those of
                a remote one always are when it is copied.
        """
        self.limit_bytes, self.check = limit_bytes, check
        self.fetched = 0  # remote shards copied so far
        self._shared = SharedFolder(storage.local_path(folder), limit_bytes) if folder is not None else None
        self._sound: set[str] = set()
        self._damaged: set[str] = set()
        self._begin()
        _CACHES.add(self)

    def _begin(self) -> None:
        """With nothing open: at first, and in a forked process, where locks and threads of the parent mean nothing."""
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}  # kept for good: two of one shard would let it be copied twice
        self._coming = 0  # bytes of the copies under way
        self._ahead: ThreadPoolExecutor | None = None
        self._wanted: set[str] = set()

    def read(self, shard: ShardFile, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of a shard; fewer where it was cut off, unless that is checked.

        Raises:
            UnreadableImageError: The shard does not match its marker.
            MissingError: It is not there.
        """
        file = self._file(shard)
        if file is None:
            return storage.read_bytes(shard.url, offset, offset + size)
        return file.read(offset, size)

    def mapped(self, file: ShardFile) -> bytes | mmap.mmap:
        """A whole file that has its digest, of which memory holds what is looked at; all of it where it can't be mapped
        or copied. It isn't kept open: another of the same name may take its place.

        Raises:
            UnreadableImageError: It does not have its digest.
            MissingError: It is not there.
        """
        data: bytes | mmap.mmap | None = None
        with contextlib.suppress(OSError):  # of a file system that maps nothing
            if storage.is_local(file.url):
                opened: _OpenFile | None = _OpenFile(open_local(storage.local_path(file.url)), 0)
            else:
                opened = self._copy(file) if self._copied(file) else None
            data = None if opened is None else mmap.mmap(opened.descriptor, 0, access=mmap.ACCESS_READ)
        if data is None:
            data = storage.read_bytes(file.url, sha256=file.sha256)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _damage(file)
        return data

    def hold(self, shards: Iterable[ShardFile], place: str) -> None:
        """Start to copy remote shards in the background, and release all others below `place`, a folder or prefix.

        An error is raised when the shard is read.

        Args:
            shards: Those that are needed first come first; the last ones are left for later where room is short.
        """
        remote: dict[str, ShardFile] = {}
        room = self.limit_bytes
        for shard in shards:
            if self._copied(shard) and (room := room - (shard.bytes or 0)) >= 0:
                remote[shard.url] = shard
        with self._lock:
            for url in [url for url in self._open if url.startswith(place) and url not in remote]:
                if not storage.is_local(url):
                    del self._open[url]
            self._wanted = {url for url in self._wanted if not url.startswith(place)} | set(remote)
            missing = [shard for url, shard in remote.items() if url not in self._open]
            if missing and self._ahead is None:
                self._ahead = ThreadPoolExecutor(FETCHERS, thread_name_prefix="shards-ahead")
        for shard in missing:
            assert self._ahead is not None
            self._ahead.submit(self._fetch_ahead, shard)

    def _fetch_ahead(self, shard: ShardFile) -> None:
        if shard.url in self._wanted:  # else the window passed while it waited
            self._file(shard)

    def _copied(self, shard: ShardFile) -> bool:
        return not storage.is_local(shard.url) and shard.bytes is not None and shard.bytes <= self.limit_bytes

    def _file(self, shard: ShardFile) -> _OpenFile | None:
        url = shard.url
        if not storage.is_local(url) and not self._copied(shard):
            return None
        with self._lock:
            if url in self._damaged:
                raise _damage(shard)
            if url in self._open:
                self._open.move_to_end(url)
                return self._open[url]
            fetching = self._fetching.setdefault(url, threading.Lock())
        with fetching:  # one copy at a time of one shard; others go on meanwhile
            copied_bytes = 0 if storage.is_local(url) or self._shared is not None else shard.bytes or 0
            with self._lock:
                if url in self._damaged:
                    raise _damage(shard)
                if url in self._open:
                    return self._open[url]
                self._coming += copied_bytes
                while self._open and (len(self._open) >= MAX_OPEN or self._taken() > self.limit_bytes):
                    self._open.popitem(last=False)  # closed when its last reader lets go of it
            file = None
            try:
                file = self._local(shard) if storage.is_local(url) else self._copy(shard)
            finally:
                with self._lock:
                    self._coming -= copied_bytes
                    if file is not None:
                        self._open[url] = file
            return file

    def _taken(self) -> int:
        return self._coming + sum(file.disk_bytes for file in self._open.values())

    def _local(self, shard: ShardFile) -> _OpenFile:
        try:
            file = _OpenFile(open_local(storage.local_path(shard.url)), 0)
        except FileNotFoundError as error:
            raise storage.MissingError(
                f"cannot read {shard.url}: it is not there any more; was the set removed?"
            ) from error
        self._require_sound(shard, storage.local_path(shard.url))
        return file

    def _copy(self, shard: ShardFile) -> _OpenFile | None:
        assert shard.bytes is not None
        if self._shared is not None:
            name = hashlib.sha256(f"{shard.url} {shard.sha256}".encode()).hexdigest()[:32]
            while (found := self._shared.open(name, shard.bytes, lambda path: self._fetch(shard, path))) is None:
                if not self._release_oldest():
                    return None
            return _OpenFile(found, 0)
        with scratch_folder() as folder:  # an open file outlives its name
            self._fetch(shard, private := folder / "shard.tar")
            return _OpenFile(os.open(private, os.O_RDONLY), shard.bytes)

    def _release_oldest(self) -> bool:
        """Close the copy that was not used for longest, which then may be removed; False where there is none."""
        with self._lock:
            oldest = next((url for url in self._open if not storage.is_local(url)), None)
            if oldest is not None:
                del self._open[oldest]
        return oldest is not None

    def _fetch(self, shard: ShardFile, path: Path) -> None:
        storage.fetch(shard.url, path, shard.sha256)
        self._require_sound(shard, path)
        self.fetched += 1

    def _is_sound(self, shard: ShardFile, path: Path) -> bool:
        local = storage.is_local(shard.url)
        if shard.sha256 is None or (local and (not self.check or shard.url in self._sound)):
            return True
        with path.open("rb") as file:
            sound = storage.file_sha256(file) == shard.sha256
        if sound:
            self._sound.add(shard.url)
        return sound

    def _require_sound(self, shard: ShardFile, path: Path) -> None:
        if not self._is_sound(shard, path):
            self._damaged.add(shard.url)
            raise _damage(shard)


def _damage(shard: ShardFile) -> UnreadableImageError:
    reason = "its bytes are not those of its marker, it was damaged or replaced; see `syncclip shards verify`"
    return UnreadableImageError(shard.url, reason, shard.images)


class _OpenFile:
    """A descriptor that closes itself after its last reader."""

    def __init__(self, descriptor: int, disk_bytes: int) -> None:
        self.descriptor, self.disk_bytes = descriptor, disk_bytes

    def read(self, offset: int, size: int) -> bytes:
        """A method, so that the caller's `self` keeps the file open while it is read."""
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


_CACHES: weakref.WeakSet[ShardCache] = weakref.WeakSet()


def _after_fork() -> None:
    for cache in list(_CACHES):
        cache._begin()


os.register_at_fork(after_in_child=_after_fork)
