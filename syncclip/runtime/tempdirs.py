"""Private temporary folders of a process, and removal of folders that killed processes left behind.

Each folder name identifies its process, so removal does not depend on the age of the folder or on clocks.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from syncclip.runtime.processes import MARK, is_alive, mark

MACHINE = "SYNCCLIP_TMPDIR"
"""Environment variable with this machine's folder for temporary files; set in the processes of a local Ray instance."""

_NAME = re.compile(rf"syncclip-(?P<mark>{MARK})-\d+")


def temporary_folder() -> Path:
    """Return this machine's folder for temporary files, shared by the user's processes."""
    return Path(os.environ.get(MACHINE) or tempfile.gettempdir())


@contextmanager
def private_tempdir(base: str | None = None) -> Iterator[Path]:
    """Create an empty folder that only this user can access, and remove it at the end of the `with` block.

    Args:
        base: parent of the folder; None uses the default folder for temporary files.
    """
    parent = Path(base or tempfile.gettempdir())
    sweep_scratch(parent)
    for number in itertools.count():
        folder = parent / f"syncclip-{mark()}-{number}"
        with suppress(FileExistsError):  # another user may have created it
            folder.mkdir(0o700)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(base: Path) -> None:
    """Remove this user's temporary folders whose processes have ended on this machine."""
    for path in base.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):  # removed by another process
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and is_alive(match["mark"]) is False:
                _kill_daemons(path)
                shutil.rmtree(path, ignore_errors=True)


def _kill_daemons(folder: Path) -> None:
    """Kill Ray daemons left behind by an ended process; otherwise they may run for another minute."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith(("ray", "gcs_server")) and any(
                Path(file.path).is_relative_to(folder) for file in process.open_files()
            ):
                process.kill()
