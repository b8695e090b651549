"""Reading, writing, listing and removing files. What is written appears whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec.asyn

from syncclip.storage import downloads, locks
from syncclip.storage.cleanup import part_of
from syncclip.storage.conditional_writes import uploading
from syncclip.storage.retries import MissingError, explained, persistently
from syncclip.storage.urls import OBJECT_STORES, S3, is_local, join, local_path, open_local, scheme

ABORTED = 3
"""Repetitions of an upload that another process aborted while the lock is held: it took a lock of a folder around."""


def exists(url: str) -> bool:
    """Whether a file or folder is there now."""
    if is_local(url):
        return local_path(url).exists()
    with explained(url, "read"):
        return persistently(url, lambda fs, path: bool(fs.exists(path)))


def sizes(url: str, beginnings: Sequence[str] = ("",)) -> dict[str, int]:
    """Name -> bytes of the files in a folder, sorted by name; {} where there is no such folder. One listing.

    Args:
        beginnings: names that begin with none of these are left out. A store returns a long listing page by page; S3
            is asked for all beginnings at the same time.
    """
    return {
        name: size
        for name, size in _entries(url, beginnings)
        if size is not None and name.startswith(tuple(beginnings))
    }


def listdir(url: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; [] where there is no such folder."""
    return [name for name, _ in _entries(url)]


def require(url: str, names: Iterable[str]) -> None:
    """Refuse to call done what is no longer there; one listing if all is.

    Raises:
        MissingError: naming the first file of those that the folder lacks.
    """
    there = sizes(url)
    for name in names:
        if name not in there and (is_local(url) or name not in sizes(url)):  # no checksum holds an answer of a store
            raise MissingError(
                f"{join(url, name)}: not there any more, though it was written; whatever removes files there must end "
                "before the same command is run again"
            )


def read_bytes(url: str, start: int | None = None, end: int | None = None, sha256: str | None = None) -> bytes:
    """The bytes [start, end) of a file, fewer where it ends before that; `MissingError` where there is none.

    Args:
        sha256: of the whole file, as of `fetch`; for a remote one that is read whole.
    """
    with explained(url, "read"):
        if is_local(url):
            with open(local_path(url), "rb", opener=open_local) as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(max(0, end - (start or 0)))

        if start is None and end is None:
            return downloads.whole(url, sha256)
        return downloads.part(url, start or 0, end)


def read_many(urls: Sequence[str]) -> dict[str, bytes]:
    """URL -> bytes of several small files of one filesystem, fetched at once; those that are gone are left out."""
    if not urls or is_local(urls[0]):
        found = {}
        for url in urls:
            try:
                with open(local_path(url), "rb", opener=open_local) as file:
                    found[url] = file.read()
            except OSError:  # noqa: PERF203  a missing file ends nothing
                with contextlib.suppress(MissingError):
                    found[url] = read_bytes(url)  # whose sentence says why it can't be read
        return found
    with explained(urls[0], "read"):

        def read(fs: Any, _: str) -> dict[str, bytes]:
            by_path = {fs._strip_protocol(url): url for url in urls}
            found = fs.cat(list(by_path), on_error="return", **downloads.at_once(fs))
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
            return {by_path[path]: answer for path, answer in found.items() if isinstance(answer, bytes)}

        texts = persistently(urls[0], read)
        return {url: data if getattr(data, "held", True) else downloads.whole(url) for url, data in texts.items()}


def open_read(url: str, sha256: str | None = None) -> IO[bytes]:
    """A seekable binary file for reading, of a remote one a copy without a name; the caller closes it.

    Args:
        sha256: as of `fetch`.
    """
    with explained(url, "read"):
        if is_local(url):
            return open(local_path(url), "rb", opener=open_local)
        copy = tempfile.TemporaryFile()  # noqa: SIM115  the caller's
        try:
            downloads.copy(url, copy, sha256)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy


