"""Safe use of predictably named files and folders in shared temporary folders.

Another user could create a file or folder with such a name first. Only files and folders owned by this user or root are
used.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from syncclip.core.settings import UserError

NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EISDIR, errno.ENXIO)
"""Error codes raised if a path is a symlink, is inaccessible, or has the wrong type (file, folder or pipe)."""

REMEDY = "remove it, or use a different folder: set training.cache_folder, or TMPDIR for all temporary files"


def make_private(path: Path) -> None:
    """Create a folder that only this user can access, or restrict access to an existing folder.

    Raises:
        UserError: the path belongs to another user, or is a link or a file.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        folder = open_private(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(folder)
            if status.st_uid == os.geteuid() and status.st_mode & 0o077:  # root's folder may be a mounted disk
                os.fchmod(folder, 0o700)
        finally:
            os.close(folder)


def open_private(path: Path, flags: int) -> int:
    """Open a file (or, with O_DIRECTORY, a folder) that is owned by this user or root; new files are private.

    Raises:
        UserError: the path is owned by another user, is a symlink, or has the wrong type.
        OSError: any other error, such as FileNotFoundError.
    """
    expected = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        raise UserError(
            f"{path} is a link, is inaccessible or has the wrong type ({error.strerror}); {REMEDY}"
        ) from error
    status = os.fstat(descriptor)
    if not expected(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        raise UserError(f"{path} belongs to user {status.st_uid} or has the wrong type; {REMEDY}")
    return descriptor
