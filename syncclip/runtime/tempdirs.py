"""Private temporary folders of one process; those of a killed process are removed by the next.

Their names identify the process, so that neither age nor clock decides which are removed.
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
"""Environment variable of a local Ray's processes with the machine's folder for temporary files, see
`temporary_files_in`."""

_NAME = re.compile(rf"syncclip-(?P<mark>{MARK})-\d+")


def temporary_folder() -> Path:
    """Return the machine's folder for temporary files, which the user's processes may share."""
    return Path(os.environ.get(MACHINE) or tempfile.gettempdir())


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Make processes that are started in the block write all temporary files into a folder.

    Ray kills its workers, which then cannot remove their files.
    """
    previous = {name: os.environ.get(name) for name in (MACHINE, "TMPDIR")}
    os.environ.update({MACHINE: str(temporary_folder()), "TMPDIR": str(folder)})
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def private_tempdir(base: str | None = None) -> Iterator[Path]:
    """Make an empty folder that only this user can read, and remove it with its content at the end.

    Args:
        base: its parent; by default the folder for temporary files.
    """
    where = Path(base or tempfile.gettempdir())
    sweep_scratch(where)
    folder = _new(where)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(base: Path) -> None:
    """Remove this user's scratch folders of ended processes of this machine."""
    for path in base.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        with suppress(OSError):  # removed by another process
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and is_alive(match["mark"]) is False:
                _end_daemons(path)
                shutil.rmtree(path, ignore_errors=True)


def _end_daemons(folder: Path) -> None:
    """Kill the rest of a local Ray in a folder of an ended process, which may take a minute to end itself."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith(("ray", "gcs_server")):
                open_files = process.open_files()
                if any(Path(file.path).is_relative_to(folder) for file in open_files):
                    process.kill()


def _new(base: Path) -> Path:
    for number in itertools.count():
        folder = base / f"syncclip-{mark()}-{number}"
        with suppress(FileExistsError):  # also if another user has made it
            folder.mkdir(0o700)
            return folder
    raise AssertionError