def fetch(url: str, target: Path, sha256: str | None = None) -> None:
    """Copy a file to a local path; after an exception or a crash the target may be short, never another name.

    A remote one comes piece by piece, each with its own tries and its own limit of time.

    Args:
        sha256: of the file, where it is known: a copy with another is made again. If it stays so, the file itself is
            damaged, which is for the caller to find.
    """
    with explained(url, "read"):
        if is_local(url):
            with open_read(url) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            return
        with target.open("wb") as file:
            downloads.copy(url, file, sha256)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all, over whatever was there; missing folders are made.

    After a crash at any time: either the old file (or none), or the new one. Locally a hidden `.part` file may stay
    behind, which no listing shows and `sweep` removes.

    Raises:
        UserError: No permission, no space, or a place that cannot be written to; or a lease on it was lost.
    """
    hold = locks.check(url)
    with explained(url, "write"):
        if is_local(url):
            _replace(local_path(url), io.BytesIO(data), hold)
        else:
            _upload(url, io.BytesIO(data), lambda fs, path: fs.pipe_file(path, data), hold)


def publish(source: str | Path, url: str) -> None:
    """Copy a finished local file to `url` with the promise of `write_bytes`; the source stays."""
    hold = locks.check(url)
    with explained(url, "write"), Path(source).open("rb") as finished:
        if is_local(url):
            _replace(local_path(url), finished, hold)
        else:
            _upload(url, finished, lambda fs, path: fs.put_file(str(source), path), hold)


def remove(url: str, recursive: bool = False) -> None:
    """Remove a file (or a folder with all that is in it, if `recursive`); nothing happens where there is none."""
    hold = locks.check(url)
    with explained(url, "remove"), contextlib.suppress(FileNotFoundError):
        if is_local(url):
            _discard(local_path(url), recursive, hold)
            return

        def discard(fs: Any, path: str) -> None:
            with contextlib.ExitStack() as stack:
                if hold is not None:
                    hold.confirm()
                    stack.enter_context(hold.promptly())
                # One file, so that a refusal is raised: s3fs drops the errors of files that are removed many at once.
                fs.rm(path, recursive=True) if recursive else fs.rm_file(path)

        persistently(url, discard)


def file_sha256(file: IO[bytes]) -> str:
    """Hex sha256 of what is left to read of an open file, 1 MiB at a time."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _entries(url: str, beginnings: Sequence[str] = ("",)) -> list[tuple[str, int | None]]:
    """(name, bytes or None for a folder) of what is in a folder, sorted, without `.part` files and leases.

    Args:
        beginnings: what begins with none of these need not be told.
    """
    found: list[tuple[str, int | None]] = []
    with explained(url, "list"), contextlib.suppress(FileNotFoundError):
        if is_local(url):
            with os.scandir(local_path(url)) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another process removed or renamed it just now
                        found.append((entry.name, None if entry.is_dir() else entry.stat().st_size))
        else:
            apart = len(beginnings) > 1 and scheme(url) in S3
            path, listed = persistently(
                url, lambda fs, path: (path, _found(fs, path, beginnings) if apart else fs.ls(path, detail=True))
            )
            for info in listed:
                name = info["name"].rstrip("/").rsplit("/", 1)[-1]
                if info["name"].rstrip("/") != path.rstrip("/"):  # object stores list a folder's own key with it
                    found.append((name, None if info["type"] == "directory" else int(info["size"])))
    hidden = re.compile(r"\..*\.(part|lease)")
    return sorted((entry for entry in found if not hidden.fullmatch(entry[0])), key=lambda entry: entry[0])


def _found(fs: Any, path: str, beginnings: Sequence[str]) -> list[dict[str, Any]]:
    """What is in a folder, each beginning listed by itself and all at once."""

    async def listed() -> list[Any]:
        return [*await asyncio.gather(*(fs._lsdir(path, prefix=one) for one in beginnings))]

    return [info for part in fsspec.asyn.sync(fs.loop, listed) for info in part]


def _replace(path: Path, content: IO[bytes], hold: locks.Hold | None) -> None:
    """Write a local file under another name, then rename it to `path`; after an exception nothing is left of it.

    Under a lock that is a name in the lock's directory, from which nothing can be renamed once the lock is lost.
    """
    with hold.staged() if hold is not None else contextlib.nullcontext() as folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path) if folder is None else Path(part_of(path).name)
        try:
            with open(part, "xb", opener=partial(os.open, mode=0o666, dir_fd=folder)) as file:
                shutil.copyfileobj(content, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path, src_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            raise
    parent = os.open(path.parent, os.O_RDONLY)
    os.fsync(parent)  # the new name itself must survive a power cut
    os.close(parent)


def _discard(path: Path, recursive: bool, hold: locks.Hold | None) -> None:
    """Remove a local file or folder; under a lock it is renamed into the lock's directory before, as in `_replace`."""
    tree = recursive and path.is_dir()
    if hold is None or local_path(hold.place).is_relative_to(path) or (path.is_dir() and not tree):
        shutil.rmtree(path) if tree else path.unlink()
    elif os.path.lexists(path):
        with hold.staged() as folder:
            os.replace(path, gone := part_of(path).name, dst_dir_fd=folder)
            shutil.rmtree(gone, dir_fd=folder) if tree else os.unlink(gone, dir_fd=folder)


def _upload(url: str, content: IO[bytes], send: Callable[[Any, str], Any], hold: locks.Hold | None) -> None:
    """Send a file, and forgive an upload whose answer was lost: the retry fails (upload gone, object there)."""
    fenced = hold is not None and scheme(url) in S3

    def put(fs: Any, path: str) -> None:
        if hold is not None and fenced:
            with uploading(fs, path, content) as (_, complete):
                hold.confirm()  # an upload that began before is aborted by whoever takes over afterwards
                complete()
            return
        if hold is not None:
            hold.confirm()
        try:
            send(fs, path)
        except Exception:  # each driver has an error of its own for a missing folder
            folder = path.rpartition("/")[0]
            if scheme(url) in OBJECT_STORES or fs.exists(folder):
                raise
            fs.makedirs(folder, exist_ok=True)  # not before each write: that is one more request
            send(fs, path)

    for left in range(ABORTED if fenced else 0, -1, -1):
        try:
            persistently(url, put)
            break
        except (FileNotFoundError, FileExistsError):
            if hold is not None:
                hold.renew()
                hold.check()
            content.seek(0)
            with contextlib.suppress(OSError), open_read(url) as file:
                if file_sha256(file) == file_sha256(content):
                    break
            if not left:
                raise
