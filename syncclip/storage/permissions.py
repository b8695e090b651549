"""What has a name that others on the machine can guess: this user's own, or refused.

Who makes a folder first among the temporary files owns all that is read there afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from syncclip.core.settings import UserError

NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EISDIR, errno.ENXIO)
"""What opening says of a link, a file in a folder's place, what we may not open, a folder, a pipe."""

REMEDY = "remove it, or name another folder with training.cache_folder or, for all that is temporary, TMPDIR"


def make_private(path: Path) -> None:
    """Make a folder that only this user may enter; one that is there becomes so.

    Raises:
        UserError: it belongs to neither this user nor root, or is a link or a file.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        folder = open_private(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = os.fstat(folder)
            if found.st_uid == os.geteuid() and found.st_mode & 0o077:  # one of root's may be a mounted disk
                os.fchmod(folder, 0o700)
        finally:
            os.close(folder)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a file or (`O_DIRECTORY`) folder of this user's or root's; a new one is for this user alone.

    Raises:
        UserError: somebody else made it, or it is a link or of another kind.
        OSError: for any other reason, such as FileNotFoundError where `flags` don't let it be made.
    """
    wanted = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        raise UserError(f"{path} is a link, of another user or of another kind ({error.strerror}); {REMEDY}") from error
    found = os.fstat(descriptor)
    if not wanted(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        raise UserError(f"{path} was made by the user of number {found.st_uid}, or is of another kind; {REMEDY}")
    return descriptor
