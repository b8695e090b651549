"""Compare-and-swap of a small file: of several processes that try, on however many machines, at most one succeeds.

On a disk the file is a directory that holds the content in a file of its own name. A new one is prepared beside it and
renamed over an empty one, which the file system does for one process only.

On S3 the new content is a multipart upload. Whoever creates one aborts all others of the same key, then compares, then
completes its own: of two uploads, at least one finds itself aborted, or the other's content. If both are aborted, the
caller tries again after a random pause. This needs no conditional requests, and a process that was stopped in the
middle can't complete an upload that another has aborted. Other stores have no such fence: there the content is read
again after a pause.
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
from syncclip.storage.retries import answered, explained, persistently
from syncclip.storage.urls import S3, is_local, local_path, scheme

SETTLE = 3.0
"""Seconds after which a request is answered that another process sent before; stores without a fence need them."""
PART = 64 << 20
"""Bytes of one part of an upload."""
UNLISTED = (403, 405, 501)
"""HTTP answers of a store that doesn't list uploads, or not for this account; such a store has no fence."""
_OWNER = ".owner-"


class AbortedError(FileNotFoundError):
    """Another process has aborted an upload."""


def peek(url: str) -> bytes | None:
    """The content now; None where there is none."""
    with explained(url, "read"), suppress(FileNotFoundError, NotADirectoryError):
        if not is_local(url):
            return downloads.whole(url)
        with opened(local_path(url)) as folder:
            return _content(folder)[1]
    return None


def swap(url: str, before: bytes | None, after: bytes | None) -> bool:
    """Replace the content if it is `before` (None: no file); returns whether it was.

    An `after` that begins with `before` renews it, which only the process that wrote it does.

    Raises:
        UserError: the place can't be written to.
    """
    with explained(url, "write"):
        if is_local(url):
            return _swap_disk(local_path(url), before, after)
        if after is not None and scheme(url) in S3:
            return persistently(url, lambda fs, path: _swap_s3(fs, path, url, before, after))
        if peek(url) != before:
            return False
        if after is None:
            persistently(url, lambda fs, path: fs.rm_file(path))
            return True
        persistently(url, lambda fs, path: fs.pipe_file(path, after))
        return _settled(url, before, after)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a directory; once that is removed, no file can be made in it or renamed from it.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def uploading(fs: Any, path: str, content: IO[bytes]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Send `content` to S3 as a multipart upload; yields its ID and what completes it, without which it is aborted.

    Raises:
        AbortedError: another process has aborted it.
    """
    bucket, key, _ = fs.split_path(path)
    kind, completed = mimetypes.guess_type(key)[0], False
    upload = {"Bucket": bucket, "Key": key}
    answer = fs.call_s3("create_multipart_upload", **upload, **({"ContentType": kind} if kind else {}))
    upload["UploadId"] = answer["UploadId"]
    parts: list[dict[str, Any]] = []

    def complete() -> None:
        nonlocal completed
        fs.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        completed = True

    try:
        content.seek(0)
        while (data := content.read(PART)) or not parts:
            number = len(parts) + 1
            answer = fs.call_s3("upload_part", **upload, PartNumber=number, Body=data)
            sums = {name: value for name, value in answer.items() if name.startswith("ChecksumC")}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
        yield upload["UploadId"], complete
    except FileNotFoundError as error:
        raise AbortedError(*error.args) from error
    finally:
        if not completed:
            with suppress(OSError):
                fs.call_s3("abort_multipart_upload", **upload)


def clear(folder: int) -> None:
    """Remove all that is in an open directory, the content of a swapped file first."""
    for name in sorted(os.listdir(folder), key=lambda name: not name.startswith(_OWNER)):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        with suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=folder)


def _content(folder: int) -> tuple[str, bytes | None]:
    """The name and the content of the file in the directory that stands for it."""
    for name in os.listdir(folder):
        if name.startswith(_OWNER):
            with suppress(FileNotFoundError), open(name, "rb", opener=partial(os.open, dir_fd=folder)) as file:
                return name, file.read()
    return "", None


def _swap_disk(path: Path, before: bytes | None, after: bytes | None) -> bool:
    try:
        with opened(path) as folder:
            name, there = _content(folder)
            if there != before:
                return False
            if before is not None and after is not None and after.startswith(before):
                with open(os.open(name, os.O_WRONLY | os.O_APPEND, dir_fd=folder), "wb") as file:
                    file.write(after[len(before) :])
                return True
            clear(folder)
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
        name = _OWNER + hashlib.sha256(after).hexdigest()[:16]  # another's is never removed by this name
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
        with uploading(fs, path, io.BytesIO(after)) as (upload, complete):
            try:
                abort_uploads(url, but=upload)
            except OSError as error:
                if answered(error) not in UNLISTED:
                    raise
                fenced = False
            if (there := peek(url)) != before:
                return there == after  # by an upload whose answer was lost
            complete()
    except AbortedError:
        return peek(url) == after
    return fenced or _settled(url, before, after)


def _settled(url: str, before: bytes | None, after: bytes) -> bool:
    """Whether a content is still there once another process, which compared before it was written, has written its."""
    if before is None or not after.startswith(before):
        time.sleep(SETTLE)
    return peek(url) == after
