"""Private folders for what is of use to one process only; those of a process that was killed are removed by the next.

Their names say whose they are, so that neither age nor clock decides what is swept.
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

from syncclip.runtime.processes import MARK, living, mark

MACHINE = "SYNCCLIP_TMPDIR"
"""Environment variable of the processes of a local Ray, whose own temporary files go with it: see `kept_apart`."""

_NAME = re.compile(rf"syncclip-(?P<mark>{MARK})-\d+")


def temporary_folder() -> Path:
    """The machine's folder for temporary files, where processes of the user may share some."""
    return Path(os.environ.get(MACHINE) or tempfile.gettempdir())


@contextmanager
def kept_apart(folder: Path) -> Iterator[None]:
    """Have processes that are started in the block put temporary files into a folder, whatever library makes them.

    Ray kills its workers, so that nothing removes what they would leave.
    """
    before = {name: os.environ.get(name) for name in (MACHINE, "TMPDIR")}
    os.environ.update({MACHINE: str(temporary_folder()), "TMPDIR": str(folder)})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def scratch_folder(base: str | None = None) -> Iterator[Path]:
    """An empty folder that only this user can read; it is removed with all that is in it.

    Args:
        base: where it is made; by default the folder for temporary files.
    """
    where = Path(base or tempfile.gettempdir())
    sweep_scratch(where)
    folder = _new(where)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(base: Path) -> None:
    """Remove this user's scratch folders whose process is gone from this machine."""
    for path in base.iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        with suppress(OSError):  # another sweeper was quicker
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and living(found["mark"]) is False:
                _end_daemons(path)
                shutil.rmtree(path, ignore_errors=True)


def _end_daemons(folder: Path) -> None:
    """Kill what is left of a local Ray in a folder of the dead: some of its processes notice only after a minute."""
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
        with suppress(FileExistsError):  # also where another user took the name: nothing of theirs is used
            folder.mkdir(0o700)
            return folder
    raise AssertionError
