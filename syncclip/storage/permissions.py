"""Files and folders with predictable names in shared temporary folders, which another user could create first.

Only those of this user or of root are used.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from syncclip.core.settings import UserError

NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EISDIR, errno.ENXIO)
"""Errors of opening a link, a file instead of a folder, an inaccessible file, a folder or a pipe."""

REMEDY = "remove it, or set another folder with training.cache_folder or, for all temporary files, TMPDIR"


def make_private(path: Path) -> None:
    """Create a folder that only this user can access, or restrict an existing one.

    Raises:
        UserError: it belongs to another user, or is a link or a file.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        folder = open_private(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(folder)
            if status.st_uid == os.geteuid() and status.st_mode & 0o077:  # a folder of root may be a mounted disk
                os.fchmod(folder, 0o700)
        finally:
            os.close(folder)


def open_private(path: Path, flags: int) -> int:
    """Open a file, or with O_DIRECTORY a folder, of this user or root; a new file is private.

    Raises:
        UserError: it belongs to another user, is a link, or is of another type.
        OSError: any other error, such as FileNotFoundError.
    """
    expected = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        raise UserError(f"{path} is a link, of another user or of another type ({error.strerror}); {REMEDY}") from error
    status = os.fstat(descriptor)
    if not expected(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        raise UserError(f"{path} belongs to user {status.st_uid}, or is of another type; {REMEDY}")
    return descriptor
