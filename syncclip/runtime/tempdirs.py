"""Private temporary folders of a process; those of a killed process are removed by the next one.

Their names identify the process, so that the decision depends on neither age nor clock.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from syncclip.runtime.processes import MARK, changed_environment, is_alive, mark

MACHINE = "SYNCCLIP_TMPDIR"
"""Environment variable of a local Ray's processes: the machine's folder for temporary files."""

_NAME = re.compile(rf"syncclip-(?P<mark>{MARK})-\d+")


def temporary_folder() -> Path:
    """Return the machine's folder for temporary files, shared by the user's processes."""
    return Path(os.environ.get(MACHINE) or tempfile.gettempdir())


def temporary_files_in(folder: Path) -> AbstractContextManager[None]:
    """Let processes that start in the block write temporary files into a folder.

    Ray kills its workers, so they cannot remove their files.
    """
    return changed_environment({MACHINE: str(temporary_folder()), "TMPDIR": str(folder)})


@contextmanager
def private_tempdir(base: str | None = None) -> Iterator[Path]:
    """Make an empty folder that only this user can access, and remove it at the end.

    Args:
        base: its parent; the folder for temporary files by default.
    """
    parent = Path(base or tempfile.gettempdir())
    sweep_scratch(parent)
    folder = _new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(base: Path) -> None:
    """Remove this user's temporary folders of processes that have ended on this machine."""
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
    """Kill the daemons of a local Ray in the folder of an ended process; they may otherwise run for a minute."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith(("ray", "gcs_server")) and any(
                Path(file.path).is_relative_to(folder) for file in process.open_files()
            ):
                process.kill()


def _new_folder(base: Path) -> Path:
    for number in itertools.count():
        folder = base / f"syncclip-{mark()}-{number}"
        with suppress(FileExistsError):  # another user may have made it
            folder.mkdir(0o700)
            return folder
    raise AssertionError
