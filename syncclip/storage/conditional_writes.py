"""Compare-and-swap for a small file: at most one of several concurrent processes succeeds, even across machines.

On disk, the "file" is a directory that stores the content in a uniquely named file. A process prepares a new directory,
empties the old directory, and renames the new directory over the old one. This rename succeeds for only one process.

On S3, new content is written with a multipart upload. A process creates its upload, aborts all other uploads to the
key, compares the content, and completes its own upload. Of two concurrent processes, at least one either has its
upload aborted or reads different content. If both uploads are aborted, the callers retry after a random pause. The
protocol does not require conditional requests. A suspended process cannot complete an upload that another process has
aborted. On other stores, writes can't be fenced, so the content is read again after a pause.
"""

from __future__ import annotations

import errno
import hashlib
import io
import mimetypes
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from syncclip.storage import downloads
from syncclip.storage.cleanup import abort_uploads, part_of
from syncclip.storage.retries import http_status, user_errors, with_retries
from syncclip.storage.urls import S3, is_local, local_path, scheme

SETTLE = 3.0
"""Time to wait for another process's in-flight requests on stores without conditional writes, in seconds."""
PART = 64 << 20
"""Size of each part of a multipart upload, in bytes."""
UNLISTED = (403, 405, 501)
"""HTTP status codes returned by stores that do not support or permit listing uploads, and thus can't be fenced."""
_OWNER = ".owner-"


class AbortedError(FileNotFoundError):
    """Raised if another process has aborted this process's upload."""


def read_current(url: str) -> bytes | None:
    """Return the current content, or None if the file does not exist."""
    with user_errors(url, "read"), suppress(FileNotFoundError, NotADirectoryError):
        if not is_local(url):
            return downloads.whole(url)
        with opened(local_path(url)) as folder:
            return _content(folder)[1]
    return None


def swap(url: str, before: bytes | None, after: bytes | None) -> bool:
    """Replace the content if it equals `before`; None represents a missing file.

    If `after` begins with `before`, the content is extended in place; only the process that wrote `before` may do this.

    Returns:
        True if the content was replaced.

    Raises:
        UserError: the location is not writable.
    """
    with user_errors(url, "write"):
        if is_local(url):
            return _swap_disk(local_path(url), before, after)
        if after is not None and scheme(url) in S3:
            return with_retries(url, lambda fs, path: _swap_s3(fs, path, url, before, after))
        if read_current(url) != before:
            return False
        if after is None:
            with_retries(url, lambda fs, path: fs.rm_file(path))
            return True
        with_retries(url, lambda fs, path: fs.pipe_file(path, after))
        return _settled(url, before, after)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a directory; once the directory has been removed, no file can be created or renamed in it."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def uploading(fs: Any, path: str, content: IO[bytes]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Upload `content` to S3 in parts; yield the upload's ID and a function that completes the upload.

    The upload is aborted unless the block completes it.

    Raises:
        AbortedError: another process has aborted the upload.
    """
    bucket, key, _ = fs.split_path(path)
    content_type, completed = mimetypes.guess_type(key)[0], False
    upload = {"Bucket": bucket, "Key": key}
    headers = {"ContentType": content_type} if content_type else {}
    upload["UploadId"] = fs.call_s3("create_multipart_upload", **upload, **headers)["UploadId"]
    parts: list[dict[str, Any]] = []

    def complete() -> None:
        nonlocal completed
        fs.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        completed = True

    try:
        content.seek(0)
        while (data := content.read(PART)) or not parts:
            number = len(parts) + 1
            response = fs.call_s3("upload_part", **upload, PartNumber=number, Body=data)
            checksums = {name: value for name, value in response.items() if name.startswith("ChecksumC")}
            parts.append({"PartNumber": number, "ETag": response["ETag"], **checksums})
        yield upload["UploadId"], complete
    except FileNotFoundError as error:
        raise AbortedError(*error.args) from error
    finally:
        if not completed:
            with suppress(OSError):
                fs.call_s3("abort_multipart_upload", **upload)


def _content(folder: int) -> tuple[str, bytes | None]:
    """Return the name and content of the owner's file in a directory, or ("", None) if there is no such file."""
    for name in os.listdir(folder):
        if name.startswith(_OWNER):
            with suppress(FileNotFoundError), open(name, "rb", opener=partial(os.open, dir_fd=folder)) as file:
                return name, file.read()
    return "", None


def _swap_disk(path: Path, before: bytes | None, after: bytes | None) -> bool:
    try:
        with opened(path) as folder:
            name, content = _content(folder)
            if content != before:
                return False
            if before is not None and after is not None and after.startswith(before):
                with open(os.open(name, os.O_WRONLY | os.O_APPEND, dir_fd=folder), "wb") as file:
                    file.write(after[len(before) :])
                return True
            entries = os.listdir(folder)  # noqa: PTH208  an open directory
            for entry in sorted(entries, key=lambda entry: not entry.startswith(_OWNER)):  # the owner's file first
                shutil.rmtree(entry, ignore_errors=True, dir_fd=folder)
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(entry, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        if before is not None:
            return False
    if after is None:
        with suppress(OSError):
            path.rmdir()
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared = part_of(path)
    prepared.mkdir()
    try:
        name = _OWNER + hashlib.sha256(after).hexdigest()[:16]  # unique to this owner
        (prepared / name).write_bytes(after)
        with suppress(OSError):
            path.rmdir()
        prepared.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
    return True


def _swap_s3(fs: Any, path: str, url: str, before: bytes | None, after: bytes) -> bool:
    fenced = True
    try:
        with uploading(fs, path, io.BytesIO(after)) as (upload_id, complete):
            try:
                abort_uploads(url, but=upload_id)
            except OSError as error:
                if http_status(error) not in UNLISTED:
                    raise
                fenced = False
            if (content := read_current(url)) != before:
                return content == after  # True after an upload whose response was lost
            complete()
    except AbortedError:
        return read_current(url) == after
    return fenced or _settled(url, before, after)


def _settled(url: str, before: bytes | None, after: bytes) -> bool:
    """Return whether the new content is still stored; a concurrent process may have overwritten it."""
    if before is None or not after.startswith(before):
        time.sleep(SETTLE)
    return read_current(url) == after
