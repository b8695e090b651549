"""Functions that read, atomically write, list and remove files."""

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
from syncclip.storage.retries import MissingError, user_errors, with_retries
from syncclip.storage.urls import OBJECT_STORES, S3, is_local, join, local_path, open_local, scheme

ABORTED_RETRIES = 3
"""Number of retries after another process aborts an upload, for example to lock a parent folder."""


def exists(url: str) -> bool:
    """Return whether a file or folder exists."""
    if is_local(url):
        return local_path(url).exists()
    with user_errors(url, "read"):
        return with_retries(url, lambda fs, path: bool(fs.exists(path)))


def sizes(url: str, prefixes: Sequence[str] = ("",)) -> dict[str, int]:
    """Map a folder's file names, in sorted order, to their sizes in bytes; return {} if the folder does not exist.

    Args:
        prefixes: name prefixes of the files to list. On S3, where long listings are paginated, the prefixes are listed
            concurrently.
    """
    entries = _entries(url, prefixes)
    return {name: size for name, size in entries if size is not None and name.startswith(tuple(prefixes))}


def listdir(url: str) -> list[str]:
    """Return the sorted names of files and subfolders in a folder, or [] if the folder does not exist."""
    return [name for name, _ in _entries(url)]


def require(url: str, names: Iterable[str]) -> None:
    """Raise a MissingError if any of the named files, which this process wrote, no longer exists."""
    present = sizes(url)
    for name in names:
        if name not in present and (is_local(url) or name not in sizes(url)):  # listed again: listings have no checksum
            raise MissingError(
                f"{join(url, name)}: the file was removed after it was written; stop the process that removes files "
                "from this folder, and run the same command again"
            )


def read_bytes(url: str, start: int | None = None, end: int | None = None, sha256: str | None = None) -> bytes:
    """Return the bytes [start, end) of a file, or fewer if the file ends earlier.

    Args:
        sha256: expected checksum of a remote file that is read whole, as in `fetch`.

    Raises:
        MissingError: the file does not exist.
    """
    with user_errors(url, "read"):
        if is_local(url):
            with open(local_path(url), "rb", opener=open_local) as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(max(0, end - (start or 0)))
        if start is None and end is None:
            return downloads.whole(url, sha256)
        return downloads.part(url, start or 0, end)


def read_many(urls: Sequence[str]) -> dict[str, bytes]:
    """Concurrently read small files from one file system into a URL -> bytes mapping; missing files are omitted."""
    contents: dict[str, bytes] = {}
    if not urls or is_local(urls[0]):
        for url in urls:
            with contextlib.suppress(MissingError):
                contents[url] = read_bytes(url)
        return contents
    with user_errors(urls[0], "read"):

        def read(fs: Any, _: str) -> dict[str, bytes]:
            by_path = {fs._strip_protocol(url): url for url in urls}
            results = fs.cat(list(by_path), on_error="return", **downloads.at_once(fs))
            for result in results.values():
                if isinstance(result, Exception) and not isinstance(result, FileNotFoundError):
                    raise result
            return {by_path[path]: result for path, result in results.items() if isinstance(result, bytes)}

        contents = with_retries(urls[0], read)
        return {
            url: data if getattr(data, "verified", True) else downloads.whole(url) for url, data in contents.items()
        }


def open_read(url: str, sha256: str | None = None) -> IO[bytes]:
    """Open a file for reading; a remote file is first copied to an unnamed temporary file.

    Args:
        sha256: expected checksum of the file, as in `fetch`.
    """
    with user_errors(url, "read"):
        if is_local(url):
            return open(local_path(url), "rb", opener=open_local)
        copy = tempfile.TemporaryFile()  # noqa: SIM115  closed by the caller
        try:
            downloads.copy(url, copy, sha256)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy


def fetch(url: str, target: Path, sha256: str | None = None) -> None:
    """Copy a file to a local path; after an exception or a crash, the copy may be incomplete.

    A remote file is copied in chunks, each with its own retries and timeout.

    Args:
        sha256: expected checksum of the file. If a copy has a different checksum, the file is copied again. Several
            identical copies with a wrong checksum are accepted; the caller must verify the checksum.
    """
    with user_errors(url, "read"), target.open("w+b") as file:
        if not is_local(url):
            downloads.copy(url, file, sha256)
            return
        with open_read(url) as source:
            shutil.copyfileobj(source, file, 1 << 20)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file atomically, replacing any existing file; missing folders are created.

    After a crash, either the old or the new file exists. A hidden local `.part` file may remain; `sweep` removes it.

    Raises:
        UserError: the location is full or not writable, or its lock was lost.
    """
    hold = locks.check(url)
    with user_errors(url, "write"):
        if is_local(url):
            _replace(local_path(url), io.BytesIO(data), hold)
        else:
            _upload(url, io.BytesIO(data), lambda fs, path: fs.pipe_file(path, data), hold)


def publish(source: str | Path, url: str) -> None:
    """Atomically copy a complete local file to `url`, like `write_bytes`."""
    hold = locks.check(url)
    with user_errors(url, "write"), Path(source).open("rb") as finished:
        if is_local(url):
            _replace(local_path(url), finished, hold)
        else:
            _upload(url, finished, lambda fs, path: fs.put_file(str(source), path), hold)


def remove(url: str, recursive: bool = False) -> None:
    """Remove a file or, if `recursive`, a folder with its contents; do nothing if `url` does not exist."""
    hold = locks.check(url)
    with user_errors(url, "remove"), contextlib.suppress(FileNotFoundError):
        if is_local(url):
            path = local_path(url)
            tree = recursive and path.is_dir()
            if hold is None or local_path(hold.lock_url).is_relative_to(path) or (path.is_dir() and not tree):
                shutil.rmtree(path) if tree else path.unlink()
            elif os.path.lexists(path):
                with hold.staged() as folder:  # see `_replace`
                    os.replace(path, gone := part_of(path).name, dst_dir_fd=folder)
                    shutil.rmtree(gone, dir_fd=folder) if tree else os.unlink(gone, dir_fd=folder)
            return

        def discard(fs: Any, path: str) -> None:
            with contextlib.ExitStack() as stack:
                if hold is not None:
                    hold.confirm()
                    stack.enter_context(hold.promptly())
                # `rm_file` raises errors that s3fs ignores in bulk deletes.
                fs.rm(path, recursive=True) if recursive else fs.rm_file(path)

        with_retries(url, discard)


def file_sha256(file: IO[bytes]) -> str:
    """Return the hex SHA-256 hash of an open file, which is read from its current position in blocks of 1 MiB."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _entries(url: str, prefixes: Sequence[str] = ("",)) -> list[tuple[str, int | None]]:
    """Return a folder's sorted (name, size) entries without `.part` files and locks; a subfolder's size is None.

    Args:
        prefixes: name prefixes of the entries to list; the result may include other names.
    """
    entries: list[tuple[str, int | None]] = []
    with user_errors(url, "list"), contextlib.suppress(FileNotFoundError):
        if is_local(url):
            with os.scandir(local_path(url)) as items:
                for item in items:
                    with contextlib.suppress(FileNotFoundError):  # removed or renamed by another process
                        entries.append((item.name, None if item.is_dir() else item.stat().st_size))
        else:
            concurrently = "" not in prefixes and scheme(url) in S3
            path, listed = with_retries(
                url, lambda fs, path: (path, _ls(fs, path, prefixes) if concurrently else fs.ls(path, detail=True))
            )
            for info in listed:
                name = info["name"].rstrip("/").rsplit("/", 1)[-1]
                if info["name"].rstrip("/") != path.rstrip("/"):  # object stores also list the folder's own key
                    entries.append((name, None if info["type"] == "directory" else int(info["size"])))
    hidden = re.compile(r"\..*\.(part|lock)")
    return sorted((entry for entry in entries if not hidden.fullmatch(entry[0])), key=lambda entry: entry[0])


def _ls(fs: Any, path: str, prefixes: Sequence[str]) -> list[dict[str, Any]]:
    """List the files in an S3 folder whose names begin with any of the prefixes, with concurrent requests."""

    async def listings() -> list[Any]:
        return [*await asyncio.gather(*(fs._lsdir(path, prefix=prefix) for prefix in prefixes))]

    return [info for listing in fsspec.asyn.sync(fs.loop, listings) for info in listing]


def _replace(path: Path, content: IO[bytes], hold: locks.Hold | None) -> None:
    """Write a local file under a temporary name, then rename it to `path`.

    Under a lock, the temporary file is written to the lock's directory, from which no file can be renamed once the lock
    is lost.
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
    os.fsync(parent)  # preserves the rename across a power failure
    os.close(parent)


def _upload(url: str, content: IO[bytes], send: Callable[[Any, str], Any], hold: locks.Hold | None) -> None:
    """Upload a file; if the response is lost, compare the object's content to find out whether the upload succeeded."""
    fenced = hold is not None and scheme(url) in S3

    def put(fs: Any, path: str) -> None:
        if hold is not None and fenced:
            with uploading(fs, path, content) as (_, complete):
                hold.confirm()  # a new owner aborts earlier uploads
                complete()
            return
        if hold is not None:
            hold.confirm()
        try:
            send(fs, path)
        except Exception:  # each driver has its own error for a missing folder
            folder = path.rpartition("/")[0]
            if scheme(url) in OBJECT_STORES or fs.exists(folder):
                raise
            fs.makedirs(folder, exist_ok=True)  # only now, to save a request per write
            send(fs, path)

    for attempts_left in reversed(range(1 + ABORTED_RETRIES * fenced)):
        try:
            with_retries(url, put)
            break
        except (FileNotFoundError, FileExistsError):
            if hold is not None:
                hold.renew()
                hold.check()
            content.seek(0)
            with contextlib.suppress(OSError), open_read(url) as file:
                if file_sha256(file) == file_sha256(content):
                    break
            if not attempts_left:
                raise
