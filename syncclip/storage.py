"""Every byte that syncclip reads or writes goes through here: local folders and any fsspec URL (`s3://`, `gs://`, …).

Promises, which the commit markers of the shards build on:

* What is written appears whole or not at all. Locally: a hidden temporary file, fsync, rename. On an object store: one
  put, or one multipart upload that is completed last and aborted on an exception. (On other remote file systems, such
  as sftp, a write that is cut off can leave a short file behind; a marker's byte count then tells.)
* Listings are never answered from a cache, since other machines write into the same folder.
* A user's mistake (no permission, no space, a missing file, no credentials) is told in one sentence.
* Filesystems are looked up at each call and never kept (fsspec's cache knows the process), so a fork breaks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from pydantic import Field

from syncclip.settings import Settings, UserError

# No folders there, and "making" one could make a bucket out of a typing error.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "r2"})

_options: dict[str, Any] = {}


class StorageSettings(Settings):
    """Where runs are kept, and what fsspec needs to get there."""

    root: str = "runs"  # a folder or any fsspec URL; a run lies at <root>/<name of the recipe>
    options: dict[str, Any] = Field(default_factory=dict)  # fsspec options of remote URLs, such as endpoint_url, anon


class MissingError(UserError, FileNotFoundError):
    """Something that should be there is not."""


def configure(options: Mapping[str, Any]) -> None:
    """Set the fsspec storage options of all remote URLs for this process (Ray workers call it for themselves)."""
    _options.clear()
    _options.update(options)


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine: without a scheme, or with `file://`."""
    return "://" not in url or url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    """The path of a local `url`; `~` stands for the home folder."""
    assert is_local(url), f"{url} is not local"
    return Path(url.split("://", 1)[-1]).expanduser()


def join(url: str, *parts: str) -> str:
    """`url/part/…`, for paths and URLs alike."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(url: str) -> bool:
    """Whether a file or folder is there now."""
    if is_local(url):
        return local_path(url).exists()
    with _explained(url, "read"):
        fs, path = _remote(url)
        return bool(fs.exists(path))


def sizes(url: str) -> dict[str, int]:
    """Name -> bytes of the files in a folder, sorted by name; {} where there is no such folder. One listing."""
    return {name: size for name, size in _entries(url) if size is not None}


def listdir(url: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; [] where there is no such folder."""
    return [name for name, _ in _entries(url)]


