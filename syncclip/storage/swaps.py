"""Replacing a small file only if it is still what it was: of several that try, on however many machines, one does.

Locally a lock of the system's is held for the moment of the change, and ends with its process. S3, and what is like it,
compares by itself (`If-None-Match`, `If-Match`). Where a store does not, it is waited for whether another wrote, too.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from syncclip.storage import downloads
from syncclip.storage.faults import answered, explained, persistently
from syncclip.storage.places import S3, is_local, local_path, open_local, scheme

SETTLE = 1.0
"""Seconds in which a file that another wrote at the same time is there, in a store that does not compare."""

REFUSED = (409, 412)
"""HTTP answers of a store that compared, and found another file than the one to be replaced."""
UNKNOWN = 501
"""That of a store that knows no such condition."""


def peek(url: str) -> bytes | None:
    """What a small file holds now; None where there is none."""
    with explained(url, "read"):
        try:
            if is_local(url):
                with open(local_path(url), "rb", opener=open_local) as file:
                    return file.read()
            return downloads.whole(url)
        except (FileNotFoundError, NotADirectoryError):
            return None


def swap(url: str, before: bytes | None, after: bytes | None, contested: bool = False) -> bool:
    """Put `after` in the place of `before`, if that is what is there (None: no file); whether it was.

    Args:
        contested: whether others may try the same at the same time.

    Raises:
        UserError: the place can't be written to.
    """
    with explained(url, "write"):
        if is_local(url):
            return _swap_local(local_path(url), before, after)
        if not _swap_remote(url, before, after):
            return False
        if after is None or not contested or (scheme(url) in S3 and not _put(url, after, {"IfNoneMatch": "*"})):
            return True  # the store refuses to overwrite what is there, so it refused the others, too
        time.sleep(SETTLE)
        return peek(url) == after


def _swap_local(path: Path, before: bytes | None, after: bytes | None) -> bool:
    if before is None:
        assert after is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as made:
                made.write(after)
        except FileExistsError:
            return False
        return True
    try:
        file = path.open("r+b")
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())  # else another was made meanwhile
        except FileNotFoundError:
            return False
        if not same or file.read() != before:
            return False
        if after is None:
            path.unlink()
        else:
            file.seek(0)
            file.write(after)
            file.truncate()
    return True


def _swap_remote(url: str, before: bytes | None, after: bytes | None) -> bool:
    tag: str | None = None
    try:
        # Of what is read next, or of something older, which the store then refuses.
        tag = persistently(url, lambda fs, path: fs.info(path).get("ETag"))
        there: bytes | None = downloads.whole(url)
    except FileNotFoundError:
        there = None
    if there != before:
        return after is not None and there == after
    if after is None:
        persistently(url, lambda fs, path: fs.rm_file(path))
        return True
    condition = {"IfMatch": tag} if before is not None else {"IfNoneMatch": "*"}
    return _put(url, after, condition if scheme(url) in S3 else {}) or peek(url) == after  # perhaps by a lost answer


def _put(url: str, data: bytes, condition: dict[str, Any]) -> bool:
    """Write a file if the store finds the condition met; whether it did."""
    try:
        persistently(url, lambda fs, path: fs.pipe_file(path, data, **condition))
    except FileExistsError:
        return False
    except OSError as error:
        if condition and answered(error) == UNKNOWN:
            return _put(url, data, {})
        if answered(error) in REFUSED or (isinstance(error, FileNotFoundError) and "IfMatch" in condition):
            return False
        raise
    return True
