"""Temporary folders are private, and removed after their process has ended."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.runtime.processes import changed_environment, mark
from syncclip.runtime.tempdirs import MACHINE, private_tempdir, sweep_scratch, temporary_folder

HELD = """
import sys
from syncclip.runtime.tempdirs import private_tempdir
with private_tempdir(sys.argv[1]) as folder:
    (folder / "file").write_text("held")
    print(folder, flush=True)
    sys.stdin.readline()
"""


def mark_of_ended_process() -> str:
    code = "from syncclip.runtime.processes import mark; print(mark())"
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip()


def test_a_temporary_folder_is_private_and_removed_with_its_content(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space"), private_tempdir(str(tmp_path)) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "deep").mkdir()
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_new_processes_are_redirected(tmp_path: Path) -> None:
    code = "from syncclip.runtime import tempdirs as t; print(t.tempfile.gettempdir(), t.temporary_folder())"
    before = dict(os.environ)
    with changed_environment({MACHINE: str(temporary_folder()), "TMPDIR": str(tmp_path)}):
        folders = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert folders == [str(tmp_path), str(temporary_folder())]
    assert dict(os.environ) == before


def test_folders_of_killed_processes_are_removed_whatever_their_age(tmp_path: Path) -> None:
    start = [sys.executable, "-c", HELD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(start, **pipes) as alive, subprocess.Popen(start, **pipes) as killed:  # type: ignore[call-overload]
        held, left = (Path(process.stdout.readline().strip()) for process in (alive, killed))
        os.utime(held, (0, 0))
        killed.kill()
        killed.wait()
        assert (left / "file").read_text() == "held"
        with private_tempdir(str(tmp_path)) as own:
            assert {held, own} == set(tmp_path.iterdir())
        alive.communicate("end")
    assert list(tmp_path.iterdir()) == []


def test_daemons_with_open_files_in_a_removed_folder_are_killed(tmp_path: Path) -> None:
    folder = tmp_path / f"syncclip-{mark_of_ended_process()}-0"
    folder.mkdir()
    daemon = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "", daemon)
    with (folder / "log").open("w") as inside, (tmp_path / "log").open("w") as outside:
        logs = (inside, outside)
        left, other = (subprocess.Popen([daemon, "600"], stdout=log) for log in logs)
        reader = subprocess.Popen(["sleep", "600"], stdin=(folder / "log").open(), stdout=outside)
    sweep_scratch(tmp_path)
    assert left.wait() == -signal.SIGKILL
    assert (other.poll(), reader.poll(), folder.exists()) == (None, None, False)
    for process in (other, reader):
        process.kill()
        process.wait()


def test_folders_of_other_machines_files_and_links_are_kept(tmp_path: Path) -> None:
    gone, elsewhere = mark_of_ended_process(), f"000000-{mark().partition('-')[2]}"
    (tmp_path / "precious").mkdir()
    (tmp_path / f"syncclip-{gone}-0").symlink_to(tmp_path / "precious")
    (tmp_path / f"syncclip-{gone}-1").write_text("a file")
    (tmp_path / f"syncclip-{elsewhere}-0").mkdir()
    (tmp_path / "syncclip-0-shards").mkdir()
    before = set(tmp_path.iterdir())
    sweep_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == before
    (tmp_path / f"syncclip-{gone}-2").mkdir()
    sweep_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == before


def test_an_existing_name_is_not_used(tmp_path: Path) -> None:
    taken = tmp_path / f"syncclip-{mark()}-0"
    taken.symlink_to("/etc")
    with private_tempdir(str(tmp_path)) as folder:
        assert folder.name == f"syncclip-{mark()}-1"
    assert taken.is_symlink()