def read_bytes(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes [start, end) of a file, fewer where it ends before that; `MissingError` where there is none."""
    with _explained(url, "read"):
        if is_local(url):
            with local_path(url).open("rb") as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(max(0, end - (start or 0)))
        fs, path = _remote(url)
        return cast(bytes, fs.cat_file(path, start=start, end=end))


def read_many(urls: Sequence[str]) -> dict[str, bytes]:
    """URL -> bytes of several small files of one filesystem, fetched at once; those that are gone are left out."""
    if not urls or is_local(urls[0]):
        return {url: read_bytes(url) for url in urls if exists(url)}
    with _explained(urls[0], "read"):
        fs, _ = _remote(urls[0])
        by_path = {fs._strip_protocol(url): url for url in urls}
        answers = fs.cat(list(by_path), on_error="return")
        for answer in answers.values():
            if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                raise answer
        return {by_path[path]: answer for path, answer in answers.items() if isinstance(answer, bytes)}


def open_read(url: str) -> IO[bytes]:
    """A seekable binary file for reading; the caller closes it."""
    with _explained(url, "read"):
        if is_local(url):
            return local_path(url).open("rb")
        fs, path = _remote(url)
        return cast(IO[bytes], fs.open(path, "rb"))


def fetch(url: str, target: Path) -> None:
    """Copy a file to a local path; after an exception or a crash the target may be short, never another name."""
    with _explained(url, "read"):
        if is_local(url):
            shutil.copyfile(local_path(url), target)
        else:
            fs, path = _remote(url)
            fs.get_file(path, str(target))


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all, over whatever was there; missing folders are made.

    After a crash at any time: either the old file (or none), or the new one. Locally a hidden `.part` file may stay
    behind, which no listing shows and `sweep` removes.

    Raises:
        UserError: No permission, no space, or a place that cannot be written to.
    """
    with _explained(url, "write"):
        if is_local(url):
            with _replacing(local_path(url)) as file:
                file.write(data)
        else:
            fs, path = _remote(url)
            with _own_first_try(url, hashlib.sha256(data).hexdigest()):
                fs.pipe_file(path, data)


def publish(source: str | Path, url: str) -> None:
    """Copy a finished local file to `url` with the promise of `write_bytes`; the source stays."""
    with _explained(url, "write"), Path(source).open("rb") as finished:
        if is_local(url):
            with _replacing(local_path(url)) as file:
                shutil.copyfileobj(finished, file, 1 << 20)
        else:
            fs, path = _remote(url)
            with _own_first_try(url, file_sha256(finished)):
                fs.put_file(str(source), path)


def makedirs(url: str) -> None:
    """Make a folder and its parents; nothing on an object store."""
    with _explained(url, "write"):
        if is_local(url):
            local_path(url).mkdir(parents=True, exist_ok=True)
        elif url.split("://", 1)[0] not in OBJECT_STORES:
            fs, path = _remote(url)
            fs.makedirs(path, exist_ok=True)


def remove(url: str, recursive: bool = False) -> None:
    """Remove a file (or a folder with all that is in it, if `recursive`); nothing happens where there is none."""
    with _explained(url, "remove"), contextlib.suppress(FileNotFoundError):
        if not is_local(url):
            fs, path = _remote(url)
            fs.rm(path, recursive=recursive)
        elif recursive and local_path(url).is_dir():
            shutil.rmtree(local_path(url))
        else:
            local_path(url).unlink()


def sweep(url: str, older_than: float = 3600.0) -> int:
    """Remove the `.part` files that killed writers left in a local folder `older_than` seconds ago; how many."""
    swept = 0
    for path in local_path(url).glob(".*.part") if is_local(url) else ():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - older_than:
                path.unlink()
                swept += 1
    return swept


def file_sha256(file: IO[bytes]) -> str:
    """Hex sha256 of what is left to read of an open file, 1 MiB at a time."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _remote(url: str) -> tuple[Any, str]:
    """The filesystem of a remote URL, which keeps no listings, and the path in it."""
    fs, path = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **_options})
    fs.invalidate_cache()
    return fs, path


def _entries(url: str) -> list[tuple[str, int | None]]:
    """(name, bytes or None for a folder) of what is in a folder, sorted, without `.part` files."""
    found: list[tuple[str, int | None]] = []
    with _explained(url, "list"), contextlib.suppress(FileNotFoundError):
        if is_local(url):
            with os.scandir(local_path(url)) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another process removed or renamed it just now
                        found.append((entry.name, None if entry.is_dir() else entry.stat().st_size))
        else:
            fs, path = _remote(url)
            for info in fs.ls(path, detail=True):
                name = info["name"].rstrip("/").rsplit("/", 1)[-1]
                if info["name"].rstrip("/") != path.rstrip("/"):  # object stores list a folder's own key with it
                    found.append((name, None if info["type"] == "directory" else int(info["size"])))
    hidden = re.compile(r"\..*\.part")
    return sorted((entry for entry in found if not hidden.fullmatch(entry[0])), key=lambda entry: entry[0])


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` when the block ends well, and disappears when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the new name itself must survive a power cut
    os.close(folder)


@contextlib.contextmanager
def _own_first_try(url: str, digest: str) -> Iterator[None]:
    """Forgive an upload whose answer was lost: the retry fails (upload gone, object there) though all is well."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        try:
            with open_read(url) as file:
                if file_sha256(file) == digest:
                    return
        except OSError:
            pass
        raise


@contextlib.contextmanager
def _explained(url: str, verb: str) -> Iterator[None]:
    """Turn the errors that a user can mend into one sentence; all others pass through."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        remedy = "check the bucket's name" if verb == "write" and not is_local(url) else "check the path"
        raise MissingError(f"cannot {verb} {url}: it is not there; {remedy}") from error
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        reason = error.strerror or str(error) or "not allowed"
        raise UserError(f"cannot {verb} {url}: {reason}; choose a place that you may {verb}") from error
    except ImportError as error:
        extra = 'pip install "syncclip[s3]"' if url.startswith("s3") else "install the fsspec driver of its scheme"
        raise UserError(f"cannot {verb} {url}: {error}; {extra}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            reason = "the file system is read-only" if error.errno == errno.EROFS else "no space left"
            raise UserError(f"cannot {verb} {url}: {reason}; choose another place or free some space") from error
        raise
    except Exception as error:  # botocore's are named, not imported: the extra may not be installed
        for sign, remedy in _REMEDIES.items():
            if sign in f"{type(error).__name__}: {error}":
                raise UserError(f"cannot {verb} {url}: {error}; {remedy}") from error
        raise


_REMEDIES = {
    "CredentialsError": "set the credentials in the environment, or storage.options.anon=true for a public bucket",
    "EndpointConnectionError": "check the network and storage.options.endpoint_url",
    "Protocol not known": "use a path or a URL such as s3://bucket/folder",
}
